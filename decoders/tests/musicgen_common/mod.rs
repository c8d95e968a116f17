//! What the MusicGen and T5 tests share.
#![allow(dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests, too

use std::path::PathBuf;

use candle_core::{Device, Tensor};
use musaic_core::testing::{Case, Values, compare, golden_roots};

/// A golden folder, from the first root that has it.
pub fn golden(name: &str) -> PathBuf {
    let roots = golden_roots();
    roots.iter().map(|root| root.join(name)).find(|dir| dir.is_dir()).unwrap_or_else(|| panic!("{name} in {roots:?}"))
}

/// A case, and which of its tensors were compared.
pub struct Checked {
    pub case: Case,
    compared: Vec<String>,
}

impl Checked {
    pub fn open(name: &str) -> Self {
        Self { case: Case::open(golden(name)).unwrap(), compared: Vec::new() }
    }

    pub fn input(&self, name: &str) -> Tensor {
        self.case.tensor(name, &Device::Cpu).unwrap()
    }

    /// Compares one tensor with the stored one of this name.
    pub fn see(&mut self, name: &str, got: &Tensor) {
        let want = self.case.values(name).unwrap();
        let tolerance = self.case.tolerance(name).unwrap();
        let result = compare(name, &Values::from_tensor(got).unwrap(), want, tolerance);
        assert!(result.passed(), "{result:?}");
        self.compared.push(name.to_owned());
    }

    /// Compares what a probe saw, in the order it was computed.
    pub fn see_probe(&mut self, seen: &[(String, Tensor)]) {
        for (name, value) in seen {
            self.see(&format!("mid.{name}"), value);
        }
    }

    /// Every stored result was compared.
    pub fn finish(mut self) {
        self.compared.sort();
        self.compared.dedup();
        let expected: Vec<_> = self.case.expected().map(str::to_owned).collect();
        assert!(!expected.is_empty());
        assert_eq!(self.compared, expected);
    }
}
