//! What became of every tensor of a checkpoint.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// A tensor that the model needs and the checkpoint lacks.
#[derive(Debug, Clone)]
pub struct Missing {
    /// Full name.
    pub name: String,
    /// Shape the model asked for.
    pub shape: Vec<usize>,
    /// The nearest name that is there and not used.
    pub did_you_mean: Option<String>,
}

/// A tensor of another shape than the model's.
#[derive(Debug, Clone)]
pub struct Misshaped {
    /// Full name.
    pub name: String,
    /// Shape the model asked for.
    pub expected: Vec<usize>,
    /// Shape in the checkpoint.
    pub found: Vec<usize>,
}

/// A tensor of the checkpoint that nothing asked for.
#[derive(Debug, Clone)]
pub struct Unused {
    /// Full name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// The account of one load.
#[derive(Debug, Clone, Default)]
pub struct LoadReport {
    /// Where the tensors came from.
    pub label: String,
    /// Names that were read.
    pub applied: Vec<String>,
    /// Names that were left out on purpose, with the reason.
    pub ignored: Vec<(String, String)>,
    /// What the checkpoint lacks.
    pub missing: Vec<Missing>,
    /// What has another shape.
    pub misshaped: Vec<Misshaped>,
    /// What nothing asked for.
    pub unused: Vec<Unused>,
}

/// Lines of one kind shown before "and N more".
const SHOWN: usize = 8;

impl LoadReport {
    pub(super) fn new(
        label: String,
        present: &BTreeMap<String, Vec<usize>>,
        used: &BTreeSet<String>,
        ignored: &BTreeMap<String, String>,
        missing: &BTreeMap<String, Vec<usize>>,
        misshaped: &BTreeMap<String, (Vec<usize>, Vec<usize>)>,
    ) -> Self {
        let unused: Vec<_> = present
            .iter()
            .filter(|(name, _)| !used.contains(*name) && !ignored.contains_key(*name))
            .map(|(name, shape)| Unused { name: name.clone(), shape: shape.clone() })
            .collect();
        let missing = missing
            .iter()
            .enumerate()
            .map(|(index, (name, shape))| Missing {
                name: name.clone(),
                shape: shape.clone(),
                did_you_mean: (index < SUGGESTED).then(|| nearest(name, shape, &unused)).flatten(),
            })
            .collect();
        let misshaped = misshaped
            .iter()
            .map(|(name, (expected, found))| Misshaped {
                name: name.clone(),
                expected: expected.clone(),
                found: found.clone(),
            })
            .collect();
        Self {
            label,
            applied: used.iter().cloned().collect(),
            ignored: ignored.iter().map(|(n, r)| (n.clone(), r.clone())).collect(),
            missing,
            misshaped,
            unused,
        }
    }

    /// Nothing missing, misshaped or unused.
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty() && self.misshaped.is_empty() && self.unused.is_empty()
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        if !self.misshaped.is_empty() {
            Some("the checkpoint belongs to a model of another size; check that config.json is the one published with it".into())
        } else if !self.missing.is_empty() {
            Some("the checkpoint belongs to another model, or is only a part of this one".into())
        } else {
            None
        }
    }
}

/// Unused names that are compared letter by letter; of longer lists the best by shape and name parts.
const COMPARED: usize = 128;
/// Missing names that get a suggestion; nobody reads more.
const SUGGESTED: usize = 32;

/// The unused name most like `name`, if it is like it at all: few letters apart, or of the same shape and name parts.
fn nearest(name: &str, shape: &[usize], unused: &[Unused]) -> Option<String> {
    let parts: Vec<_> = name.split('.').collect();
    let rough = |candidate: &Unused| {
        let theirs: Vec<_> = candidate.name.split('.').collect();
        let same_end = parts.iter().rev().zip(theirs.iter().rev()).take_while(|(a, b)| a == b).count();
        let common = parts.iter().filter(|p| theirs.contains(p)).count();
        2 * same_end + common + if candidate.shape == shape { 3 } else { 0 }
    };
    let mut candidates: Vec<_> = unused.iter().map(|u| (rough(u), u)).collect();
    if candidates.len() > COMPARED {
        candidates.select_nth_unstable_by_key(COMPARED, |(score, _)| std::cmp::Reverse(*score));
        candidates.truncate(COMPARED);
    }
    let fit = |rough: usize, candidate: &Unused| {
        let apart = distance(name, &candidate.name);
        let longest = name.chars().count().max(candidate.name.chars().count()).max(1);
        // In thousandths: how much of the name is the same, then what shape and parts say.
        let likeness = 1000 - apart * 1000 / longest;
        let alike = likeness >= 700 && (candidate.shape == shape || apart <= 3) || rough >= 5;
        alike.then_some(likeness + 60 * rough)
    };
    let best = candidates.into_iter().filter_map(|(rough, candidate)| Some((fit(rough, candidate)?, candidate)));
    // Of equals the first by name, whatever order the selection left.
    let best = best.max_by(|(a, x), (b, y)| a.cmp(b).then_with(|| y.name.cmp(&x.name)));
    best.map(|(_, candidate)| candidate.name.clone())
}

