//! The parity runner: on the project's cases, and on cases that are broken on purpose.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests, too

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use musaic::verify::{Options, Outcome, Status, run};
use musaic_core::{WeightFormat, testing::golden_roots};
use serde_json::{Value, json};

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

fn verify(options: &Options) -> (Outcome, String) {
    let mut out = Vec::new();
    let outcome = run(options, &mut out).unwrap();
    (outcome, String::from_utf8(out).unwrap())
}

fn options(root: impl Into<PathBuf>) -> Options {
    Options { roots: vec![root.into()], ..Options::default() }
}

/// A copy of one case of the project in a folder of its own.
fn copied(case: &str) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &target);
            } else {
                // Not fs::copy: the original may be read-only, and the copy is going to be broken.
                fs::write(target, fs::read(entry.path()).unwrap()).unwrap();
            }
        }
    }
    let root = tempfile::tempdir().unwrap();
    copy(&goldens().join(case), &root.path().join("case"));
    root
}

/// A safetensors file as header and data.
struct Stored {
    path: PathBuf,
    header: serde_json::Map<String, Value>,
    data: Vec<u8>,
}

impl Stored {
    fn open(path: PathBuf) -> Self {
        let bytes = fs::read(&path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        Self { path, header, data: bytes[8 + length..].to_vec() }
    }

    fn of_case(root: &Path) -> Self {
        Self::open(root.join("case/io.safetensors"))
    }

    /// The first four bytes of a tensor.
    fn first(&mut self, name: &str) -> &mut [u8] {
        let at = self.header[name]["data_offsets"][0].as_u64().unwrap() as usize;
        &mut self.data[at..at + 4]
    }

    fn set_f32(&mut self, name: &str, change: impl Fn(f32) -> f32) {
        let bytes = self.first(name);
        let value = f32::from_le_bytes((&*bytes).try_into().unwrap());
        bytes.copy_from_slice(&change(value).to_le_bytes());
    }

    fn scale(&mut self, name: &str, factor: f32) {
        let range = &self.header[name]["data_offsets"];
        let (from, to) = (range[0].as_u64().unwrap() as usize, range[1].as_u64().unwrap() as usize);
        for value in self.data[from..to].chunks_exact_mut(4) {
            let scaled = f32::from_le_bytes((&*value).try_into().unwrap()) * factor;
            value.copy_from_slice(&scaled.to_le_bytes());
        }
    }

    fn save(&self) {
        let header = serde_json::to_vec(&self.header).unwrap();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(&self.data);
        fs::write(&self.path, bytes).unwrap();
    }
}

/// Runs the one case below `root`, expects a failure, and gives its reason.
fn reason(root: &Path) -> String {
    let (outcome, text) = verify(&options(root));
    assert!(!outcome.passed(), "{text}");
    assert_eq!(outcome.count(Status::Failed), 1, "{text}");
    outcome.cases[0].reason.clone().unwrap()
}

/// Kinds that a build without FFmpeg cannot run.
const NEED_VIDEO: &[&str] = &["media/files"];

#[test]
fn every_case_of_the_project_passes() {
    let video = cfg!(feature = "video");
    let (outcome, text) = verify(&Options { allow_missing: !video, ..options(goldens()) });
    println!("{text}");
    assert!(outcome.passed(), "{text}");
    assert_eq!(outcome.count(Status::Unavailable), if video { 0 } else { NEED_VIDEO.len() }, "{text}");
    for case in outcome.cases.iter().filter(|case| case.status == Status::Ok) {
        assert_eq!(case.compared, case.of, "{text}");
    }
}

/// Kinds and compared counts may only grow: `MUSAIC_UPDATE_COUNTS=1 cargo test --release --test verify counts` writes them.
#[test]
fn counts_only_grow() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity_counts.json");
    let (outcome, _) = verify(&options(goldens()));
    let mut counted: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for case in outcome.cases.iter().filter(|case| case.status == Status::Ok) {
        let entry = counted.entry(case.kind.clone()).or_default();
        *entry = (entry.0 + 1, entry.1 + case.compared);
    }
    if env::var_os("MUSAIC_UPDATE_COUNTS").is_some() {
        let table: BTreeMap<_, _> =
            counted.iter().map(|(kind, (cases, n))| (kind, json!({ "cases": cases, "compared": n }))).collect();
        fs::write(&path, serde_json::to_string_pretty(&table).unwrap() + "\n").unwrap();
    }
    let table: BTreeMap<String, Value> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let here = |kind: &str| cfg!(feature = "video") || !NEED_VIDEO.contains(&kind);
    for (kind, row) in table.iter().filter(|(kind, _)| here(kind)) {
        let (cases, compared) = counted.get(kind).copied().unwrap_or_default();
        assert!(cases as u64 >= row["cases"].as_u64().unwrap(), "{kind}: {cases} cases, the table has {row}");
        assert!(
            compared as u64 >= row["compared"].as_u64().unwrap(),
            "{kind}: {compared} compared, the table has {row}"
        );
    }
    let documented = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/PARITY.md")).unwrap();
    for (kind, (cases, compared)) in counted {
        let row = table.get(&kind).unwrap_or_else(|| panic!("{kind} is missing in tests/parity_counts.json"));
        assert_eq!(
            (row["cases"].as_u64(), row["compared"].as_u64()),
            (Some(cases as u64), Some(compared as u64)),
            "{kind} grew"
        );
        let line = format!("| `{kind}` | {cases} | {compared} |");
        assert!(documented.contains(&line), "docs/PARITY.md lacks the line {line}");
    }
}

