//! The whole codec: chunks, loudness, stacks and quantiser.

use candle_core::{DType, Device, Tensor};
use musaic_core::{Error, Result, probe::Probe, weights::Weights};

use super::{
    config::{EncodecConfig, NormType},
    quantizer::Quantizer,
    seanet::{Stack, StackState},
    stream::StreamDecoder,
};

/// Frames that are run through the stacks at once: enough for efficient products, few enough for the caches.
const BLOCK_FRAMES: usize = 64;

/// A coded waveform.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// `[chunks, batch, codebooks, frames]`, u32.
    pub codes: Tensor,
    /// What the decoded chunks are multiplied by, `[chunks, batch, 1]`; none where the model does not normalise.
    pub scales: Option<Tensor>,
    /// Frames at the end of the last chunk that only fill it up to the length of the first.
    pub last_frame_pad_length: usize,
}

/// A loaded EnCodec.
#[derive(Debug, Clone)]
pub struct Encodec {
    config: EncodecConfig,
    encoder: Stack,
    quantizer: Quantizer,
    decoder: Stack,
    device: Device,
    dtype: DType,
}

impl Encodec {
    /// Loads `encoder.*`, `quantizer.*` and `decoder.*` below `weights`.
    ///
    /// # Errors
    /// The configuration has a value outside its range, or the file cannot be read. What is missing or misshaped waits for
    /// [`Weights::finish`].
    pub fn load(config: &EncodecConfig, weights: &Weights) -> Result<Self> {
        config.validate("config.json".as_ref())?;
        Ok(Self {
            encoder: Stack::encoder(config, weights)?,
            quantizer: Quantizer::load(config, weights)?,
            decoder: Stack::decoder(config, weights)?,
            config: config.clone(),
            device: weights.device().clone(),
            dtype: weights.dtype(),
        })
    }

    /// The architecture.
    pub fn config(&self) -> &EncodecConfig {
        &self.config
    }

    /// Codebooks the checkpoint holds.
    pub fn codebooks(&self) -> usize {
        self.quantizer.len()
    }

    /// Whether blocks can be decoded as they come: not where a norm looks at the whole signal, nor in overlapping chunks.
    pub fn can_stream(&self) -> bool {
        self.config.norm_type == NormType::WeightNorm && self.config.chunks().is_none()
    }

    /// Waveform `[batch, channels, samples]` to codes, at the given bit rate in kbit/s or the lowest one.
    ///
    /// `padding_mask [batch, samples]` is 1 where there is sound; the rest is silenced first.
    ///
    /// # Errors
    /// The channels are not the model's, the waveform is empty, the bit rate is unknown, or a shape does not fit.
    pub fn encode(&self, waveform: &Tensor, padding_mask: Option<&Tensor>, bandwidth: Option<f64>) -> Result<Encoded> {
        self.encode_chunks(waveform, padding_mask, bandwidth, None)
    }

    /// As [`Encodec::encode`], with a look at `encoder.layers.*`, `latents` and `residuals` of each chunk.
    ///
    /// # Errors
    /// As [`Encodec::encode`], and whatever the probe returns.
    pub fn encode_probed(
        &self,
        waveform: &Tensor,
        padding_mask: Option<&Tensor>,
        bandwidth: Option<f64>,
        probe: &mut dyn Probe,
    ) -> Result<Encoded> {
        self.encode_chunks(waveform, padding_mask, bandwidth, Some(probe))
    }

    /// Waveform `[batch, channels, samples]` to codes `[batch, codebooks, frames]` at the lowest bit rate, for models whose
    /// signal is one chunk and is not normalised, as those of MusicGen.
    ///
    /// # Errors
    /// As [`Encodec::encode`], or the model is of another kind.
    pub fn encode_codes(&self, waveform: &Tensor, padding_mask: Option<&Tensor>) -> Result<Tensor> {
        self.expect_plain()?;
        Ok(self.encode(waveform, padding_mask, None)?.codes.squeeze(0)?)
    }

    fn expect_plain(&self) -> Result<()> {
        if self.config.chunks().is_some() || self.config.normalize {
            let found = format!("chunk_length_s {:?}, normalize {}", self.config.chunk_length_s, self.config.normalize);
            return Err(Error::argument("EnCodec", found, "a model with one chunk and without normalisation"));
        }
        Ok(())
    }

