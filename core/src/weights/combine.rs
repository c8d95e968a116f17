//! Sources made of other sources: renamed, on top of each other, concatenated from shards, with rows added, added up.
//!
//! None of them holds numbers; everything streams through in bounded pieces.

use std::{
    collections::BTreeMap,
    sync::mpsc::{Receiver, sync_channel},
    thread::{self, Scope},
};

use half::f16;

use super::Source;
use crate::{Error, Result, WeightFormat};

/// Numbers of one added row handed over at once.
const PIECE: usize = 1 << 16;
/// Pieces of one shard that wait for their turn.
const WAITING: usize = 2;

/// A source whose tensors have other names; some may be left out.
pub struct Renamed<S> {
    inner: S,
    /// New name to the name in `inner`.
    names: BTreeMap<String, String>,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl<S: Source> Renamed<S> {
    /// Gives every tensor the name that `rename` makes of its own; `None` leaves it out.
    ///
    /// # Errors
    /// Two tensors get one name.
    pub fn new(inner: S, rename: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let (mut names, mut shapes) = (BTreeMap::<String, String>::new(), BTreeMap::new());
        for (name, shape) in inner.tensors() {
            let Some(new) = rename(name) else { continue };
            if let Some(before) = names.insert(new.clone(), name.clone()) {
                let found = format!("`{before}` and `{name}`, which are both `{new}`");
                return Err(Error::format(inner.label(), "each tensor once", found));
            }
            shapes.insert(new, shape.clone());
        }
        Ok(Self { inner, names, shapes })
    }
}

impl<S: Source> Source for Renamed<S> {
    fn label(&self) -> String {
        self.inner.label()
    }

    fn tensors(&self) -> &BTreeMap<String, Vec<usize>> {
        &self.shapes
    }

    fn read(&self, name: &str, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        self.inner.read(self.names.get(name).map_or(name, String::as_str), sink)
    }

    fn packed_as(&self, name: &str) -> Option<WeightFormat> {
        self.inner.packed_as(self.names.get(name)?)
    }

    fn read_packed(&self, name: &str, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.inner.read_packed(self.names.get(name).map_or(name, String::as_str), sink)
    }

    fn has_values(&self) -> bool {
        self.inner.has_values()
    }
}

/// Several sources on top of each other: a tensor comes from the first that has it.
pub struct Layered {
    layers: Vec<Box<dyn Source>>,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl Layered {
    /// Lays `layers` on top of each other, the uppermost first.
    pub fn new(layers: Vec<Box<dyn Source>>) -> Self {
        let mut shapes = BTreeMap::new();
        for layer in layers.iter().rev() {
            shapes.extend(layer.tensors().iter().map(|(name, shape)| (name.clone(), shape.clone())));
        }
        Self { layers, shapes }
    }
}

impl Source for Layered {
    fn label(&self) -> String {
        self.layers.iter().map(|layer| layer.label()).collect::<Vec<_>>().join(" over ")
    }

    fn tensors(&self) -> &BTreeMap<String, Vec<usize>> {
        &self.shapes
    }

    fn read(&self, name: &str, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        match self.layers.iter().find(|layer| layer.has(name)) {
            Some(layer) => layer.read(name, sink),
            None => Err(Error::format(self.label(), format!("a tensor `{name}`"), "none of this name")),
        }
    }

    fn packed_as(&self, name: &str) -> Option<WeightFormat> {
        self.layers.iter().find(|layer| layer.has(name))?.packed_as(name)
    }

    fn read_packed(&self, name: &str, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match self.layers.iter().find(|layer| layer.has(name)) {
            Some(layer) => layer.read_packed(name, sink),
            None => Ok(()),
        }
    }