/// Letters to insert, remove, replace or swap with their neighbour to get from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<_>, Vec<_>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<_> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1; b.len() + 1];
        for j in 0..b.len() {
            let replaced = last[j] + usize::from(a[i] != b[j]);
            row[j + 1] = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                row[j + 1] = row[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: the weights do not fit the model: {} applied, {} missing, {} misshaped, {} unused",
            self.label,
            self.applied.len(),
            self.missing.len(),
            self.misshaped.len(),
            self.unused.len()
        )?;
        for m in self.missing.iter().take(SHOWN) {
            write!(f, "\n  missing   {} {:?}", m.name, m.shape)?;
            if let Some(near) = &m.did_you_mean {
                write!(f, " (did you mean {near}?)")?;
            }
        }
        more(f, self.missing.len())?;
        for m in self.misshaped.iter().take(SHOWN) {
            write!(f, "\n  misshaped {} {:?}, expected {:?}", m.name, m.found, m.expected)?;
        }
        more(f, self.misshaped.len())?;
        for u in self.unused.iter().take(SHOWN) {
            write!(f, "\n  unused    {} {:?}", u.name, u.shape)?;
        }
        more(f, self.unused.len())
    }
}

fn more(f: &mut fmt::Formatter<'_>, count: usize) -> fmt::Result {
    if count > SHOWN { write!(f, "\n            and {} more", count - SHOWN) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unused(names: &[(&str, &[usize])]) -> Vec<Unused> {
        names.iter().map(|(name, shape)| Unused { name: (*name).into(), shape: shape.to_vec() }).collect()
    }

    #[test]
    fn distances() {
        for (a, b, apart) in
            [("", "", 0), ("", "abc", 3), ("weight", "weigth", 1), ("kitten", "sitting", 3), ("fc1", "fc2", 1)]
        {
            assert_eq!((distance(a, b), distance(b, a)), (apart, apart), "{a} {b}");
        }
    }

    #[test]
    fn suggestions() {
        let there = unused(&[
            ("decoder.layers.0.fc1.weigth", &[8, 4]),
            ("decoder.layers.1.fc1.weight", &[8, 4]),
            ("bais", &[4]),
            ("encoder.embed", &[99, 4]),
            ("model.lm.norm.weight", &[4]),
        ]);
        let near = |name: &str, shape: &[usize]| nearest(name, shape, &there);
        assert_eq!(near("bias", &[4]).as_deref(), Some("bais"));
        assert_eq!(near("decoder.layers.0.fc1.weight", &[8, 4]).as_deref(), Some("decoder.layers.1.fc1.weight"));
        assert_eq!(near("lm.norm.weight", &[4]).as_deref(), Some("model.lm.norm.weight"));
        assert_eq!(near("quantizer.codebook", &[2, 3]), None);
    }

    #[test]
    fn long_lists_are_quick() {
        let there: Vec<_> = (0..4000)
            .map(|i| Unused { name: format!("encoder.block.{i}.layer.0.attention.weight"), shape: vec![7] })
            .collect();
        let near = nearest("encoder.blocks.77.layer.0.attention.weight", &[7], &there);
        assert_eq!(near.as_deref(), Some("encoder.block.77.layer.0.attention.weight"));
    }

    #[test]
    fn message() {
        let report = LoadReport {
            label: "m".into(),
            applied: vec!["a".into()],
            missing: vec![Missing { name: "b".into(), shape: vec![2], did_you_mean: Some("c".into()) }],
            misshaped: vec![Misshaped { name: "d".into(), expected: vec![1], found: vec![2, 3] }],
            unused: unused(&[("c", &[2][..]); 10]),
            ..Default::default()
        };
        let expected = "m: the weights do not fit the model: 1 applied, 1 missing, 1 misshaped, 10 unused\
            \n  missing   b [2] (did you mean c?)\
            \n  misshaped d [2, 3], expected [1]\
            UNUSED\n            and 2 more";
        assert_eq!(report.to_string(), expected.replace("UNUSED", &"\n  unused    c [2]".repeat(8)));
        assert!(report.hint().unwrap().contains("config.json"));
        assert!(!report.is_clean());
    }
}