    fn encode_chunks(
        &self,
        waveform: &Tensor,
        padding_mask: Option<&Tensor>,
        bandwidth: Option<f64>,
        mut probe: Option<&mut dyn Probe>,
    ) -> Result<Encoded> {
        let codebooks = self.config.codebooks_for(bandwidth)?;
        let (batch, channels, samples) = waveform.dims3()?;
        if channels != self.config.audio_channels || samples == 0 || batch == 0 {
            let expected = format!("[batch, {}, samples]", self.config.audio_channels);
            return Err(Error::argument("waveform", format!("{:?}", waveform.dims()), expected));
        }
        let mut waveform = waveform.to_device(&self.device)?.to_dtype(DType::F32)?;
        if let Some(mask) = padding_mask {
            let mask = mask.to_device(&self.device)?.to_dtype(DType::F32)?;
            waveform = waveform.broadcast_mul(&mask.reshape((batch, (), samples))?)?;
        }
        let (length, stride) = self.config.chunks().unwrap_or((samples, samples));
        let mut codes = Vec::new();
        let mut scales = Vec::new();
        for offset in (0..samples).step_by(stride) {
            let mut chunk = waveform.narrow(2, offset, length.min(samples - offset))?;
            if self.config.normalize {
                let scale = (chunk.mean_keepdim(1)?.sqr()?.mean_keepdim(2)?.sqrt()? + 1e-8)?;
                chunk = chunk.broadcast_div(&scale)?;
                scales.push(scale.flatten_from(1)?);
            }
            codes.push(match probe.as_deref_mut() {
                Some(probe) => self.encode_whole(&chunk, codebooks, probe)?,
                None => self.encode_blocks(&chunk, codebooks)?,
            });
        }
        let frames = codes[0].dim(2)?;
        let last = codes.len() - 1;
        let last_frame_pad_length = frames.saturating_sub(codes[last].dim(2)?);
        codes[last] = codes[last].pad_with_zeros(2, 0, last_frame_pad_length)?;
        Ok(Encoded {
            codes: Tensor::stack(&codes, 0)?,
            scales: if scales.is_empty() { None } else { Some(Tensor::stack(&scales, 0)?) },
            last_frame_pad_length,
        })
    }

    fn encode_whole(&self, chunk: &Tensor, codebooks: usize, probe: &mut dyn Probe) -> Result<Tensor> {
        let latents = self.encoder.forward(&chunk.to_dtype(self.dtype)?.contiguous()?, probe)?;
        probe.see("latents", &latents)?;
        Ok(self.quantizer.encode(&latents, codebooks, probe)?)
    }

    /// Codes of one chunk `[batch, codebooks, frames]`, block by block where the layers allow it.
    fn encode_blocks(&self, chunk: &Tensor, codebooks: usize) -> Result<Tensor> {
        let samples = chunk.dim(2)?;
        let block = BLOCK_FRAMES * self.config.hop_length();
        if samples <= block || self.config.norm_type != NormType::WeightNorm {
            return self.encode_whole(chunk, codebooks, &mut ());
        }
        let mut codes = Vec::with_capacity(samples.div_ceil(block));
        let mut state = self.encoder.start();
        for offset in (0..samples).step_by(block) {
            let count = block.min(samples - offset);
            let xs = chunk.narrow(2, offset, count)?.to_dtype(self.dtype)?.contiguous()?;
            if let Some(latents) = self.encoder.push(&mut state, Some(xs), offset + count == samples)? {
                codes.push(self.quantizer.encode(&latents, codebooks, &mut ())?);
            }
        }
        Ok(Tensor::cat(&codes, 2)?)
    }

    /// Codes to waveform `[batch, channels, samples]`, cut to `samples` where that is given and shorter.
    ///
    /// # Errors
    /// A code is not below `codebook_size`, or a shape does not fit.
    pub fn decode(&self, encoded: &Encoded, samples: Option<usize>) -> Result<Tensor> {
        let (chunks, _, _, frames) = encoded.codes.dims4()?;
        if chunks == 0 || frames <= encoded.last_frame_pad_length {
            return Err(Error::argument("codes", format!("{:?}", encoded.codes.dims()), "at least one frame a chunk"));
        }
        let chunked = self.config.chunks();
        if chunked.is_none() && chunks != 1 {
            return Err(Error::argument("codes", format!("{chunks} chunks"), "one chunk for this model"));
        }
        let mut parts = Vec::with_capacity(chunks);
        for i in 0..chunks {
            let unused = if i + 1 == chunks { encoded.last_frame_pad_length } else { 0 };
            let part = self.decode_codes(&encoded.codes.get(i)?.narrow(2, 0, frames - unused)?)?;
            parts.push(match &encoded.scales {
                Some(scales) => part.broadcast_mul(&scales.get(i)?.unsqueeze(2)?.to_dtype(DType::F32)?)?,
                None => part,
            });
        }
        let waveform = match chunked {
            Some((_, stride)) => overlap_add(&parts, stride)?,
            None => parts.swap_remove(0),
        };
        match samples {
            Some(samples) if samples < waveform.dim(2)? => Ok(waveform.narrow(2, 0, samples)?),
            _ => Ok(waveform),
        }
    }

