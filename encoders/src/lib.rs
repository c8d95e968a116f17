//! Frozen feature extractors: media -> features `[batch, positions, dim]`.
//!
//! | model | hears or sees | features of the published checkpoint |
//! |---|---|---|
//! | [`mert`] | music at 24 kHz | `[1, 25, 1024]`: all hidden states, each its mean over time |
//! | [`vit`] | one picture, 224 x 224 | `[1, 197, 768]`: the last hidden state |
//! | [`vivit`] | 32 pictures, 224 x 224 | `[1, 3137, 768]`: the last hidden state |
//!
//! Of [`clap`] and [`lp_music_caps`] there is what lies in front of the model: sound to log-mel pictures.
//!
//! Each is loaded from its folder as it was published (`config.json`, `preprocessor_config.json`, `model.safetensors` or
//! `pytorch_model.bin`) and used through [`musaic_core::role::Encoder`].

mod activation;
pub mod clap;
mod files;
pub mod lp_music_caps;
pub mod mert;
pub mod vision;
pub mod vit;
pub mod vivit;

pub use self::{activation::Activation, files::model_type};
