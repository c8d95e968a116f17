//! The trainer against the torch recipe: the same weights and batches give the same losses, step by step
//! (`recipes/nano/parity.py` wrote the fixture), every gradient is right, and a run taken up again is the same run.
#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use musaic::train::{StepReport, Trainer, batches::Batches, config::TrainConfig};
use musaic_core::weights::{Checkpoint, Source};
use serde::Deserialize;

/// Largest relative difference of a loss. Both sides compute in f32 (rounding 6e-8) and add in different orders; 2e-7 was
/// seen over all steps, and settings that are slightly wrong are off by more (see below).
const LOSS_BOUND: f64 = 1e-5;
/// The same of the norm of all gradients; 6e-7 was seen.
const NORM_BOUND: f64 = 1e-5;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/train-parity").join(name)
}

#[derive(Deserialize)]
struct Recipe {
    settings: Settings,
    runs: BTreeMap<String, Vec<Row>>,
}

#[derive(Deserialize)]
struct Settings {
    lr: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    clip_norm: f64,
}

#[derive(Deserialize)]
struct Row {
    loss: f64,
    books: Vec<f64>,
    norm: f64,
}

fn recipe() -> Recipe {
    serde_json::from_str(&std::fs::read_to_string(fixture("losses.json")).unwrap()).unwrap()
}

fn settings(steps: u64, frozen: &[&str]) -> TrainConfig {
    let settings = recipe().settings;
    TrainConfig {
        steps,
        learning_rate: settings.lr,
        beta1: settings.beta1,
        beta2: settings.beta2,
        epsilon: settings.eps,
        weight_decay: settings.weight_decay,
        clip_norm: settings.clip_norm,
        frozen: frozen.iter().map(|name| (*name).to_owned()).collect(),
        ..TrainConfig::default()
    }
}

fn start(steps: u64, frozen: &[&str]) -> (Trainer, Batches) {
    start_with(&settings(steps, frozen))
}

fn start_with(config: &TrainConfig) -> (Trainer, Batches) {
    let trainer = Trainer::new(&fixture("init.safetensors"), config).unwrap();
    let batches = Batches::open(&fixture("batches.safetensors"), trainer.model_config()).unwrap();
    (trainer, batches)
}

fn run(trainer: &mut Trainer, batches: &Batches) -> Vec<StepReport> {
    let mut reports = Vec::new();
    while !trainer.is_done() {
        reports.push(trainer.train_step(batches).unwrap());
    }
    reports
}

fn values(trainer: &Trainer) -> BTreeMap<String, Vec<f32>> {
    let values = trainer.parameters().values();
    values.into_iter().map(|(name, t)| (name, t.flatten_all().unwrap().to_vec1().unwrap())).collect()
}

/// Largest relative differences of the losses (of codebooks too) and of the norms.
fn departure(reports: &[StepReport], rows: &[Row]) -> (f64, f64) {
    assert_eq!(reports.len(), rows.len());
    let (mut loss, mut norm) = (0f64, 0f64);
    for (got, want) in reports.iter().zip(rows) {
        assert_eq!(got.books.len(), want.books.len());
        let books = got.books.iter().zip(&want.books);
        for (got, want) in books.chain([(&got.loss, &want.loss)]) {
            loss = loss.max((got / want - 1.0).abs());
        }
        norm = norm.max((got.norm / want.norm - 1.0).abs());
    }
    (loss, norm)
}

#[test]
fn losses_are_those_of_the_recipe() {
    for (name, frozen) in [("all", &[][..]), ("decoder", &["text_encoder."])] {
        let rows = &recipe().runs[name];
        let (mut trainer, batches) = start(20, frozen);
        let reports = run(&mut trainer, &batches);
        let (loss, norm) = departure(&reports, rows);
        println!("run {name}: losses off by {loss:.1e}, norms by {norm:.1e}");
        assert!(loss < LOSS_BOUND && norm < NORM_BOUND, "run {name}: {loss:e} {norm:e}");
        assert!(reports.iter().all(|report| report.updated));
        // There is something to learn.
        assert!(reports[19].loss < reports[0].loss - 0.1);
    }
}

#[test]
fn slightly_other_settings_are_seen() {
    let right = settings(20, &[]);
    for (what, config) in [
        ("learning rate", TrainConfig { learning_rate: right.learning_rate * 1.001, ..right.clone() }),
        ("no decay", TrainConfig { weight_decay: 0.0, ..right.clone() }),
        ("beta1", TrainConfig { beta1: 0.901, ..right.clone() }),
        ("beta2", TrainConfig { beta2: 0.951, ..right.clone() }),
        ("no clipping", TrainConfig { clip_norm: 0.0, ..right.clone() }),
        ("frozen text", settings(20, &["text_encoder."])),
        ("first codebook", TrainConfig { codebook_weights: vec![1.01, 1.0, 1.0, 1.0], ..right.clone() }),
    ] {
        let (mut trainer, batches) = start_with(&config);
        let (loss, _) = departure(&run(&mut trainer, &batches), &recipe().runs["all"]);
        println!("{what}: losses off by {loss:.1e}");
        assert!(loss > 2.0 * LOSS_BOUND, "{what}: {loss:e}");
    }
}

