//! What came of a run, as lines and as JSON.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use musaic_core::testing::{Comparison, Verdict, Worst};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Options, recorder::ByRule};

/// Version of the JSON document; raised when a field changes its meaning or goes.
const SCHEMA_VERSION: u32 = 1;

/// What came of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Everything was compared and agrees.
    Ok,
    /// Something departs, is missing, or could not be computed; or nothing was compared.
    Failed,
    /// The kind is not implemented, or the build leaves its feature out.
    Unavailable,
    /// Numbers to read, nothing to run.
    Facts,
    /// The model is narrower than a block of the quantised format; the own cases stand in.
    Narrow,
}

/// One compared tensor.
#[derive(Debug, Clone, Serialize)]
pub struct TensorReport {
    /// Its name in the case.
    pub name: String,
    /// Model folder it was computed with, where the case has several spellings of one model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Whether it agrees.
    pub passed: bool,
    /// Place of the worst element.
    pub index: Vec<usize>,
    /// Computed value there.
    pub got: Option<f64>,
    /// Stored value there.
    pub want: Option<f64>,
    /// Difference there.
    pub error: Option<f64>,
    /// What the difference may be there.
    pub bound: Option<f64>,
    /// Number of elements.
    pub elements: usize,
    /// Number of elements that depart.
    pub departing: usize,
    /// What else is wrong, such as the shape.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

impl TensorReport {
    pub(super) fn new(comparison: Comparison, model: Option<String>) -> Self {
        let finite = |value: f64| value.is_finite().then_some(value);
        let passed = comparison.passed();
        let (departing, fault) = match &comparison.verdict {
            Verdict::Agrees => (0, None),
            Verdict::Departs { elements } => (*elements, None),
            Verdict::Shape { got, want } => (0, Some(format!("shape {got:?}, expected {want:?}"))),
            Verdict::NotIntegers => (0, Some("floats, expected integers".to_owned())),
        };
        let mut report = Self {
            name: comparison.name,
            model,
            passed,
            index: Vec::new(),
            got: None,
            want: None,
            error: None,
            bound: None,
            elements: comparison.elements,
            departing,
            fault,
        };
        if let Some(Worst { index, got, want, error, bound }) = comparison.worst {
            if !(passed || got.is_finite() && want.is_finite()) {
                report.fault = Some(format!("{got} at {index:?}, expected {want}"));
            }
            report.index = index;
            (report.got, report.want) = (finite(got), finite(want));
            (report.error, report.bound) = (finite(error), finite(bound));
        }
        report
    }

    /// Of a comparison by a rule of the case.
    pub(super) fn by_rule(rule: &ByRule, elements: usize, model: Option<String>) -> Self {
        let passed = rule.error <= rule.bound;
        let fault =
            (!passed).then(|| format!("{:.1e} by the rule of the case, allowed {:.1e}", rule.error, rule.bound));
        Self {
            name: rule.name.clone(),
            model,
            passed,
            index: Vec::new(),
            got: None,
            want: None,
            error: rule.error.is_finite().then_some(rule.error),
            bound: Some(rule.bound),
            elements,
            departing: 0,
            fault,
        }
    }

    /// Share of the bound that is used.
    fn share(&self) -> f64 {
        match (self.error, self.bound) {
            (Some(error), Some(bound)) if bound > 0.0 => error / bound,
            (Some(0.0), _) => 0.0,
            _ if self.passed => 0.0,
            _ => f64::INFINITY,
        }
    }

    /// `out.logits 2.1e-6 of 1e-4`, or what departs.
    pub(super) fn describe(&self) -> String {
        let model = self.model.as_ref().map(|model| format!(" ({model})")).unwrap_or_default();
        let name = format!("{}{model}", self.name);
        if let Some(fault) = &self.fault {
            return format!("{name}: {fault}");
        }
        let (Some(error), Some(bound)) = (self.error, self.bound) else { return format!("{name} agrees, no elements") };
        if self.passed {
            return if bound == 0.0 { format!("{name} exact") } else { format!("{name} {error:.1e} of {bound:.1e}") };
        }
        let (got, want) = (self.got.unwrap_or(f64::NAN), self.want.unwrap_or(f64::NAN));
        let allowed = if bound == 0.0 { "must be exact".to_owned() } else { format!("allowed {bound:.1e}") };
        format!(
            "{name} departs: {got} at {:?}, expected {want} (off by {error:.1e}, {allowed}; {} of {} elements)",
            self.index, self.departing, self.elements
        )
    }
}

/// What came of one case.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    /// Its folder; `own/..` for those made from a seed.
    pub path: PathBuf,
    /// Its kind.
    pub kind: String,
    /// The outcome.
    pub status: Status,
    /// Tensors (or entries) that were compared, whether they agree or not.
    pub compared: usize,
    /// Tensors (or entries) the case stores.
    pub of: usize,
    /// Tensors given to the model instead of computed, and why.
    pub given: Vec<(String, String)>,
    /// Tensors that a note of the case excuses, with the note.
    pub excused: Vec<(String, String)>,
    /// The tensor that uses most of its bound.
    pub worst: Option<TensorReport>,
    /// Why it failed or is unavailable: the first cause in computed order.
    pub reason: Option<String>,
    /// Every compared tensor in computed order.
    #[serde(skip)]
    pub tensors: Vec<TensorReport>,
    /// Names of model folders, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
}