/// The kinds of this version wherever the machine has more cases of them.
#[test]
fn no_known_kind_fails_anywhere() {
    let options = Options { roots: golden_roots(), allow_missing: true, ..Options::default() };
    let (outcome, text) = verify(&options);
    assert_eq!(outcome.count(Status::Failed), 0, "{text}");
}

#[test]
fn a_changed_number_is_named() {
    let root = copied("musicgen/sampling");
    let mut stored = Stored::of_case(root.path());
    stored.set_f32("out.cfg_3.0", |value| value + 0.5);
    stored.save();
    let reason = reason(root.path());
    assert!(reason.starts_with("out.cfg_3.0 departs") && reason.contains("[0, 0]"), "{reason}");
}

#[test]
fn the_first_departure_in_computed_order_is_the_cause() {
    let root = copied("musicgen/tiny");
    let mut stored = Stored::of_case(root.path());
    for name in ["mid.decoder.embedded", "mid.text.block_1", "out.logits"] {
        stored.set_f32(name, |value| value + 0.5);
    }
    stored.save();
    let reason = reason(root.path());
    assert!(reason.starts_with("mid.text.block_1") && reason.contains("more)"), "{reason}");
}

#[test]
fn not_a_number_never_passes() {
    let root = copied("musicgen/sampling");
    let mut stored = Stored::of_case(root.path());
    stored.set_f32("out.cfg_1.0", |_| f32::NAN);
    stored.save();
    assert!(reason(root.path()).contains("out.cfg_1.0: "), "{}", reason(root.path()));
}

#[test]
fn another_integer_fails_whatever_the_tolerance() {
    let root = copied("musicgen/delay");
    let mut stored = Stored::of_case(root.path());
    stored.first("out.mono_b1_s1_m8.mask")[0] ^= 1;
    stored.save();
    let reason = reason(root.path());
    assert!(reason.contains("out.mono_b1_s1_m8.mask") && reason.contains("exact"), "{reason}");
}

