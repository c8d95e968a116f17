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
            .map(|(name, shape)| Missing {
                name: name.clone(),
                shape: shape.clone(),
                did_you_mean: nearest(name, shape, &unused),
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

/// The unused name most like `name`: same shape preferred, then the most shared name parts.
fn nearest(name: &str, shape: &[usize], unused: &[Unused]) -> Option<String> {
    let parts: Vec<_> = name.split('.').collect();
    let score = |candidate: &Unused| {
        let theirs: Vec<_> = candidate.name.split('.').collect();
        let same_end = parts.iter().rev().zip(theirs.iter().rev()).take_while(|(a, b)| a == b).count();
        let common = parts.iter().filter(|p| theirs.contains(p)).count();
        2 * same_end + common + if candidate.shape == shape { 3 } else { 0 }
    };
    unused.iter().max_by_key(|u| score(u)).filter(|u| score(u) >= 3).map(|u| u.name.clone())
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
