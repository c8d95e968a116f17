//! Speed of each component at the published shapes, with random weights, against what the machine can do at best.
//!
//! Every component runs in a process of its own, so that its peak memory is its own and nothing is warm that would not be.

pub mod checkpoint;
pub mod components;
mod llama;

use serde::{Deserialize, Serialize};

/// One measured component.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// Name, as `--only` takes it.
    pub component: String,
    /// What was done.
    pub about: String,
    /// How fast, in `unit`.
    pub value: f64,
    /// Of `value`.
    pub unit: String,
    /// Bytes that must be read from memory for one unit of work, where that is what limits it.
    pub bytes_per_unit: Option<f64>,
    /// `value` over the machine's limit, where there is one.
    pub share_of_limit: Option<f64>,
    /// High-water mark of the process, in bytes.
    pub peak_memory_bytes: Option<u64>,
    /// Bytes of the weights as held, where the component is a model.
    pub weight_bytes: Option<f64>,
}

/// The machine's own figures.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// Instruction set the kernels run on.
    pub cpu_class: String,
    /// Threads used.
    pub threads: usize,
    /// Read bandwidth from memory, in bytes a second.
    pub read_bandwidth: f64,
}

impl Row {
    /// Fills in the share of the limit that `bandwidth` sets.
    pub fn against(mut self, bandwidth: f64) -> Self {
        self.share_of_limit = self.bytes_per_unit.map(|bytes| self.value * bytes / bandwidth);
        self
    }
}
