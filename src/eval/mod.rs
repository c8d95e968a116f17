//! Evidence: does a model follow its prompt, judged by detectors that were themselves checked.
//!
//! `musaic eval` has five steps, and `docs/NANO.md` the numbers they gave:
//! - `codec`: how well the codec gives back held-out pieces;
//! - `fit`: trains the detectors ([`crate::listen`]) on training pieces that went through the codec;
//! - `detectors`: how often they are right on held-out pieces through the codec, whose truth is known;
//! - `nano`: generates from prompts that state an attribute, judges the clips, and sets the score against two controls,
//!   the same clips under shuffled prompts and real pieces through the codec;
//! - `joins`: whether a long piece can be heard to be made in windows.

pub mod codec;
pub mod fit;
pub mod joins;
pub mod model;
pub mod pieces;
pub mod prompts;
pub mod repeats;
pub mod score;
pub mod validate;

/// Length of the clips that are judged, in seconds.
pub const CLIP_S: usize = 10;
