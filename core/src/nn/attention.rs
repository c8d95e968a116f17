//! Multi-head attention over pre-allocated caches.

use std::fmt;

use candle_core::{D, DType, Device, Result, Tensor};
use half::{bf16, f16};

use super::{
    attend::{Attend, Hidden, Sizes},
    block::{Block, F32x16},
    slices,
};

/// Which keys a query may see.
#[derive(Debug, Clone, Copy)]
pub enum Mask<'a> {
    /// All of them.
    None,
    /// Query `i` of the newest `time` positions sees everything up to itself.
    Causal,
    /// As `Causal`, and nothing before the position given for each batch element: prompts padded on the left. What padding
    /// itself sees is left open.
    CausalFrom(&'a [usize]),
    /// `[batch, keys]` f32, 1 = may be seen, 0 = may not. A row of zeros sees every key alike (uniform weights).
    Keys(&'a Tensor),
}

/// Keys and values of one attention layer, allocated once and appended to in place.
///
/// Layout `[batch, kv_heads, capacity, head_dim]`. On the CPU they may be held as f32, f16 or bf16 and are read where they
/// lie; results are f32. A cache has no gradients: training uses [`attention`].
#[derive(Debug)]
pub struct KvCache {
    store: Store,
    batch: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    capacity: usize,
    len: usize,
}

enum Store {
    F32(Pair<F32x16>),
    F16(Pair<[f16; 16]>),
    Bf16(Pair<[bf16; 16]>),
    Device { keys: Tensor, values: Tensor },
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32(_) => "f32",
            Self::F16(_) => "f16",
            Self::Bf16(_) => "bf16",
            Self::Device { .. } => "device",
        })
    }
}

/// Keys and values in blocks; heads whose width is no multiple of sixteen are filled up with zeros.
#[derive(Clone)]
struct Pair<B> {
    keys: Vec<B>,
    values: Vec<B>,
}

impl<B: Block> Pair<B> {
    fn new(count: usize) -> Result<Self> {
        let zeros = || {
            let mut blocks = Vec::new();
            if blocks.try_reserve_exact(count).is_err() {
                candle_core::bail!("no memory for a key/value cache of {count} blocks");
            }
            blocks.resize(count, B::pack(&[0.0; 16]));
            Ok(blocks)
        };
        Ok(Self { keys: zeros()?, values: zeros()? })
    }

    /// Puts `keys` and `values` `[batch, time, heads * head_dim]` behind the `len` positions held.
    fn append(&mut self, keys: &[f32], values: &[f32], sizes: &Sizes) {
        let steps = sizes.head_dim.div_ceil(16);
        for (rows, new) in [(&mut self.keys, keys), (&mut self.values, values)] {
            for (i, new) in new.chunks_exact(sizes.head_dim).enumerate() {
                let heads = sizes.heads / sizes.group;
                let (head, position) = (i % heads, i / heads);
                let (element, time) = (position / sizes.time, position % sizes.time);
                let row = (element * heads + head) * sizes.capacity + sizes.count + time;
                for (block, new) in rows[row * steps..(row + 1) * steps].iter_mut().zip(new.chunks(16)) {
                    let mut sixteen = [0f32; 16];
                    sixteen[..new.len()].copy_from_slice(new);
                    *block = B::pack(&sixteen);
                }
            }
        }
    }
}

impl Clone for KvCache {
    /// A cache of its own: what is appended to one is not seen by the other.
    fn clone(&self) -> Self {
        let own = |xs: &Tensor| xs.copy().unwrap_or_else(|_| xs.clone());
        let store = match &self.store {
            Store::F32(pair) => Store::F32(pair.clone()),
            Store::F16(pair) => Store::F16(pair.clone()),
            Store::Bf16(pair) => Store::Bf16(pair.clone()),
            Store::Device { keys, values } => Store::Device { keys: own(keys), values: own(values) },
        };
        Self { store, ..*self }
    }
}

