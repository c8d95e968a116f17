//! The codec as MusicGen uses it: one mono EnCodec, for stereo once a channel.

use candle_core::{DType, Device, Tensor};
use musaic_core::{Error, Result};

use super::{Musicgen, delay::Codes};
use crate::encodec::{Encodec, StreamDecoder};

impl Musicgen {
    /// An audio prompt `[batch, channels, samples]` at the codec's rate to codes `[batch, codebooks, frames]`, not delayed.
    /// `padding_mask [batch, samples]` is 1 where there is sound.
    ///
    /// # Errors
    /// The channels are not the model's, or a shape differs.
    pub fn prompt_codes(&self, audio: &Tensor, padding_mask: Option<&Tensor>) -> Result<Codes> {
        let channels = self.config().decoder.audio_channels;
        if audio.rank() != 3 || audio.dims()[1] != channels {
            let expected = format!("[batch, {channels}, samples]");
            return Err(Error::argument("prompt audio", format!("{:?}", audio.dims()), expected));
        }
        let encoded = (0..channels)
            .map(|c| self.codec().encode_codes(&audio.narrow(1, c, 1)?, padding_mask))
            .collect::<Result<Vec<_>>>()?;
        let (batch, codebooks, frames) = encoded[0].dims3()?;
        // Channels alternate: codebook k of channel c is row k * channels + c.
        let codes = Tensor::stack(&encoded, 2)?.reshape((batch, codebooks * channels, frames))?;
        let wanted = self.config().decoder.num_codebooks;
        if codebooks * channels < wanted {
            let found = format!("{} codebooks", codebooks * channels);
            return Err(Error::argument("codec", found, format!("at least {wanted}")));
        }
        Codes::from_tensor(&codes.narrow(1, 0, wanted)?.contiguous()?, wanted)
    }

    /// Codes `[batch, codebooks, frames]` to waveform `[batch, channels, frames * hop]` f32.
    ///
    /// # Errors
    /// A code is out of range.
    pub fn waveform(&self, codes: &Codes) -> Result<Tensor> {
        let parts = split(codes, self.config().decoder.audio_channels, self.lm().device())?;
        let waves = parts.iter().map(|codes| self.codec().decode_codes(codes)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&waves, 1)?)
    }
}

/// Codes of each channel, `[batch, codebooks / channels, frames]`.
fn split(codes: &Codes, channels: usize, device: &Device) -> candle_core::Result<Vec<Tensor>> {
    let all = codes.to_tensor(device)?.reshape((codes.batch, codes.codebooks / channels, channels, codes.length))?;
    (0..channels).map(|c| all.narrow(2, c, 1)?.squeeze(2)?.contiguous()).collect()
}

/// Decodes codes of one piece block by block, all channels in step.
pub(super) struct Stream<'m> {
    channels: Vec<StreamDecoder<'m>>,
    device: Device,
}

impl<'m> Stream<'m> {
    pub fn new(codec: &'m Encodec, channels: usize, device: &Device) -> Result<Self> {
        let channels = (0..channels).map(|_| codec.stream()).collect::<Result<_>>()?;
        Ok(Self { channels, device: device.clone() })
    }

    /// Samples of each channel that the next codes make certain.
    pub fn push(&mut self, codes: &Codes) -> Result<Vec<Vec<f32>>> {
        let parts = split(codes, self.channels.len(), &self.device)?;
        self.channels.iter_mut().zip(&parts).map(|(stream, codes)| samples(stream.push(codes)?)).collect()
    }

    /// The samples that were held back.
    pub fn finish(self) -> Result<Vec<Vec<f32>>> {
        self.channels.into_iter().map(|stream| samples(stream.finish()?)).collect()
    }
}

fn samples(block: Option<Tensor>) -> Result<Vec<f32>> {
    match block {
        Some(block) => Ok(block.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?),
        None => Ok(Vec::new()),
    }
}
