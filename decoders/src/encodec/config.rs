//! `config.json` of a published EnCodec, or the `audio_encoder` table of a model that contains one.

use std::path::Path;

use musaic_core::{Error, Result};
use serde::Deserialize;

/// How the convolutions are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormType {
    /// Weights stored as direction and length; nothing is normalised at run time.
    WeightNorm,
    /// Group norm with one group over channels and time, after each convolution.
    TimeGroupNorm,
}

/// What convolutions see beyond the ends of the signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PadMode {
    /// The signal mirrored, its end sample not repeated.
    Reflect,
    /// Zeros.
    Constant,
}

/// Architecture of an EnCodec. Field names and defaults are those of the published files.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct EncodecConfig {
    /// `encodec` where it is given.
    pub model_type: Option<String>,
    /// Bit rates the model was trained for, in kbit/s, rising; the last one decides the number of codebooks.
    pub target_bandwidths: Vec<f64>,
    /// Samples a second.
    pub sampling_rate: usize,
    /// 1 or 2.
    pub audio_channels: usize,
    /// Whether each chunk is divided by its root mean square.
    pub normalize: bool,
    /// Length of one chunk in seconds; without it the signal is one chunk.
    pub chunk_length_s: Option<f64>,
    /// Share of a chunk that overlaps the next one, 0 to below 1.
    pub overlap: Option<f64>,
    /// Width of the latents.
    pub hidden_size: usize,
    /// Channels after the first convolution; doubled at every ratio.
    pub num_filters: usize,
    /// Residual blocks at each ratio.
    pub num_residual_layers: usize,
    /// Strides of the decoder, first to last; the encoder has them reversed.
    pub upsampling_ratios: Vec<usize>,
    /// How the convolutions are normalised.
    pub norm_type: NormType,
    /// Taps of the first convolution.
    pub kernel_size: usize,
    /// Taps of the last convolution.
    pub last_kernel_size: usize,
    /// Taps of the first convolution of a residual block.
    pub residual_kernel_size: usize,
    /// Block `j` of a ratio has this dilation to the power of `j`.
    pub dilation_growth_rate: usize,
    /// Whether convolutions look only backwards.
    pub use_causal_conv: bool,
    /// What convolutions see beyond the ends.
    pub pad_mode: PadMode,
    /// A residual block narrows its channels by this factor.
    pub compress: usize,
    /// Layers of both LSTM stacks.
    pub num_lstm_layers: usize,
    /// Share of the surplus that a causal transposed convolution loses on the right, 0 to 1.
    pub trim_right_ratio: f64,
    /// Rows of a codebook.
    pub codebook_size: usize,
    /// Width of a codebook row; [`EncodecConfig::hidden_size`] where not given.
    pub codebook_dim: Option<usize>,
    /// Whether residual blocks have a convolution on their shortcut.
    pub use_conv_shortcut: bool,
}

impl Default for EncodecConfig {
    fn default() -> Self {
        Self {
            model_type: None,
            target_bandwidths: vec![1.5, 3.0, 6.0, 12.0, 24.0],
            sampling_rate: 24_000,
            audio_channels: 1,
            normalize: false,
            chunk_length_s: None,
            overlap: None,
            hidden_size: 128,
            num_filters: 32,
            num_residual_layers: 1,
            upsampling_ratios: vec![8, 5, 4, 2],
            norm_type: NormType::WeightNorm,
            kernel_size: 7,
            last_kernel_size: 7,
            residual_kernel_size: 3,
            dilation_growth_rate: 2,
            use_causal_conv: true,
            pad_mode: PadMode::Reflect,
            compress: 2,
            num_lstm_layers: 2,
            trim_right_ratio: 1.0,
            codebook_size: 1024,
            codebook_dim: None,
            use_conv_shortcut: true,
        }
    }
}

/// Bounds that keep a hostile file from asking for absurd amounts of memory; published models are far inside.
const MAX_WIDTH: usize = 1 << 16;
const MAX_KERNEL: usize = 1 << 10;
const MAX_HOP: usize = 1 << 20;
const MAX_CODEBOOK: usize = 1 << 20;
const MAX_CODEBOOKS: usize = 1 << 10;
const MAX_DILATION: usize = 1 << 16;

impl EncodecConfig {
    /// Reads and validates the JSON table found in `path` (used in messages only).
    ///
    /// # Errors
    /// A field has the wrong type, an unknown name or a value outside its range.
    pub fn from_json(path: &Path, json: &serde_json::Value) -> Result<Self> {
        let config: Self = Self::deserialize(json).map_err(|e| Error::config(path, format!("EnCodec: {e}")))?;
        config.validate(path)?;
        Ok(config)
    }