impl KvCache {
    /// Room for `capacity` positions of `heads` heads of width `head_dim`.
    ///
    /// # Errors
    /// The device is out of memory, or `dtype` is none of f32, f16 and bf16.
    pub fn new(
        batch: usize,
        heads: usize,
        head_dim: usize,
        capacity: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        Self::grouped(batch, (heads, heads), head_dim, capacity, dtype, device)
    }

    /// As [`KvCache::new`], for `heads` heads of queries that share `kv_heads` heads of keys and values in groups of equal
    /// size: the first `heads / kv_heads` the first one, and so on.
    ///
    /// # Errors
    /// As [`KvCache::new`], or the heads do not share evenly.
    pub fn grouped(
        batch: usize,
        (heads, kv_heads): (usize, usize),
        head_dim: usize,
        capacity: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            candle_core::bail!("{heads} heads of queries do not share {kv_heads} heads of keys evenly");
        }
        let sizes = [kv_heads, capacity, head_dim.div_ceil(16)];
        let Some(blocks) = sizes.into_iter().try_fold(batch, usize::checked_mul) else {
            candle_core::bail!("a key/value cache of [{batch}, {kv_heads}, {capacity}, {head_dim}] is too large");
        };
        let store = match (device, dtype) {
            (Device::Cpu, DType::F32) => Store::F32(Pair::new(blocks)?),
            (Device::Cpu, DType::F16) => Store::F16(Pair::new(blocks)?),
            (Device::Cpu, DType::BF16) => Store::Bf16(Pair::new(blocks)?),
            (Device::Cpu, dtype) => candle_core::bail!("a key/value cache cannot be held as {dtype:?}"),
            _ => {
                let zeros = || Tensor::zeros((batch, kv_heads, capacity, head_dim), dtype, device);
                Store::Device { keys: zeros()?, values: zeros()? }
            }
        };
        Ok(Self { store, batch, heads, kv_heads, head_dim, capacity, len: 0 })
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing held yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Forgets all but the first `len` positions.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    fn sizes(&self, time: usize) -> Sizes {
        Sizes {
            batch: self.batch,
            heads: self.heads,
            group: self.heads / self.kv_heads,
            head_dim: self.head_dim,
            capacity: self.capacity,
            count: self.len,
            time,
        }
    }

    /// Checks `[batch, time, heads * head_dim]` and gives the time.
    fn time_of(&self, xs: &Tensor, heads: usize) -> Result<usize> {
        let (batch, time, dim) = xs.dims3()?;
        if batch != self.batch || dim != heads * self.head_dim {
            candle_core::bail!("a cache of [{}, _, {}] got {:?}", self.batch, heads * self.head_dim, xs.dims());
        }
        Ok(time)
    }

    /// Appends `keys` and `values`, each `[batch, time, kv_heads * head_dim]`.
    ///
    /// # Errors
    /// The capacity is exceeded or a shape differs.
    pub fn append(&mut self, keys: &Tensor, values: &Tensor) -> Result<()> {
        let added = self.time_of(keys, self.kv_heads)?;
        if self.time_of(values, self.kv_heads)? != added {
            candle_core::bail!("{added} keys with {:?} values", values.dims());
        }
        if self.capacity - self.len < added {
            candle_core::bail!("key/value cache holds {} of {} positions, {added} more asked", self.len, self.capacity);
        }
        let sizes = self.sizes(added);
        if let Store::Device { keys: held_keys, values: held_values } = &self.store {
            held_keys.slice_set(&split_heads(keys, self.kv_heads)?, 2, self.len)?;
            held_values.slice_set(&split_heads(values, self.kv_heads)?, 2, self.len)?;
        } else {
            let (keys, values) = (keys.to_dtype(DType::F32)?, values.to_dtype(DType::F32)?);
            slices::with2(&keys, Some(&values), |keys, values| {
                let values = values.unwrap_or_default();
                match &mut self.store {
                    Store::F32(pair) => pair.append(keys, values, &sizes),
                    Store::F16(pair) => pair.append(keys, values, &sizes),
                    Store::Bf16(pair) => pair.append(keys, values, &sizes),
                    Store::Device { .. } => {}
                }
            })?;
        }
        self.len += added;
        Ok(())
    }

