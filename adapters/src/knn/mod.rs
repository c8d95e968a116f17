//! The nearest-neighbour cache: features are pulled towards the nearest vectors of a FAISS index file (`knn.index`).
//!
//! [`Index`] reads, searches, makes and writes index files; it needs the cargo feature `knn`. [`Blend`] is what the
//! published systems do with the hits.

#[cfg_attr(not(feature = "knn"), path = "absent.rs")]
mod index;

use musaic_core::{Error, Result};

pub use self::index::Index;

/// How an index compares a query with a stored vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Larger is nearer; the cosine where both are unit vectors.
    InnerProduct,
    /// Squared Euclidean distance, smaller is nearer.
    L2,
}

impl Metric {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::InnerProduct => "inner product",
            Self::L2 => "L2 (squared)",
        }
    }
}

/// One stored vector that a search found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Its id; none where the index had fewer vectors to offer than were asked for.
    pub id: Option<u64>,
    /// In the index's metric, as the index gives it.
    pub similarity: f32,
}

/// How features are pulled towards their neighbours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Blend {
    /// Neighbours that are asked for.
    pub count: usize,
    /// Factor on the similarities before their softmax.
    pub sharpness: f32,
    /// Share of the neighbours in the result, 0 to 1.
    pub weight: f32,
    /// Squared distances enter the softmax as they are, as in the published code, so that of the hits the farthest gets
    /// the largest share. Otherwise they become cosines first.
    pub reference: bool,
}

impl Default for Blend {
    /// The values of the published systems' defaults.
    fn default() -> Self {
        Self { count: 10, sharpness: 20.0, weight: 0.5, reference: false }
    }
}

impl Blend {
    /// `feature [dim]` pulled towards its neighbours in `index`, of unit length. Without any neighbour it is only brought to
    /// unit length.
    ///
    /// # Errors
    /// The width is not the index's, or the index cannot give back a vector it found.
    pub fn apply(&self, index: &mut Index, feature: &[f32]) -> Result<Vec<f32>> {
        let hits = index.search(feature, self.count)?.swap_remove(0);
        let metric = index.metric();
        let mut near = Vec::with_capacity(hits.len());
        for Hit { id, similarity } in hits {
            if let Some(id) = id {
                near.push((self.closeness(metric, similarity), index.vector(id)?));
            }
        }
        Ok(self.mix(feature, &near))
    }

    /// What goes into the softmax.
    fn closeness(&self, metric: Metric, similarity: f32) -> f32 {
        match metric {
            Metric::L2 if !self.reference => 1.0 - similarity / 2.0,
            _ => similarity,
        }
    }

    /// `feature` and the stored vectors with their closeness.
    fn mix(&self, feature: &[f32], near: &[(f32, Vec<f32>)]) -> Vec<f32> {
        let highest = near.iter().map(|(closeness, _)| *closeness).fold(f32::NEG_INFINITY, f32::max);
        let mut neighbour = vec![0.0; feature.len()];
        for (closeness, vector) in near {
            // The softmax's sum is left out: the length is taken away below.
            let share = (self.sharpness * (closeness - highest)).exp();
            neighbour.iter_mut().zip(vector).for_each(|(sum, v)| *sum += share * v);
        }
        unit(&mut neighbour);
        let own = if near.is_empty() { 1.0 } else { 1.0 - self.weight };
        let mut mixed: Vec<_> = feature.iter().zip(&neighbour).map(|(f, n)| own * f + self.weight * n).collect();
        unit(&mut mixed);
        mixed
    }
}

/// Brings a vector to unit length; a zero vector stays.
pub fn unit(vector: &mut [f32]) {
    let length = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
    }
}

/// How vectors are stored in an index that is made here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// As they are, every one compared: exact; right up to some hundred thousand.
    Flat,
    /// In lists around centres, of which a few are searched.
    Ivf,
    /// In a graph of near neighbours.
    Hnsw,
    /// As codes of product quantisation: a sixteenth of the size or less, approximate.
    Pq,
}

