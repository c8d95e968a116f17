//! Conditioning -> audio: MusicGen and the parts it is made of.