    /// Queries `[batch, time, heads * head_dim]` over everything held: `[batch, time, heads * head_dim]`.
    /// Scores are multiplied by `scale` before the softmax.
    ///
    /// # Errors
    /// The cache is empty or a shape differs.
    pub fn attend(&self, queries: &Tensor, scale: f64, mask: Mask<'_>) -> Result<Tensor> {
        self.attend_biased(queries, scale, mask, None)
    }

    /// [`KvCache::append`], then [`KvCache::attend`].
    ///
    /// # Errors
    /// As theirs.
    pub fn append_attend(
        &mut self,
        (q, k, v): (&Tensor, &Tensor, &Tensor),
        scale: f64,
        mask: Mask<'_>,
    ) -> Result<Tensor> {
        self.append(k, v)?;
        self.attend(q, scale, mask)
    }

    fn attend_biased(&self, queries: &Tensor, scale: f64, mask: Mask<'_>, bias: Option<&Tensor>) -> Result<Tensor> {
        let time = self.time_of(queries, self.heads)?;
        if self.len == 0 {
            candle_core::bail!("attention over an empty cache");
        }
        if let Mask::CausalFrom(first) = mask
            && first.len() != self.batch
        {
            candle_core::bail!("{} first positions for a batch of {}", first.len(), self.batch);
        }
        let sizes = self.sizes(time);
        if let Store::Device { keys, values } = &self.store {
            let held = |xs: &Tensor| repeat_heads(&xs.narrow(2, 0, self.len)?, sizes.group);
            let (keys, values) = (held(keys)?, held(values)?);
            return scaled_dot_product(&split_heads(queries, self.heads)?, &keys, &values, scale, mask, bias);
        }
        let seen = match mask {
            Mask::Keys(seen) if seen.dims() != [self.batch, self.len] => {
                candle_core::bail!("mask {:?} for {} x {} keys", seen.dims(), self.batch, self.len)
            }
            Mask::Keys(seen) => Some(seen.to_dtype(DType::F32)?),
            _ => None,
        };
        if let Some(bias) = bias
            && !matches!(bias.dims(), &[b, h, t, k] if (b == 1 || b == self.batch) && [h, t, k] == [self.heads, time, self.len])
        {
            candle_core::bail!("bias {:?} for {} heads, {time} queries, {} keys", bias.dims(), self.heads, self.len);
        }
        let mut out = slices::zeros(queries.elem_count())?;
        let queries = queries.to_dtype(DType::F32)?;
        slices::with2(&queries, bias, |queries, bias| {
            slices::with2(&or_zero(&seen)?, None, |seen_values, _| {
                let hidden = match mask {
                    Mask::None => Hidden::Nothing,
                    Mask::Causal => Hidden::Future,
                    Mask::CausalFrom(first) => Hidden::Outside(first),
                    Mask::Keys(_) => Hidden::Unseen(seen_values),
                };
                match &self.store {
                    Store::F32(pair) => pair.attend(sizes, queries, scale, hidden, bias, &mut out),
                    Store::F16(pair) => pair.attend(sizes, queries, scale, hidden, bias, &mut out),
                    Store::Bf16(pair) => pair.attend(sizes, queries, scale, hidden, bias, &mut out),
                    Store::Device { .. } => {}
                }
            })
        })??;
        Tensor::from_vec(out, queries.dims(), &Device::Cpu)
    }
}

/// The mask, or something in its place where there is none.
fn or_zero(seen: &Option<Tensor>) -> Result<Tensor> {
    seen.as_ref().map_or_else(|| Tensor::zeros(1, DType::F32, &Device::Cpu), |seen| Ok(seen.clone()))
}

