//! What the small files of a published folder say, and telling everything that is wrong with them at once.

use std::path::Path;

use candle_core::{DType, Tensor};
use musaic_core::{Error, Result, files::read_config, nn::Linear, weights::Weights};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What the JSON of the file at `path` holds.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, json: &Value) -> Result<T> {
    T::deserialize(json).map_err(|e| Error::format(path, "the configuration of an encoder", e.to_string()))
}

/// `model_type` in the `config.json` of `folder`: what kind of model it is.
///
/// # Errors
/// There is no such file, or it does not say.
pub fn model_type(folder: &Path) -> Result<String> {
    let path = folder.join("config.json");
    match read_config(&path)?.get("model_type").and_then(Value::as_str) {
        Some(name) => Ok(name.to_owned()),
        None => Err(Error::format(&path, "a field `model_type`", "none")),
    }
}

/// What is wrong with a configuration.
#[derive(Default)]
pub(crate) struct Problems(Vec<String>);

impl Problems {
    /// A size from 1 to `max`.
    pub(crate) fn size(&mut self, name: &str, value: usize, max: usize) {
        self.expect((1..=max).contains(&value), || format!("{name} = {value}, expected 1 to {max}"));
    }

    /// The sizes of a transformer: width, layers, heads, width inside the feed-forward layer.
    pub(crate) fn transformer(&mut self, hidden: usize, layers: usize, heads: usize, inner: usize) {
        self.size("hidden_size", hidden, 1 << 16);
        self.size("num_hidden_layers", layers, 512);
        self.size("num_attention_heads", heads, 512);
        self.size("intermediate_size", inner, 1 << 18);
        self.share(hidden, heads, "heads");
    }

    /// Columns that are shared equally by a number of something.
    pub(crate) fn share(&mut self, width: usize, parts: usize, what: &str) {
        self.expect(width.is_multiple_of(parts.max(1)), || format!("{parts} {what} do not share {width} columns"));
    }

    /// Something that must hold.
    pub(crate) fn expect(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.0.push(problem());
        }
    }

    /// Nothing, or all of it; `path` is the file that says it.
    pub(crate) fn finish(self, path: &Path) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::config(path, self.0.join("; "))) }
    }
}

/// Query, key and value as one matrix `[3 * width, width]`, each held once. `names` are those of the three layers.
pub(crate) fn stacked_qkv(width: usize, bias: bool, names: [&str; 3], weights: &Weights) -> Result<Linear> {
    let paths = names.map(|name| format!("{name}.weight"));
    let matrix = weights.matrix_stacked(&[width; 3], width, &paths.each_ref().map(String::as_str))?;
    if !bias {
        return Ok(Linear::new(matrix, None));
    }
    let parts = names.iter().map(|name| weights.pp(name).tensor(width, "bias")).collect::<Result<Vec<_>>>()?;
    Ok(Linear::new(matrix, Some(Tensor::cat(&parts, 0)?)))
}

/// f32 values of a tensor in row-major order, on the main processor.
pub(crate) fn values(xs: &Tensor) -> candle_core::Result<Vec<f32>> {
    xs.to_device(&candle_core::Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}
