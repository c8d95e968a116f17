//! Conditioning -> audio: MusicGen and the parts it is made of.
//!
//! `musicgen` is the decoder; `t5` (its text encoder) and `encodec` (its codec) are shared parts that other decoders use too.

pub mod encodec;
pub mod musicgen;
pub mod t5;