impl<B: Block> Pair<B> {
    fn attend(
        &self,
        sizes: Sizes,
        queries: &[f32],
        scale: f64,
        hidden: Hidden<'_>,
        bias: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let (keys, values) = (&*self.keys, &*self.values);
        Attend { sizes, queries, keys, values, scale: scale as f32, hidden, bias }.run(out);
    }
}

/// Attention without a cache: `q [batch, time, dim]`, `k` and `v` `[batch, keys, dim]`, optional `bias`
/// `[1 or batch, heads, time, keys]` added to the scores. Gives `[batch, time, dim]`.
///
/// # Errors
/// A shape differs.
pub fn attention(
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    heads: usize,
    scale: f64,
    mask: Mask<'_>,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let (batch, keys, dim) = k.dims3()?;
    if heads == 0 || !dim.is_multiple_of(heads) {
        candle_core::bail!("{heads} heads do not share {dim} columns evenly");
    }
    if [q, k, v].into_iter().chain(bias).all(slices::is_plain) && keys > 0 {
        let mut cache = KvCache::new(batch, heads, dim / heads, keys, DType::F32, &Device::Cpu)?;
        cache.append(k, v)?;
        return cache.attend_biased(q, scale, mask, bias);
    }
    scaled_dot_product(&split_heads(q, heads)?, &split_heads(k, heads)?, &split_heads(v, heads)?, scale, mask, bias)
}

fn split_heads(xs: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, time, dim) = xs.dims3()?;
    xs.reshape((batch, time, heads, dim / heads))?.transpose(1, 2)?.contiguous()
}

/// `[batch, kv_heads, ..]` with every head `group` times in a row.
fn repeat_heads(xs: &Tensor, group: usize) -> Result<Tensor> {
    if group == 1 {
        return Ok(xs.clone());
    }
    let (batch, heads, time, dim) = xs.dims4()?;
    let shape = (batch, heads, group, time, dim);
    xs.unsqueeze(2)?.broadcast_as(shape)?.reshape((batch, heads * group, time, dim))
}