/// Rules that only a note of the case states are held to as well.
#[test]
fn what_a_rule_of_the_case_forbids_fails() {
    for (case, name, factor) in [
        ("media/files", "out.mp3_stereo_mp3.mono", 1.001),
        ("media/files", "out.h264_33_mp4.frame_means", 1.1),
        ("media/features", "out.clap-fusion-repeatpad.20000", 1.001),
        ("media/features", "out.lp-logmel.5000", 1.001),
    ] {
        if !cfg!(feature = "video") && NEED_VIDEO.contains(&case) {
            continue;
        }
        let root = copied(case);
        let mut stored = Stored::of_case(root.path());
        stored.scale(name, factor);
        stored.save();
        let reason = reason(root.path());
        assert!(reason.contains(name) && reason.contains("by the rule of the case"), "{reason}");
    }
}

#[test]
fn a_removed_tensor_is_missed() {
    for (case, name) in [
        ("musicgen/delay", "out.mono_b2_s4_m12.codes"),
        ("musicgen/tiny", "out.logits"),
        ("musicgen/tiny", "mid.text.block_0"),
    ] {
        let root = copied(case);
        let mut stored = Stored::of_case(root.path());
        // Safetensors files have no holes, so the tensor is renamed into an input that nothing reads.
        let tensor = stored.header.remove(name).unwrap();
        stored.header.insert("in.unread".into(), tensor);
        stored.save();
        let reason = reason(root.path());
        assert!(reason.contains(name) && reason.contains("not stored"), "{reason}");
    }
}

#[test]
fn a_tensor_that_nothing_computes_fails() {
    let root = copied("musicgen/sampling");
    let mut stored = Stored::of_case(root.path());
    let tensor = stored.header.remove("out.cfg_1.0").unwrap();
    stored.header.insert("out.invented".into(), tensor);
    stored.save();
    let (outcome, text) = verify(&options(root.path()));
    assert_eq!(outcome.count(Status::Failed), 1, "{text}");
    assert_eq!(outcome.cases[0].compared + 1, outcome.cases[0].of);
}

#[test]
fn another_shape_fails() {
    let root = copied("musicgen/sampling");
    let mut stored = Stored::of_case(root.path());
    stored.header["out.cfg_3.0"]["shape"] = json!([96, 8]);
    stored.save();
    assert!(reason(root.path()).contains("out.cfg_3.0: shape [8, 96], expected [96, 8]"), "{}", reason(root.path()));
}

#[test]
fn a_wrong_entry_of_a_list_is_named() {
    for (case, file, field) in [
        ("tokenizers/t5-unigram", "strings.json", "fast"),
        ("tokenizers/gpt-bpe", "strings.json", "bart_truncated_16"),
        ("tokenizers/gpt-bpe", "chat.json", "ids"),
    ] {
        let root = copied(case);
        let path = root.path().join("case").join(file);
        let mut rows: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        rows[3][field][0] = json!(9);
        fs::write(&path, rows.to_string()).unwrap();
        assert!(reason(root.path()).contains(&format!("{file}[3]: `{field}`")), "{}", reason(root.path()));
    }
}

fn described(json: &Value) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("case")).unwrap();
    fs::write(root.path().join("case/case.json"), json.to_string()).unwrap();
    root
}

#[test]
fn an_unknown_kind_is_unavailable() {
    let root = described(&json!({ "kind": "bagpipes/drone" }));
    let (outcome, text) = verify(&options(root.path()));
    assert!(!outcome.passed() && outcome.count(Status::Unavailable) == 1, "{text}");
    assert!(text.contains("bagpipes/drone") && text.contains("unavailable"), "{text}");
    // Allowed or not: where no case ran, nothing was proved.
    let (outcome, _) = verify(&Options { allow_missing: true, ..options(root.path()) });
    assert!(!outcome.passed());
    let known = Options { roots: vec![root.path().to_owned(), goldens().join("musicgen/delay")], ..Options::default() };
    assert!(!verify(&known).0.passed());
    assert!(verify(&Options { allow_missing: true, ..known }).0.passed());
}

