//! Musaic: any medium in, music and understanding out.
