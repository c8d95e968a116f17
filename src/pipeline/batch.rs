//! Many requests from one file, and their results, so that a run that was stopped goes on where it was.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Seek, SeekFrom, Write},
    path::{Component, Path, PathBuf},
};

use musaic_core::Error;
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::failure::BadInput;

/// Largest file of requests.
const MAX_BYTES: u64 = 256 << 20;
/// Keys under which a row names media.
const FILES: [&str; 5] = ["file", "files", "audio", "image", "video"];

/// A file of requests.
#[derive(Debug)]
pub struct Batch {
    rows: Vec<Row>,
}

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Where it stands, for messages.
    at: String,
    /// Folder that files are named from.
    folder: PathBuf,
    values: Map<String, Value>,
    key: String,
}

impl Batch {
    /// Reads `.jsonl` (an object a line) or `.csv` (a line of names first); names of files count from the folder it is in. Its
    /// rows have no other values than those of `columns`.
    ///
    /// # Errors
    /// The file cannot be read, is too large, or a line is no request.
    pub fn open(path: &Path, columns: &[&str]) -> anyhow::Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let bytes = file.metadata().map_err(|e| Error::io(path, e))?.len();
        if bytes > MAX_BYTES {
            return Err(Error::format(path, format!("at most {MAX_BYTES} bytes"), format!("{bytes}")).into());
        }
        let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        let rows = match ending.as_str() {
            "jsonl" | "ndjson" => objects(path, file)?,
            "csv" => table(path, file)?,
            _ => {
                let message = format!("batch {}: expected a name that ends in .jsonl or .csv", path.display());
                return Err(BadInput::new(message).into());
            }
        };
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        let rows = rows.into_iter().map(|(line, values)| Row {
            at: format!("{}, line {line}", path.display()),
            folder: folder.clone(),
            key: key(&values),
            values,
        });
        let rows: Vec<Row> = rows.collect();
        for row in &rows {
            if let Some(name) = row.values.keys().find(|name| !columns.contains(&name.as_str())) {
                let message = format!("{}: `{name}`, expected {}", row.at, columns.join(", "));
                return Err(BadInput::new(message).into());
            }
        }
        if rows.is_empty() {
            return Err(Error::format(path, "requests", "none").into());
        }
        Ok(Self { rows })
    }

    /// The requests, in order.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The file that each row is to make, from its `output`.
    ///
    /// # Errors
    /// A row names none, or the same as another.
    pub fn outputs(&self) -> Result<Vec<PathBuf>, BadInput> {
        let mut outputs: Vec<PathBuf> = Vec::with_capacity(self.rows.len());
        let mut seen: HashMap<PathBuf, &str> = HashMap::new();
        for row in &self.rows {
            let output = row.file("output")?.ok_or_else(|| row.missing("output"))?;
            // `a.wav` and `./a.wav` are one file.
            if let Some(other) = seen.insert(output.components().filter(|c| *c != Component::CurDir).collect(), &row.at)
            {
                let message = format!("{}: output `{}`, as {other} has it already", row.at, output.display());
                return Err(BadInput::new(message).hint("each row needs a file of its own"));
            }
            outputs.push(output);
        }
        Ok(outputs)
    }
}

fn objects(path: &Path, file: File) -> anyhow::Result<Vec<(usize, Map<String, Value>)>> {
    let mut rows = Vec::new();
    for (number, line) in (1..).zip(BufReader::new(file).lines()) {
        let line = line.map_err(|e| Error::io(path, e))?;
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str(&line) {
            Ok(Value::Object(values)) => rows.push((number, values)),
            Ok(_) => return Err(bad_line(path, number, "no JSON object")),
            Err(error) => return Err(bad_line(path, number, &error.to_string())),
        }
    }
    Ok(rows)
}

