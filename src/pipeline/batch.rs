//! Many requests from one file, and their results, so that a run that was stopped goes on where it was.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
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
    /// Reads `.jsonl` (an object a line) or `.csv` (a line of names first); names of files count from the folder it is in.
    ///
    /// # Errors
    /// The file cannot be read, is too large, or a line is no request.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
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
        let rows: Vec<_> = rows.collect();
        if rows.is_empty() {
            return Err(Error::format(path, "requests", "none").into());
        }
        Ok(Self { rows })
    }

    /// The requests, in order.
    pub fn rows(&self) -> &[Row] {
        &self.rows
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
    pub fn text(&self, name: &str) -> Option<String> {
        match self.values.get(name)? {
            Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// A number under a name.
    ///
    /// # Errors
    /// There is something else.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, BadInput> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let wrong = || BadInput::new(format!("{}: {name} `{text}`, expected a number", self.at));
        text.trim().parse().map(Some).map_err(|_| wrong())
    }

    /// A file under a name, from the folder of the batch.
    pub fn file(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(|file| self.folder.join(file))
    }

    /// All media it names.
    ///
    /// # Errors
    /// A name is no text.
    pub fn files(&self) -> Result<Vec<PathBuf>, BadInput> {
        let mut files = Vec::new();
        for name in FILES {
            let several = match self.values.get(name) {
                Some(Value::Array(several)) => several.clone(),
                Some(one) => vec![one.clone()],
                None => continue,
            };
            for value in several {
                let wrong = || BadInput::new(format!("{}: {name} `{value}`, expected the name of a file", self.at));
                files.push(self.folder.join(value.as_str().ok_or_else(wrong)?));
            }
        }
        Ok(files)
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

/// The results so far, one JSON object a line.
pub struct Done {
    path: PathBuf,
    file: File,
    keys: HashSet<String>,
}

impl Done {
    /// Opens or makes the file. A last line that was cut off while it was written is taken away.
    ///
    /// # Errors
    /// The file cannot be written, or holds something else.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let wrap = |e| Error::io(path, e);
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path).map_err(wrap)?;
        let mut keys = HashSet::new();
        let mut whole = 0;
        let mut reader = BufReader::new(&file);
        let mut line = String::new();
        while reader.read_line(&mut line).map_err(wrap)? > 0 {
            if !line.ends_with('\n') {
                break;
            }
            let result: Value = serde_json::from_str(&line).map_err(|_| {
                Error::format(path, "results of this program, one JSON object a line", "something else")
            })?;
            let row = result.get("row").and_then(Value::as_str);
            let row = row.ok_or_else(|| Error::format(path, "results with the `row` they answer", "one without"))?;
            keys.insert(row.to_owned());
            whole += line.len() as u64;
            line.clear();
        }
        file.set_len(whole).map_err(wrap)?;
        file.seek(SeekFrom::End(0)).map_err(wrap)?;
        Ok(Self { path: path.to_owned(), file, keys })
    }

    /// Whether a row has its result.
    pub fn has(&self, row: &Row) -> bool {
        self.keys.contains(&row.key)
    }

    /// Writes the result of a row, down to the disk.
    ///
    /// # Errors
    /// The disk is full, or the file is gone.
    pub fn push(&mut self, row: &Row, result: &impl Serialize) -> anyhow::Result<()> {
        #[derive(Serialize)]
        struct Line<'a, T> {
            row: &'a str,
            #[serde(flatten)]
            result: &'a T,
        }
        let mut line = serde_json::to_string(&Line { row: &row.key, result })?;
        line.push('\n');
        let wrap = |e| Error::io(&self.path, e);
        self.file.write_all(line.as_bytes()).map_err(wrap)?;
        self.file.sync_data().map_err(wrap)?;
        self.keys.insert(row.key.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (json, csv) = (folder.path().join("a.jsonl"), folder.path().join("a.csv"));
        std::fs::write(&json, "{\"question\": \"What, then?\", \"audio\": \"a.wav\", \"seed\": \"7\"}\n\n").unwrap();
        std::fs::write(&csv, "audio,seed,question,image\na.wav,7,\"What, then?\",\n").unwrap();
        let (json, csv) = (Batch::open(&json).unwrap(), Batch::open(&csv).unwrap());
        let (a, b) = (&json.rows()[0], &csv.rows()[0]);
        assert_eq!((a.values.clone(), &a.key), (b.values.clone(), &b.key));
        assert_eq!(a.files().unwrap(), [folder.path().join("a.wav")]);
        assert_eq!((a.text("question").unwrap().as_str(), a.number::<u64>("seed").unwrap()), ("What, then?", Some(7)));
        assert!(a.number::<u64>("question").is_err());
    }

    #[test]
    fn results_survive_a_line_that_was_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let (batch, results) = (folder.path().join("a.jsonl"), folder.path().join("out.jsonl"));
        std::fs::write(&batch, "{\"question\": \"one\"}\n{\"question\": \"two\"}\n").unwrap();
        let batch = Batch::open(&batch).unwrap();
        let mut done = Done::open(&results).unwrap();
        done.push(&batch.rows()[0], &serde_json::json!({"answer": "1"})).unwrap();
        drop(done);
        let whole = std::fs::read(&results).unwrap();
        std::fs::write(&results, [&whole[..], b"{\"row\": \"half"].concat()).unwrap();
        let mut done = Done::open(&results).unwrap();
        assert_eq!(batch.rows().iter().map(|row| done.has(row)).collect::<Vec<_>>(), [true, false]);
        done.push(&batch.rows()[1], &serde_json::json!({"answer": "2"})).unwrap();
        let text = std::fs::read_to_string(&results).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{text}");
        std::fs::write(&results, "notes of mine\n").unwrap();
        assert!(Done::open(&results).is_err());
    }

    #[test]
    fn bad_files_are_one_message() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("a.jsonl", "[1]\n"), ("a.jsonl", "{\n"), ("a.txt", "{}\n"), ("a.jsonl", "\n")] {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            assert!(Batch::open(&path).is_err(), "{name} {text}");
        }
    }
}
