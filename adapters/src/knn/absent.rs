//! Stands in for the index where the build leaves FAISS out: it says so, and cannot exist.

use std::path::Path;

use musaic_core::{Error, Result};

use super::{Hit, Layout, Metric};
use crate::bridge::{Found, Neighbours};

/// A FAISS index. This build cannot have one.
#[derive(Debug)]
pub enum Index {}

fn missing<T>() -> Result<T> {
    Err(Error::MissingFeature { feature: "knn", what: "searching in FAISS index files".into() })
}

impl Index {
    /// # Errors
    /// Always: the feature `knn` is missing.
    pub fn open(_: &Path) -> Result<Self> {
        missing()
    }

    /// # Errors
    /// Always: the feature `knn` is missing.
    pub fn build(_: Layout, _: usize, _: &[f32]) -> Result<Self> {
        missing()
    }

    /// Never called.
    pub fn dim(&self) -> usize {
        match *self {}
    }

    /// Never called.
    pub fn count(&self) -> u64 {
        match *self {}
    }

    /// Never called.
    pub fn metric(&self) -> Metric {
        match *self {}
    }

    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn search(&mut self, _: &[f32], _: usize) -> Result<Vec<Vec<Hit>>> {
        match *self {}
    }

    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn vector(&self, _: u64) -> Result<Vec<f32>> {
        match *self {}
    }

    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn add(&mut self, _: &[f32]) -> Result<()> {
        match *self {}
    }

    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn write(&self, _: &Path) -> Result<()> {
        match *self {}
    }
}

impl Neighbours for Index {
    fn dim(&self) -> usize {
        match *self {}
    }

    fn metric(&self) -> Metric {
        match *self {}
    }

    fn nearest(&mut self, _: &[f32], _: usize) -> Result<Vec<Found>> {
        match *self {}
    }
}