fn table(path: &Path, file: File) -> anyhow::Result<Vec<(usize, Map<String, Value>)>> {
    let mut reader = csv::Reader::from_reader(BufReader::new(file));
    let names = reader.headers().map_err(|e| bad_line(path, 1, &e.to_string()))?.clone();
    let mut rows = Vec::new();
    for (number, record) in (2..).zip(reader.records()) {
        let record = record.map_err(|e| bad_line(path, number, &e.to_string()))?;
        let cells = names.iter().zip(record.iter()).filter(|(_, cell)| !cell.trim().is_empty());
        rows.push((number, cells.map(|(name, cell)| (name.trim().to_owned(), Value::from(cell))).collect()));
    }
    Ok(rows)
}

fn bad_line(path: &Path, number: usize, found: &str) -> anyhow::Error {
    Error::format(path, "a request a line", format!("line {number}: {found}")).into()
}

/// What a row is, whatever the order of its values.
fn key(values: &Map<String, Value>) -> String {
    let mut sorted: Vec<_> = values.iter().collect();
    sorted.sort_by_key(|(name, _)| name.as_str());
    let text: String = sorted.iter().map(|(name, value)| format!("{name:?}:{value}\n")).collect();
    format!("{:x}", Sha256::digest(text.as_bytes()))[..16].to_owned()
}

impl Row {
    /// Words under a name.
    ///
    /// # Errors
    /// There is something else.
    pub fn text(&self, name: &str) -> Result<Option<String>, BadInput> {
        match self.values.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.wrong(name, other, "words")),
        }
    }

    /// A number under a name, or the words of one.
    ///
    /// # Errors
    /// There is something else.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, BadInput> {
        let text = match self.values.get(name) {
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::String(_)) => match self.text(name)? {
                Some(text) => text,
                None => return Ok(None),
            },
            None | Some(Value::Null) => return Ok(None),
            Some(other) => return Err(self.wrong(name, other, "a number")),
        };
        text.trim().parse().map(Some).map_err(|_| self.wrong(name, &text, "a number in its range"))
    }

    /// A file under a name, from the folder of the batch.
    ///
    /// # Errors
    /// There is something else.
    pub fn file(&self, name: &str) -> Result<Option<PathBuf>, BadInput> {
        match self.values.get(name) {
            Some(other @ (Value::Array(_) | Value::Number(_))) => Err(self.wrong(name, other, "the name of one file")),
            _ => Ok(self.text(name)?.map(|file| self.folder.join(file))),
        }
    }

    /// All media it names.
    ///
    /// # Errors
    /// A name is no text.
    pub fn files(&self) -> Result<Vec<PathBuf>, BadInput> {
        let mut files = Vec::new();
        for name in FILES {
            let several = match self.values.get(name) {
                // Only this name says that there may be several.
                Some(Value::Array(several)) if name == "files" => several.clone(),
                Some(Value::Null) | None => continue,
                Some(_) => {
                    files.extend(self.file(name)?);
                    continue;
                }
            };
            for value in several {
                let file = value.as_str().ok_or_else(|| self.wrong(name, &value, "names of files"))?;
                files.push(self.folder.join(file));
            }
        }
        Ok(files)
    }

    /// That a value is not what belongs there.
    pub fn wrong(&self, name: &str, found: &impl fmt::Display, expected: &str) -> BadInput {
        BadInput::new(format!("{}: {name} `{found}`, expected {expected}", self.at))
    }

    /// That something is missing.
    pub fn missing(&self, name: &str) -> BadInput {
        let names: Vec<_> = self.values.keys().map(String::as_str).collect();
        BadInput::new(format!("{}: no `{name}` among {}, expected one", self.at, names.join(", ")))
    }

    /// Where it stands.
    pub fn at(&self) -> &str {
        &self.at
    }
}

/// How a line of results begins.
const LINE: &[u8] = b"{\"row\":\"";

/// The results so far, one JSON object a line.
pub struct Done {
    path: PathBuf,
    file: File,
    /// Digest of what is the same for all rows.
    settings: String,
    keys: HashSet<String>,
}