    fn has_values(&self) -> bool {
        self.layers.iter().all(|layer| layer.has_values())
    }
}

/// How the parts of a tensor in several shards become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// One under the other: split over the first dimension.
    Rows,
    /// Side by side: split over the last dimension.
    Columns,
    /// The same in every shard.
    Copies,
}

/// One model in several shards, each with a part of every tensor.
pub struct Sharded<S> {
    shards: Vec<S>,
    splits: BTreeMap<String, Split>,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl<S: Source> Sharded<S> {
    /// Puts shards together in this order; `split` says how each tensor was cut.
    ///
    /// # Errors
    /// There are no shards, or they differ in names or shapes.
    pub fn new(shards: Vec<S>, split: impl Fn(&str) -> Split) -> Result<Self> {
        let Some(first) = shards.first() else { return Err(Error::argument("shards", "none", "at least one")) };
        let (mut splits, mut shapes) = (BTreeMap::new(), BTreeMap::new());
        for (name, shape) in first.tensors() {
            if let Some(other) = shards.iter().find(|shard| shard.tensors().get(name) != Some(shape)) {
                let found = other.tensors().get(name).map_or("none".into(), |found| format!("{found:?}"));
                let expected = format!("`{name}` {shape:?} as in {}", first.label());
                return Err(Error::format(other.label(), expected, found));
            }
            let mut whole = shape.clone();
            let split = if whole.len() > 1 || split(name) == Split::Rows { split(name) } else { Split::Copies };
            let cut = match split {
                Split::Rows => whole.first_mut(),
                Split::Columns => whole.last_mut(),
                Split::Copies => None,
            };
            if let Some(dim) = cut {
                *dim = dim.saturating_mul(shards.len());
            }
            splits.insert(name.clone(), split);
            shapes.insert(name.clone(), whole);
        }
        if let Some(other) = shards.iter().find(|shard| shard.tensors().len() != shapes.len()) {
            let expected = format!("the {} tensors of {}", shapes.len(), first.label());
            return Err(Error::format(other.label(), expected, format!("{}", other.tensors().len())));
        }
        Ok(Self { shards, splits, shapes })
    }

    /// Rows of all shards side by side: each shard is read by a thread of its own, a few pieces ahead.
    fn read_columns(&self, name: &str, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let width = self.shards.first().and_then(|shard| shard.tensors().get(name)?.last().copied()).unwrap_or(0);
        let rows = self.shapes.get(name).map_or(0, |shape| shape.iter().rev().skip(1).product());
        thread::scope(|scope| {
            let mut parts: Vec<_> = self.shards.iter().map(|shard| Part::of(scope, shard, name)).collect();
            let mut whole = Vec::with_capacity(width * self.shards.len());
            for _ in 0..rows {
                whole.clear();
                for (part, shard) in parts.iter_mut().zip(&self.shards) {
                    part.take(width, &mut whole, || {
                        Error::format(shard.label(), format!("all numbers of `{name}`"), "an early end")
                    })?;
                }
                sink(&whole)?;
            }
            Ok(())
        })
    }
}

/// What came of one source, read by a thread of its own, and was not used yet.
struct Part {
    taken: Receiver<Result<Vec<f32>>>,
    rest: Vec<f32>,
    at: usize,
}

impl Part {
    fn of<'scope, 'env: 'scope>(scope: &'scope Scope<'scope, 'env>, source: &'env dyn Source, name: &'env str) -> Self {
        let (full, taken) = sync_channel(WAITING);
        scope.spawn(move || {
            // A reader that nobody listens to any more stops at its next piece.
            let stopped = || Error::argument("shard", "reading was given up", "nothing");
            let all = source.read(name, &mut |piece| full.send(Ok(piece.to_vec())).map_err(|_| stopped()));
            if let Err(error) = all {
                let _ = full.send(Err(error));
            }
        });
        Self { taken, rest: Vec::new(), at: 0 }
    }

    fn take(&mut self, mut count: usize, into: &mut Vec<f32>, early: impl Fn() -> Error) -> Result<()> {
        while count > 0 {
            if self.at == self.rest.len() {
                self.rest = self.taken.recv().map_err(|_| early())??;
                self.at = 0;
            }
            let now = count.min(self.rest.len() - self.at);
            into.extend_from_slice(&self.rest[self.at..self.at + now]);
            self.at += now;
            count -= now;
        }
        Ok(())
    }
}

impl<S: Source> Source for Sharded<S> {
    fn label(&self) -> String {
        match self.shards.as_slice() {
            [only] => only.label(),
            [first, .., last] => format!("{} to {}", first.label(), last.label()),
            [] => String::new(),
        }
    }

    fn tensors(&self) -> &BTreeMap<String, Vec<usize>> {
        &self.shapes
    }

    fn read(&self, name: &str, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        match self.splits.get(name) {
            Some(Split::Columns) if self.shards.len() > 1 => self.read_columns(name, sink),
            Some(Split::Rows) => self.shards.iter().try_for_each(|shard| shard.read(name, sink)),
            _ => self.shards.first().map_or(Ok(()), |shard| shard.read(name, sink)),
        }
    }

    fn has_values(&self) -> bool {
        self.shards.iter().all(Source::has_values)
    }
}

/// A source in which some matrices have more rows, filled with one number.
pub struct RowsAdded<S> {
    inner: S,
    /// Number of added values and what they are.
    added: BTreeMap<String, (usize, f32)>,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl<S: Source> RowsAdded<S> {
    /// Adds `count` rows of `value` to each named matrix, where it is there.
    pub fn new(inner: S, rows: &[(&str, usize, f32)]) -> Self {
        let mut shapes = inner.tensors().clone();
        let mut added = BTreeMap::new();
        for &(name, count, value) in rows {
            if let Some(shape) = shapes.get_mut(name)
                && let Some(first) = shape.first_mut()
            {
                *first = first.saturating_add(count);
                let width = shape[1..].iter().product::<usize>();
                added.insert(name.to_owned(), (count.saturating_mul(width), value));
            }
        }
        Self { inner, added, shapes }
    }
}

impl<S: Source> Source for RowsAdded<S> {
    fn label(&self) -> String {
        self.inner.label()
    }

