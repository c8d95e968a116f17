//! Where a take goes while it is made: limited, measured, written.

use std::time::{Duration, Instant};

use musaic_core::{
    Result,
    media::{Audio, AudioWriter, Limiter, Tags, Written, normalize},
    role::{AudioSink, Cancel, DecoderSpec},
};

/// Peaks are kept under this, so that encoding to a lossy format does not clip either.
pub const CEILING_DBFS: f64 = -0.3;

/// Reports the state of a take to whoever shows it.
pub trait Watch {
    /// `done` of `total` steps are made.
    fn progress(&mut self, done: usize, total: usize);
}

/// What became of a take's sound.
#[derive(Debug, Clone)]
pub struct Finished {
    /// What the writer says about the file.
    pub written: Written,
    /// Greatest gain reduction of the limiter, in dB.
    pub limited_db: f64,
    /// Time from the start of the take to its first samples.
    pub first_sound: Option<Duration>,
}

/// Takes blocks from a decoder and writes them as they come, or, where the loudness is to be set, at the end.
pub struct TakeSink<'a> {
    writer: AudioWriter,
    limiter: Limiter,
    whole: Option<(Audio, f64)>,
    watch: &'a mut dyn Watch,
    stop_after: Option<(usize, Cancel)>,
    started: Instant,
    first_sound: Option<Duration>,
}

impl<'a> TakeSink<'a> {
    /// A sink over `writer`; with `normalize_lufs` the take is held until it is complete.
    ///
    /// # Errors
    /// The limiter refuses the decoder's rate.
    pub fn new(
        spec: &DecoderSpec,
        writer: AudioWriter,
        normalize_lufs: Option<f64>,
        watch: &'a mut dyn Watch,
    ) -> Result<Self> {
        let empty = Audio { channels: vec![Vec::new(); spec.channels], sample_rate_hz: spec.sample_rate_hz };
        Ok(Self {
            writer,
            limiter: Limiter::new(spec.sample_rate_hz, spec.channels, CEILING_DBFS)?,
            whole: normalize_lufs.map(|lufs| (empty, lufs)),
            watch,
            stop_after: None,
            started: Instant::now(),
            first_sound: None,
        })
    }

    /// Asks to stop once so many steps are made: where the user did when the piece was made first.
    #[must_use]
    pub fn stop_after(mut self, steps: usize, cancel: Cancel) -> Self {
        self.stop_after = Some((steps, cancel));
        self
    }

    /// Replaces the texts of the file by others of the same length.
    ///
    /// # Errors
    /// The file cannot be written, or is a stream.
    pub fn retag(&mut self, tags: &Tags) -> Result<()> {
        self.writer.retag(tags)
    }

    /// Writes what is held back and closes the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(mut self) -> Result<Finished> {
        let limited_db = match self.whole.take() {
            Some((mut audio, lufs)) => {
                let normalized = normalize(&mut audio, lufs, CEILING_DBFS)?;
                write(&mut self.writer, &audio.channels)?;
                normalized.limited_db
            }
            None => {
                write(&mut self.writer, &self.limiter.finish())?;
                self.limiter.max_reduction_db()
            }
        };
        Ok(Finished { written: self.writer.finish()?, limited_db, first_sound: self.first_sound })
    }
}

impl AudioSink for TakeSink<'_> {
    fn block(&mut self, channels: &[&[f32]]) -> Result<()> {
        if self.first_sound.is_none() && channels.first().is_some_and(|c| !c.is_empty()) {
            self.first_sound = Some(self.started.elapsed());
        }
        match &mut self.whole {
            Some((audio, _)) => {
                for (all, new) in audio.channels.iter_mut().zip(channels) {
                    all.extend_from_slice(new);
                }
                Ok(())
            }
            None => {
                let ready = self.limiter.process(channels)?;
                write(&mut self.writer, &ready)
            }
        }
    }

    fn progress(&mut self, done: usize, total: usize) {
        self.watch.progress(done, total);
        if let Some((steps, cancel)) = &self.stop_after
            && done >= *steps
        {
            cancel.cancel();
        }
    }
}

/// A take that stays in memory.
pub struct Tape<'a> {
    /// What was played so far.
    pub audio: Audio,
    watch: &'a mut dyn Watch,
}

impl<'a> Tape<'a> {
    /// An empty tape of the decoder's rate and channels.
    pub fn new(spec: &DecoderSpec, watch: &'a mut dyn Watch) -> Self {
        let channels = vec![Vec::new(); spec.channels];
        Self { audio: Audio { channels, sample_rate_hz: spec.sample_rate_hz }, watch }
    }
}

impl AudioSink for Tape<'_> {
    fn block(&mut self, channels: &[&[f32]]) -> Result<()> {
        for (all, new) in self.audio.channels.iter_mut().zip(channels) {
            all.extend_from_slice(new);
        }
        Ok(())
    }

    fn progress(&mut self, done: usize, total: usize) {
        self.watch.progress(done, total);
    }
}

fn write(writer: &mut AudioWriter, channels: &[Vec<f32>]) -> Result<()> {
    let planar: Vec<&[f32]> = channels.iter().map(Vec::as_slice).collect();
    writer.write(&planar)
}
