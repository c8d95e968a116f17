//! What all parts of Musaic share, and that names no model: media files, weights, layers, devices, errors, role
//! traits, and the readers of formats that several of them come in.

pub mod device;
pub mod error;
pub mod files;
pub mod media;
pub mod nn;
pub mod probe;
pub mod role;
pub mod sentencepiece;
pub mod testing;
pub mod weights;

pub use device::{DeviceChoice, WeightFormat};
pub use error::{Error, Hint, Result};
