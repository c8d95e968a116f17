//! Dot products of bytes on whatever the processor has, chosen once at run time.
//!
//! As [`super::simd`], for whole numbers: 32 bytes meet 32 bytes and give eight exact 32-bit sums of four products each.
#![allow(unsafe_code)]

use half::f16;

/// A kernel that can run on any instruction set. `run` must be `#[inline(always)]`.
pub(crate) trait Kernel {
    /// What it gives.
    type Out;
    /// The work.
    fn run<S: Bytes>(self, s: S) -> Self::Out;
}

/// Operations on 32 bytes. Implementors are tokens: to hold one is to know that the instructions exist.
pub(crate) trait Bytes: Copy {
    /// 32 bytes of weights.
    type W: Copy;
    /// Whole numbers whose sum is a dot product.
    type I: Copy;
    /// Eight f32.
    type F: Copy;
    /// Sixteen whole numbers of 32 bits, and sixteen f32.
    type I16: Copy;
    type F16: Copy;
    /// Whether the operations on sixteen rows are worth their preparation.
    const WIDE: bool;

    fn zero(self) -> Self::F;
    fn load(self, x: &[f32; 8]) -> Self::F;
    fn store(self, v: Self::F, to: &mut [f32; 8]);
    fn times(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once where the processor can.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// All lanes added, halves onto halves.
    fn sum(self, v: Self::F) -> f32;
    fn half(self, x: f16) -> f32;
    /// Eight half-precision numbers.
    fn halves(self, x: [f16; 8]) -> Self::F;
    /// Eight bytes, the lowest first, each times `unit`.
    fn scaled_bytes(self, bytes: u64, unit: f32) -> Self::F;
    /// Weights of -128 to 127.
    fn signed(self, w: &[i8; 32]) -> Self::W;
    /// Low halves and high halves of 32 bytes.
    fn nibbles(self, w: &[u8; 32]) -> (Self::W, Self::W);
    /// Dot product with activations of -127 to 127, not summed up yet.
    fn dot_signed(self, w: Self::W, x: &[i8; 32]) -> Self::I;
    /// As [`Bytes::dot_signed`], for weights of 0 to 15.
    fn dot_unsigned(self, w: Self::W, x: &[i8; 32]) -> Self::I;
    /// Eight dot products, each summed up, exact.
    fn totals(self, dots: [Self::I; 8]) -> Self::F;

    fn zero16(self) -> Self::F16;
    fn load16(self, x: &[f32; 16]) -> Self::F16;
    fn store16(self, v: Self::F16, to: &mut [f32; 16]);
    fn whole16(self, x: &[i32; 16]) -> Self::I16;
    /// Adds four products in each of sixteen rows: `w` of 0 to 255 (four bytes a row) times the four bytes of `x`, -128 to 127.
    fn quads_unsigned(self, to: Self::I16, w: &[u8; 64], x: [i8; 4]) -> Self::I16;
    /// As [`Bytes::quads_unsigned`], with signs the other way round: `x` of 0 to 255.
    fn quads_signed(self, to: Self::I16, w: &[u8; 64], x: [i8; 4]) -> Self::I16;
    /// `a * b + to`, rounded once where the processor can.
    fn fma16(self, a: Self::F16, b: f32, to: Self::F16) -> Self::F16;
    /// `dot * (scale * by) + to`.
    fn scaled16(self, dot: Self::I16, scale: Self::F16, by: f32, to: Self::F16) -> Self::F16;
    /// Whole numbers nearest to `x` over its scale, which it gives with their sum: the scale is the largest of them over 127, NaN
    /// where one is not finite.
    fn round(self, x: &[f32; 32], to: &mut [i8; 32]) -> (f32, i32);
    /// Asks for what lies `offset` bytes behind the beginning of `data`, which may be beyond its end.
    fn prefetch<T>(self, data: &[T], offset: usize);
}

/// Runs `kernel` on the best instruction set of this processor.
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Out {
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = std::is_x86_feature_detected!("avx2")
            && std::is_x86_feature_detected!("fma")
            && std::is_x86_feature_detected!("f16c");
        if avx2
            && std::is_x86_feature_detected!("avx512vnni")
            && std::is_x86_feature_detected!("avx512vl")
            && std::is_x86_feature_detected!("avx512bw")
        {
            // SAFETY: the processor has every feature the function is compiled for.
            return unsafe { x86::run_vnni(kernel) };
        }
        if avx2 {
            // SAFETY: as above.
            return unsafe { x86::run_avx2(kernel) };
        }
    }
    kernel.run(Plain)
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

/// Arrays, left to the compiler's vectoriser.
#[derive(Clone, Copy)]
pub(crate) struct Plain;

impl Bytes for Plain {
    type W = [i16; 32];
    type I = i32;
    type F = [f32; 8];
    type I16 = [i32; 16];
    type F16 = [f32; 16];
    const WIDE: bool = false;