#[test]
fn nothing_to_run_fails() {
    let root = tempfile::tempdir().unwrap();
    let (outcome, text) = verify(&options(root.path()));
    assert!(!outcome.passed() && text.contains("no case ran"), "{text}");
    let facts = described(&json!({ "kind": "facts" }));
    let (outcome, text) = verify(&options(facts.path()));
    assert!(!outcome.passed() && outcome.count(Status::Facts) == 1, "{text}");
    let empty = described(&json!({ "kind": "musicgen/delay", "plan": [] }));
    assert!(reason(empty.path()).contains("nothing was compared"));
}

#[test]
fn hostile_cases_fail_and_nothing_more() {
    for (what, json) in [
        ("a model outside", json!({ "kind": "musicgen/pipeline", "model": "../../../etc" })),
        ("an absolute model", json!({ "kind": "musicgen/pipeline", "model": "/etc" })),
        ("tensors outside", json!({ "kind": "musicgen/delay", "io": "../../io.safetensors" })),
        ("a plan of nonsense", json!({ "kind": "musicgen/delay", "plan": [{ "name": 3 }] })),
        ("no plan", json!({ "kind": "musicgen/sampling" })),
        ("no model", json!({ "kind": "tokenizers/t5-unigram" })),
        ("no kind", json!({ "about": "nothing" })),
    ] {
        let root = described(&json);
        let (outcome, text) = verify(&options(root.path()));
        assert_eq!(outcome.count(Status::Failed), 1, "{what}: {text}");
    }
    let root = copied("musicgen/delay");
    let path = root.path().join("case/case.json");
    let mut case: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    case["plan"][0]["max_length"] = json!(u64::MAX >> 1);
    fs::write(&path, case.to_string()).unwrap();
    assert!(!reason(root.path()).is_empty());
}

#[test]
fn sixteen_bits_stay_within_derived_bounds_and_faults_do_not() {
    for format in [WeightFormat::Bf16, WeightFormat::F16] {
        let (outcome, text) = verify(&Options { format, ..options(goldens().join("musicgen")) });
        println!("{text}");
        assert!(outcome.passed(), "{format}: {text}");
        for name in [
            "decoder.model.decoder.layers.1.fc2.weight",
            "text_encoder.encoder.block.0.layer.1.DenseReluDense.wo.weight",
        ] {
            let root = copied("musicgen/tiny");
            fs::remove_dir_all(root.path().join("case/model_legacy")).unwrap();
            let mut model = Stored::open(root.path().join("case/model/model.safetensors"));
            model.scale(name, 1.1);
            model.save();
            let (outcome, text) = verify(&Options { format, ..options(root.path()) });
            assert!(outcome.cases[0].status == Status::Failed, "{name} in {format}: {text}");
        }
    }
}

#[test]
fn quantised_formats_run_their_own_cases() {
    for format in [WeightFormat::Q8_0, WeightFormat::Q4K] {
        let (outcome, text) = verify(&Options { format, ..options(goldens().join("musicgen/delay")) });
        assert!(outcome.passed(), "{format}: {text}");
        assert!(outcome.cases.iter().filter(|case| case.kind == "own").count() >= 2, "{text}");
    }
}

#[test]
fn the_json_document_says_it_all() {
    let (outcome, text) = verify(&Options { json: true, ..options(goldens().join("musicgen/sampling")) });
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["total"], outcome.json()["total"]);
    assert_eq!(document["passed"], true);
    assert_eq!(document["schema_version"], 1);
    assert_eq!((&document["device"], &document["dtype"]), (&json!("cpu"), &json!("f32")));
    let case = &document["cases"][0];
    assert_eq!((&case["kind"], &case["status"]), (&json!("musicgen/sampling"), &json!("ok")));
    assert_eq!(case["compared"], case["of"]);
    assert!(case["worst"]["got"].is_number() && case["worst"]["want"].is_number(), "{case}");
}
