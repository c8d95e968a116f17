//! The corpus on disk: `DIR/{split}/{id:06}.wav` and one JSON row a piece in `DIR/{split}.jsonl`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::attributes::{Attributes, Split, TempoBand};
use crate::caption::{Caption, captions};
use crate::compose::compose;
use crate::error::{Error, Result};
use crate::instruments::{Family, Instrument};
use crate::render::{Mix, Renderer, write_wav};

/// Captions kept with each piece; more can be had at any time, see [`captions`].
pub const CAPTIONS_PER_PIECE: usize = 8;

/// One piece of the corpus.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Index in the split.
    pub id: u64,
    /// The WAV file, relative to the folder of the row file.
    pub file: String,
    /// Seed of the piece.
    pub seed: u64,
    /// Length of the audio in seconds.
    pub seconds: f64,
    /// Tempo class, derived.
    pub tempo_band: TempoBand,
    /// Lead instrument, derived.
    pub lead: Instrument,
    /// Lead family, derived.
    pub family: Family,
    /// Everything known.
    pub attributes: Attributes,
    /// Descriptions.
    pub captions: Vec<Caption>,
}

impl Row {
    /// The row of a piece that lasts `seconds`.
    pub fn new(split: Split, id: u64, seconds: f64) -> Self {
        let seed = split.seed(id);
        let attributes = Attributes::draw(seed);
        Self {
            id,
            file: format!("{}/{id:06}.wav", split.name()),
            seed,
            seconds,
            tempo_band: attributes.tempo_band(),
            lead: attributes.lead(),
            family: attributes.lead().family(),
            captions: captions(&attributes, seed, CAPTIONS_PER_PIECE),
            attributes,
        }
    }
}

/// A record and its captions without audio.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TextRow {
    /// Index in the split.
    pub id: u64,
    /// Tempo class, derived.
    pub tempo_band: TempoBand,
    /// Lead instrument, derived.
    pub lead: Instrument,
    /// Lead family, derived.
    pub family: Family,
    /// Everything known.
    pub attributes: Attributes,
    /// Descriptions.
    pub captions: Vec<Caption>,
}

impl TextRow {
    /// The row of a record.
    pub fn new(id: u64, attributes: Attributes, captions: Vec<Caption>) -> Self {
        let lead = attributes.lead();
        Self { id, tempo_band: attributes.tempo_band(), lead, family: lead.family(), attributes, captions }
    }
}

/// What to render.
#[derive(Clone, Debug)]
pub struct Request {
    /// Folder that receives everything.
    pub out: PathBuf,
    /// Which seeds.
    pub split: Split,
    /// First index.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// How a rendering went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Pieces rendered now.
    pub rendered: u64,
    /// Pieces found complete.
    pub kept: u64,
    /// Seconds of audio rendered now.
    pub seconds: f64,
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.into(), source }
}

/// The ids that have a whole row; a last line cut short by an interruption does not count.
fn finished(path: &Path) -> Result<BTreeSet<u64>> {
    let Ok(file) = File::open(path) else { return Ok(BTreeSet::new()) };
    let mut ids = BTreeSet::new();
    for line in BufReader::new(file).lines() {
        if let Ok(row) = serde_json::from_str::<Row>(&line.map_err(failed(path))?) {
            ids.insert(row.id);
        }
    }
    Ok(ids)
}

/// Renders the pieces asked for, skipping those that are complete; a row is appended as soon as its WAV is whole.
///
/// # Errors
/// At the first file that cannot be written.
pub fn render(request: &Request, renderer: &Renderer, progress: impl Fn(Done) + Sync) -> Result<Done> {
    let folder = request.out.join(request.split.name());
    std::fs::create_dir_all(&folder).map_err(failed(&folder))?;
    let rows_path = request.out.join(format!("{}.jsonl", request.split.name()));
    let finished = finished(&rows_path)?;
    let mut rows = OpenOptions::new().create(true).append(true).open(&rows_path).map_err(failed(&rows_path))?;
    if !finished.is_empty() {
        // Closes a row that an interruption may have cut short; readers skip the empty line.
        close_last_line(&rows_path, &mut rows)?;
    }
    let state = Mutex::new((rows, Done::default()));
    (request.first..request.first + request.count).into_par_iter().try_for_each(|id| -> Result<()> {
        let path = folder.join(format!("{id:06}.wav"));
        let complete = finished.contains(&id) && path.exists();
        let row = if complete { None } else { Some(render_piece(request.split, id, &path, renderer)?) };
        let Ok(mut state) = state.lock() else { return Ok(()) };
        if let Some(row) = row {
            let mut line = serde_json::to_string(&row)?;
            line.push('\n');
            state.0.write_all(line.as_bytes()).map_err(failed(&rows_path))?;
            state.1.rendered += 1;
            state.1.seconds += row.seconds;
        } else {
            state.1.kept += 1;
        }
        progress(state.1);
        Ok(())
    })?;
    Ok(state.into_inner().map(|(_, done)| done).unwrap_or_default())
}

fn close_last_line(path: &Path, rows: &mut File) -> Result<()> {
    let text = std::fs::read(path).map_err(failed(path))?;
    if text.last() != Some(&b'\n') {
        rows.write_all(b"\n").map_err(failed(path))?;
    }
    Ok(())
}

fn render_piece(split: Split, id: u64, path: &Path, renderer: &Renderer) -> Result<Row> {
    let attributes = Attributes::draw(split.seed(id));
    let samples = renderer.render(&compose(&attributes), &Mix::draw(&attributes))?;
    write_wav(path, &samples, renderer.sample_rate())?;
    Ok(Row::new(split, id, samples.len() as f64 / f64::from(renderer.sample_rate())))
}

/// Rewrites the captions of every row, from the attributes alone, and orders rows by id; the audio stays.
///
/// # Errors
/// If the rows cannot be read or replaced.
pub fn recaption(out: &Path, split: Split) -> Result<u64> {
    let path = out.join(format!("{}.jsonl", split.name()));
    let partial = path.with_extension("jsonl.part");
    let mut seconds = BTreeMap::new();
    for line in BufReader::new(File::open(&path).map_err(failed(&path))?).lines() {
        if let Ok(row) = serde_json::from_str::<Row>(&line.map_err(failed(&path))?) {
            seconds.insert(row.id, row.seconds);
        }
    }
    let mut writer = BufWriter::new(File::create(&partial).map_err(failed(&partial))?);
    for (&id, &seconds) in &seconds {
        let line = serde_json::to_string(&Row::new(split, id, seconds))?;
        writeln!(writer, "{line}").map_err(failed(&partial))?;
    }
    writer.flush().map_err(failed(&partial))?;
    std::fs::rename(&partial, &path).map_err(failed(&path))?;
    Ok(seconds.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_cut_short_counts_as_unfinished_and_captions_can_be_made_anew() {
        let folder = std::env::temp_dir().join(format!("musaic-corpus-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("test.jsonl");
        let rows: Vec<String> =
            [5, 2].map(|id| serde_json::to_string(&Row::new(Split::Test, id, 20.0)).unwrap()).into();
        std::fs::write(&path, format!("{}\n{}\n{}", rows[0], rows[1], &rows[0][..100])).unwrap();
        assert_eq!(finished(&path).unwrap(), BTreeSet::from([2, 5]));
        assert_eq!(recaption(&folder, Split::Test).unwrap(), 2);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n{}\n", rows[1], rows[0]));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
