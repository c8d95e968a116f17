//! Sixteen f32 lanes on whatever the processor has, chosen once at run time.
//!
//! A kernel is written once, generic over [`Simd`], with `#[inline(always)]` all the way down; [`dispatch`] instantiates
//! it under the widest instruction set present. Lane `l` always holds element `16 * step + l`, so the order of additions,
//! and with it every rounding, depends neither on the batch nor on the number of threads.
//!
//! The vector instructions live here and nowhere else. They take references to arrays, so callers stay safe code.
#![allow(unsafe_code)]

use half::{bf16, f16};

/// A kernel that can run on any instruction set. `run` must be `#[inline(always)]`.
pub(crate) trait Kernel {
    /// What it gives.
    type Out;
    /// The work.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// Operations on sixteen f32 lanes. Implementors are tokens: to hold one is to know that the instructions exist.
pub(crate) trait Simd: Copy {
    /// Sixteen lanes.
    type V: Copy;
    /// Whether sixteen lanes are one register and there are 32 of them.
    const WIDE: bool;
    /// What files say they were made with.
    const NAME: &'static str;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, x: &[f32; 16]) -> Self::V;
    fn store(self, v: Self::V, to: &mut [f32; 16]);
    fn load_bf16(self, x: &[bf16; 16]) -> Self::V;
    fn load_f16(self, x: &[f16; 16]) -> Self::V;
    fn load_i8(self, x: &[i8; 16]) -> Self::V;
    /// Asks for what lies `offset` bytes behind the beginning of `data`, which may be beyond its end.
    fn prefetch<T>(self, data: &[T], offset: usize);
    /// One half-precision number in every lane.
    fn splat_f16(self, x: f16) -> Self::V;
    /// Sixteen bytes, the lowest of `low` first.
    fn bytes(self, low: u64, high: u64) -> Self::V;
    /// `n * scale + offset` of the number `n` in bits `shift .. shift + 4` of each byte.
    fn load_levels(self, x: &[u8; 16], shift: u32, scale: f32, offset: f32) -> Self::V;
    /// `a * b + c`, rounded once where the processor can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger; `b` where one is not a number.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where one is not a number.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest whole number, ties to even.
    fn round(self, v: Self::V) -> Self::V;
    /// `2^v` for whole `v` in -127 to 128 (0 and infinity at the ends).
    fn pow2(self, v: Self::V) -> Self::V;
    /// `a > b ? yes : no`.
    fn if_greater(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// All lanes added, halves onto halves.
    fn sum(self, v: Self::V) -> f32;
}

/// Runs `kernel` on the widest instruction set of this processor.
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Out {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f")
            && std::is_x86_feature_detected!("avx512bw")
            && std::is_x86_feature_detected!("avx512vl")
            && std::is_x86_feature_detected!("avx512dq")
            && std::is_x86_feature_detected!("avx2")
            && std::is_x86_feature_detected!("fma")
            && std::is_x86_feature_detected!("f16c")
        {
            // SAFETY: the processor has every feature the function is compiled for.
            return unsafe { x86::run_avx512(kernel) };
        }
        if std::is_x86_feature_detected!("avx2")
            && std::is_x86_feature_detected!("fma")
            && std::is_x86_feature_detected!("f16c")
        {
            // SAFETY: as above.
            return unsafe { x86::run_avx2(kernel) };
        }
    }
    kernel.run(Plain)
}

/// Class of this processor: results may differ in the last digit between classes, never within one.
pub fn cpu_class() -> &'static str {
    struct Name;
    impl Kernel for Name {
        type Out = &'static str;
        #[inline(always)]
        fn run<S: Simd>(self, _: S) -> &'static str {
            S::NAME
        }
    }
    dispatch(Name)
}

/// Runs `kernel` once on every instruction set present, for tests that compare them.
#[cfg(test)]
pub(crate) fn on_each<K: Kernel + Clone>(kernel: &K) -> Vec<K::Out> {
    let mut all = vec![kernel.clone().run(Plain), dispatch(kernel.clone())];
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("fma")
        && std::is_x86_feature_detected!("f16c")
    {
        // SAFETY: the processor has every feature the function is compiled for.
        all.push(unsafe { x86::run_avx2(kernel.clone()) });
    }
    all
}