impl Done {
    /// Opens or makes the file. A last line that was cut off while it was written is taken away. Results count for the same row
    /// under the same `settings` only; an error is no result.
    ///
    /// # Errors
    /// The file cannot be written, or holds something else.
    pub fn open(path: &Path, settings: &impl Serialize) -> anyhow::Result<Self> {
        let settings = format!("{:x}", Sha256::digest(serde_json::to_vec(settings)?));
        let wrap = |e| Error::io(path, e);
        let foreign = |found: &str| Error::format(path, "results of this program, one JSON object a line", found);
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path).map_err(wrap)?;
        let mut keys = HashSet::new();
        let mut whole = 0;
        let mut reader = BufReader::new(&file);
        // Bytes, since a line may be cut within a letter.
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).map_err(wrap)? > 0 {
            if line.last() != Some(&b'\n') {
                if !line.starts_with(LINE) && !LINE.starts_with(&line) {
                    return Err(foreign("something else at its end").into());
                }
                break;
            }
            let result: Value = serde_json::from_slice(&line).map_err(|_| foreign("something else"))?;
            let row = result.get("row").and_then(Value::as_str);
            let row = row.ok_or_else(|| Error::format(path, "results with the `row` they answer", "one without"))?;
            if result.get("error").is_none() {
                keys.insert(row.to_owned());
            }
            whole += line.len() as u64;
            line.clear();
        }
        file.set_len(whole).map_err(wrap)?;
        file.seek(SeekFrom::End(0)).map_err(wrap)?;
        Ok(Self { path: path.to_owned(), file, settings, keys })
    }

    /// What a row is under these settings.
    fn key(&self, row: &Row) -> String {
        format!("{:x}", Sha256::digest(format!("{} {}", self.settings, row.key)))[..16].to_owned()
    }

    /// Whether a row has its result.
    pub fn has(&self, row: &Row) -> bool {
        self.keys.contains(&self.key(row))
    }

    /// Writes the result of a row, down to the disk.
    ///
    /// # Errors
    /// The disk is full, or the file is gone.
    pub fn push(&mut self, row: &Row, result: &impl Serialize) -> anyhow::Result<()> {
        let key = self.key(row);
        self.write(&key, result)?;
        self.keys.insert(key);
        Ok(())
    }

    /// Writes why a row has no result; the next run tries it again.
    ///
    /// # Errors
    /// As [`Done::push`].
    pub fn push_error(&mut self, row: &Row, error: &str) -> anyhow::Result<()> {
        self.write(&self.key(row), &serde_json::json!({"error": error}))
    }

    fn write(&mut self, key: &str, result: &impl Serialize) -> anyhow::Result<()> {
        #[derive(Serialize)]
        struct Line<'a, T> {
            row: &'a str,
            #[serde(flatten)]
            result: &'a T,
        }
        let mut line = serde_json::to_string(&Line { row: key, result })?;
        line.push('\n');
        let wrap = |e| Error::io(&self.path, e);
        self.file.write_all(line.as_bytes()).map_err(wrap)?;
        Ok(self.file.sync_data().map_err(wrap)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [&str; 7] = ["question", "audio", "image", "files", "seed", "from", "output"];

    fn open(folder: &Path, name: &str, text: &str) -> anyhow::Result<Batch> {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        Batch::open(&path, &COLUMNS)
    }

    #[test]
    fn both_forms_say_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let text = "{\"question\": \"What, then?\", \"audio\": \"a.wav\", \"seed\": \"7\"}\n\n";
        let json = open(folder, "a.jsonl", text).unwrap();
        let csv = open(folder, "a.csv", "audio,seed,question,image\na.wav,7,\"What, then?\",\n").unwrap();
        let (a, b) = (&json.rows()[0], &csv.rows()[0]);
        assert_eq!((a.values.clone(), &a.key), (b.values.clone(), &b.key));
        assert_eq!(a.files().unwrap(), [folder.join("a.wav")]);
        assert_eq!(a.text("question").unwrap().as_deref(), Some("What, then?"));
        assert_eq!(a.number::<u64>("seed").unwrap(), Some(7));
        assert!(a.number::<u64>("question").is_err());
    }

    #[test]
    fn results_survive_a_line_that_was_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let results = folder.path().join("out.jsonl");
        let batch = open(folder.path(), "a.jsonl", "{\"question\": \"one\"}\n{\"question\": \"two\"}\n").unwrap();
        let done = |settings: &str| {
            let done = Done::open(&results, &settings).unwrap();
            batch.rows().iter().map(|row| done.has(row)).collect::<Vec<_>>()
        };
        Done::open(&results, &"a").unwrap().push(&batch.rows()[0], &serde_json::json!({"answer": "1"})).unwrap();
        let whole = std::fs::read(&results).unwrap();
        // Within a letter, within the mark that lines begin with, at once.
        for cut in [&b"{\"row\":\"half \xc3"[..], b"{\"ro", b"{"] {
            std::fs::write(&results, [&whole[..], cut].concat()).unwrap();
            assert_eq!(done("a"), [true, false]);
            assert_eq!(std::fs::read(&results).unwrap(), whole);
        }
        assert_eq!(done("b"), [false, false], "another checkpoint, another result");
        let mut open = Done::open(&results, &"a").unwrap();
        open.push_error(&batch.rows()[1], "no such file").unwrap();
        assert_eq!(done("a"), [true, false], "an error is tried again");
        open.push(&batch.rows()[1], &serde_json::json!({"answer": "2"})).unwrap();
        assert_eq!(done("a"), [true, true]);
        let text = std::fs::read_to_string(&results).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{text}");
    }

    #[test]
    fn files_that_are_not_ours_stay_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.json");
        for text in ["notes of mine\n", "notes of mine", "{\"notes\": [1, 2]}", "[]"] {
            std::fs::write(&path, text).unwrap();
            assert!(Done::open(&path, &()).is_err(), "{text}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn bad_files_are_one_message() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("a.jsonl", "[1]\n"), ("a.jsonl", "{\n"), ("a.txt", "{}\n"), ("a.jsonl", "\n")] {
            assert!(open(folder.path(), name, text).is_err(), "{name} {text}");
        }
    }

    #[test]
    fn bad_rows_are_told_with_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let told = |text: &str| {
            let text = format!("{{\"output\": \"a.wav\"}}\n{text}\n");
            let batch = open(folder.path(), "a.jsonl", &text)?;
            for row in batch.rows() {
                row.files()?;
                row.text("question")?;
                row.number::<u64>("seed")?;
            }
            batch.outputs()?;
            anyhow::Ok(())
        };
        told("{\"output\": \"b.wav\", \"seed\": 1, \"files\": [\"a.wav\", \"b.png\"], \"image\": null}").unwrap();
        for (row, expected) in [
            ("{\"output\": \"b.wav\", \"sede\": 1}", "`sede`"),
            ("{\"output\": \"b.wav\", \"audio\": [\"a.wav\"]}", "one file"),
            ("{\"output\": [\"b.wav\"]}", "one file"),
            ("{\"output\": \"b.wav\", \"files\": [1]}", "names of files"),
            ("{\"output\": \"b.wav\", \"question\": 5}", "words"),
            ("{\"output\": \"b.wav\", \"seed\": true}", "a number"),
            ("{\"output\": \"b.wav\", \"seed\": -1}", "a number"),
            ("{\"seed\": 1}", "no `output`"),
            ("{\"output\": \"./a.wav\"}", "already"),
        ] {
            let error = told(row).unwrap_err().to_string();
            assert!(error.contains("a.jsonl, line 2") && error.contains(expected), "{row}: {error}");
        }
    }
}