    #[inline(always)]
    fn zero(self) -> [f32; 8] {
        [0.0; 8]
    }

    #[inline(always)]
    fn load(self, x: &[f32; 8]) -> [f32; 8] {
        *x
    }

    #[inline(always)]
    fn store(self, v: [f32; 8], to: &mut [f32; 8]) {
        *to = v;
    }

    #[inline(always)]
    fn times(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|l| a[l] * b[l])
    }

    #[inline(always)]
    fn fma(self, a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        // Without the instruction `mul_add` would be a slow library call.
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            std::array::from_fn(|l| a[l].mul_add(b[l], c[l]))
        } else {
            std::array::from_fn(|l| a[l] * b[l] + c[l])
        }
    }

    #[inline(always)]
    fn sum(self, v: [f32; 8]) -> f32 {
        let v: [f32; 4] = std::array::from_fn(|l| v[l] + v[l + 4]);
        (v[0] + v[2]) + (v[1] + v[3])
    }

    #[inline(always)]
    fn half(self, x: f16) -> f32 {
        x.to_f32()
    }

    #[inline(always)]
    fn halves(self, x: [f16; 8]) -> [f32; 8] {
        x.map(f16::to_f32)
    }

    #[inline(always)]
    fn scaled_bytes(self, bytes: u64, unit: f32) -> [f32; 8] {
        bytes.to_le_bytes().map(|byte| f32::from(byte) * unit)
    }

    #[inline(always)]
    fn signed(self, w: &[i8; 32]) -> [i16; 32] {
        w.map(i16::from)
    }

    #[inline(always)]
    fn nibbles(self, w: &[u8; 32]) -> ([i16; 32], [i16; 32]) {
        (w.map(|x| i16::from(x & 15)), w.map(|x| i16::from(x >> 4)))
    }

    #[inline(always)]
    fn dot_signed(self, w: [i16; 32], x: &[i8; 32]) -> i32 {
        w.iter().zip(x).map(|(w, x)| i32::from(*w) * i32::from(*x)).sum()
    }

    #[inline(always)]
    fn dot_unsigned(self, w: [i16; 32], x: &[i8; 32]) -> i32 {
        self.dot_signed(w, x)
    }

    #[inline(always)]
    fn totals(self, dots: [i32; 8]) -> [f32; 8] {
        dots.map(|dot| dot as f32)
    }

    #[inline(always)]
    fn zero16(self) -> [f32; 16] {
        [0.0; 16]
    }

    #[inline(always)]
    fn load16(self, x: &[f32; 16]) -> [f32; 16] {
        *x
    }

    #[inline(always)]
    fn store16(self, v: [f32; 16], to: &mut [f32; 16]) {
        *to = v;
    }

    #[inline(always)]
    fn whole16(self, x: &[i32; 16]) -> [i32; 16] {
        *x
    }

    #[inline(always)]
    fn quads_unsigned(self, to: [i32; 16], w: &[u8; 64], x: [i8; 4]) -> [i32; 16] {
        let quad = |row: usize| (0..4).map(|i| i32::from(w[4 * row + i]) * i32::from(x[i])).sum::<i32>();
        std::array::from_fn(|row| to[row] + quad(row))
    }

    #[inline(always)]
    fn quads_signed(self, to: [i32; 16], w: &[u8; 64], x: [i8; 4]) -> [i32; 16] {
        let quad = |row: usize| {
            (0..4).map(|i| i32::from(w[4 * row + i].cast_signed()) * i32::from(x[i].cast_unsigned())).sum::<i32>()
        };
        std::array::from_fn(|row| to[row] + quad(row))
    }

    #[inline(always)]
    fn fma16(self, a: [f32; 16], b: f32, to: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|l| self.fma([a[l]; 8], [b; 8], [to[l]; 8])[0])
    }

    #[inline(always)]
    fn scaled16(self, dot: [i32; 16], scale: [f32; 16], by: f32, to: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|l| self.fma([dot[l] as f32; 8], [scale[l] * by; 8], [to[l]; 8])[0])
    }

    #[inline(always)]
    fn round(self, x: &[f32; 32], to: &mut [i8; 32]) -> (f32, i32) {
        let largest = x.iter().fold(0f32, |largest, x| if x.abs() <= largest { largest } else { x.abs() });
        if !largest.is_finite() {
            return (f32::NAN, 0);
        }
        let inverse = if largest > 1e-30 { 127.0 / largest } else { 0.0 };
        for (to, x) in to.iter_mut().zip(x) {
            *to = (x * inverse).round_ties_even() as i8;
        }
        let sum = to.iter().map(|x| i32::from(*x)).sum();
        (if inverse > 0.0 { largest / 127.0 } else { 0.0 }, sum)
    }

    #[inline(always)]
    fn prefetch<T>(self, _: &[T], _: usize) {}
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::f16;

    use super::{Bytes, Kernel, Plain};

    /// # Safety
    /// The processor must have the named features.
    #[target_feature(enable = "avx512vnni,avx512vl,avx512bw,avx512f,avx2,fma,f16c")]
    pub unsafe fn run_vnni<K: Kernel>(kernel: K) -> K::Out {
        kernel.run(Vnni(()))
    }

    /// # Safety
    /// The processor must have the named features.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Out {
        kernel.run(Avx2(()))
    }

    /// Proof that AVX2 with dot products of bytes is there: made only inside [`run_vnni`].
    #[derive(Clone, Copy)]
    pub struct Vnni(());

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

    /// All but the dot products themselves.
    macro_rules! bytes {
        ($token:ident, $quads:ident, $($wide:tt)*) => {
            impl Bytes for $token {
                type W = __m256i;
                type I = __m256i;
                type F = __m256;
                $($wide)*

                #[inline(always)]
                fn zero(self) -> __m256 {
                    v!(_mm256_setzero_ps())
                }

                #[inline(always)]
                fn load(self, x: &[f32; 8]) -> __m256 {
                    v!(_mm256_loadu_ps(x.as_ptr()))
                }

                #[inline(always)]
                fn store(self, v: __m256, to: &mut [f32; 8]) {
                    v!(_mm256_storeu_ps(to.as_mut_ptr(), v))
                }

                #[inline(always)]
                fn times(self, a: __m256, b: __m256) -> __m256 {
                    v!(_mm256_mul_ps(a, b))
                }

                #[inline(always)]
                fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
                    v!(_mm256_fmadd_ps(a, b, c))
                }

                #[inline(always)]
                fn sum(self, v: __m256) -> f32 {
                    v!({
                        let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
                        _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
                    })
                }

                #[inline(always)]
                fn half(self, x: f16) -> f32 {
                    v!(_mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(x.to_bits())))))
                }

                #[inline(always)]
                fn halves(self, x: [f16; 8]) -> __m256 {
                    let [a, b, c, d, e, f, g, h] = x.map(|x| x.to_bits().cast_signed());
                    v!(_mm256_cvtph_ps(_mm_setr_epi16(a, b, c, d, e, f, g, h)))
                }

                #[inline(always)]
                fn scaled_bytes(self, bytes: u64, unit: f32) -> __m256 {
                    v!({
                        let whole = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bytes.cast_signed()));
                        _mm256_mul_ps(_mm256_cvtepi32_ps(whole), _mm256_set1_ps(unit))
                    })
                }

                #[inline(always)]
                fn signed(self, w: &[i8; 32]) -> __m256i {
                    v!(_mm256_loadu_si256(w.as_ptr().cast()))
                }

                #[inline(always)]
                fn nibbles(self, w: &[u8; 32]) -> (__m256i, __m256i) {
                    v!({
                        let (w, low) = (_mm256_loadu_si256(w.as_ptr().cast()), _mm256_set1_epi8(15));
                        (_mm256_and_si256(w, low), _mm256_and_si256(_mm256_srli_epi16::<4>(w), low))
                    })
                }

                #[inline(always)]
                fn dot_signed(self, w: __m256i, x: &[i8; 32]) -> __m256i {
                    // The sign goes over to the activations; 128 is a byte without sign.
                    v!({
                        let x = _mm256_loadu_si256(x.as_ptr().cast());
                        $quads(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
                    })
                }

                #[inline(always)]
                fn dot_unsigned(self, w: __m256i, x: &[i8; 32]) -> __m256i {
                    v!($quads(w, _mm256_loadu_si256(x.as_ptr().cast())))
                }

                #[inline(always)]
                fn totals(self, d: [__m256i; 8]) -> __m256 {
                    v!({
                        let a = _mm256_hadd_epi32(_mm256_hadd_epi32(d[0], d[1]), _mm256_hadd_epi32(d[2], d[3]));
                        let b = _mm256_hadd_epi32(_mm256_hadd_epi32(d[4], d[5]), _mm256_hadd_epi32(d[6], d[7]));
                        let low = _mm256_permute2x128_si256::<0x20>(a, b);
                        let high = _mm256_permute2x128_si256::<0x31>(a, b);
                        _mm256_cvtepi32_ps(_mm256_add_epi32(low, high))
                    })
                }

                #[inline(always)]
                fn round(self, x: &[f32; 32], to: &mut [i8; 32]) -> (f32, i32) {
                    v!({
                        let x: [__m256; 4] = std::array::from_fn(|i| _mm256_loadu_ps(x.as_ptr().add(8 * i)));
                        let sign = _mm256_set1_ps(-0.0);
                        let a = x.map(|x| _mm256_andnot_ps(sign, x));
                        // What is not a number is larger than any as an unsigned whole number.
                        let top = _mm256_max_epi32(
                            _mm256_max_epi32(_mm256_castps_si256(a[0]), _mm256_castps_si256(a[1])),
                            _mm256_max_epi32(_mm256_castps_si256(a[2]), _mm256_castps_si256(a[3])),
                        );
                        let mut lanes = [0i32; 8];
                        _mm256_storeu_si256(lanes.as_mut_ptr().cast(), top);
                        let largest = f32::from_bits(lanes.into_iter().fold(0, i32::max).cast_unsigned());
                        if !largest.is_finite() {
                            return (f32::NAN, 0);
                        }
                        let inverse = if largest > 1e-30 { 127.0 / largest } else { 0.0 };
                        let by = _mm256_set1_ps(inverse);
                        let q = x.map(|x| _mm256_cvtps_epi32(_mm256_mul_ps(x, by)));
                        let total = _mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
                        _mm256_storeu_si256(lanes.as_mut_ptr().cast(), total);
                        let words = [_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3])];
                        let mixed = _mm256_packs_epi16(words[0], words[1]);
                        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
                        let bytes = _mm256_permutevar8x32_epi32(mixed, order);
                        _mm256_storeu_si256(to.as_mut_ptr().cast(), bytes);
                        (if inverse > 0.0 { largest / 127.0 } else { 0.0 }, lanes.iter().sum())
                    })
                }

                #[inline(always)]
                fn prefetch<T>(self, data: &[T], offset: usize) {
                    // A hint: no address is wrong.
                    v!(_mm_prefetch::<_MM_HINT_T0>(data.as_ptr().cast::<i8>().wrapping_add(offset)))
                }
            }
        };
    }

    /// Bytes without sign times bytes with one, in fours.
    #[inline(always)]
    unsafe fn quads_vnni(a: __m256i, b: __m256i) -> __m256i {
        v!(_mm256_dpbusd_epi32(_mm256_setzero_si256(), a, b))
    }

    /// The same in two steps; pairs stay within 16 bits, as neither side is over 128 and 127.
    #[inline(always)]
    unsafe fn quads_avx2(a: __m256i, b: __m256i) -> __m256i {
        v!(_mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)))
    }

    bytes! { Vnni, quads_vnni,
        type I16 = __m512i;
        type F16 = __m512;
        const WIDE: bool = true;

        #[inline(always)]
        fn zero16(self) -> __m512 {
            v!(_mm512_setzero_ps())
        }

        #[inline(always)]
        fn load16(self, x: &[f32; 16]) -> __m512 {
            v!(_mm512_loadu_ps(x.as_ptr()))
        }

        #[inline(always)]
        fn store16(self, v: __m512, to: &mut [f32; 16]) {
            v!(_mm512_storeu_ps(to.as_mut_ptr(), v))
        }

        #[inline(always)]
        fn whole16(self, x: &[i32; 16]) -> __m512i {
            v!(_mm512_loadu_si512(x.as_ptr().cast()))
        }

        #[inline(always)]
        fn quads_unsigned(self, to: __m512i, w: &[u8; 64], x: [i8; 4]) -> __m512i {
            let x = i32::from_le_bytes(x.map(i8::cast_unsigned));
            v!(_mm512_dpbusd_epi32(to, _mm512_loadu_si512(w.as_ptr().cast()), _mm512_set1_epi32(x)))
        }

        #[inline(always)]
        fn quads_signed(self, to: __m512i, w: &[u8; 64], x: [i8; 4]) -> __m512i {
            let x = i32::from_le_bytes(x.map(i8::cast_unsigned));
            v!(_mm512_dpbusd_epi32(to, _mm512_set1_epi32(x), _mm512_loadu_si512(w.as_ptr().cast())))
        }

        #[inline(always)]
        fn fma16(self, a: __m512, b: f32, to: __m512) -> __m512 {
            v!(_mm512_fmadd_ps(a, _mm512_set1_ps(b), to))
        }

        #[inline(always)]
        fn scaled16(self, dot: __m512i, scale: __m512, by: f32, to: __m512) -> __m512 {
            v!(_mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(scale, _mm512_set1_ps(by)), to))
        }
    }

    bytes! { Avx2, quads_avx2,
        type I16 = [i32; 16];
        type F16 = [f32; 16];
        const WIDE: bool = false;

        #[inline(always)]
        fn zero16(self) -> [f32; 16] {
            Plain.zero16()
        }

        #[inline(always)]
        fn load16(self, x: &[f32; 16]) -> [f32; 16] {
            *x
        }

        #[inline(always)]
        fn store16(self, v: [f32; 16], to: &mut [f32; 16]) {
            *to = v;
        }

        #[inline(always)]
        fn whole16(self, x: &[i32; 16]) -> [i32; 16] {
            *x
        }

        #[inline(always)]
        fn quads_unsigned(self, to: [i32; 16], w: &[u8; 64], x: [i8; 4]) -> [i32; 16] {
            Plain.quads_unsigned(to, w, x)
        }

        #[inline(always)]
        fn quads_signed(self, to: [i32; 16], w: &[u8; 64], x: [i8; 4]) -> [i32; 16] {
            Plain.quads_signed(to, w, x)
        }

        #[inline(always)]
        fn fma16(self, a: [f32; 16], b: f32, to: [f32; 16]) -> [f32; 16] {
            std::array::from_fn(|l| a[l].mul_add(b, to[l]))
        }

        #[inline(always)]
        fn scaled16(self, dot: [i32; 16], scale: [f32; 16], by: f32, to: [f32; 16]) -> [f32; 16] {
            std::array::from_fn(|l| (dot[l] as f32).mul_add(scale[l] * by, to[l]))
        }
    }
}
