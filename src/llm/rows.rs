//! Rows of queries and keys in the other order: halves of a head that turn together as neighbours, or the other way round.

use std::collections::BTreeMap;

use musaic_core::{Error, Result, nn::Pairing, weights::Source};

/// A source in which some tensors have the rows of each head in the other order.
pub struct HeadRows<S> {
    inner: S,
    /// Heads of each tensor whose rows are moved.
    heads: BTreeMap<String, usize>,
    to: Pairing,
}

impl<S: Source> HeadRows<S> {
    /// Moves the rows of those tensors for which `heads` gives a number of heads, from the other pairing to `to`.
    ///
    /// # Errors
    /// The rows of a tensor are no whole number of pairs a head.
    pub fn new(inner: S, to: Pairing, heads: impl Fn(&str) -> Option<usize>) -> Result<Self> {
        let mut moved = BTreeMap::new();
        for (name, shape) in inner.tensors() {
            let Some(heads) = heads(name) else { continue };
            let rows = shape.first().copied().unwrap_or(0);
            if heads == 0 || !rows.is_multiple_of(2 * heads) {
                let expected = format!("rows for {heads} heads of whole pairs in `{name}`");
                return Err(Error::format(inner.label(), expected, format!("{shape:?}")));
            }
            moved.insert(name.clone(), heads);
        }
        Ok(Self { inner, heads: moved, to })
    }
}

impl<S: Source> Source for HeadRows<S> {
    fn label(&self) -> String {
        self.inner.label()
    }

    fn tensors(&self) -> &BTreeMap<String, Vec<usize>> {
        self.inner.tensors()
    }

    fn read(&self, name: &str, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let (Some(heads), Some(shape)) = (self.heads.get(name), self.tensors().get(name)) else {
            return self.inner.read(name, sink);
        };
        let (cols, rows) = (shape[1..].iter().product::<usize>(), shape[0] / heads);
        let (size, half) = (rows * cols, rows / 2);
        // One head at a time.
        let (mut waiting, mut moved) = (Vec::new(), Vec::with_capacity(size));
        self.inner.read(name, &mut |mut piece| {
            while !piece.is_empty() {
                let (now, rest) = piece.split_at(piece.len().min(size - waiting.len()));
                waiting.extend_from_slice(now);
                piece = rest;
                if waiting.len() == size {
                    moved.clear();
                    for row in 0..rows {
                        let from = match self.to {
                            Pairing::Adjacent => row / 2 + row % 2 * half,
                            Pairing::Halves => row % half * 2 + row / half,
                        };
                        moved.extend_from_slice(&waiting[from * cols..(from + 1) * cols]);
                    }
                    waiting.clear();
                    sink(&moved)?;
                }
            }
            Ok(())
        })
    }

    fn has_values(&self) -> bool {
        self.inner.has_values()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::{Device, Tensor};
    use musaic_core::weights::InMemory;

    use super::*;

    fn values(source: &dyn Source, name: &str) -> Vec<f32> {
        let mut all = Vec::new();
        let mut push = |piece: &[f32]| {
            all.extend_from_slice(piece);
            Ok(())
        };
        source.read(name, &mut push).unwrap();
        all
    }

    #[test]
    fn there_and_back() {
        let numbers: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let weight = Tensor::from_slice(&numbers, (12, 2), &Device::Cpu).unwrap();
        let bias = Tensor::from_slice(&numbers[..12], 12, &Device::Cpu).unwrap();
        let source =
            InMemory::new(HashMap::from([("w".into(), weight), ("b".into(), bias.clone()), ("o".into(), bias)]));
        let heads = |name: &str| (name != "o").then_some(2);
        let there = HeadRows::new(source, Pairing::Adjacent, heads).unwrap();
        assert_eq!(values(&there, "b"), [0., 3., 1., 4., 2., 5., 6., 9., 7., 10., 8., 11.]);
        assert_eq!(values(&there, "w")[..6], [0., 1., 6., 7., 2., 3.]);
        assert_eq!(values(&there, "o"), numbers[..12]);
        let back = HeadRows::new(there, Pairing::Halves, heads).unwrap();
        assert_eq!((values(&back, "w"), values(&back, "b")), (numbers.clone(), numbers[..12].to_vec()));
        assert!(HeadRows::new(back, Pairing::Halves, |_| Some(4)).is_err(), "three rows a head");
    }
}