fn scaled_dot_product(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f64,
    mask: Mask<'_>,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let (batch, heads, time, head_dim) = q.dims4()?;
    let keys = k.dims4()?.2;
    let mut scores = (q.matmul(&k.t()?)? * scale)?.to_dtype(DType::F32)?;
    if let Some(bias) = bias {
        scores = scores.broadcast_add(bias)?;
    }
    // Adding the lowest finite number (not -inf) makes a fully masked row uniform instead of NaN.
    match mask {
        Mask::None => {}
        Mask::Causal => {
            let hidden: Vec<_> = (0..time)
                .flat_map(|i| (0..keys).map(move |j| if j + time > i + keys { f32::MIN } else { 0.0 }))
                .collect();
            scores = scores.broadcast_add(&Tensor::from_vec(hidden, (time, keys), q.device())?)?;
        }
        Mask::CausalFrom(first) => {
            let mut hidden = Vec::with_capacity(batch * time * keys);
            for first in first {
                for seen in (0..time).map(|i| i + keys + 1 - time) {
                    let begin = if *first < seen { *first } else { 0 };
                    hidden.extend((0..keys).map(|j| if (begin..seen).contains(&j) { 0.0 } else { f32::MIN }));
                }
            }
            scores = scores.broadcast_add(&Tensor::from_vec(hidden, (batch, 1, time, keys), q.device())?)?;
        }
        Mask::Keys(seen) => {
            let hidden = ((seen.to_dtype(DType::F32)? - 1.0)? * f64::from(f32::MAX))?;
            scores = scores.broadcast_add(&hidden.reshape((batch, 1, 1, keys))?)?.maximum(f64::from(f32::MIN))?;
        }
    }
    let weights = candle_nn::ops::softmax(&scores, D::Minus1)?.to_dtype(v.dtype())?;
    weights.matmul(v)?.transpose(1, 2)?.reshape((batch, time, heads * head_dim))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{
        pool::with_threads,
        testing::{assert_close, noise},
    };

    fn bits(xs: &Tensor) -> Vec<u32> {
        xs.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    }

    fn plain(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, mask: Mask<'_>, bias: Option<&Tensor>) -> Tensor {
        let split = |xs| split_heads(xs, heads).unwrap();
        scaled_dot_product(&split(q), &split(k), &split(v), 0.3, mask, bias).unwrap()
    }

    #[test]
    fn agrees_with_candle_over_shapes_and_masks() {
        for (batch, heads, head_dim, time, keys) in [
            (1, 1, 16, 1, 1),
            (2, 3, 64, 1, 37),
            (2, 2, 20, 5, 9),
            (1, 4, 80, 7, 7),
            (3, 1, 7, 4, 33),
            (2, 3, 24, 45, 70),
        ] {
            let dim = heads * head_dim;
            let (q, k, v) =
                (noise(&[batch, time, dim], 1), noise(&[batch, keys, dim], 2), noise(&[batch, keys, dim], 3));
            let seen: Vec<f32> = (0..batch * keys).map(|i| ((i / keys + i) % 3 != 0) as u8 as f32).collect();
            let seen = Tensor::from_vec(seen, (batch, keys), &Device::Cpu).unwrap();
            let first: Vec<_> = (0..batch).map(|b| (b * 5 + 2) % keys).collect();
            for mask in [Mask::None, Mask::Causal, Mask::CausalFrom(&first), Mask::Keys(&seen)] {
                for bias in [None, Some(noise(&[1, heads, time, keys], 4)), Some(noise(&[batch, heads, time, keys], 5))]
                {
                    let want = plain(&q, &k, &v, heads, mask, bias.as_ref());
                    assert_close(&attention((&q, &k, &v), heads, 0.3, mask, bias.as_ref()).unwrap(), &want, 5e-6);
                }
                for (dtype, bound) in [(DType::F32, 5e-6), (DType::F16, 4e-3), (DType::BF16, 3e-2)] {
                    let mut cache = KvCache::new(batch, heads, head_dim, keys + 2, dtype, &Device::Cpu).unwrap();
                    cache.append(&k, &v).unwrap();
                    assert_close(&cache.attend(&q, 0.3, mask).unwrap(), &plain(&q, &k, &v, heads, mask, None), bound);
                }
            }
        }
    }

    #[test]
    fn heads_that_share_keys_are_heads_with_copies_of_them() {
        for (kv_heads, group, time, keys) in [(1, 4, 3, 9), (2, 3, 1, 20), (3, 2, 40, 40)] {
            let (batch, head_dim, heads) = (2, 24, kv_heads * group);
            let q = noise(&[batch, time, heads * head_dim], 1);
            let (k, v) = (noise(&[batch, keys, kv_heads * head_dim], 2), noise(&[batch, keys, kv_heads * head_dim], 3));
            let copied = |xs: &Tensor| repeat_heads(&split_heads(xs, kv_heads).unwrap(), group).unwrap();
            let q_heads = split_heads(&q, heads).unwrap();
            let want = scaled_dot_product(&q_heads, &copied(&k), &copied(&v), 0.3, Mask::Causal, None).unwrap();
            let mut cache =
                KvCache::grouped(batch, (heads, kv_heads), head_dim, keys, DType::F32, &Device::Cpu).unwrap();
            cache.append(&k, &v).unwrap();
            assert_close(&cache.attend(&q, 0.3, Mask::Causal).unwrap(), &want, 5e-6);
        }
        assert!(KvCache::grouped(1, (4, 3), 16, 2, DType::F32, &Device::Cpu).is_err());
    }

    #[test]
    fn a_row_that_sees_nothing_is_the_mean() {
        let (q, k, v) = (noise(&[1, 2, 16], 1), noise(&[1, 5, 16], 2), noise(&[1, 5, 16], 3));
        let seen = Tensor::zeros((1, 5), DType::F32, &Device::Cpu).unwrap();
        let ys = attention((&q, &k, &v), 1, 1.0, Mask::Keys(&seen), None).unwrap();
        assert_close(&ys.narrow(1, 1, 1).unwrap(), &v.mean_keepdim(1).unwrap(), 1e-6);
    }

    #[test]
    fn step_by_step_is_all_at_once_to_the_bit() {
        for (parts, dtype) in
            [(&[1, 1, 4, 3, 2][..], DType::F32), (&[16, 1, 25, 4, 10, 1, 8], DType::F32), (&[33, 1, 1, 30], DType::F16)]
        {
            let total = parts.iter().sum();
            let noise = |seed| noise(&[2, total, 128], seed);
            let (q, k, v) = (noise(1), noise(2), noise(3));
            let cache = || KvCache::new(2, 2, 64, total, dtype, &Device::Cpu).unwrap();
            let whole = cache().append_attend((&q, &k, &v), 0.1, Mask::Causal).unwrap();
            for threads in 1..4 {
                let mut cache = cache();
                let parts: Vec<_> = parts
                    .iter()
                    .map(|&count| {
                        let part = |xs: &Tensor| xs.narrow(1, cache.len(), count).unwrap();
                        let (q, k, v) = (part(&q), part(&k), part(&v));
                        with_threads(threads, || cache.append_attend((&q, &k, &v), 0.1, Mask::Causal).unwrap())
                    })
                    .collect();
                assert_eq!(bits(&Tensor::cat(&parts, 1).unwrap()), bits(&whole), "{threads} threads");
            }
        }
    }

    #[test]
    fn truncating_forgets_and_copies_are_separate() {
        let xs = noise(&[1, 4, 32], 1);
        let mut cache = KvCache::new(1, 2, 16, 4, DType::F32, &Device::Cpu).unwrap();
        assert!(cache.attend(&xs, 1.0, Mask::None).is_err());
        cache.append(&xs, &xs).unwrap();
        assert!(cache.append(&xs, &xs).is_err());
        let before = bits(&cache.attend(&xs, 1.0, Mask::None).unwrap());
        let mut other = cache.clone();
        other.truncate(1);
        other.append(&noise(&[1, 3, 32], 2), &noise(&[1, 3, 32], 3)).unwrap();
        assert_eq!(bits(&cache.attend(&xs, 1.0, Mask::None).unwrap()), before);
        assert_ne!(bits(&other.attend(&xs, 1.0, Mask::None).unwrap()), before);
        cache.clear();
        assert!(cache.is_empty());
        assert!(cache.append(&noise(&[1, 1, 16], 1), &xs).is_err());
    }

    #[test]
    fn without_a_cache_gradients_flow() {
        let q = candle_core::Var::from_tensor(&noise(&[1, 3, 16], 1)).unwrap();
        let kv = noise(&[1, 4, 16], 2);
        let loss =
            |q: &Tensor| attention((q, &kv, &kv), 2, 0.5, Mask::None, None).unwrap().sqr().unwrap().sum_all().unwrap();
        let gradient = loss(&q).backward().unwrap().get(&q).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let base = q.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let at = |i: usize, step: f32| {
            let mut moved = base.clone();
            moved[i] += step;
            loss(&Tensor::from_vec(moved, (1, 3, 16), &Device::Cpu).unwrap()).to_scalar::<f32>().unwrap()
        };
        for i in [0, 17, 40] {
            let numeric = (at(i, 1e-2) - at(i, -1e-2)) / 2e-2;
            assert!((gradient[i] - numeric).abs() < 5e-3 * numeric.abs().max(1.0), "{} {numeric}", gradient[i]);
        }
    }
}