/// Arrays of sixteen, left to the compiler's vectoriser.
#[derive(Clone, Copy)]
pub(crate) struct Plain;

#[inline(always)]
fn map2(a: [f32; 16], b: [f32; 16], f: impl Fn(f32, f32) -> f32) -> [f32; 16] {
    std::array::from_fn(|l| f(a[l], b[l]))
}

impl Simd for Plain {
    type V = [f32; 16];
    const WIDE: bool = false;
    const NAME: &'static str = "portable";

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; 16]
    }

    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> Self::V {
        *x
    }

    #[inline(always)]
    fn store(self, v: Self::V, to: &mut [f32; 16]) {
        *to = v;
    }

    #[inline(always)]
    fn load_bf16(self, x: &[bf16; 16]) -> Self::V {
        x.map(|x| f32::from_bits(u32::from(x.to_bits()) << 16))
    }

    #[inline(always)]
    fn load_f16(self, x: &[f16; 16]) -> Self::V {
        x.map(f16::to_f32)
    }

    #[inline(always)]
    fn load_i8(self, x: &[i8; 16]) -> Self::V {
        x.map(f32::from)
    }

    #[inline(always)]
    fn prefetch<T>(self, _: &[T], _: usize) {}

    #[inline(always)]
    fn splat_f16(self, x: f16) -> Self::V {
        [x.to_f32(); 16]
    }

    #[inline(always)]
    fn bytes(self, low: u64, high: u64) -> Self::V {
        std::array::from_fn(|l| f32::from((if l < 8 { low } else { high } >> (l % 8 * 8)) as u8))
    }

    #[inline(always)]
    fn load_levels(self, x: &[u8; 16], shift: u32, scale: f32, offset: f32) -> Self::V {
        let numbers = x.map(|x| f32::from((x >> shift) & 15));
        self.fma(numbers, self.splat(scale), self.splat(offset))
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Without the instruction `mul_add` would be a slow library call.
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            std::array::from_fn(|l| a[l].mul_add(b[l], c[l]))
        } else {
            std::array::from_fn(|l| a[l] * b[l] + c[l])
        }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn round(self, v: Self::V) -> Self::V {
        // Adding and taking away 1.5 * 2^23 leaves no room for a fraction.
        v.map(|x| if x.abs() < 4_194_304.0 { (x + 12_582_912.0) - 12_582_912.0 } else { x })
    }

    #[inline(always)]
    fn pow2(self, v: Self::V) -> Self::V {
        v.map(|x| f32::from_bits(((x as i32 + 127) << 23) as u32))
    }

    #[inline(always)]
    fn if_greater(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        std::array::from_fn(|l| if a[l] > b[l] { yes[l] } else { no[l] })
    }

    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let v: [f32; 8] = std::array::from_fn(|l| v[l] + v[l + 8]);
        let v: [f32; 4] = std::array::from_fn(|l| v[l] + v[l + 4]);
        (v[0] + v[2]) + (v[1] + v[3])
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::{bf16, f16};

    use super::{Kernel, Simd};

    /// # Safety
    /// The processor must have the named features.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
    pub unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Out {
        kernel.run(Avx512(()))
    }

    /// # Safety
    /// The processor must have the named features.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Out {
        kernel.run(Avx2(()))
    }

    /// Proof that AVX-512 is there: made only inside [`run_avx512`].
    #[derive(Clone, Copy)]
    pub struct Avx512(());

    /// Proof that AVX2, FMA and F16C are there: made only inside [`run_avx2`].
    #[derive(Clone, Copy)]
    pub struct Avx2(());

    // Every block below: the token proves the instruction set, and loads and stores stay inside the array referred to.
    macro_rules! v {
        ($e:expr) => {
            // SAFETY: see above.
            unsafe { $e }
        };
    }

    impl Simd for Avx512 {
        type V = __m512;
        const WIDE: bool = true;
        const NAME: &'static str = "avx512";

        #[inline(always)]
        fn splat(self, x: f32) -> __m512 {
            v!(_mm512_set1_ps(x))
        }

        #[inline(always)]
        fn load(self, x: &[f32; 16]) -> __m512 {
            v!(_mm512_loadu_ps(x.as_ptr()))
        }

        #[inline(always)]
        fn store(self, v: __m512, to: &mut [f32; 16]) {
            v!(_mm512_storeu_ps(to.as_mut_ptr(), v))
        }

        #[inline(always)]
        fn load_bf16(self, x: &[bf16; 16]) -> __m512 {
            v!({
                let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
            })
        }

        #[inline(always)]
        fn load_f16(self, x: &[f16; 16]) -> __m512 {
            v!(_mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())))
        }

        #[inline(always)]
        fn load_i8(self, x: &[i8; 16]) -> __m512 {
            v!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))))
        }

        #[inline(always)]
        fn prefetch<T>(self, data: &[T], offset: usize) {
            // A hint: no address is wrong.
            v!(_mm_prefetch::<_MM_HINT_T0>(data.as_ptr().cast::<i8>().wrapping_add(offset)))
        }

        #[inline(always)]
        fn splat_f16(self, x: f16) -> __m512 {
            v!(_mm512_cvtph_ps(_mm256_set1_epi16(x.to_bits() as i16)))
        }

        #[inline(always)]
        fn bytes(self, low: u64, high: u64) -> __m512 {
            v!(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_set_epi64x(high as i64, low as i64))))
        }

        #[inline(always)]
        fn load_levels(self, x: &[u8; 16], shift: u32, scale: f32, offset: f32) -> __m512 {
            // A table of all sixteen levels; looking up takes the low four bits of an index and ignores the others, so that
            // turning the bits is enough.
            let numbers = self.load(&std::array::from_fn(|n| n as f32));
            let levels = self.fma(numbers, self.splat(scale), self.splat(offset));
            v!({
                let wide = _mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast()));
                _mm512_permutexvar_ps(_mm512_rorv_epi32(wide, _mm512_set1_epi32(shift as i32)), levels)
            })
        }

        #[inline(always)]
        fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            v!(_mm512_fmadd_ps(a, b, c))
        }

        #[inline(always)]
        fn add(self, a: __m512, b: __m512) -> __m512 {
            v!(_mm512_add_ps(a, b))
        }

        #[inline(always)]
        fn sub(self, a: __m512, b: __m512) -> __m512 {
            v!(_mm512_sub_ps(a, b))
        }

        #[inline(always)]
        fn mul(self, a: __m512, b: __m512) -> __m512 {
            v!(_mm512_mul_ps(a, b))
        }

        #[inline(always)]
        fn div(self, a: __m512, b: __m512) -> __m512 {
            v!(_mm512_div_ps(a, b))
        }

        #[inline(always)]
        fn max(self, a: __m512, b: __m512) -> __m512 {
            v!(_mm512_max_ps(a, b))
        }

        #[inline(always)]
        fn min(self, a: __m512, b: __m512) -> __m512 {
            v!(_mm512_min_ps(a, b))
        }

        #[inline(always)]
        fn round(self, v: __m512) -> __m512 {
            v!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v))
        }

        #[inline(always)]
        fn pow2(self, v: __m512) -> __m512 {
            v!({
                let bits = _mm512_add_epi32(_mm512_cvtps_epi32(v), _mm512_set1_epi32(127));
                _mm512_castsi512_ps(_mm512_slli_epi32::<23>(bits))
            })
        }

        #[inline(always)]
        fn if_greater(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
            v!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), no, yes))
        }

        #[inline(always)]
        fn sum(self, v: __m512) -> f32 {
            v!(sum8(_mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v))))
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn sum8(v: __m256) -> f32 {
        let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
    }

    type Pair = (__m256, __m256);

    impl Simd for Avx2 {
        type V = Pair;
        const WIDE: bool = false;
        const NAME: &'static str = "avx2";

        #[inline(always)]
        fn splat(self, x: f32) -> Pair {
            v!((_mm256_set1_ps(x), _mm256_set1_ps(x)))
        }

        #[inline(always)]
        fn load(self, x: &[f32; 16]) -> Pair {
            v!((_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))))
        }

        #[inline(always)]
        fn store(self, v: Pair, to: &mut [f32; 16]) {
            v!({
                _mm256_storeu_ps(to.as_mut_ptr(), v.0);
                _mm256_storeu_ps(to.as_mut_ptr().add(8), v.1);
            })
        }

        #[inline(always)]
        fn load_bf16(self, x: &[bf16; 16]) -> Pair {
            v!({
                let x = _mm256_loadu_si256(x.as_ptr().cast());
                let low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(x));
                let high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256::<1>(x));
                (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)))
            })
        }

        #[inline(always)]
        fn load_f16(self, x: &[f16; 16]) -> Pair {
            v!({
                let x = _mm256_loadu_si256(x.as_ptr().cast());
                (_mm256_cvtph_ps(_mm256_castsi256_si128(x)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(x)))
            })
        }

        #[inline(always)]
        fn load_i8(self, x: &[i8; 16]) -> Pair {
            v!({
                let x = _mm_loadu_si128(x.as_ptr().cast());
                (
                    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)),
                    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(x, x))),
                )
            })
        }

        #[inline(always)]
        fn prefetch<T>(self, data: &[T], offset: usize) {
            // A hint: no address is wrong.
            v!(_mm_prefetch::<_MM_HINT_T0>(data.as_ptr().cast::<i8>().wrapping_add(offset)))
        }

        #[inline(always)]
        fn splat_f16(self, x: f16) -> Pair {
            v!({
                let x = _mm256_cvtph_ps(_mm_set1_epi16(x.to_bits() as i16));
                (x, x)
            })
        }

        #[inline(always)]
        fn bytes(self, low: u64, high: u64) -> Pair {
            v!((
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(low as i64))),
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(high as i64))),
            ))
        }

        #[inline(always)]
        fn load_levels(self, x: &[u8; 16], shift: u32, scale: f32, offset: f32) -> Pair {
            let numbers = v!({
                let x = _mm_loadu_si128(x.as_ptr().cast());
                let moved = _mm_srl_epi16(x, _mm_cvtsi32_si128(shift as i32));
                let x = _mm_and_si128(moved, _mm_set1_epi8(15));
                (
                    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(x)),
                    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_unpackhi_epi64(x, x))),
                )
            });
            self.fma(numbers, self.splat(scale), self.splat(offset))
        }

        #[inline(always)]
        fn fma(self, a: Pair, b: Pair, c: Pair) -> Pair {
            v!((_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)))
        }

        #[inline(always)]
        fn add(self, a: Pair, b: Pair) -> Pair {
            v!((_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)))
        }

        #[inline(always)]
        fn sub(self, a: Pair, b: Pair) -> Pair {
            v!((_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)))
        }

        #[inline(always)]
        fn mul(self, a: Pair, b: Pair) -> Pair {
            v!((_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)))
        }

        #[inline(always)]
        fn div(self, a: Pair, b: Pair) -> Pair {
            v!((_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)))
        }

        #[inline(always)]
        fn max(self, a: Pair, b: Pair) -> Pair {
            v!((_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)))
        }

        #[inline(always)]
        fn min(self, a: Pair, b: Pair) -> Pair {
            v!((_mm256_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1)))
        }

        #[inline(always)]
        fn round(self, v: Pair) -> Pair {
            v!((
                _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v.0),
                _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v.1),
            ))
        }

        #[inline(always)]
        fn pow2(self, v: Pair) -> Pair {
            v!({
                let low = _mm256_add_epi32(_mm256_cvtps_epi32(v.0), _mm256_set1_epi32(127));
                let high = _mm256_add_epi32(_mm256_cvtps_epi32(v.1), _mm256_set1_epi32(127));
                (_mm256_castsi256_ps(_mm256_slli_epi32::<23>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<23>(high)))
            })
        }

        #[inline(always)]
        fn if_greater(self, a: Pair, b: Pair, yes: Pair, no: Pair) -> Pair {
            v!((
                _mm256_blendv_ps(no.0, yes.0, _mm256_cmp_ps::<_CMP_GT_OQ>(a.0, b.0)),
                _mm256_blendv_ps(no.1, yes.1, _mm256_cmp_ps::<_CMP_GT_OQ>(a.1, b.1)),
            ))
        }

        #[inline(always)]
        fn sum(self, v: Pair) -> f32 {
            v!(sum8(_mm256_add_ps(v.0, v.1)))
        }
    }
}
