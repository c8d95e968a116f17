//! Residual vector quantiser: each codebook codes what those before it left over.

use candle_core::{CpuStorage, CustomOp2, D, DType, Layout, Result, Shape, Tensor};
use musaic_core::{probe::Probe, weights::Weights};
use rayon::prelude::*;

use super::config::EncodecConfig;

/// One codebook; rows in f32 whatever the rest is held in, since the choice of a row is not smooth.
#[derive(Debug, Clone)]
struct Codebook {
    /// `[rows, dim]`
    embed: Tensor,
    /// Squared length of each row, `[rows]`.
    lengths: Tensor,
}

impl Codebook {
    fn load(config: &EncodecConfig, weights: &Weights) -> musaic_core::Result<Self> {
        for name in ["inited", "cluster_size", "embed_avg"] {
            weights.ignore(name, "running statistics of training");
        }
        let embed = weights.tensor_as((config.codebook_size, config.codebook_dim()), "embed", DType::F32)?;
        let lengths = if weights.has_values() { embed.sqr()?.sum(1)? } else { embed.narrow(1, 0, 1)?.squeeze(1)? };
        Ok(Self { embed, lengths })
    }

    /// Nearest row of each of `xs [vectors, dim]`, the first one where several are: `[vectors]`.
    fn nearest(&self, xs: &Tensor) -> Result<Tensor> {
        let products = xs.matmul(&self.embed.t()?)?;
        if xs.device().is_cpu() {
            // |x|^2 is the same for all rows of one vector and left out.
            products.apply_op2_no_bwd(&self.lengths, &NearestRow)
        } else {
            (products * 2.0)?.broadcast_sub(&self.lengths)?.argmax(D::Minus1)
        }
    }
}

/// First row with the largest `2 x.e - |e|^2`, from the products `[vectors, rows]` and the squared lengths `[rows]`.
struct NearestRow;

impl CustomOp2 for NearestRow {
    fn name(&self) -> &'static str {
        "nearest row"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (products, lengths) = (s1.as_slice::<f32>()?, s2.as_slice::<f32>()?);
        let (Some((p0, p1)), Some((e0, e1))) = (l1.contiguous_offsets(), l2.contiguous_offsets()) else {
            candle_core::bail!("the nearest row needs contiguous values")
        };
        let (products, lengths) = (&products[p0..p1], &lengths[e0..e1]);
        let nearest: Vec<u32> =
            products.par_chunks(lengths.len()).with_min_len(16).map(|row| first_best(row, lengths)).collect();
        let count = nearest.len();
        Ok((CpuStorage::U32(nearest), Shape::from(count)))
    }
}

fn first_best(products: &[f32], lengths: &[f32]) -> u32 {
    // Eight running bests, so that the loop is vector code; each keeps the first of equals.
    const LANES: usize = 8;
    let mut score = [f32::NEG_INFINITY; LANES];
    let mut row = [u32::MAX; LANES];
    for (block, (p, e)) in products.chunks(LANES).zip(lengths.chunks(LANES)).enumerate() {
        for lane in 0..p.len() {
            let candidate = 2.0 * p[lane] - e[lane];
            let better = candidate > score[lane];
            score[lane] = if better { candidate } else { score[lane] };
            row[lane] = if better { (block * LANES + lane) as u32 } else { row[lane] };
        }
    }
    let mut best = 0;
    for lane in 1..LANES {
        if score[lane] > score[best] || (score[lane] == score[best] && row[lane] < row[best]) {
            best = lane;
        }
    }
    // Vectors that are not numbers are near nothing; row 0 stands for them.
    if row[best] == u32::MAX { 0 } else { row[best] }
}

/// The stack of codebooks.
#[derive(Debug, Clone)]
pub(super) struct Quantizer {
    layers: Vec<Codebook>,
}

impl Quantizer {
    pub(super) fn load(config: &EncodecConfig, weights: &Weights) -> musaic_core::Result<Self> {
        let layers = weights.pp("quantizer.layers");
        let layers = (0..config.num_quantizers())
            .map(|i| Codebook::load(config, &layers.pp(i).pp("codebook")))
            .collect::<musaic_core::Result<_>>()?;
        Ok(Self { layers })
    }

    pub(super) fn len(&self) -> usize {
        self.layers.len()
    }

    /// Latents `[batch, dim, frames]` to codes `[batch, codebooks, frames]`; the probe sees `residuals`, what is left after
    /// each codebook `[codebooks, batch, dim, frames]`.
    pub(super) fn encode(&self, latents: &Tensor, codebooks: usize, probe: &mut dyn Probe) -> Result<Tensor> {
        let (batch, dim, frames) = latents.dims3()?;
        let mut residual = latents.to_dtype(DType::F32)?.transpose(1, 2)?.reshape((batch * frames, dim))?;
        let mut codes = Vec::with_capacity(codebooks);
        let mut residuals = Vec::new();
        let watched = probe.wants("residuals");
        for codebook in self.layers.iter().take(codebooks) {
            let nearest = codebook.nearest(&residual)?;
            residual = (residual - codebook.embed.index_select(&nearest, 0)?)?;
            codes.push(nearest.reshape((batch, frames))?);
            if watched {
                residuals.push(residual.reshape((batch, frames, dim))?.transpose(1, 2)?);
            }
        }
        if watched {
            probe.see("residuals", &Tensor::stack(&residuals, 0)?)?;
        }
        Tensor::stack(&codes, 1)
    }

    /// Codes `[batch, codebooks, frames]` to the sum of their rows `[batch, dim, frames]`, f32.
    pub(super) fn decode(&self, codes: &Tensor) -> Result<Tensor> {
        let (batch, codebooks, frames) = codes.dims3()?;
        if codebooks == 0 || codebooks > self.layers.len() {
            candle_core::bail!("{codebooks} codebooks, expected 1 to {}", self.layers.len());
        }
        let codes = codes.to_dtype(DType::U32)?;
        let mut sum = None;
        for (i, codebook) in self.layers.iter().take(codebooks).enumerate() {
            let rows = codebook.embed.index_select(&codes.narrow(1, i, 1)?.flatten_all()?, 0)?;
            sum = Some(match sum {
                None => rows,
                Some(sum) => (sum + rows)?,
            });
        }
        let Some(sum) = sum else { candle_core::bail!("no codebooks") };
        sum.reshape((batch, frames, ()))?.transpose(1, 2)?.contiguous()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_rows_wins() {
        let lengths = [1.0; 19];
        let mut products = [0.0; 19];
        for at in [5, 12, 13, 18] {
            products[at] = 2.0;
        }
        assert_eq!(first_best(&products, &lengths), 5);
        products[17] = 3.0;
        products[10] = 3.0;
        assert_eq!(first_best(&products, &lengths), 10);
        assert_eq!(first_best(&[f32::NAN; 3], &lengths[..3]), 0);
    }
}
