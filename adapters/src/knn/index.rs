//! FAISS index files.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use faiss::{
    Idx, Index as _, MetricType,
    index::{IndexImpl, SearchResult},
    index_factory, read_index, write_index,
};
use musaic_core::{Error, Result, files};

use super::{Hit, Layout, Metric};
use crate::bridge::{Found, Neighbours};

/// A FAISS index of vectors `[count, dim]`, of any layout that the library reads: flat, IVF, HNSW, PQ, ...
pub struct Index {
    inner: IndexImpl,
    /// Where it came from, for messages.
    path: PathBuf,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index")
            .field("path", &self.path)
            .field("dim", &self.dim())
            .field("count", &self.count())
            .finish()
    }
}

impl Index {
    /// Reads an index file. What it says of itself at its start is checked against its size before the library sees it.
    ///
    /// # Errors
    /// The file cannot be read, is no index, is damaged, or uses a metric other than the inner product and L2.
    pub fn open(path: &Path) -> Result<Self> {
        check_start(path)?;
        let inner = read_index(utf8(path)?).map_err(|e| broken(path, e))?;
        direct(&inner, path)?;
        Ok(Self { inner, path: path.to_owned() })
    }

    /// A new index (inner product) of `vectors [count, dim]`, trained on them where its layout is learnt.
    ///
    /// # Errors
    /// There are too few vectors for the layout, or the library fails.
    pub fn build(layout: Layout, dim: usize, vectors: &[f32]) -> Result<Self> {
        let count = whole(vectors, dim)?;
        let path = PathBuf::from("a new index");
        let width = u32::try_from(dim).map_err(|_| Error::argument("dim", dim.to_string(), "less than 2^32"))?;
        let describe = layout.describe(count, dim)?;
        let mut inner = index_factory(width, describe, MetricType::InnerProduct).map_err(|e| broken(&path, e))?;
        inner.train(vectors).map_err(|e| broken(&path, e))?;
        inner.add(vectors).map_err(|e| broken(&path, e))?;
        look_further(&inner);
        direct(&inner, &path)?;
        Ok(Self { inner, path })
    }

    /// Width of a vector.
    pub fn dim(&self) -> usize {
        self.inner.d() as usize
    }

    /// Number of vectors.
    pub fn count(&self) -> u64 {
        self.inner.ntotal()
    }

    /// How vectors are compared.
    pub fn metric(&self) -> Metric {
        match self.inner.metric_type() {
            MetricType::InnerProduct => Metric::InnerProduct,
            MetricType::L2 => Metric::L2,
        }
    }

    /// The `count` nearest vectors of each of `queries [n, dim]`, best first. With the file's own settings (lists to visit,
    /// depth of the search).
    ///
    /// # Errors
    /// The queries are not of the index's width, or the library fails.
    pub fn search(&mut self, queries: &[f32], count: usize) -> Result<Vec<Vec<Hit>>> {
        whole(queries, self.dim())?;
        let SearchResult { distances, labels } =
            self.inner.search(queries, count).map_err(|e| broken(&self.path, e))?;
        let hit = |(id, similarity): (&Idx, &f32)| Hit { id: id.get(), similarity: *similarity };
        let hits: Vec<_> = labels.iter().zip(&distances).map(hit).collect();
        Ok(hits.chunks(count).map(<[_]>::to_vec).collect())
    }

    /// The stored vector of an id, `[dim]`; what its codes say where the layout is lossy.
    ///
    /// # Errors
    /// There is none of that id, or the layout cannot give vectors back.
    pub fn vector(&self, id: u64) -> Result<Vec<f32>> {
        let mut vector = vec![0.0; self.dim()];
        self.inner.reconstruct(Idx::new(id), &mut vector).map_err(|e| broken(&self.path, e))?;
        Ok(vector)
    }

    /// More vectors `[count, dim]`; their ids go on where the last ended.
    ///
    /// # Errors
    /// They are not of the index's width, or the library fails.
    pub fn add(&mut self, vectors: &[f32]) -> Result<()> {
        whole(vectors, self.dim())?;
        self.inner.add(vectors).map_err(|e| broken(&self.path, e))
    }

    /// Writes the index beside `path`, then renames it.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn write(&self, path: &Path) -> Result<()> {
        let partial = files::partial(path).map_err(|e| Error::io(path, e))?;
        write_index(&self.inner, utf8(partial.path())?).map_err(|e| broken(path, e))?;
        files::commit(partial, path, true).map_err(|e| Error::io(path, e))
    }
}

impl Neighbours for Index {
    fn dim(&self) -> usize {
        self.dim()
    }