impl CaseReport {
    pub(super) fn new(path: impl Into<PathBuf>, kind: &str, status: Status) -> Self {
        Self {
            path: path.into(),
            kind: kind.to_owned(),
            status,
            compared: 0,
            of: 0,
            given: Vec::new(),
            excused: Vec::new(),
            worst: None,
            reason: None,
            tensors: Vec::new(),
            models: Vec::new(),
        }
    }

    pub(super) fn with_reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Picks the worst of `tensors`.
    pub(super) fn pick_worst(&mut self) {
        let worst = self.tensors.iter().reduce(|a, b| if b.share() > a.share() { b } else { a });
        self.worst = worst.cloned();
    }

    /// One line, and with `verbose` one more a tensor.
    pub(super) fn write(&self, out: &mut dyn Write, verbose: bool) -> io::Result<()> {
        let reason = self.reason.as_deref().unwrap_or_default();
        let counts = format!("{} of {} compared", self.compared, self.of);
        let said = match self.status {
            Status::Ok => {
                let mut line = format!("ok {counts}");
                if let Some(worst) = &self.worst {
                    line += &format!(", worst {}", worst.describe());
                }
                if self.models.len() > 1 {
                    line += &format!(", with each of {}", self.models.join(", "));
                }
                line
            }
            Status::Failed => format!("FAILED {counts}: {reason}"),
            Status::Unavailable => format!("unavailable: {reason}"),
            Status::Facts => "facts, nothing to run".to_owned(),
            Status::Narrow => format!("not run: {reason}"),
        };
        write!(out, "{} [{}] {said}", self.path.display(), self.kind)?;
        if !self.given.is_empty() {
            write!(out, "; {} given", self.given.len())?;
        }
        for (name, note) in &self.excused {
            write!(out, "; {name} excused by the note \"{note}\"")?;
        }
        writeln!(out)?;
        if verbose {
            for tensor in &self.tensors {
                writeln!(out, "    {} {}", if tensor.passed { "ok" } else { "--" }, tensor.describe())?;
            }
            for (name, why) in &self.given {
                writeln!(out, "    given {name}: {why}")?;
            }
        }
        Ok(())
    }
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// All cases, in the order they ran.
    pub cases: Vec<CaseReport>,
    device: String,
    dtype: &'static str,
    allow_missing: bool,
}

impl Outcome {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            cases: Vec::new(),
            device: options.device.to_string(),
            dtype: options.format.name(),
            allow_missing: options.allow_missing,
        }
    }

    /// Number of cases with this outcome.
    pub fn count(&self, status: Status) -> usize {
        self.cases.iter().filter(|case| case.status == status).count()
    }

    /// Tensors and entries compared in all cases.
    pub fn compared(&self) -> usize {
        self.cases.iter().map(|case| case.compared).sum()
    }

    /// Whether nothing failed, nothing is missing (or that is allowed), and at least one case ran.
    pub fn passed(&self) -> bool {
        self.count(Status::Failed) == 0
            && self.count(Status::Ok) > 0
            && (self.allow_missing || self.count(Status::Unavailable) == 0)
    }

    /// The last line.
    pub(super) fn write_total(&self, out: &mut dyn Write) -> io::Result<()> {
        let verdict = if self.passed() { "ok" } else { "FAILED" };
        write!(
            out,
            "{verdict}: {} cases ok, {} failed, {} unavailable, {} facts; {} compared on {} in {}",
            self.count(Status::Ok),
            self.count(Status::Failed),
            self.count(Status::Unavailable),
            self.count(Status::Facts),
            self.compared(),
            self.device,
            self.dtype,
        )?;
        if self.count(Status::Narrow) > 0 {
            write!(out, "; {} narrower than a block, not run", self.count(Status::Narrow))?;
        }
        if self.count(Status::Ok) + self.count(Status::Failed) == 0 {
            write!(out, "; no case ran")?;
        }
        writeln!(out)
    }

    /// The document of `--json`.
    pub fn json(&self) -> Value {
        json!({
            "schema_version": SCHEMA_VERSION,
            "device": self.device,
            "dtype": self.dtype,
            "passed": self.passed(),
            "allow_missing": self.allow_missing,
            "total": {
                "ok": self.count(Status::Ok),
                "failed": self.count(Status::Failed),
                "unavailable": self.count(Status::Unavailable),
                "facts": self.count(Status::Facts),
                "narrow": self.count(Status::Narrow),
                "compared": self.compared(),
            },
            "cases": self.cases,
        })
    }
}
