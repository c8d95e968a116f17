//! EnCodec: waveform to codes and back.
