//! Conditioning of the melody variant: chroma and text states in front of the codes, no cross attention.
//!
//! Conventions: the projected chroma is tiled as a whole to `chroma_length` frames and cut there; text states are zeros at
//! padding but not masked; positions count the prefix. Without a melody, and in the unguided half, every chroma frame is
//! the first bin; the text of the unguided half is zero after the projection.

use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};
use musaic_core::{nn::Linear, weights::Weights};

use super::config::{MusicgenConfig, Variant};

/// The projection of chroma, and how long it is made.
#[derive(Debug, Clone)]
pub struct MelodyPrefix {
    audio_enc_to_dec_proj: Linear,
    num_chroma: usize,
    chroma_length: usize,
}

impl MelodyPrefix {
    /// Loads `audio_enc_to_dec_proj`, or gives nothing where the model is not a melody variant.
    ///
    /// # Errors
    /// The file cannot be read, or chroma is as wide as the decoder (the published code then has no projection).
    pub fn load(config: &MusicgenConfig, weights: &Weights) -> musaic_core::Result<Option<Self>> {
        let Variant::Melody { num_chroma, chroma_length } = config.variant else { return Ok(None) };
        let width = config.decoder.hidden_size;
        if num_chroma == width {
            let what = format!("num_chroma = {num_chroma} equals decoder.hidden_size, expected different widths");
            return Err(musaic_core::Error::config(Path::new("config.json"), what));
        }
        let projection = Linear::load(num_chroma, width, true, &weights.pp("audio_enc_to_dec_proj"))?;
        Ok(Some(Self { audio_enc_to_dec_proj: projection, num_chroma, chroma_length }))
    }

    /// Bins of the chroma it takes.
    pub fn num_chroma(&self) -> usize {
        self.num_chroma
    }

    /// The states in front of the codes for `text [batch, length, hidden]` (projected and masked) and
    /// `chroma [batch, frames, num_chroma]`: with both, and with neither, each `[batch, chroma_length + length, hidden]`.
    ///
    /// # Errors
    /// A shape differs.
    pub fn states(&self, text: &Tensor, chroma: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let batch = text.dim(0)?;
        let none = self.no_melody(batch, text.device(), text.dtype())?;
        let silent = self.project(&none)?;
        let heard = match chroma {
            Some(chroma) if chroma.dim(1)? > 0 => self.project(&chroma.to_dtype(text.dtype())?)?,
            _ => silent.clone(),
        };
        Ok((Tensor::cat(&[&heard, text], 1)?, Tensor::cat(&[&silent, &text.zeros_like()?], 1)?))
    }

    /// One frame whose first bin is 1.
    fn no_melody(&self, batch: usize, device: &Device, dtype: DType) -> Result<Tensor> {
        let mut frame = vec![0f32; self.num_chroma];
        frame[0] = 1.0;
        let frame = Tensor::from_vec(frame, (1, 1, self.num_chroma), device)?;
        frame.to_dtype(dtype)?.repeat((batch, 1, 1))
    }

    fn project(&self, chroma: &Tensor) -> Result<Tensor> {
        let projected = self.audio_enc_to_dec_proj.forward(chroma)?;
        let times = self.chroma_length.div_ceil(projected.dim(1)?);
        projected.repeat((1, times, 1))?.narrow(1, 0, self.chroma_length)
    }
}
