//! One case: run its kind with every model folder it has, compare, judge.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::Result;
use candle_core::Device;
use musaic_core::{
    Error, WeightFormat,
    testing::{Case, Tolerance, compare_within},
    weights::{Checkpoint, Source, Weights},
};

use super::{
    is_exact, is_forced,
    kinds::{KINDS, Kind},
    recorder::Recorder,
    report::{CaseReport, Status, TensorReport},
    rounding::{Rounded, bounds},
};

/// How a runner is to compute.
#[derive(Clone)]
pub struct Context<'a> {
    /// Where.
    pub device: &'a Device,
    /// How weights are held.
    pub format: WeightFormat,
    /// Rounds the weights to this format before they are held.
    pub rounding: Option<WeightFormat>,
    /// Greedy generation is replaced by the tokens of the case.
    pub forced: bool,
    /// Folder of the model; the case's own folder for kinds without one.
    pub model: PathBuf,
}

impl Context<'_> {
    /// Opens the weights of `folder`.
    pub fn weights(&self, folder: &Path) -> Result<Weights> {
        Ok(self.walk(Checkpoint::open(folder)?))
    }

    /// Walks weights that were opened.
    pub fn walk(&self, source: impl Source + 'static) -> Weights {
        match self.rounding {
            Some(format) => Weights::new(Rounded::new(source, format), self.device, self.format),
            None => Weights::new(source, self.device, self.format),
        }
    }
}

/// Everything that came of one model folder.
struct Run<'a> {
    /// Name of the folder, where there are several.
    model: Option<String>,
    recorder: Recorder<'a>,
    /// What stopped the runner.
    error: Option<anyhow::Error>,
    /// Derived bounds by tensor, where the case's own tolerances do not hold.
    bounds: BTreeMap<String, f64>,
}

/// Runs the case in `dir`.
pub fn run(dir: &Path, device: &Device, format: WeightFormat) -> CaseReport {
    let case = match Case::open(dir) {
        Ok(case) => case,
        Err(error) => return CaseReport::new(dir, "unreadable", Status::Failed).with_reason(chain(&error.into())),
    };
    let report = |status| CaseReport::new(dir, case.kind(), status);
    if case.kind() == "facts" {
        return report(Status::Facts);
    }
    let Some(kind) = KINDS.iter().find(|kind| kind.name == case.kind()) else {
        return report(Status::Unavailable).with_reason("no runner for this kind in this version");
    };
    if kind.has_model && matches!(format, WeightFormat::Q8_0 | WeightFormat::Q4K) {
        return report(Status::Narrow).with_reason(format!("models of cases are narrower than a block of {format}"));
    }
    let models = if kind.has_model { case.models() } else { Ok(vec![dir.to_owned()]) };
    let models = match models {
        Ok(models) => models,
        Err(error) => return report(Status::Failed).with_reason(chain(&error.into())),
    };
    let several = models.len() > 1;
    let mut runs = Vec::new();
    for model in models {
        let name = model.file_name().map(|name| name.to_string_lossy().into_owned()).filter(|_| several);
        let run = run_model(&case, kind, model, name, device, format);
        if let Some(Error::MissingFeature { .. }) = run.error.as_ref().and_then(|e| e.downcast_ref::<Error>()) {
            let reason = run.error.as_ref().map(chain).unwrap_or_default();
            return report(Status::Unavailable).with_reason(reason);
        }
        runs.push(run);
    }
    judge(&case, runs, report(Status::Ok))
}

fn run_model<'a>(
    case: &'a Case,
    kind: &Kind,
    model: PathBuf,
    name: Option<String>,
    device: &Device,
    format: WeightFormat,
) -> Run<'a> {
    let context = Context { device, format, rounding: None, forced: is_forced(device, format), model };
    let execute = |context: &Context<'_>| {
        let mut recorder = Recorder::new(case);
        let error = (kind.run)(case, context, &mut recorder).err();
        (recorder, error)
    };
    let mut derived = BTreeMap::new();
    if kind.has_model && !is_exact(format) {
        let cpu = Device::Cpu;
        let original = Context { device: &cpu, format: WeightFormat::F32, ..context.clone() };
        let rounded = Context { rounding: Some(format), ..original.clone() };
        let (original, _) = execute(&original);
        let (rounded, _) = execute(&rounded);
        derived = bounds(&original.tensors, &rounded.tensors);
    }
    let (recorder, error) = execute(&context);
    Run { model: name, recorder, error, bounds: derived }
}

