//! What a training run can be told.

use std::path::Path;

use musaic_core::{
    Error, Result,
    files::{MAX_CONFIG, read_text},
};
use serde::{Deserialize, Serialize};

/// How the learning rate goes after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// It stays as it is.
    #[default]
    Constant,
    /// Half a cosine down to `final_ratio` at the last step.
    Cosine,
}

/// Settings of one training run; a TOML file of any of these keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// `cpu`, `cuda` or `cuda:INDEX`.
    pub device: String,
    /// Updates of the whole run, at least 1.
    pub steps: u64,
    /// Steps between two checkpoints, at least 1; there is one at the end anyway.
    pub checkpoint_every: u64,
    /// Highest learning rate, above 0, at most 1.
    pub learning_rate: f64,
    /// Steps over which the rate rises linearly; 0 is none.
    pub warmup_steps: u64,
    /// `constant` or `cosine`.
    pub schedule: Schedule,
    /// Share of the rate that a cosine ends at, 0 to 1.
    pub final_ratio: f64,
    /// Memory of the mean gradient, 0 to below 1.
    pub beta1: f64,
    /// Memory of the mean squared gradient, 0 to below 1.
    pub beta2: f64,
    /// Added to the root of the mean squared gradient, above 0, at most 1.
    pub epsilon: f64,
    /// Share of every weight taken away in a step, times the learning rate (decoupled decay), 0 to 1.
    pub weight_decay: f64,
    /// Largest norm of all gradients together; longer ones are scaled down to it. 0 is no limit.
    pub clip_norm: f64,
    /// Weight of each codebook in the loss, divided by their sum; none gives all the same.
    pub codebook_weights: Vec<f64>,
    /// Beginnings of names of tensors that are kept as they are, such as `text_encoder.`.
    pub frozen: Vec<String>,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            device: "cpu".into(),
            steps: 1000,
            checkpoint_every: 200,
            learning_rate: 1e-3,
            warmup_steps: 0,
            schedule: Schedule::Constant,
            final_ratio: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.05,
            clip_norm: 1.0,
            codebook_weights: Vec::new(),
            frozen: Vec::new(),
        }
    }
}

impl TrainConfig {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// The file cannot be read, a key is unknown, or a value is out of range.
    pub fn open(path: &Path) -> Result<Self> {
        let text = read_text(path, MAX_CONFIG)?;
        let config: Self = toml::from_str(&text).map_err(|e| Error::config(path, e.to_string()))?;
        config.validate(path)?;
        Ok(config)
    }

    /// Checks every value and reports all problems at once; `path` is used in the message only.
    ///
    /// # Errors
    /// One or more values are outside their range.
    pub fn validate(&self, path: &Path) -> Result<()> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, name: &str, found: String, expected: &str| {
            if !ok {
                problems.push(format!("{name} = {found}, expected {expected}"));
            }
        };
        if let Err(Error::Argument { found, expected, .. }) = self.device.parse::<musaic_core::DeviceChoice>() {
            check(false, "device", found, &expected);
        }
        for (name, value) in [("steps", self.steps), ("checkpoint_every", self.checkpoint_every)] {
            check(value > 0, name, value.to_string(), "at least 1");
        }
        for (name, value) in [("learning_rate", self.learning_rate), ("epsilon", self.epsilon)] {
            check(value > 0.0 && value <= 1.0, name, value.to_string(), "above 0, at most 1");
        }
        for (name, value) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            check((0.0..1.0).contains(&value), name, value.to_string(), "0 to below 1");
        }
        for (name, value) in [("final_ratio", self.final_ratio), ("weight_decay", self.weight_decay)] {
            check((0.0..=1.0).contains(&value), name, value.to_string(), "0 to 1");
        }
        check((0.0..=f64::MAX).contains(&self.clip_norm), "clip_norm", self.clip_norm.to_string(), "0 or above");
        let weights = &self.codebook_weights;
        let sum: f64 = weights.iter().sum();
        let sound = weights.is_empty() || weights.iter().all(|w| *w >= 0.0) && sum > 0.0 && sum.is_finite();
        check(sound, "codebook_weights", format!("{weights:?}"), "numbers from 0 on, not all of them 0");
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::config(path, format!("training: {}", problems.join("; "))))
    }

    /// Rate of step `step`, counted from 0.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.learning_rate * (step + 1) as f64 / self.warmup_steps as f64;
        }
        match self.schedule {
            Schedule::Constant => self.learning_rate,
            Schedule::Cosine => {
                let length = self.steps.saturating_sub(self.warmup_steps).max(1);
                let done = ((step - self.warmup_steps) as f64 / length as f64).min(1.0);
                let falling = (1.0 + (std::f64::consts::PI * done).cos()) / 2.0;
                self.learning_rate * (self.final_ratio + (1.0 - self.final_ratio) * falling)
            }
        }
    }

    /// Whether the tensor of this name learns.
    pub fn trains(&self, name: &str) -> bool {
        !self.frozen.iter().any(|beginning| name.starts_with(beginning.as_str()))
    }

    /// Share of each codebook in the loss.
    ///
    /// # Errors
    /// There are weights for another number of codebooks.
    pub fn shares(&self, codebooks: usize) -> Result<Vec<f64>> {
        if self.codebook_weights.is_empty() {
            return Ok(vec![1.0 / codebooks as f64; codebooks]);
        }
        if self.codebook_weights.len() != codebooks {
            let found = format!("{} weights", self.codebook_weights.len());
            return Err(Error::argument("codebook_weights", found, format!("{codebooks}, one a codebook")));
        }
        let sum: f64 = self.codebook_weights.iter().sum();
        Ok(self.codebook_weights.iter().map(|w| w / sum).collect())
    }

    /// What must not change when a run is taken up again: all but where it runs, how often it is saved and, at a constant
    /// rate, how long it is.
    pub(super) fn identity(&self) -> Self {
        let steps = if self.schedule == Schedule::Cosine { self.steps } else { 1 };
        Self { device: String::new(), checkpoint_every: 1, steps, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_and_fall() {
        let mut config = TrainConfig {
            learning_rate: 1.0,
            warmup_steps: 4,
            steps: 14,
            schedule: Schedule::Cosine,
            ..TrainConfig::default()
        };
        assert_eq!([0, 1, 3, 4].map(|step| config.rate(step)), [0.25, 0.5, 1.0, 1.0]);
        assert!((config.rate(9) - 0.55).abs() < 1e-12);
        assert!((config.rate(14) - 0.1).abs() < 1e-12);
        config.schedule = Schedule::Constant;
        assert_eq!(config.rate(1000), 1.0);
    }

    #[test]
    fn every_problem_is_named_and_typos_are_refused() {
        let config: TrainConfig =
            toml::from_str("beta1 = 1.0\nsteps = 0\ndevice = \"tpu\"\ncodebook_weights = [0.0, 0.0]").unwrap();
        let text = config.validate(Path::new("train.toml")).unwrap_err().to_string();
        for word in ["beta1 = 1", "steps = 0", "device", "codebook_weights"] {
            assert!(text.contains(word), "{text}");
        }
        assert!(toml::from_str::<TrainConfig>("learnig_rate = 0.1").is_err());
        let whole = TrainConfig { frozen: vec!["text_encoder.".into()], ..TrainConfig::default() };
        assert_eq!(toml::from_str::<TrainConfig>(&toml::to_string(&whole).unwrap()).unwrap(), whole);
        assert!(!whole.trains("text_encoder.shared.weight") && whole.trains("decoder.lm_heads.0.weight"));
    }
}
