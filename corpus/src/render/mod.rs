//! Rendering: a score through a sound font to a mono waveform.
//!
//! The synthesiser runs at twice the asked rate and a half-band filter takes its output down, since its linear
//! interpolation leaves images near its own Nyquist frequency. Effects are this crate's own and cheap; see [`mix`].

mod filters;
pub mod mix;

use std::path::Path;
use std::sync::Arc;

use rustysynth::{SoundFont, Synthesizer, SynthesizerSettings};

use crate::error::{Error, Result};
use crate::score::{Part, Score};
pub use mix::Mix;

/// Where Debian's `fluid-soundfont-gm` (MIT) puts its font.
pub const DEFAULT_SOUND_FONT: &str = "/usr/share/sounds/sf2/FluidR3_GM.sf2";

/// Seconds after the last bar for notes and room to ring out.
pub const TAIL_S: f64 = 0.75;

/// Synthesiser block, in samples: events are placed to this grid (2 ms at 32 kHz).
const BLOCK: usize = 64;

/// A loaded sound font; cheap to share among threads.
#[derive(Clone)]
pub struct Renderer {
    font: Arc<SoundFont>,
    sample_rate: u32,
}

struct Event {
    at: usize,
    channel: i32,
    key: i32,
    velocity: i32,
}

impl Renderer {
    /// Loads the sound font at `path` for rendering at `sample_rate`.
    ///
    /// # Errors
    /// If the file cannot be read or parsed, or the rate is neither 16000 nor 32000.
    pub fn open(path: &Path, sample_rate: u32) -> Result<Self> {
        if ![16_000, 32_000].contains(&sample_rate) {
            return Err(Error::Rate { rate: sample_rate });
        }
        let file = std::fs::File::open(path).map_err(|source| Error::Io { path: path.into(), source })?;
        let font = SoundFont::new(&mut std::io::BufReader::new(file))
            .map_err(|cause| Error::SoundFont { path: path.into(), cause: cause.to_string() })?;
        Ok(Self { font: Arc::new(font), sample_rate })
    }

    /// Samples a second of what [`Renderer::render`] returns.
    pub fn sample_rate(&self) -> u32 {
        self.sample_rate
    }

    /// Renders `score` with the effects of `mix`: mono samples in `[-1, 1]`, normalised in loudness.
    ///
    /// # Errors
    /// If the synthesiser refuses its settings.
    pub fn render(&self, score: &Score, mix: &Mix) -> Result<Vec<f32>> {
        let dry = self.synthesise(score)?;
        Ok(mix.apply(filters::halve(&dry), self.sample_rate as f32))
    }

    /// The plain synthesiser output at twice the sample rate.
    fn synthesise(&self, score: &Score) -> Result<Vec<f32>> {
        let rate = 2 * self.sample_rate;
        let mut settings = SynthesizerSettings::new(rate as i32);
        settings.block_size = BLOCK;
        settings.maximum_polyphony = 48;
        settings.enable_reverb_and_chorus = false;
        let refused = |cause: rustysynth::SynthesizerError| Error::Synthesizer { rate, cause: cause.to_string() };
        let mut synth = Synthesizer::new(&self.font, &settings).map_err(refused)?;
        set_up(&mut synth, score);
        let events = events(score, f64::from(rate));
        let total = ((score.seconds() + TAIL_S) * f64::from(rate)) as usize;
        let mut out = Vec::with_capacity(total + BLOCK);
        let (mut left, mut right) = ([0f32; BLOCK], [0f32; BLOCK]);
        let mut next = 0;
        while out.len() < total {
            while let Some(event) = events.get(next).filter(|event| event.at <= out.len()) {
                if event.velocity > 0 {
                    synth.note_on(event.channel, event.key, event.velocity);
                } else {
                    synth.note_off(event.channel, event.key);
                }
                next += 1;
            }
            synth.render(&mut left, &mut right);
            out.extend(left.iter().zip(&right).map(|(l, r)| 0.5 * (l + r)));
        }
        out.truncate(total);
        Ok(out)
    }
}

/// The channel of a track: melodic parts in order, drums on the percussion channel.
fn channel(part: Part) -> i32 {
    if part == Part::Drums { Synthesizer::PERCUSSION_CHANNEL as i32 } else { part as i32 }
}

fn set_up(synth: &mut Synthesizer, score: &Score) {
    for track in &score.tracks {
        let channel = channel(track.part);
        synth.process_midi_message(channel, 0xC0, i32::from(track.program), 0);
        synth.process_midi_message(channel, 0xB0, 7, i32::from(track.volume));
        synth.process_midi_message(channel, 0xB0, 10, i32::from(track.pan));
    }
}

fn events(score: &Score, rate: f64) -> Vec<Event> {
    let sample = |beat: f64| (beat * 60.0 / score.tempo_bpm * rate) as usize;
    let mut events = Vec::new();
    for track in &score.tracks {
        let channel = channel(track.part);
        for note in &track.notes {
            let key = i32::from(note.key);
            events.push(Event { at: sample(note.start), channel, key, velocity: i32::from(note.velocity) });
            events.push(Event { at: sample(note.start + note.length), channel, key, velocity: 0 });
        }
    }
    // At one time, ends come before beginnings, or a repeated key would cut itself off.
    events.sort_by_key(|event| (event.at, event.velocity > 0));
    events
}

/// Writes mono samples as a 16-bit WAV file, through a temporary name so that a file that exists is whole.
///
/// # Errors
/// If the file cannot be written.
pub fn write_wav(path: &Path, samples: &[f32], sample_rate: u32) -> Result<()> {
    let partial = path.with_extension("wav.part");
    let failed = |source| Error::Wav { path: partial.clone(), source };
    let spec =
        hound::WavSpec { channels: 1, sample_rate, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut writer = hound::WavWriter::create(&partial, spec).map_err(failed)?;
    let mut block = writer.get_i16_writer(samples.len() as u32);
    for sample in samples {
        block.write_sample((sample.clamp(-1.0, 1.0) * 32767.0).round() as i16);
    }
    block.flush().map_err(failed)?;
    writer.finalize().map_err(failed)?;
    std::fs::rename(&partial, path).map_err(|source| Error::Io { path: path.into(), source })
}
