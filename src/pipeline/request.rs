//! A request as it is written into the file it made, so that `musaic replay` can make it again.

use serde::{Deserialize, Serialize};

/// Everything that decides the bytes of a generated file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The words; empty for unconditional music.
    pub prompt: String,
    /// Seed of all random draws.
    pub seed: u64,
    /// Which of several pieces from one seed, from 0.
    pub take: u32,
    /// Length in seconds.
    pub seconds: f64,
    /// As the user named it.
    pub model: String,
    /// SHA-256 of the model's weight files.
    pub model_sha256: String,
    /// Classifier-free guidance.
    pub guidance: f64,
    /// Sampling temperature; 0 is greedy.
    pub temperature: f64,
    /// Number of likeliest tokens sampled among; 0 is all.
    pub top_k: usize,
    /// Probability mass sampled among; 1 is all.
    pub top_p: f64,
    /// The published reference's behaviour.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reference: bool,
    /// Track that was continued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continue_from: Option<Input>,
    /// Track whose tune was followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub melody: Option<Input>,
    /// Loudness asked for, in LUFS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalize_lufs: Option<f64>,
    /// What it was made with.
    pub made_with: MadeWith,
}

/// A file that went in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Its path as given.
    pub path: String,
    /// Its contents.
    pub sha256: String,
}

/// What the same bytes depend on besides the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeWith {
    /// Version of the program.
    pub version: String,
    /// SHA-256 of the program itself.
    pub program_sha256: String,
    /// `cpu` or `cuda:0`.
    pub device: String,
    /// How weights were held.
    pub format: String,
    /// Vector extensions that the kernels chose between.
    pub cpu: String,
}

impl MadeWith {
    /// Names of the fields in which `self` and `other` differ, with both values.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        [
            ("version", &self.version, &other.version),
            ("program", &self.program_sha256, &other.program_sha256),
            ("device", &self.device, &other.device),
            ("weight format", &self.format, &other.format),
            ("class of CPU", &self.cpu, &other.cpu),
        ]
        .into_iter()
        .filter(|(_, a, b)| a != b)
        .map(|(name, a, b)| format!("{name} was {a}, is {b}"))
        .collect()
    }
}