    fn metric(&self) -> Metric {
        self.metric()
    }

    fn nearest(&mut self, query: &[f32], count: usize) -> Result<Vec<Found>> {
        let hits = self.search(query, count)?.swap_remove(0);
        let found = |Hit { id, similarity }| {
            let id = id?;
            Some(self.vector(id).map(|vector| Found { index: id as usize, similarity, vector }))
        };
        hits.into_iter().filter_map(found).collect()
    }
}

/// Number of vectors in `values`.
fn whole(values: &[f32], dim: usize) -> Result<usize> {
    if dim == 0 || values.is_empty() || !values.len().is_multiple_of(dim) {
        return Err(Error::argument("vectors", format!("{} numbers", values.len()), format!("rows of {dim}")));
    }
    Ok(values.len() / dim)
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::format(path, "a path in UTF-8", "other bytes"))
}

/// The library's messages carry its source lines and signatures; the last part says what happened.
fn broken(path: &Path, error: impl std::fmt::Display) -> Error {
    let text = error.to_string();
    let found = text.rsplit(": ").next().unwrap_or(&text).trim().to_owned();
    Error::format(path, "a complete FAISS index", found)
}

/// What every layout writes first: four letters, width, number of vectors, two marks, whether it is trained, the metric.
fn check_start(path: &Path) -> Result<()> {
    const START: usize = 4 + 4 + 8 + 8 + 8 + 1 + 4;
    const MARK: u64 = 1 << 20;
    const WIDEST: u32 = 1 << 16;
    let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
    let size = file.metadata().map_err(|e| Error::io(path, e))?.len();
    let wrong = |found: String| Error::format(path, "a FAISS index", found);
    let mut start = [0; START];
    file.read_exact(&mut start).map_err(|_| wrong(format!("{size} bytes")))?;
    let word = |at: usize| u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]);
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    if !start[..4].is_ascii() || long(16) != MARK || long(24) != MARK {
        return Err(wrong("other bytes at its start".into()));
    }
    let (dim, count, metric) = (word(4), long(8), word(33));
    if dim == 0 || dim > WIDEST {
        return Err(wrong(format!("vectors of width {dim}")));
    }
    // Each vector takes a byte at least, as numbers, codes or graph.
    if count > size {
        return Err(wrong(format!("{count} vectors announced in {size} bytes")));
    }
    if MetricType::from_code(metric).is_none() {
        return Err(wrong(format!("metric {metric}; inner product (0) and L2 (1) are supported")));
    }
    if matches!(&start[..4], b"IxFI" | b"IxF2" | b"IxFl") {
        // Here the size says it all; then nothing the file claims can make the library allocate more than it holds.
        let needed = START as u64 + 8 + count * u64::from(dim) * 4;
        if size != needed {
            return Err(wrong(format!("{size} bytes where {count} vectors of {dim} take {needed}")));
        }
    }
    Ok(())
}

/// Lets an inverted file give back vectors by id: it stores them by list. Does nothing for other layouts.
fn direct(index: &IndexImpl, path: &Path) -> Result<()> {
    // SAFETY: `inverted` hands out a live inverted file.
    #[allow(unsafe_code)] // the safe crate has no name for it
    let code = inverted(index).map_or(0, |ivf| unsafe { faiss_sys::faiss_IndexIVF_make_direct_map(ivf, 1) });
    if code != 0 {
        return Err(broken(path, "its lists do not belong together"));
    }
    Ok(())
}

/// Lets a search in an inverted file visit about the root of its lists; the default is one, which misses many neighbours.
/// The number is stored in the file. Does nothing for other layouts.
fn look_further(index: &IndexImpl) {
    if let Some(ivf) = inverted(index) {
        // SAFETY: `inverted` hands out a live inverted file.
        #[allow(unsafe_code)] // the safe crate has no name for it
        unsafe {
            let lists = faiss_sys::faiss_IndexIVF_nlist(ivf);
            faiss_sys::faiss_IndexIVF_set_nprobe(ivf, (lists as f64).sqrt().ceil() as usize);
        }
    }
}

/// The index as an inverted file, if it is one.
fn inverted(index: &IndexImpl) -> Option<*mut faiss_sys::FaissIndexIVF> {
    // SAFETY: the pointer is that of a live index; the cast gives null for what is no inverted file.
    #[allow(unsafe_code)] // the safe crate has no name for it
    let ivf = unsafe { faiss_sys::faiss_IndexIVF_cast(index.inner_ptr()) };
    (!ivf.is_null()).then_some(ivf)
}

#[cfg(test)]
mod tests;
