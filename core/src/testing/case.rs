//! One case: its description, its stored tensors, the files beside them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path, PathBuf},
};

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use serde::Deserialize;

use super::Values;
use crate::{
    Error, Result,
    files::{read_capped, read_json},
};

/// Largest `case.json` and other JSON file that is read.
const MAX_JSON: u64 = 64 << 20;
/// Largest `io.safetensors` that is read.
const MAX_TENSORS: u64 = 1 << 30;

/// How far a float may be off: `atol + rtol * |want|`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Share of the stored value.
    pub rtol: f64,
    /// Absolute part.
    pub atol: f64,
}

#[derive(Deserialize)]
struct Description {
    kind: String,
    #[serde(default)]
    about: String,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    io: Option<String>,
    #[serde(default)]
    outputs: BTreeMap<String, Output>,
    #[serde(default)]
    notes: Vec<String>,
}

#[derive(Deserialize)]
struct Output {
    #[serde(default)]
    rtol: f64,
    #[serde(default)]
    atol: f64,
}

/// A parity case.
#[derive(Debug, Clone)]
pub struct Case {
    dir: PathBuf,
    kind: String,
    about: String,
    model: Option<String>,
    notes: Vec<String>,
    outputs: BTreeMap<String, Tolerance>,
    fields: serde_json::Map<String, serde_json::Value>,
    tensors: BTreeMap<String, Values>,
}

impl Case {
    /// Reads `case.json` in `dir` and the tensors it names.
    ///
    /// # Errors
    /// A file is missing, too large or broken, a tolerance is no number, or a path leads out of the folder of cases.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let path = dir.join("case.json");
        let expected = "the description of a parity case";
        let value: serde_json::Value = read_json(&path, MAX_JSON, expected)?;
        let description: Description =
            serde_json::from_value(value.clone()).map_err(|e| Error::format(&path, expected, e.to_string()))?;
        let mut outputs = BTreeMap::new();
        for (name, output) in description.outputs {
            let tolerance = Tolerance { rtol: output.rtol, atol: output.atol };
            // A huge tolerance would let anything pass.
            let sane = (0.0..=1.0).contains(&tolerance.rtol) && tolerance.atol >= 0.0 && tolerance.atol.is_finite();
            if !sane {
                let found = format!("`{name}` with rtol {} and atol {}", tolerance.rtol, tolerance.atol);
                return Err(Error::format(&path, "tolerances from 0 (rtol up to 1)", found));
            }
            outputs.insert(name, tolerance);
        }
        let mut case = Self {
            dir: dir.to_owned(),
            kind: description.kind,
            about: description.about,
            model: description.model,
            notes: description.notes,
            outputs,
            fields: value.as_object().cloned().unwrap_or_default(),
            tensors: BTreeMap::new(),
        };
        if let Some(io) = description.io {
            case.tensors = read_tensors(&case.path(&io)?)?;
        }
        Ok(case)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is proved: `musicgen/pipeline` and so on.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// One sentence on the case.
    pub fn about(&self) -> &str {
        &self.about
    }

    /// Conventions and quirks.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Keys of `outputs`: names, patterns with `*`, or names of files, with their tolerances.
    pub fn outputs(&self) -> &BTreeMap<String, Tolerance> {
        &self.outputs
    }

    /// Any other field of `case.json`, such as `plan`.
    pub fn field(&self, name: &str) -> Option<&serde_json::Value> {
        self.fields.get(name)
    }

    /// Names of all stored tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Names of the tensors to be compared: `mid.*` and `out.*`.
    pub fn expected(&self) -> impl Iterator<Item = &str> {
        self.names().filter(|name| name.starts_with("mid.") || name.starts_with("out."))
    }

    /// A stored tensor, if there is one of this name.
    pub fn stored(&self, name: &str) -> Option<&Values> {
        self.tensors.get(name)
    }