impl Layout {
    /// Every layout, for help texts.
    pub const NAMES: [(&'static str, Self); 4] =
        [("flat", Self::Flat), ("ivf", Self::Ivf), ("hnsw", Self::Hnsw), ("pq", Self::Pq)];

    /// By name.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn named(name: &str) -> Result<Self> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, layout)| *layout).ok_or_else(|| Error::argument("layout", name, "flat, ivf, hnsw or pq"))
    }

    /// FAISS's description for `count` vectors of `dim`, or why there is none.
    #[cfg_attr(not(feature = "knn"), allow(dead_code))]
    fn describe(self, count: usize, dim: usize) -> Result<String> {
        // FAISS wants 39 training vectors a centre to be content.
        const TRAINING: usize = 39;
        match self {
            Self::Flat => Ok("Flat".into()),
            Self::Hnsw => Ok("HNSW32".into()),
            Self::Ivf => {
                let lists = ((count as f64).sqrt() as usize * 4).min(count / TRAINING).max(1);
                Ok(format!("IVF{lists},Flat"))
            }
            Self::Pq => {
                // Four numbers a part; 8 bits a code where there is enough to learn 256 centres from.
                let parts = if dim.is_multiple_of(4) { dim / 4 } else { 1 };
                let bits = (4..=8).rev().find(|bits| count >= TRAINING << bits);
                let bits = bits.ok_or_else(|| {
                    let least = format!("at least {} for the layout pq", TRAINING << 4);
                    Error::argument("vectors", count.to_string(), least)
                })?;
                Ok(format!("PQ{parts}x{bits}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_gets_the_largest_share() {
        let blend = Blend { weight: 1.0, ..Blend::default() };
        let near = |metric, similarities: [f32; 2]| {
            let [a, b] = similarities.map(|s| blend.closeness(metric, s));
            blend.mix(&[0.6, 0.8], &[(a, vec![1.0, 0.0]), (b, vec![0.0, 1.0])])
        };
        let by_product = near(Metric::InnerProduct, [0.6, 0.8]);
        assert!(by_product[1] > by_product[0] && by_product[0] > 0.0, "{by_product:?}");
        // The same geometry as squared distances: 2 - 2 cos.
        let by_distance = near(Metric::L2, [0.8, 0.4]);
        for (a, b) in by_product.iter().zip(&by_distance) {
            assert!((a - b).abs() < 1e-6, "{by_product:?} {by_distance:?}");
        }
    }

    #[test]
    fn published_code_prefers_the_farthest_of_an_l2_index() {
        let blend = Blend { weight: 1.0, reference: true, ..Blend::default() };
        let [near, far] = [0.4, 0.8].map(|s| blend.closeness(Metric::L2, s));
        let mixed = blend.mix(&[0.6, 0.8], &[(near, vec![0.0, 1.0]), (far, vec![1.0, 0.0])]);
        assert!(mixed[0] > mixed[1], "{mixed:?}");
    }

    #[test]
    fn without_neighbours_only_the_length_changes() {
        assert_eq!(Blend::default().mix(&[3.0, 4.0], &[]), [0.6, 0.8]);
        assert_eq!(Blend::default().mix(&[0.0, 0.0], &[]), [0.0, 0.0]);
    }

    #[test]
    fn large_similarities_do_not_overflow() {
        let blend = Blend { weight: 1.0, sharpness: 1000.0, ..Blend::default() };
        assert_eq!(blend.mix(&[1.0, 0.0], &[(50.0, vec![0.0, 1.0]), (10.0, vec![1.0, 0.0])]), [0.0, 1.0]);
    }

    #[test]
    fn layouts_fit_the_number_of_vectors() {
        assert_eq!(Layout::Ivf.describe(100, 32).unwrap(), "IVF2,Flat");
        assert_eq!(Layout::Ivf.describe(1_000_000, 32).unwrap(), "IVF4000,Flat");
        assert_eq!(Layout::Pq.describe(10_000, 1024).unwrap(), "PQ256x8");
        assert_eq!(Layout::Pq.describe(700, 30).unwrap(), "PQ1x4");
        assert!(Layout::Pq.describe(100, 32).is_err());
        assert!(Layout::named("tree").is_err());
    }
}
