//! Blending a feature with those most like it in a cache of known ones.

use candle_core::{Device, Result, Tensor};
use musaic_core::Error;

use super::unit;

/// One neighbour.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Its number in the cache.
    pub index: usize,
    /// What the search calls its similarity; with an index of distances, the distance, as the reference takes it.
    pub similarity: f32,
    /// The vector.
    pub vector: Vec<f32>,
}

/// A cache of vectors that can be searched. An index of another library is one more implementation.
pub trait Neighbours {
    /// Width of the vectors.
    fn dim(&self) -> usize;
    /// The best `count` for `query`, best first; fewer where there are fewer.
    ///
    /// # Errors
    /// The index cannot be searched.
    fn search(&self, query: &[f32], count: usize) -> musaic_core::Result<Vec<Found>>;
}

/// How strongly neighbours pull.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Blend {
    /// Neighbours.
    pub cache_size: usize,
    /// Multiplies similarities before their softmax.
    pub cache_t: f64,
    /// Share of the neighbours, 0 to 1.
    pub cache_weight: f64,
}

impl Default for Blend {
    /// The reference's.
    fn default() -> Self {
        Self { cache_size: 10, cache_t: 20.0, cache_weight: 0.5 }
    }
}

impl Blend {
    /// Blends every row of `features [batch, 1, dim]` with its own neighbours and brings it to length 1. Gives them too, row
    /// by row. (The reference mixes the rows of a batch; for one row it is the same.)
    ///
    /// # Errors
    /// The widths differ, the cache is empty, or it cannot be searched.
    pub fn apply(&self, features: &Tensor, cache: &dyn Neighbours) -> musaic_core::Result<(Tensor, Vec<Vec<Found>>)> {
        let (batch, one, dim) = features.dims3()?;
        if one != 1 || dim != cache.dim() {
            let found = format!("{:?} for a cache of width {}", features.dims(), cache.dim());
            return Err(Error::argument("features", found, format!("[batch, 1, {}]", cache.dim())));
        }
        let mut all = Vec::with_capacity(batch);
        let mut means = Vec::with_capacity(batch * dim);
        for query in features.squeeze(1)?.to_device(&Device::Cpu)?.to_vec2::<f32>()? {
            let found = cache.search(&query, self.cache_size)?;
            if found.is_empty() {
                return Err(Error::argument("cache", "no neighbours", "at least one vector and a cache_size above 0"));
            }
            means.extend(self.mean(&found, dim));
            all.push(found);
        }
        let means = Tensor::from_vec(means, (batch, 1, dim), &Device::Cpu)?.to_device(features.device())?;
        let means = (unit(&means)? * self.cache_weight)?;
        let blended = ((features * (1.0 - self.cache_weight))? + means)?;
        Ok((unit(&blended)?, all))
    }

    /// Sum of the vectors, weighted by the softmax of their similarities.
    fn mean(&self, found: &[Found], dim: usize) -> Vec<f32> {
        let scores: Vec<_> = found.iter().map(|found| f64::from(found.similarity) * self.cache_t).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<_> = scores.iter().map(|score| (score - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut mean = vec![0f64; dim];
        for (found, weight) in found.iter().zip(weights) {
            for (mean, x) in mean.iter_mut().zip(&found.vector) {
                *mean += weight / total * f64::from(*x);
            }
        }
        mean.into_iter().map(|x| x as f32).collect()
    }
}

/// A cache in memory, searched whole by inner product.
#[derive(Debug, Clone)]
pub struct Rows {
    rows: Vec<Vec<f32>>,
    dim: usize,
}

impl Rows {
    /// Takes `[count, dim]`.
    ///
    /// # Errors
    /// Another rank.
    pub fn new(rows: &Tensor) -> Result<Self> {
        Ok(Self { dim: rows.dims2()?.1, rows: rows.to_device(&Device::Cpu)?.to_vec2()? })
    }
}

impl Neighbours for Rows {
    fn dim(&self) -> usize {
        self.dim
    }

    fn search(&self, query: &[f32], count: usize) -> musaic_core::Result<Vec<Found>> {
        let product = |row: &Vec<f32>| row.iter().zip(query).map(|(a, b)| a * b).sum::<f32>();
        let mut found: Vec<_> = self.rows.iter().map(product).enumerate().collect();
        found.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let take = |(index, similarity)| Found { index, similarity, vector: self.rows[index].clone() };
        Ok(found.into_iter().take(count).map(take).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_blended_each_with_its_own() {
        let rows = Tensor::new(&[[1f32, 0.0], [0.0, 1.0], [-1.0, 0.0]], &Device::Cpu).unwrap();
        let cache = Rows::new(&rows).unwrap();
        let features = Tensor::new(&[[[1f32, 0.0]], [[0.0, 1.0]]], &Device::Cpu).unwrap();
        let blend = Blend { cache_size: 1, cache_t: 20.0, cache_weight: 0.25 };
        let (blended, found) = blend.apply(&features, &cache).unwrap();
        assert_eq!((found[0][0].index, found[1][0].index), (0, 1));
        let off = (blended - &features).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(off < 1e-6, "a vector blended with itself stays: {off}");
        let none = Blend { cache_size: 0, ..blend };
        assert!(none.apply(&features, &cache).is_err());
        assert!(
            blend.apply(&Tensor::zeros((1, 1, 3), candle_core::DType::F32, &Device::Cpu).unwrap(), &cache).is_err()
        );
    }
}
