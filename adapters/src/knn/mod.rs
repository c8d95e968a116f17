//! The nearest-neighbour cache: features are pulled towards the nearest vectors of a FAISS index file (`knn.index`).
//!
//! [`Index`] reads, searches, makes and writes index files; it needs the cargo feature `knn`. What the published systems do
//! with the hits is [`crate::bridge::Blend`].

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
    fn layouts_fit_the_number_of_vectors() {
        assert_eq!(Layout::Ivf.describe(100, 32).unwrap(), "IVF2,Flat");
        assert_eq!(Layout::Ivf.describe(1_000_000, 32).unwrap(), "IVF4000,Flat");
        assert_eq!(Layout::Pq.describe(10_000, 1024).unwrap(), "PQ256x8");
        assert_eq!(Layout::Pq.describe(700, 30).unwrap(), "PQ1x4");
        assert!(Layout::Pq.describe(100, 32).is_err());
        assert!(Layout::named("tree").is_err());
    }
}