    /// Codes of one chunk `[batch, codebooks, frames]` to waveform `[batch, channels, frames * hop_length]`, f32.
    ///
    /// # Errors
    /// A code is not below `codebook_size`, or a shape does not fit.
    pub fn decode_codes(&self, codes: &Tensor) -> Result<Tensor> {
        let frames = codes.dims3()?.2;
        if frames <= BLOCK_FRAMES || self.config.norm_type != NormType::WeightNorm {
            return self.decode_probed(codes, &mut ());
        }
        let mut state = self.decoder.start();
        let mut waveform = Vec::with_capacity(frames.div_ceil(BLOCK_FRAMES));
        for start in (0..frames).step_by(BLOCK_FRAMES) {
            let count = BLOCK_FRAMES.min(frames - start);
            let block = codes.narrow(2, start, count)?;
            waveform.extend(self.decode_block(&mut state, Some(&block), start + count == frames)?);
        }
        Ok(Tensor::cat(&waveform, 2)?)
    }

    /// As [`Encodec::decode_codes`] but never in blocks, with a look at `quantized` and `decoder.layers.*`.
    ///
    /// # Errors
    /// As [`Encodec::decode_codes`], and whatever the probe returns.
    pub fn decode_probed(&self, codes: &Tensor, probe: &mut dyn Probe) -> Result<Tensor> {
        let quantized = self.quantized(codes)?;
        probe.see("quantized", &quantized)?;
        Ok(self.decoder.forward(&quantized.to_dtype(self.dtype)?, probe)?.to_dtype(DType::F32)?)
    }

    fn quantized(&self, codes: &Tensor) -> Result<Tensor> {
        Ok(self.quantizer.decode(&codes.to_device(&self.device)?)?)
    }

    /// Begins decoding of codes that come in blocks.
    ///
    /// # Errors
    /// The model cannot be streamed, see [`Encodec::can_stream`].
    pub fn stream(&self) -> Result<StreamDecoder<'_>> {
        if !self.can_stream() {
            let found = format!("{:?}, chunk_length_s {:?}", self.config.norm_type, self.config.chunk_length_s);
            return Err(Error::argument("EnCodec", found, "weight_norm and no chunks, to decode block by block"));
        }
        Ok(StreamDecoder::new(self))
    }

    pub(super) fn start_decoder(&self) -> StackState {
        self.decoder.start()
    }

    /// The next codes `[batch, codebooks, frames]` to what can be said of the waveform.
    pub(super) fn decode_block(
        &self,
        state: &mut StackState,
        codes: Option<&Tensor>,
        last: bool,
    ) -> Result<Option<Tensor>> {
        let xs = codes.map(|codes| Ok::<_, Error>(self.quantized(codes)?.to_dtype(self.dtype)?)).transpose()?;
        let ys = self.decoder.push(state, xs, last)?;
        Ok(ys.map(|ys| ys.to_dtype(DType::F32)).transpose()?)
    }
}

/// Chunks `[batch, channels, time]`, one every `stride` samples, weighted by a triangle and divided by the summed weights.
///
/// The triangle is that of the first chunk; a shorter chunk takes its beginning.
fn overlap_add(chunks: &[Tensor], stride: usize) -> Result<Tensor> {
    let length = chunks[0].dim(2)?;
    let triangle: Vec<f32> = (1..=length)
        .map(|i| {
            let t = i as f64 / (length + 1) as f64;
            (0.5 - (t - 0.5).abs()) as f32
        })
        .collect();
    let device = chunks[0].device();
    let triangle = Tensor::from_vec(triangle, (1, 1, length), device)?;
    // Segments between two chunk starts are complete once the later chunk is known; `open` begins at the current start.
    let mut done = Vec::with_capacity(chunks.len());
    let mut open: Option<(Tensor, Tensor)> = None;
    for (i, chunk) in chunks.iter().enumerate() {
        let time = chunk.dim(2)?;
        let weight = triangle.narrow(2, 0, time)?;
        let (sum, weight) = match open.take() {
            None => (chunk.broadcast_mul(&weight)?, weight),
            Some((sum, sum_weight)) => {
                (add_padded(&sum, &chunk.broadcast_mul(&weight)?)?, add_padded(&sum_weight, &weight)?)
            }
        };
        let total = sum.dim(2)?;
        let ready = if i + 1 == chunks.len() { total } else { stride.min(total) };
        done.push(sum.narrow(2, 0, ready)?.broadcast_div(&weight.narrow(2, 0, ready)?)?);
        if ready < total {
            open = Some((sum.narrow(2, ready, total - ready)?, weight.narrow(2, ready, total - ready)?));
        }
    }
    Ok(Tensor::cat(&done, 2)?)
}

/// Sum of two signals that begin together, the shorter one followed by silence.
fn add_padded(a: &Tensor, b: &Tensor) -> candle_core::Result<Tensor> {
    let time = a.dim(2)?.max(b.dim(2)?);
    let (a, b) = (a.pad_with_zeros(2, 0, time - a.dim(2)?)?, b.pad_with_zeros(2, 0, time - b.dim(2)?)?);
    a + b
}