    /// A stored tensor.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn values(&self, name: &str) -> Result<&Values> {
        self.stored(name).ok_or_else(|| {
            Error::format(self.dir.join("io.safetensors"), format!("a tensor `{name}`"), "no tensor of this name")
        })
    }

    /// A stored tensor on `device`: integers in I64, floats in F32.
    ///
    /// # Errors
    /// There is none of this name, or the device failed.
    pub fn tensor(&self, name: &str, device: &Device) -> Result<Tensor> {
        self.values(name)?.to_tensor(device)
    }

    /// Tolerance of a tensor: that of its exact key, else of the longest pattern that matches.
    pub fn tolerance(&self, name: &str) -> Option<Tolerance> {
        self.outputs.get(name).copied().or_else(|| {
            self.outputs
                .iter()
                .filter(|(key, _)| key.contains('*') && matches(key, name))
                .max_by_key(|(key, _)| key.len())
                .map(|(_, tolerance)| *tolerance)
        })
    }

    /// Whether a key of `outputs` covers `name`: `*` stands for any run of characters.
    pub fn matches(pattern: &str, name: &str) -> bool {
        matches(pattern, name)
    }

    /// The note that says that this case leaves `name` out, or that it is not compared.
    pub fn excuse(&self, name: &str) -> Option<&str> {
        self.notes.iter().map(String::as_str).find(|note| excuses(note, name))
    }

    /// A path named by the case: inside its folder, or in a sibling folder (`../other-case/model/`).
    ///
    /// # Errors
    /// The path leads anywhere else, through `..`, a root or a link, or there is nothing.
    pub fn path(&self, named: &str) -> Result<PathBuf> {
        let refused = || {
            let expected = "a path inside the case or `../SIBLING/..`, within the folder that holds the cases";
            Error::format(self.dir.join("case.json"), expected, format!("`{named}`"))
        };
        let parts: Vec<_> = Path::new(named).components().collect();
        let rest = match parts.as_slice() {
            [Component::ParentDir, Component::Normal(_), ..] => &parts[1..],
            parts => parts,
        };
        let plain = rest.iter().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if named.is_empty() || named.contains('\0') || !plain {
            return Err(refused());
        }
        let full = self.dir.join(named);
        let real = |path: &Path| fs::canonicalize(path).map_err(|e| Error::io(path, e));
        let case = real(&self.dir)?;
        if !real(&full)?.starts_with(case.parent().unwrap_or(&case)) {
            return Err(refused());
        }
        Ok(full)
    }

    /// The model folder that the case names.
    ///
    /// # Errors
    /// The case names none, or the path is refused.
    pub fn model(&self) -> Result<PathBuf> {
        let named = self
            .model
            .as_deref()
            .ok_or_else(|| Error::format(self.dir.join("case.json"), "a field `model`", "none"))?;
        self.path(named)
    }

    /// The model folder and its twins beside it, which hold the same weights in another spelling: `model`,
    /// `model_legacy`, `model_parametrized`. The same results are expected of each.
    ///
    /// # Errors
    /// As [`Case::model`].
    pub fn models(&self) -> Result<Vec<PathBuf>> {
        let model = self.model()?;
        let name = model.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
        let mut twins = vec![model.clone()];
        for suffix in ["legacy", "parametrized"] {
            let twin = model.with_file_name(format!("{name}_{suffix}"));
            if twin.is_dir() {
                twins.push(twin);
            }
        }
        Ok(twins)
    }

    /// A JSON file of the case.
    ///
    /// # Errors
    /// The path is refused, or the file is too large or no JSON.
    pub fn json(&self, named: &str) -> Result<serde_json::Value> {
        let path = self.path(named)?;
        read_json(&path, MAX_JSON, "JSON")
    }
}

