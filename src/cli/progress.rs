//! A progress line on stderr, where somebody can see it.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::pipeline::sink::Watch;

/// Rate, real-time factor and time left of one take.
pub struct Progress {
    bar: ProgressBar,
    started: Instant,
    frame_rate_hz: f64,
}

impl Progress {
    /// A line labelled `label`; silent when `quiet` or when stderr is no terminal.
    pub fn new(label: &str, frame_rate_hz: u32, quiet: bool) -> Self {
        let bar = ProgressBar::new(0);
        if quiet || !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:28} {pos}/{len} steps  {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(label.to_owned());
        Self { bar, started: Instant::now(), frame_rate_hz: f64::from(frame_rate_hz) }
    }

    fn update(&self, done: usize, total: usize) {
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
        let elapsed = self.started.elapsed().as_secs_f64();
        if elapsed > 0.0 && done > 0 {
            let rate = done as f64 / elapsed;
            let left = Duration::from_secs_f64((total.saturating_sub(done)) as f64 / rate);
            self.bar.set_message(format!(
                "{rate:.0} steps/s, {:.1}x real time, {} left",
                rate / self.frame_rate_hz,
                indicatif::HumanDuration(left)
            ));
        }
    }

    /// Takes the line away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// How many files of a run are done.
pub struct FileProgress {
    bar: ProgressBar,
}

impl FileProgress {
    /// A line for `files` files; silent when `quiet` or when stderr is no terminal.
    pub fn new(files: usize, quiet: bool) -> Self {
        let bar = ProgressBar::new(files as u64);
        if quiet || !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        if let Ok(style) = ProgressStyle::with_template("{bar:28} {pos}/{len} files, {eta} left  {msg}") {
            bar.set_style(style);
        }
        Self { bar }
    }

    /// `part` of `parts` of file number `file` (from 0) are done.
    pub fn at(&self, file: usize, name: &str, part: usize, parts: usize) {
        self.bar.set_position(file as u64);
        self.bar.set_message(if parts > 1 { format!("{name}, part {part} of {parts}") } else { name.to_owned() });
    }

    /// Takes the line away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Watch for Progress {
    fn progress(&mut self, done: usize, total: usize) {
        self.update(done, total);
    }
}