/// Compares everything that was computed and finds the first cause of failure in computed order.
fn judge(case: &Case, runs: Vec<Run<'_>>, mut report: CaseReport) -> CaseReport {
    let mut causes = Vec::new();
    let mut compared: Option<BTreeSet<String>> = None;
    let mut entries = BTreeSet::new();
    let mut given = BTreeMap::new();
    for run in &runs {
        let (reports, problems) = compare_run(case, run);
        let names = reports.iter().map(|r| r.name.clone()).collect();
        // A tensor counts when it was compared with each model folder.
        compared = Some(match compared {
            Some(before) => before.intersection(&names).cloned().collect(),
            None => names,
        });
        causes.extend(problems);
        report.tensors.extend(reports);
        for entry in &run.recorder.entries {
            entries.insert(entry.name.clone());
            if let Some(fault) = &entry.fault {
                causes.push(format!("{}: {fault}", entry.name));
            }
        }
        if let Some(error) = &run.error {
            let model = run.model.as_ref().map(|model| format!(" with {model}")).unwrap_or_default();
            causes.push(format!("stopped{model}: {}", chain(error)));
        }
        given.extend(run.recorder.given.iter().map(|(name, why)| (name.clone(), (*why).to_owned())));
        report.models.extend(run.model.clone());
    }
    let compared = compared.unwrap_or_default();
    given.retain(|name, _| !compared.contains(name));
    for name in case.expected().filter(|name| !compared.contains(*name) && !given.contains_key(*name)) {
        match case.excuse(name) {
            Some(note) => report.excused.push((name.to_owned(), note.to_owned())),
            None => causes.push(format!("{name} was not computed")),
        }
    }
    for name in listed_but_not_stored(case) {
        match case.excuse(name) {
            Some(note) => report.excused.push((name.to_owned(), note.to_owned())),
            None => causes.push(format!("{name} is listed in `outputs` but not stored")),
        }
    }
    report.compared = compared.len() + entries.len();
    report.of = case.expected().count() + entries.len();
    report.given = given.into_iter().collect();
    report.pick_worst();
    if report.compared == 0 {
        causes.push("nothing was compared".to_owned());
    }
    if let Some(first) = causes.first() {
        report.status = Status::Failed;
        report.reason = Some(match causes.len() {
            1 => first.clone(),
            more => format!("{first} (and {} more)", more - 1),
        });
    }
    report
}

/// Compares what one run computed, in computed order, with what the case stores.
fn compare_run(case: &Case, run: &Run<'_>) -> (Vec<TensorReport>, Vec<String>) {
    let mut reports = Vec::new();
    let mut problems = Vec::new();
    let given: BTreeSet<_> = run.recorder.given.iter().map(|(name, _)| name).collect();
    for (name, got) in &run.recorder.tensors {
        let tolerance = case.tolerance(name);
        let Some(want) = case.stored(name) else {
            if tolerance.is_some() && case.excuse(name).is_none() {
                problems.push(format!("{name} was computed and is covered by `outputs`, but not stored"));
            }
            continue;
        };
        if given.contains(name) {
            continue;
        }
        if tolerance.is_none() && !want.is_integer() {
            problems.push(format!("{name} has no tolerance in `outputs`"));
            continue;
        }
        let Tolerance { rtol, atol } = tolerance.unwrap_or(Tolerance { rtol: 0.0, atol: 0.0 });
        let derived = run.bounds.get(name).copied().unwrap_or(0.0);
        let comparison = compare_within(name, got, want, |_, want| (atol + rtol * want.abs()).max(derived));
        let report = TensorReport::new(comparison, run.model.clone());
        if !report.passed {
            problems.push(report.describe());
        }
        reports.push(report);
    }
    for rule in &run.recorder.by_rule {
        let Some(want) = case.stored(&rule.name) else {
            problems.push(format!("{} was compared, but is not stored", rule.name));
            continue;
        };
        let report = TensorReport::by_rule(rule, want.len(), run.model.clone());
        if !report.passed {
            problems.push(report.describe());
        }
        reports.push(report);
    }
    (reports, problems)
}

/// Exact keys of `outputs` that name a tensor the case does not hold, and patterns that match none.
fn listed_but_not_stored(case: &Case) -> impl Iterator<Item = &str> {
    case.outputs().keys().map(String::as_str).filter(|key| {
        let tensor = key.starts_with("mid.") || key.starts_with("out.");
        tensor && !case.expected().any(|name| name == *key || (key.contains('*') && Case::matches(key, name)))
    })
}

/// An error with its causes in one line.
pub fn chain(error: &anyhow::Error) -> String {
    error.chain().map(|cause| cause.to_string().replace('\n', " ")).collect::<Vec<_>>().join(": ")
}
