//! Random numbers in place of a checkpoint, for measuring and for models that only need to run.

use std::collections::BTreeMap;

use super::Source;
use crate::{Error, Result};

/// Numbers made at once.
const PIECE: usize = 1 << 16;

/// A source that has every tensor, in the shape that is asked for, filled with random numbers of a sensible size: the same
/// for the same seed, name and shape. Names given to [`RandomWeights::without`] do not exist, so that the optional parts of
/// a model are chosen as for a file.
pub struct RandomWeights {
    seed: u64,
    absent: Vec<String>,
    listed: BTreeMap<String, Vec<usize>>,
}

impl RandomWeights {
    /// All names exist, except the parametrised spelling of weight norm.
    pub fn new(seed: u64) -> Self {
        Self { seed, absent: vec!["original0".into(), "original1".into()], listed: BTreeMap::new() }
    }

    /// Takes away the names that end in these parts (`lm_head.weight`, `bias`).
    #[must_use]
    pub fn without<S: Into<String>>(mut self, endings: impl IntoIterator<Item = S>) -> Self {
        self.absent.extend(endings.into_iter().map(Into::into));
        self
    }

    /// Has these names and shapes and no others, as a file would, so that models can look what there is, or it can be written.
    #[must_use]
    pub fn with_names(mut self, names: BTreeMap<String, Vec<usize>>) -> Self {
        self.listed = names;
        self
    }

    fn exists(&self, name: &str) -> bool {
        if !self.listed.is_empty() {
            return self.listed.contains_key(name);
        }
        let ends = |ending: &String| {
            name.strip_suffix(ending.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        !self.absent.iter().any(ends)
    }
}

/// Centre and half-width of the numbers of a tensor.
fn spread(name: &str, shape: &[usize]) -> (f32, f32) {
    let last = name.rsplit('.').next().unwrap_or(name);
    if matches!(last, "weight_g" | "running_var" | "original0") || (shape.len() < 2 && last == "weight") {
        return (1.0, 0.05);
    }
    if shape.len() < 2 {
        return (0.0, 0.05);
    }
    let fan_in = shape[1..].iter().product::<usize>().max(1) as f32;
    // A uniform distribution of this width has variance 1 / fan_in.
    (0.0, (3.0 / fan_in).sqrt())
}

/// Scrambles 32 bits; every input gives another output.
#[inline]
fn mix(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x21f0_aaad);
    x ^= x >> 15;
    x = x.wrapping_mul(0x735a_2d97);
    x ^ (x >> 15)
}

/// FNV-1a, enough to tell names apart.
fn hash(seed: u64, name: &str) -> u64 {
    let start = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xcbf2_9ce4_8422_2325;
    name.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Source for RandomWeights {
    fn label(&self) -> String {
        format!("random weights (seed {})", self.seed)
    }

    fn tensors(&self) -> &BTreeMap<String, Vec<usize>> {
        &self.listed
    }

    fn find(&self, name: &str, wanted: &[usize]) -> Option<Vec<usize>> {
        self.exists(name).then(|| self.listed.get(name).cloned().unwrap_or_else(|| wanted.to_vec()))
    }

    fn has(&self, name: &str) -> bool {
        self.exists(name)
    }

    fn read(&self, name: &str, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        match self.listed.get(name) {
            Some(shape) => self.read_shaped(name, shape, sink),
            None => {
                Err(Error::argument("tensor", format!("`{name}` of random weights"), "a request that states the shape"))
            }
        }
    }

    fn read_shaped(&self, name: &str, shape: &[usize], sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let key = hash(self.seed, name);
        let (centre, width) = spread(name, shape);
        let scale = width / (1u32 << 31) as f32;
        let mut left: usize = shape.iter().product();
        let mut piece = vec![0.0; PIECE.min(left)];
        let mut number = 0u32;
        while left > 0 {
            let count = piece.len().min(left);
            let start = mix(key as u32 ^ mix((key >> 32) as u32 ^ mix(number)));
            for (i, value) in (0u32..).zip(&mut piece[..count]) {
                // Signed, so that the numbers lie around the centre.
                *value = centre + scale * mix(start.wrapping_add(i)).cast_signed() as f32;
            }
            sink(&piece[..count])?;
            left -= count;
            number = number.wrapping_add(1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(seed: u64, name: &str, shape: &[usize]) -> Vec<f32> {
        let mut out = Vec::new();
        let mut push = |piece: &[f32]| {
            out.extend_from_slice(piece);
            Ok(())
        };
        RandomWeights::new(seed).read_shaped(name, shape, &mut push).unwrap();
        out
    }

    #[test]
    fn depends_on_seed_and_name_only() {
        let a = values(1, "a.weight", &[300, 512]);
        assert_eq!(a, values(1, "a.weight", &[300, 512]));
        assert_ne!(a, values(2, "a.weight", &[300, 512]));
        assert_ne!(a, values(1, "b.weight", &[300, 512]));
        assert_ne!(a[..100], a[PIECE..PIECE + 100]);
    }

    #[test]
    fn spread_is_that_of_a_fresh_layer() {
        let w = values(3, "fc.weight", &[1000, 256]);
        let mean = w.iter().sum::<f32>() / w.len() as f32;
        let var = w.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / w.len() as f32;
        assert!(mean.abs() < 1e-3 && (var * 256.0 - 1.0).abs() < 0.02, "{mean} {var}");
        let serial = w.windows(2).map(|p| p[0] * p[1]).sum::<f32>() / w.len() as f32 / var;
        assert!(serial.abs() < 0.01, "{serial}");
        assert!(values(3, "norm.weight", &[64]).iter().all(|v| (v - 1.0).abs() <= 0.05));
        assert!(values(3, "norm.bias", &[64]).iter().all(|v| v.abs() <= 0.05));
    }

    #[test]
    fn names_can_be_taken_away() {
        let source = RandomWeights::new(0).without(["lm_head.weight", "bias"]);
        assert!(source.has("decoder.fc.weight") && source.has("x.weight_g"));
        assert!(!source.has("lm_head.weight") && !source.has("decoder.fc.bias") && source.has("rebias"));
        assert!(!source.has("conv.parametrizations.weight.original0"));
    }

    #[test]
    fn a_list_is_all_there_is() {
        let source = RandomWeights::new(0).with_names([("a.weight".to_owned(), vec![2, 3])].into());
        assert!(source.has("a.weight") && !source.has("a.bias"));
        assert_eq!(source.find("a.weight", &[9]), Some(vec![2, 3]));
    }
}