/// See [`Case::matches`].
fn matches(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(pieces.next().unwrap_or_default()) else { return false };
    let pieces: Vec<_> = pieces.collect();
    let Some((last, middle)) = pieces.split_last() else { return rest.is_empty() };
    for piece in middle {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Whether `note` speaks of `name` as left out (`stores no NAME`, `no NAME`) or not compared.
fn excuses(note: &str, name: &str) -> bool {
    let is_end = |text: &str| {
        // `mid.a` is no word of `mid.ab` or `mid.a.b`, but may end a sentence.
        let mut rest = text.chars();
        match rest.next() {
            Some('.') => !rest.next().is_some_and(char::is_alphanumeric),
            Some(c) => !c.is_alphanumeric() && c != '_',
            None => true,
        }
    };
    let lower = note.to_lowercase();
    let says = |phrase: &str| lower.contains(phrase);
    note.match_indices(name).any(|(at, _)| {
        is_end(&note[at + name.len()..]) && (note[..at].ends_with("no ") || says("not compared") || says("not stored"))
    })
}

fn read_tensors(path: &Path) -> Result<BTreeMap<String, Values>> {
    let bytes = read_capped(path, MAX_TENSORS)?;
    let broken = |found: String| Error::format(path, "a safetensors file", found);
    let file = SafeTensors::deserialize(&bytes).map_err(|e| broken(e.to_string()))?;
    file.tensors()
        .into_iter()
        .map(|(name, view)| {
            let values = Values::from_view(&view)
                .ok_or_else(|| broken(format!("`{name}` of type {:?}, which no case uses", view.dtype())))?;
            Ok((name, values))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(json: &str) -> (tempfile::TempDir, Result<Case>) {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("cases/one");
        fs::create_dir_all(dir.join("model")).unwrap();
        fs::create_dir_all(root.path().join("cases/two/model")).unwrap();
        fs::create_dir_all(root.path().join("outside")).unwrap();
        fs::write(dir.join("case.json"), json).unwrap();
        let case = Case::open(&dir);
        (root, case)
    }

    #[test]
    fn an_exact_key_wins_over_a_pattern() {
        let (_root, case) = case(
            r#"{"kind": "k", "outputs": {"mid.*": {"rtol": 0.1, "atol": 0},
                "mid.text.*": {"rtol": 0.2, "atol": 0}, "mid.text.block_1": {"rtol": 0.01, "atol": 0}}}"#,
        );
        let case = case.unwrap();
        let rtol = |name| case.tolerance(name).map(|t| t.rtol);
        assert_eq!(rtol("mid.text.block_1"), Some(0.01));
        assert_eq!(rtol("mid.text.block_2"), Some(0.2));
        assert_eq!(rtol("mid.other"), Some(0.1));
        assert_eq!(rtol("out.other"), None);
        assert!(matches("out.*.codes_*", "out.a.codes_b") && !matches("out.*.codes", "out.a.codes_b"));
        assert!(matches("a*b*c", "abc") && !matches("a*bc*c", "abc"));
    }

    #[test]
    fn paths_stay_with_the_cases() {
        let (root, case) = case(r#"{"kind": "k", "model": "model/"}"#);
        let case = case.unwrap();
        assert!(case.model().unwrap().ends_with("one/model"));
        assert!(case.path("../two/model/").is_ok());
        for bad in ["", "..", "../", "../..", "../../outside", "/", "model/../../../outside", "../two/../../outside"] {
            assert!(case.path(bad).is_err(), "{bad}");
        }
        assert!(case.path(root.path().join("cases/two").to_str().unwrap()).is_err(), "absolute");
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(root.path().join("outside"), case.dir().join("link")).unwrap();
            assert!(case.path("link").is_err(), "a link out of the cases");
        }
    }

    #[test]
    fn broken_descriptions_are_refused() {
        for json in [
            "",
            "[]",
            "{}",
            r#"{"kind": 3}"#,
            r#"{"kind": "k", "outputs": {"out.a": {"rtol": -1, "atol": 0}}}"#,
            r#"{"kind": "k", "outputs": {"out.a": {"rtol": 0, "atol": 1e999}}}"#,
            r#"{"kind": "k", "outputs": {"out.a": {"rtol": 1e6, "atol": 0}}}"#,
            r#"{"kind": "k", "io": "../../outside/io.safetensors"}"#,
            r#"{"kind": "k", "io": "none.safetensors"}"#,
        ] {
            assert!(case(json).1.is_err(), "{json}");
        }
        let deep = "[".repeat(100_000);
        assert!(case(&deep).1.is_err());
    }

    #[test]
    fn tensors_are_bounded_by_the_file() {
        let (root, _) = case("{}");
        let dir = root.path().join("cases/one");
        fs::write(dir.join("case.json"), r#"{"kind": "k", "io": "io.safetensors"}"#).unwrap();
        let header = r#"{"out.a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for bytes in [&bytes[..], &bytes[..20], &[0xff; 64][..], &[][..]] {
            fs::write(dir.join("io.safetensors"), bytes).unwrap();
            assert!(Case::open(&dir).is_err());
        }
    }

    #[test]
    fn notes_excuse_by_full_name() {
        let note = "This case stores no mid.prompt_codes and no in.prompt_clip_* (listed above for the mono case).";
        assert!(excuses(note, "mid.prompt_codes") && !excuses(note, "mid.prompt") && !excuses(note, "out.codes"));
        assert!(excuses("out.a is not compared.", "out.a") && !excuses("out.a is compared.", "out.a"));
        assert!(!excuses("There is no mid.text.block_1", "mid.text"));
    }
}