    /// Checks all values at once.
    ///
    /// # Errors
    /// Lists every value outside its range; `path` says where they were read.
    pub fn validate(&self, path: &Path) -> Result<()> {
        let mut problems = Vec::new();
        let mut check = |good: bool, what: String| {
            if !good {
                problems.push(what);
            }
        };
        let mut range = |name: &str, value: usize, low: usize, high: usize| {
            check((low..=high).contains(&value), format!("{name} = {value}, expected {low} to {high}"));
        };
        range("sampling_rate", self.sampling_rate, 1, 1 << 20);
        range("audio_channels", self.audio_channels, 1, 2);
        range("hidden_size", self.hidden_size, 1, MAX_WIDTH);
        range("num_filters", self.num_filters, 1, MAX_WIDTH);
        range("num_residual_layers", self.num_residual_layers, 0, 16);
        range("number of upsampling_ratios", self.upsampling_ratios.len(), 1, 16);
        for &ratio in &self.upsampling_ratios {
            range("upsampling_ratios", ratio, 1, MAX_KERNEL / 2);
        }
        let hop = self.upsampling_ratios.iter().try_fold(1_usize, |hop, &ratio| hop.checked_mul(ratio));
        range("product of upsampling_ratios", hop.unwrap_or(usize::MAX), 1, MAX_HOP);
        let doublings = u32::try_from(self.upsampling_ratios.len()).unwrap_or(u32::MAX);
        let widest = 2_usize.checked_pow(doublings).and_then(|factor| factor.checked_mul(self.num_filters));
        range("num_filters, doubled at every ratio,", widest.unwrap_or(usize::MAX), 1, MAX_WIDTH);
        range("kernel_size", self.kernel_size, 1, MAX_KERNEL);
        range("last_kernel_size", self.last_kernel_size, 1, MAX_KERNEL);
        range("residual_kernel_size", self.residual_kernel_size, 1, MAX_KERNEL);
        range("dilation_growth_rate", self.dilation_growth_rate, 1, MAX_DILATION);
        let exponent = u32::try_from(self.num_residual_layers.saturating_sub(1)).unwrap_or(u32::MAX);
        let dilation = self.dilation_growth_rate.checked_pow(exponent).unwrap_or(usize::MAX);
        range("dilation_growth_rate, to the power of the last residual layer,", dilation, 1, MAX_DILATION);
        range("compress", self.compress, 1, self.num_filters.max(1));
        range("num_lstm_layers", self.num_lstm_layers, 1, 16);
        range("codebook_size", self.codebook_size, 2, MAX_CODEBOOK);
        range("codebook_dim", self.codebook_dim(), self.hidden_size, self.hidden_size);
        let bandwidths = &self.target_bandwidths;
        check(
            !bandwidths.is_empty() && bandwidths.iter().all(|b| b.is_finite() && *b > 0.0),
            format!("target_bandwidths = {bandwidths:?}, expected at least one positive number"),
        );
        check(
            self.model_type.as_deref().is_none_or(|name| name == "encodec"),
            format!("model_type = {:?}, expected encodec", self.model_type.as_deref().unwrap_or_default()),
        );
        let trim = self.trim_right_ratio;
        check((0.0..=1.0).contains(&trim), format!("trim_right_ratio = {trim}, expected 0 to 1"));
        check(
            self.use_causal_conv || trim == 1.0,
            format!("trim_right_ratio = {trim}, expected 1 where use_causal_conv is false"),
        );
        if let Some(seconds) = self.chunk_length_s {
            let samples = seconds * self.sampling_rate as f64;
            check(
                (1.0..=f64::from(u32::MAX)).contains(&samples),
                format!("chunk_length_s = {seconds}, expected at least one sample"),
            );
            let overlap = self.overlap.unwrap_or(f64::NAN);
            check(
                (0.0..1.0).contains(&overlap),
                format!("overlap = {:?}, expected 0 to below 1 where chunk_length_s is given", self.overlap),
            );
        }
        if problems.is_empty() {
            let codebooks = self.num_quantizers();
            if !(1..=MAX_CODEBOOKS).contains(&codebooks) {
                problems.push(format!("target_bandwidths give {codebooks} codebooks, expected 1 to {MAX_CODEBOOKS}"));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(Error::config(path, format!("EnCodec: {}", problems.join("; ")))) }
    }

    /// Width of a codebook row.
    pub fn codebook_dim(&self) -> usize {
        self.codebook_dim.unwrap_or(self.hidden_size)
    }

    /// Samples of one frame of codes.
    pub fn hop_length(&self) -> usize {
        self.upsampling_ratios.iter().product()
    }

    /// Frames a second, rounded up as the bit rates are defined with.
    pub fn frame_rate(&self) -> usize {
        self.sampling_rate.div_ceil(self.hop_length())
    }

    /// Codebooks the checkpoint holds.
    pub fn num_quantizers(&self) -> usize {
        let bits = (usize::BITS - (self.codebook_size - 1).leading_zeros()) as usize;
        let rate = (self.frame_rate() * bits) as f64;
        let bandwidth = 1000.0 * self.target_bandwidths.last().copied().unwrap_or(0.0);
        // Floor of the exact quotient; dividing first could round up to the next integer.
        ((bandwidth - bandwidth % rate) / rate).round() as usize
    }

    /// Codebooks used at `bandwidth` kbit/s; the lowest rate where none is given.
    ///
    /// # Errors
    /// The model was not trained for this rate.
    pub fn codebooks_for(&self, bandwidth: Option<f64>) -> Result<usize> {
        let known = &self.target_bandwidths;
        let bandwidth = bandwidth.or(known.first().copied()).unwrap_or(0.0);
        if !known.contains(&bandwidth) {
            return Err(Error::argument("bandwidth", format!("{bandwidth} kbit/s"), format!("one of {known:?}")));
        }
        let rate = (self.codebook_size as f64).log2() * self.frame_rate() as f64;
        Ok(((bandwidth * 1000.0 / rate).floor() as usize).clamp(1, self.num_quantizers()))
    }

    /// Samples of one chunk and of the step to the next one; none where the signal is one chunk.
    pub fn chunks(&self) -> Option<(usize, usize)> {
        let length = (self.chunk_length_s? * self.sampling_rate as f64) as usize;
        let stride = ((1.0 - self.overlap.unwrap_or(0.0)) * length as f64) as usize;
        Some((length, stride.max(1)))
    }
}
