//! Blending a feature with those most like it in a cache of known ones.

use candle_core::{Device, Result, Tensor};
use musaic_core::Error;

use super::unit;
use crate::knn::Metric;

/// One neighbour.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Its number in the cache.
    pub index: usize,
    /// What the search calls its similarity; with an index of distances, the distance.
    pub similarity: f32,
    /// The vector.
    pub vector: Vec<f32>,
}

/// A cache of vectors that can be searched. An index of another library is one more implementation.
pub trait Neighbours {
    /// Width of the vectors.
    fn dim(&self) -> usize;
    /// What its similarities are.
    fn metric(&self) -> Metric;
    /// The best `count` for `query`, best first; fewer where there are fewer.
    ///
    /// # Errors
    /// The index cannot be searched.
    fn nearest(&mut self, query: &[f32], count: usize) -> musaic_core::Result<Vec<Found>>;
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
    /// Squared distances enter the softmax as they are, as in the published code, so that of the neighbours the farthest
    /// pulls most. Otherwise they become cosines first.
    pub reference: bool,
}

impl Default for Blend {
    /// The reference's numbers.
    fn default() -> Self {
        Self { cache_size: 10, cache_t: 20.0, cache_weight: 0.5, reference: false }
    }
}

impl Blend {
    /// Blends every row of `features [batch, 1, dim]` with its own neighbours and brings it to length 1; a row without any is
    /// only brought to that length. Gives them too, row by row. (The reference mixes the rows of a batch; for one row it is the
    /// same. It fails where neighbours are missing.)
    ///
    /// # Errors
    /// The widths differ, none is asked for, or the cache cannot be searched.
    pub fn apply(
        &self,
        features: &Tensor,
        cache: &mut dyn Neighbours,
    ) -> musaic_core::Result<(Tensor, Vec<Vec<Found>>)> {
        let (batch, one, dim) = features.dims3()?;
        if one != 1 || dim != cache.dim() {
            let found = format!("{:?} for a cache of width {}", features.dims(), cache.dim());
            return Err(Error::argument("features", found, format!("[batch, 1, {}]", cache.dim())));
        }
        if self.cache_size == 0 {
            return Err(Error::argument("cache_size", "0", "at least 1"));
        }
        let mut all = Vec::with_capacity(batch);
        let mut means = Vec::with_capacity(batch * dim);
        for query in features.squeeze(1)?.to_device(&Device::Cpu)?.to_vec2::<f32>()? {
            let found = cache.nearest(&query, self.cache_size)?;
            means.extend(match found.is_empty() {
                true => query,
                false => self.mean(&found, cache.metric(), dim),
            });
            all.push(found);
        }
        let means = Tensor::from_vec(means, (batch, 1, dim), &Device::Cpu)?.to_device(features.device())?;
        let means = (unit(&means)? * self.cache_weight)?;
        let blended = ((features * (1.0 - self.cache_weight))? + means)?;
        Ok((unit(&blended)?, all))
    }

    /// What goes into the softmax.
    fn closeness(&self, metric: Metric, similarity: f32) -> f64 {
        match metric {
            Metric::L2 if !self.reference => 1.0 - f64::from(similarity) / 2.0,
            _ => f64::from(similarity),
        }
    }

    /// Sum of the vectors, weighted by the softmax of their closeness.
    fn mean(&self, found: &[Found], metric: Metric, dim: usize) -> Vec<f32> {
        let scores: Vec<_> =
            found.iter().map(|found| self.closeness(metric, found.similarity) * self.cache_t).collect();
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

    fn metric(&self) -> Metric {
        Metric::InnerProduct
    }

    fn nearest(&mut self, query: &[f32], count: usize) -> musaic_core::Result<Vec<Found>> {
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
        let mut cache = Rows::new(&rows).unwrap();
        let features = Tensor::new(&[[[1f32, 0.0]], [[0.0, 1.0]]], &Device::Cpu).unwrap();
        let blend = Blend { cache_size: 1, cache_weight: 0.25, ..Blend::default() };
        let (blended, found) = blend.apply(&features, &mut cache).unwrap();
        assert_eq!((found[0][0].index, found[1][0].index), (0, 1));
        let off = (blended - &features).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(off < 1e-6, "a vector blended with itself stays: {off}");
        let none = Blend { cache_size: 0, ..blend };
        assert!(none.apply(&features, &mut cache).is_err());
        assert!(
            blend.apply(&Tensor::zeros((1, 1, 3), candle_core::DType::F32, &Device::Cpu).unwrap(), &mut cache).is_err()
        );
    }
    fn found(similarity: f32, vector: [f32; 2]) -> Found {
        Found { index: 0, similarity, vector: vector.into() }
    }

    #[test]
    fn distances_become_cosines_and_only_the_reference_prefers_the_farthest() {
        // (0.6, 0.8) beside the two axes: as products, and as squared distances, 2 - 2 cos.
        let products = [found(0.6, [1.0, 0.0]), found(0.8, [0.0, 1.0])];
        let distances = [found(0.8, [1.0, 0.0]), found(0.4, [0.0, 1.0])];
        let blend = Blend::default();
        let near = blend.mean(&products, Metric::InnerProduct, 2);
        assert!(near[1] > near[0] && near[0] > 0.0, "{near:?}");
        for (a, b) in near.iter().zip(blend.mean(&distances, Metric::L2, 2)) {
            assert!((a - b).abs() < 1e-6, "{near:?}");
        }
        let reference = Blend { reference: true, ..blend };
        let far = reference.mean(&distances, Metric::L2, 2);
        assert!(far[0] > far[1], "{far:?}");
    }

    #[test]
    fn a_row_without_neighbours_is_brought_to_length_1() {
        let mut empty = Rows { rows: Vec::new(), dim: 2 };
        let features = Tensor::new(&[[[3f32, 4.0]]], &Device::Cpu).unwrap();
        let (blended, found) = Blend::default().apply(&features, &mut empty).unwrap();
        let blended = blended.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(
            (blended[0] - 0.6).abs() < 1e-6 && (blended[1] - 0.8).abs() < 1e-6 && found[0].is_empty(),
            "{blended:?}"
        );
    }
}
