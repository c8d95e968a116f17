//! Musaic: any medium in, music and understanding out.
//!
//! The crates below this one hold the parts ([`musaic_core`] what all share, [`musaic_adapters`] features on their way,
//! [`musaic_decoders`] conditioning -> audio); this
//! one knows the whole system: the registry of parts, the run configuration, one request from words to a file, the parity
//! runner and the command line.
//!
//! ```
//! use musaic::config::Layers;
//!
//! let config = Layers::defaults()?.finish()?;
//! assert_eq!(config.model, "nano");
//! # Ok::<(), musaic_core::Error>(())
//! ```

pub mod bench;
pub mod cli;
pub mod config;
pub mod eval;
pub mod failure;
#[cfg(feature = "hub")]
pub mod hub;
pub mod library;
pub mod listen;
pub mod llm;
pub mod pipeline;
pub mod registry;
pub mod train;
pub mod verify;