    fn tensors(&self) -> &BTreeMap<String, Vec<usize>> {
        &self.shapes
    }

    fn read(&self, name: &str, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        self.inner.read(name, sink)?;
        let (mut left, value) = self.added.get(name).copied().unwrap_or((0, 0.0));
        let piece = vec![value; left.min(PIECE)];
        while left > 0 {
            let now = left.min(PIECE);
            sink(&piece[..now])?;
            left -= now;
        }
        Ok(())
    }

    fn packed_as(&self, name: &str) -> Option<WeightFormat> {
        // Added rows are numbers.
        if self.added.contains_key(name) { None } else { self.inner.packed_as(name) }
    }

    fn read_packed(&self, name: &str, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.inner.read_packed(name, sink)
    }

    fn has_values(&self) -> bool {
        self.inner.has_values()
    }
}

/// The sum of two sources that have the same tensors: a base, and what was published as the difference to it.
pub struct Summed<A, B> {
    base: A,
    delta: B,
    halves: bool,
}

impl<A: Source, B: Source> Summed<A, B> {
    /// Adds `delta` to `base`; with `halves` in half precision, as where both are held in it.
    ///
    /// # Errors
    /// They differ in names or shapes.
    pub fn new(base: A, delta: B, halves: bool) -> Result<Self> {
        let (a, b) = (base.tensors(), delta.tensors());
        let lacks = |of: &BTreeMap<String, Vec<usize>>, name: &str| !of.contains_key(name);
        if let Some(name) = a.keys().find(|name| lacks(b, name)) {
            return Err(Error::format(delta.label(), format!("`{name}` as in {}", base.label()), "none of this name"));
        }
        for (name, shape) in b {
            let found = a.get(name);
            if found != Some(shape) {
                let found = found.map_or("none of this name".into(), |found| format!("{found:?}"));
                let expected = format!("`{name}` {shape:?} as in {}", delta.label());
                return Err(Error::format(base.label(), expected, found));
            }
        }
        Ok(Self { base, delta, halves })
    }
}

impl<A: Source, B: Source> Source for Summed<A, B> {
    fn label(&self) -> String {
        format!("{} and {}", self.base.label(), self.delta.label())
    }

    fn tensors(&self) -> &BTreeMap<String, Vec<usize>> {
        self.delta.tensors()
    }

    fn read(&self, name: &str, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        thread::scope(|scope| {
            let mut other = Part::of(scope, &self.delta, name);
            let mut sums = Vec::new();
            self.base.read(name, &mut |piece| {
                sums.clear();
                other.take(piece.len(), &mut sums, || {
                    Error::format(self.delta.label(), format!("all numbers of `{name}`"), "an early end")
                })?;
                for (sum, base) in sums.iter_mut().zip(piece) {
                    *sum += base;
                    if self.halves {
                        *sum = f16::from_f32(*sum).to_f32();
                    }
                }
                sink(&sums)
            })
        })
    }