#[test]
fn weights_end_where_the_recipe_ends() {
    let (mut trainer, batches) = start(20, &[]);
    let before = values(&trainer);
    run(&mut trainer, &batches);
    let want = Checkpoint::open(fixture("final.safetensors")).unwrap();
    let (mut off, mut moved) = (0f64, 0f64);
    for (name, got) in values(&trainer) {
        let mut all = Vec::new();
        want.read(&name, &mut |piece| {
            all.extend_from_slice(piece);
            Ok(())
        })
        .unwrap();
        assert_eq!(got.len(), all.len());
        for ((got, want), before) in got.iter().zip(&all).zip(&before[&name]) {
            off += f64::from(got - want).powi(2);
            moved += f64::from(want - before).powi(2);
        }
    }
    let share = (off / moved).sqrt();
    println!("weights are off by {share:.1e} of the way they went");
    assert!(share < 1e-2, "{share:e}");
}

#[test]
fn gradients_reach_every_tensor_and_agree_with_differences() {
    let (trainer, batches) = start(1, &[]);
    let batch = batches.get(0);
    let gradients = trainer.gradients(&batch).unwrap();
    let loss = || f64::from(trainer.loss(&batch).unwrap().0.to_scalar::<f32>().unwrap());
    assert_eq!(trainer.parameters().trained().len(), trainer.model_config().shapes().unwrap().len());
    for (name, var) in trainer.parameters().trained() {
        let gradient = gradients.get(var.as_tensor()).unwrap_or_else(|| panic!("no gradient for {name}"));
        let norm = f64::from(gradient.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()).sqrt();
        assert!(norm > 1e-6, "{name}: {norm:e}");
        // Along its own gradient the loss must rise by the norm.
        let (base, unit) = (var.as_detached_tensor().copy().unwrap(), (gradient / norm).unwrap());
        let at = |way: f64| {
            var.set(&(&base + (&unit * way).unwrap()).unwrap()).unwrap();
            loss()
        };
        // A step with a difference well above the rounding of the loss (3e-7), and small against the weights.
        let step = (2e-3 / norm).clamp(2e-3, 5e-2);
        let numeric = (at(step) - at(-step)) / (2.0 * step);
        var.set(&base).unwrap();
        let bound = 0.03 * norm + 1e-6 / step;
        assert!((numeric - norm).abs() < bound, "{name}: norm {norm:e}, along it {numeric:e}");
    }
}

#[test]
fn a_run_taken_up_again_is_the_same_run() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.safetensors");
    let (mut whole, batches) = start(6, &[]);
    let losses = |reports: &[StepReport]| reports.iter().map(|r| (r.step, r.loss, r.norm)).collect::<Vec<_>>();
    let all = losses(&run(&mut whole, &batches));

    let (mut first, _) = start(3, &[]);
    let mut parts = losses(&run(&mut first, &batches));
    first.save(&state, &batches).unwrap();
    let (mut second, _) = start(6, &[]);
    second.restore(&state, &batches).unwrap();
    assert_eq!(second.step(), 3);
    parts.extend(losses(&run(&mut second, &batches)));
    assert_eq!(parts, all);
    let bits = |trainer: &Trainer| {
        let values = values(trainer).into_iter();
        values.map(|(name, v)| (name, v.into_iter().map(f32::to_bits).collect::<Vec<_>>())).collect::<Vec<_>>()
    };
    assert_eq!(bits(&second), bits(&whole));

    // Another run does not take it.
    let (mut other, _) = start(6, &["text_encoder."]);
    let text = other.restore(&state, &batches).unwrap_err().to_string();
    assert!(text.contains("other settings"), "{text}");
    // Nor does a damaged file change anything.
    let bytes = std::fs::read(&state).unwrap();
    std::fs::write(&state, &bytes[..bytes.len() / 2]).unwrap();
    let before = bits(&second);
    assert!(second.restore(&state, &batches).is_err());
    assert_eq!(bits(&second), before);
}

#[test]
fn the_command_trains_resumes_and_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let (init, batches) = (fixture("init.safetensors"), fixture("batches.safetensors"));
    let train = |init: &Path, steps: &str, rest: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_musaic"));
        command.args(["train", "lm", "--steps", steps, "--init"]).arg(init).arg("--batches").arg(&batches);
        command.arg("--output").arg(&out).args(rest).output().unwrap()
    };
    let curve = || {
        let text = std::fs::read_to_string(out.join("losses.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str::<StepReport>(line).unwrap().step).collect::<Vec<_>>()
    };
    let output = train(&init, "2", &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(curve(), [1, 2]);
    let again = train(&init, "4", &[]);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("--resume"));
    // A line that was written after the state was saved goes.
    let torn = std::fs::read_to_string(out.join("losses.jsonl")).unwrap().replace("\"step\":2", "\"step\":3") + "{\"st";
    std::fs::write(out.join("losses.jsonl"), torn).unwrap();
    assert!(train(&init, "4", &["--resume"]).status.success());
    assert_eq!(curve(), [1, 3, 4]);
    // What it left can be trained on.
    let trained = out.join("model.safetensors");
    let names = |path: &Path| Checkpoint::open(path).unwrap().tensors().clone();
    assert_eq!(names(&trained), names(&init));
    assert!(!train(&fixture("batches.safetensors"), "1", &[]).status.success());
}
