//! Loudness after EBU R 128, and normalisation to it.

use ebur128::{EbuR128, Mode};

use super::{Audio, Limiter, decibels};
use crate::{Error, Result};

/// Shortest piece the gating of the standard can measure.
const GATE_S: f64 = 0.4;

/// What a piece measures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loudness {
    /// Integrated loudness in LUFS; minus infinity for silence.
    pub integrated_lufs: f64,
    /// Largest sample in dBFS.
    pub sample_peak_dbfs: f64,
    /// Largest value between the samples too, by oversampling, in dBTP.
    pub true_peak_dbtp: f64,
}

/// Measures a piece. One shorter than the 0.4 s of a gating block is measured as if it repeated.
///
/// # Errors
/// The audio has no channel, more than 64, or a rate outside 16 Hz to 2.8 MHz.
pub fn loudness(audio: &Audio) -> Result<Loudness> {
    let refused = |source: ebur128::Error| {
        let found = format!("{} channels at {} Hz ({source})", audio.channels.len(), audio.sample_rate_hz);
        Error::argument("audio to measure", found, "1 to 64 channels at a usual rate")
    };
    let mut meter =
        EbuR128::new(audio.channels.len() as u32, audio.sample_rate_hz, Mode::I | Mode::TRUE_PEAK).map_err(refused)?;
    let gate = (GATE_S * f64::from(audio.sample_rate_hz)).ceil() as usize;
    let rounds = if audio.is_empty() { 0 } else { gate.div_ceil(audio.len()).max(1) };
    for _ in 0..rounds {
        meter.add_frames_planar_f32(&audio.planes()).map_err(refused)?;
    }
    let mut true_peak = 0f64;
    for channel in 0..audio.channels.len() {
        true_peak = true_peak.max(meter.true_peak(channel as u32).map_err(refused)?);
    }
    Ok(Loudness {
        integrated_lufs: meter.loudness_global().map_err(refused)?,
        sample_peak_dbfs: decibels(f64::from(audio.peak())),
        true_peak_dbtp: decibels(true_peak),
    })
}

/// What normalisation did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalized {
    /// Before.
    pub before: Loudness,
    /// After; above the target's reach where the limiter had to work.
    pub after: Loudness,
    /// Gain applied to the whole piece, in dB.
    pub gain_db: f64,
    /// The most the limiter turned a peak down, in dB.
    pub limited_db: f64,
}

/// Brings a piece to `target_lufs`, with peaks limited to `ceiling_dbfs`. Silence stays silence.
///
/// # Errors
/// The target is outside -70 to 0 LUFS, the ceiling above 0 dBFS, or the audio cannot be measured.
pub fn normalize(audio: &mut Audio, target_lufs: f64, ceiling_dbfs: f64) -> Result<Normalized> {
    if !(-70.0..=0.0).contains(&target_lufs) {
        return Err(Error::argument("target loudness", format!("{target_lufs} LUFS"), "-70 to 0 LUFS"));
    }
    let before = loudness(audio)?;
    let gain_db = if before.integrated_lufs.is_finite() { target_lufs - before.integrated_lufs } else { 0.0 };
    let gain = 10f64.powf(gain_db / 20.0) as f32;
    audio.channels.iter_mut().flatten().for_each(|x| *x *= gain);
    let mut limiter = Limiter::new(audio.sample_rate_hz, audio.channels.len(), ceiling_dbfs)?;
    let mut limited = limiter.process(&audio.planes())?;
    for (channel, rest) in limited.iter_mut().zip(limiter.finish()) {
        channel.extend(rest);
    }
    audio.channels = limited;
    Ok(Normalized { before, after: loudness(audio)?, gain_db, limited_db: limiter.max_reduction_db() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::tests::tone;

    /// EBU Tech 3341, case 1: a stereo sine of 1 kHz at -23 dBFS reads -23 LUFS.
    #[test]
    fn the_reference_tone() {
        let mut audio = tone(1000.0, 10f64.powf(-23.0 / 20.0), 20.0, 48_000, 1);
        audio.channels.push(audio.channels[0].clone());
        let measured = loudness(&audio).unwrap();
        assert!((measured.integrated_lufs + 23.0).abs() < 0.1, "{measured:?}");
        assert!((measured.sample_peak_dbfs + 23.0).abs() < 0.01, "{measured:?}");
        assert!((measured.true_peak_dbtp + 23.0).abs() < 0.2, "{measured:?}");
    }

    #[test]
    fn normalises_up_and_down() {
        for amplitude in [0.01, 0.9] {
            let mut audio = tone(440.0, amplitude, 3.0, 32_000, 1);
            let report = normalize(&mut audio, -14.0, -1.0).unwrap();
            assert!((report.after.integrated_lufs + 14.0).abs() < 0.05, "{report:?}");
            assert_eq!(report.limited_db, 0.0);
        }
    }

    #[test]
    fn loud_targets_are_limited_not_clipped() {
        let mut audio = tone(440.0, 0.5, 3.0, 32_000, 2);
        let report = normalize(&mut audio, -1.0, -1.0).unwrap();
        assert!(report.limited_db > 0.5, "{report:?}");
        assert!(audio.peak() <= 10f32.powf(-1.0 / 20.0));
    }

    #[test]
    fn silence_and_short_pieces() {
        let mut silence = Audio::mono(vec![0.0; 16_000], 16_000);
        let report = normalize(&mut silence, -14.0, -1.0).unwrap();
        assert_eq!((report.gain_db, silence.peak()), (0.0, 0.0));
        assert!(loudness(&tone(440.0, 0.1, 0.1, 16_000, 1)).unwrap().integrated_lufs > -30.0);
        assert_eq!(loudness(&Audio::mono(Vec::new(), 16_000)).unwrap().integrated_lufs, f64::NEG_INFINITY);
    }
}