    fn has_values(&self) -> bool {
        self.base.has_values() && self.delta.has_values()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::{Device, Tensor};

    use super::{super::InMemory, *};

    fn source(tensors: &[(&str, &[usize], f32)]) -> InMemory {
        let tensor = |shape: &[usize], first: f32| {
            let count: usize = shape.iter().product();
            let values = (0..count).map(|i| first + i as f32).collect();
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        InMemory::new(tensors.iter().map(|(name, shape, first)| ((*name).into(), tensor(shape, *first))).collect())
    }

    fn values(source: &dyn Source, name: &str) -> Vec<f32> {
        let mut all = Vec::new();
        source
            .read(name, &mut |piece| {
                all.extend_from_slice(piece);
                Ok(())
            })
            .unwrap();
        all
    }

    #[test]
    fn shards_are_put_together_as_they_were_cut() {
        let shard = |first: f32| source(&[("a", &[2, 3], first), ("b", &[3, 2], first), ("norm", &[2], 7.0)]);
        let rule = |name: &str| match name {
            "a" => Split::Rows,
            "b" => Split::Columns,
            _ => Split::Copies,
        };
        for count in [1, 2, 4, 8] {
            let shards: Vec<_> = (0..count).map(|i| shard(10.0 * i as f32)).collect();
            let whole = Sharded::new(shards, rule).unwrap();
            assert_eq!(whole.tensors()["a"], [2 * count, 3]);
            assert_eq!(whole.tensors()["b"], [3, 2 * count]);
            assert_eq!(whole.tensors()["norm"], [2]);
            let rows: Vec<f32> = (0..count).flat_map(|i| (0..6).map(move |j| (10 * i + j) as f32)).collect();
            assert_eq!(values(&whole, "a"), rows);
            let columns: Vec<f32> = (0..3)
                .flat_map(|row| (0..count).flat_map(move |i| (0..2).map(move |j| (10 * i + 2 * row + j) as f32)))
                .collect();
            assert_eq!(values(&whole, "b"), columns);
            assert_eq!(values(&whole, "norm"), [7.0, 8.0]);
        }
    }

    #[test]
    fn shards_that_differ_are_refused() {
        let whole = |other| Sharded::new(vec![source(&[("a", &[2, 3], 0.0)]), other], |_| Split::Rows);
        for other in [&[("a", &[2, 4][..], 0.0)][..], &[("b", &[2, 3], 0.0)], &[("a", &[2, 3], 0.0), ("b", &[1], 0.0)]]
        {
            assert!(whole(source(other)).is_err());
        }
        assert!(Sharded::new(Vec::<InMemory>::new(), |_| Split::Rows).is_err());
    }

    /// A shard that ends early is an error, not a wait without end; the readers of the others end too.
    #[test]
    fn a_reader_that_fails_ends_the_reading() {
        struct Short(BTreeMap<String, Vec<usize>>);
        impl Source for Short {
            fn label(&self) -> String {
                "short".into()
            }
            fn tensors(&self) -> &BTreeMap<String, Vec<usize>> {
                &self.0
            }
            fn read(&self, _: &str, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
                (0..10).try_for_each(|_| sink(&[0.0; 7]))
            }
        }
        let shard = || Short(BTreeMap::from([("a".to_owned(), vec![100, 7])]));
        let whole = Sharded::new(vec![shard(), shard()], |_| Split::Columns).unwrap();
        let error = whole.read("a", &mut |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("short") && error.contains("early end"), "{error}");
        assert!(whole.read("a", &mut |_| Err(Error::Cancelled)).is_err());
    }

    #[test]
    fn a_base_and_its_delta_are_added_up() {
        let base = || source(&[("a", &[300, 700], 0.5), ("norm", &[2], 1.0)]);
        let delta = || source(&[("a", &[300, 700], 1.0), ("norm", &[2], -3.0)]);
        let exact = Summed::new(base(), delta(), false).unwrap();
        let sums: Vec<f32> = (0..300 * 700).map(|i| i as f32 + 0.5 + (i as f32 + 1.0)).collect();
        assert_eq!(values(&exact, "a"), sums);
        assert_eq!(values(&exact, "norm"), [-2.0, 0.0]);
        let halves = Summed::new(base(), delta(), true).unwrap();
        assert_eq!(
            values(&halves, "a")[..3000],
            sums[..3000].iter().map(|s| f16::from_f32(*s).to_f32()).collect::<Vec<_>>()
        );
        for other in [&[("a", &[300, 700][..], 0.0)][..], &[("a", &[300, 700], 0.0), ("norm", &[3], 0.0)]] {
            assert!(Summed::new(base(), source(other), false).is_err());
            assert!(Summed::new(source(other), delta(), false).is_err());
        }
    }

    #[test]
    fn layers_names_and_rows() {
        let upper = Renamed::new(source(&[("module.a", &[2], 5.0), ("epoch", &[1], 0.0)]), |name| {
            name.strip_prefix("module.").map(str::to_owned)
        });
        let lower = source(&[("a", &[3], 0.0), ("b", &[2, 2], 1.0)]);
        let both = Layered::new(vec![Box::new(upper.unwrap()), Box::new(lower)]);
        assert_eq!(both.tensors().keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(both.tensors()["a"], [2]);
        assert_eq!(values(&both, "a"), [5.0, 6.0]);
        let more = RowsAdded::new(both, &[("b", 1, 9.0), ("absent", 2, 0.0)]);
        assert_eq!(more.tensors()["b"], [3, 2]);
        assert_eq!(values(&more, "b"), [1.0, 2.0, 3.0, 4.0, 9.0, 9.0]);
        assert!(more.read("absent", &mut |_| Ok(())).is_err());
        let twice = HashMap::from([("a".to_owned(), Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu).unwrap())]);
        let twice = Layered::new(vec![Box::new(InMemory::new(twice)), Box::new(source(&[("b", &[1], 0.0)]))]);
        assert!(Renamed::new(twice, |_| Some("same".into())).is_err());
    }
}
