//! What a runner computed, in computed order.

use anyhow::Result;
use candle_core::Tensor;
use musaic_core::{
    probe::Probe,
    testing::{Case, Values},
};
use serde_json::Value;

/// One entry of a case whose outputs are JSON.
#[derive(Debug, Clone)]
pub struct Entry {
    /// File and row, such as `strings.json[3]`.
    pub name: String,
    /// What departs, if something does.
    pub fault: Option<String>,
}

/// A tensor that a note of the case compares by a rule of its own, such as the error at the best lag.
#[derive(Debug, Clone)]
pub struct ByRule {
    /// Name of the stored tensor.
    pub name: String,
    /// What the rule measures; not a number where it could not be measured.
    pub error: f64,
    /// The most it may be.
    pub bound: f64,
}

/// Collects computed tensors and compared entries.
pub struct Recorder<'a> {
    case: Option<&'a Case>,
    /// Computed tensors by name.
    pub tensors: Vec<(String, Values)>,
    /// Names of tensors that were given to the model instead of computed (teacher forcing), each with the reason.
    pub given: Vec<(String, &'static str)>,
    /// Tensors compared by a rule of the case.
    pub by_rule: Vec<ByRule>,
    /// Compared entries.
    pub entries: Vec<Entry>,
}

impl<'a> Recorder<'a> {
    /// For one run of a case.
    pub fn new(case: &'a Case) -> Self {
        Self { case: Some(case), ..Self::unbound() }
    }

    /// Takes whatever comes.
    pub fn unbound() -> Self {
        Self { case: None, tensors: Vec::new(), given: Vec::new(), by_rule: Vec::new(), entries: Vec::new() }
    }

    /// Whether the case stores a tensor of this name.
    pub fn stores(&self, name: &str) -> bool {
        self.case.is_none_or(|case| case.stored(name).is_some())
    }

    /// A computed tensor.
    pub fn tensor(&mut self, name: impl Into<String>, value: &Tensor) -> Result<()> {
        self.tensors.push((name.into(), Values::from_tensor(value)?));
        Ok(())
    }

    /// A tensor that was not computed but given.
    pub fn given(&mut self, name: impl Into<String>, reason: &'static str) {
        self.given.push((name.into(), reason));
    }

    /// A tensor that was compared by a rule of the case.
    pub fn by_rule(&mut self, name: impl Into<String>, error: f64, bound: f64) {
        self.by_rule.push(ByRule { name: name.into(), error, bound });
    }

    /// One entry, computed from the file `with`; it fails at the first field that differs. Entries of one name count once.
    pub fn entry(&mut self, name: &str, with: &str, fields: &[(&str, Value, &Value)]) {
        let fault = fields.iter().find(|(_, got, want)| got != *want).map(|(field, got, want)| {
            format!("`{field}` with {with} is {}, expected {}", shorten(&got.to_string()), shorten(&want.to_string()))
        });
        self.entries.push(Entry { name: name.to_owned(), fault });
    }

    /// A probe that prefixes what it sees: `layer_0` becomes `mid.decoder.layer_0`.
    pub fn probe(&mut self, prefix: &str) -> Prefixed<'_, 'a> {
        Prefixed { recorder: self, prefix: prefix.to_owned() }
    }
}

fn shorten(text: &str) -> String {
    const SHOWN: usize = 160;
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}..", &text[..at]),
        None => text.to_owned(),
    }
}

/// See [`Recorder::probe`].
pub struct Prefixed<'r, 'a> {
    recorder: &'r mut Recorder<'a>,
    prefix: String,
}

impl Probe for Prefixed<'_, '_> {
    fn wants(&self, name: &str) -> bool {
        self.recorder.stores(&format!("{}{name}", self.prefix))
    }

    fn see(&mut self, name: &str, value: &Tensor) -> candle_core::Result<()> {
        let values = Values::from_tensor(value).map_err(candle_core::Error::wrap)?;
        self.recorder.tensors.push((format!("{}{name}", self.prefix), values));
        Ok(())
    }
}
