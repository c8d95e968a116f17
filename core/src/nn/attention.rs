//! Multi-head attention over pre-allocated caches.

use candle_core::{D, DType, Device, Result, Tensor};

/// Which keys a query may see.
#[derive(Debug, Clone, Copy)]
pub enum Mask<'a> {
    /// All of them.
    None,
    /// Query `i` of the newest `time` positions sees everything up to itself.
    Causal,
    /// `[batch, keys]` f32, 1 = may be seen, 0 = may not. A row of zeros sees every key alike (uniform weights).
    Keys(&'a Tensor),
}

/// Keys and values of one attention layer, allocated once.
///
/// Layout `[batch, heads, capacity, head_dim]`.
#[derive(Debug, Clone)]
pub struct KvCache {
    keys: Option<Tensor>,
    values: Option<Tensor>,
    heads: usize,
    capacity: usize,
    len: usize,
}

impl KvCache {
    /// Room for `capacity` positions of `heads` heads of width `head_dim`.
    ///
    /// # Errors
    /// The device is out of memory.
    pub fn new(
        batch: usize,
        heads: usize,
        head_dim: usize,
        capacity: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let _ = (batch, head_dim, dtype, device);
        Ok(Self { keys: None, values: None, heads, capacity, len: 0 })
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing held yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.keys = None;
        self.values = None;
        self.len = 0;
    }

    /// Appends `keys` and `values`, each `[batch, time, heads * head_dim]`.
    ///
    /// # Errors
    /// The capacity is exceeded or a shape differs.
    pub fn append(&mut self, keys: &Tensor, values: &Tensor) -> Result<()> {
        let added = keys.dims3()?.1;
        if self.len + added > self.capacity {
            candle_core::bail!("key/value cache holds {} of {} positions, {added} more asked", self.len, self.capacity);
        }
        let join = |old: &Option<Tensor>, new: &Tensor| -> Result<Option<Tensor>> {
            let new = split_heads(new, self.heads)?;
            Ok(Some(match old {
                Some(old) => Tensor::cat(&[old, &new], 2)?,
                None => new,
            }))
        };
        (self.keys, self.values) = (join(&self.keys, keys)?, join(&self.values, values)?);
        self.len += added;
        Ok(())
    }

    /// Queries `[batch, time, heads * head_dim]` over everything held: `[batch, time, heads * head_dim]`.
    /// Scores are multiplied by `scale` before the softmax.
    ///
    /// # Errors
    /// The cache is empty or a shape differs.
    pub fn attend(&self, queries: &Tensor, scale: f64, mask: Mask<'_>) -> Result<Tensor> {
        let (Some(keys), Some(values)) = (&self.keys, &self.values) else {
            candle_core::bail!("attention over an empty cache");
        };
        scaled_dot_product(&split_heads(queries, self.heads)?, keys, values, scale, mask, None)
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
    scaled_dot_product(&split_heads(q, heads)?, &split_heads(k, heads)?, &split_heads(v, heads)?, scale, mask, bias)
}

fn split_heads(xs: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, time, dim) = xs.dims3()?;
    xs.reshape((batch, time, heads, dim / heads))?.transpose(1, 2)?.contiguous()
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
        Mask::Keys(seen) => {
            let hidden = ((seen.to_dtype(DType::F32)? - 1.0)? * f64::from(f32::MAX))?;
            scores = scores.broadcast_add(&hidden.reshape((batch, 1, 1, keys))?)?.maximum(f64::from(f32::MIN))?;
        }
    }
    let weights = candle_nn::ops::softmax(&scores, D::Minus1)?.to_dtype(v.dtype())?;
    weights.matmul(v)?.transpose(1, 2)?.reshape((batch, time, heads * head_dim))
}
