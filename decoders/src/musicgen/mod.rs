//! MusicGen: text, states or audio to codes to audio.
