//! A picture of the sound: time to the right, pitch upwards (logarithmic), level as colour, with scales in figures.

use std::io::{BufWriter, Write};
use std::path::Path;

use image::{ExtendedColorType, ImageEncoder, Rgb, RgbImage, codecs::png::PngEncoder};

use super::measure::Analyser;
use super::{Audio, decibels};
use crate::{Error, Result};

/// Room for the scales, in pixels.
const LEFT: u32 = 46;
const RIGHT: u32 = 70;
const TOP: u32 = 12;
const BOTTOM: u32 = 28;
/// Length of a frame in seconds: 20 Hz resolution, enough to part the notes above the bass.
const FRAME_S: f64 = 0.05;

const BACKGROUND: Rgb<u8> = Rgb([18, 18, 22]);
const INK: Rgb<u8> = Rgb([214, 214, 220]);
/// From silence to the loudest: night blue, violet, red, amber, pale yellow; lightness rises all the way.
const COLOURS: [[u8; 3]; 6] =
    [[6, 6, 18], [44, 22, 92], [132, 32, 112], [212, 66, 70], [246, 150, 48], [252, 248, 200]];

/// How the picture is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct SpectrogramOptions {
    /// Width of the picture in pixels, scales included.
    pub width: u32,
    /// Height of the picture in pixels, scales included.
    pub height: u32,
    /// Lowest pitch in Hz; the highest is half the sample rate.
    pub min_hz: f64,
    /// Range of the colours below the loudest point, in dB.
    pub range_db: f64,
}

impl Default for SpectrogramOptions {
    fn default() -> Self {
        Self { width: 1200, height: 400, min_hz: 40.0, range_db: 80.0 }
    }
}

impl SpectrogramOptions {
    fn check(&self) -> Result<()> {
        for (name, value, least) in [("width", self.width, 200), ("height", self.height, 100)] {
            if !(least..=16_384).contains(&value) {
                return Err(Error::argument(name, value.to_string(), format!("{least} to 16384 pixels")));
            }
        }
        if !(1.0..=20_000.0).contains(&self.min_hz) || !(10.0..=200.0).contains(&self.range_db) {
            let found = format!("{} Hz, {} dB", self.min_hz, self.range_db);
            return Err(Error::argument("lowest pitch and range", found, "1 to 20000 Hz, 10 to 200 dB"));
        }
        Ok(())
    }
}

/// Draws the mixdown and gives the picture as RGB rows.
///
/// # Errors
/// The options are out of range, or the audio is empty.
pub fn spectrogram(audio: &Audio, options: &SpectrogramOptions) -> Result<RgbImage> {
    options.check()?;
    if audio.is_empty() {
        return Err(Error::argument("audio to draw", "no samples", "at least one sample"));
    }
    let (width, height) = (options.width - LEFT - RIGHT, options.height - TOP - BOTTOM);
    let samples = audio.mixdown();
    let rate = f64::from(audio.sample_rate_hz);
    let fft = ((FRAME_S * rate) as usize).next_power_of_two().clamp(64, 1 << 16);
    let max_hz = (rate / 2.0).max(options.min_hz * 2.0);
    let hz_at = |row: f64| options.min_hz * (max_hz / options.min_hz).powf(1.0 - row / f64::from(height));

    let mut analyser = Analyser::new(fft);
    let mut levels = Vec::with_capacity(width as usize);
    for x in 0..width {
        let centre = (f64::from(x) + 0.5) / f64::from(width) * samples.len() as f64;
        let magnitudes = analyser.magnitudes(&samples, centre as usize);
        let bin = |hz: f64| hz * fft as f64 / rate;
        let column: Vec<f64> =
            (0..height).map(|y| level(&magnitudes, bin(hz_at(f64::from(y) + 1.0)), bin(hz_at(f64::from(y))))).collect();
        levels.push(column);
    }
    let loudest = levels.iter().flatten().fold(-120.0, |most: f64, &level| most.max(level));

    let mut picture = RgbImage::from_pixel(options.width, options.height, BACKGROUND);
    for (x, column) in (LEFT..).zip(&levels) {
        for (y, level) in (TOP..).zip(column) {
            picture.put_pixel(x, y, colour(1.0 + (level - loudest) / options.range_db));
        }
    }
    draw_pitch_scale(&mut picture, height, options.min_hz, max_hz);
    draw_time_scale(&mut picture, width, height, audio.duration_s());
    draw_level_scale(&mut picture, height, loudest, options.range_db);
    Ok(picture)
}

/// Writes the picture as a PNG file.
///
/// # Errors
/// The options are out of range, the audio is empty, or the file cannot be written. No part of a file stays behind.
pub fn spectrogram_png(audio: &Audio, path: impl AsRef<Path>, options: &SpectrogramOptions) -> Result<()> {
    let path = path.as_ref();
    let picture = spectrogram(audio, options)?;
    let io = |source| Error::io(path, source);
    let mut target = super::write::Target::file(path).map_err(io)?;
    let mut out = BufWriter::new(&mut target);
    PngEncoder::new(&mut out)
        .write_image(picture.as_raw(), picture.width(), picture.height(), ExtendedColorType::Rgb8)
        .map_err(|source| io(std::io::Error::other(source)))?;
    out.flush().map_err(io)?;
    drop(out);
    target.commit(path, true).map_err(io)
}

/// Level in dB of the bins from `low` to `high`: the loudest inside, or between two bins a straight line.
fn level(magnitudes: &[f32], low: f64, high: f64) -> f64 {
    let at = |i: usize| f64::from(magnitudes[i.min(magnitudes.len() - 1)]);
    let (first, last) = (low.ceil() as usize, high.floor() as usize);
    let value = if first <= last {
        (first..=last.min(magnitudes.len())).map(at).fold(0.0, f64::max)
    } else {
        let middle = 0.5 * (low + high);
        at(last) + (at(last + 1) - at(last)) * middle.fract()
    };
    decibels(value.max(1e-6))
}

/// Colour of a share of the range.
fn colour(share: f64) -> Rgb<u8> {
    let place = share.clamp(0.0, 1.0) * (COLOURS.len() - 1) as f64;
    let (from, to) = (COLOURS[place as usize], COLOURS[(place as usize + 1).min(COLOURS.len() - 1)]);
    let mix = |i: usize| (f64::from(from[i]) + (f64::from(to[i]) - f64::from(from[i])) * place.fract()).round() as u8;
    Rgb([mix(0), mix(1), mix(2)])
}

fn draw_pitch_scale(picture: &mut RgbImage, height: u32, min_hz: f64, max_hz: f64) {
    for hz in [50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000] {
        let share = (f64::from(hz) / min_hz).ln() / (max_hz / min_hz).ln();
        if !(0.0..=1.0).contains(&share) {
            continue;
        }
        let y = TOP + ((1.0 - share) * f64::from(height - 1)).round() as u32;
        line(picture, LEFT - 5, y, LEFT - 1, y);
        let label = if hz < 1000 { hz.to_string() } else { format!("{}k", hz / 1000) };
        write(picture, LEFT - 7 - text_width(&label), y.saturating_sub(3), &label);
    }
    write(picture, 4, 2, "Hz");
}

fn draw_time_scale(picture: &mut RgbImage, width: u32, height: u32, seconds: f64) {
    // A mark at least every 60 pixels, at 1, 2 or 5 times a power of ten.
    let least = 60.0 * seconds / f64::from(width);
    let power = 10f64.powf(least.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|times| times * power).find(|&step| step >= least).unwrap_or(least);
    let digits = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
    let y = TOP + height;
    for mark in 0..=(seconds / step) as u32 {
        let time = f64::from(mark) * step;
        let x = LEFT + (time / seconds * f64::from(width - 1)).round() as u32;
        line(picture, x, y, x, y + 4);
        let label = format!("{time:.digits$}");
        write(picture, x.saturating_sub(text_width(&label) / 2), y + 8, &label);
    }
    write(picture, LEFT + width + 4, y + 8, "s");
}

fn draw_level_scale(picture: &mut RgbImage, height: u32, loudest: f64, range_db: f64) {
    let x = picture.width() - RIGHT + 14;
    for y in 0..height {
        let shade = colour(1.0 - f64::from(y) / f64::from(height - 1));
        (x..x + 12).for_each(|x| picture.put_pixel(x, TOP + y, shade));
    }
    for quarter in 0..=4 {
        let share = f64::from(quarter) / 4.0;
        let y = TOP + (share * f64::from(height - 1)).round() as u32;
        line(picture, x + 12, y, x + 15, y);
        write(picture, x + 18, y.saturating_sub(3), &format!("{:.0}", loudest - share * range_db));
    }
    write(picture, x + 18, TOP + height + 8, "dB");
}

/// A horizontal or vertical line, ends included.
fn line(picture: &mut RgbImage, x0: u32, y0: u32, x1: u32, y1: u32) {
    for y in y0..=y1.min(picture.height() - 1) {
        for x in x0..=x1.min(picture.width() - 1) {
            picture.put_pixel(x, y, INK);
        }
    }
}

/// The characters of the scales, 5 x 7 points, one byte a row, leftmost point in bit 4.
fn glyph(character: char) -> [u8; 7] {
    match character {
        '0' => [0x0e, 0x11, 0x13, 0x15, 0x19, 0x11, 0x0e],
        '1' => [0x04, 0x0c, 0x04, 0x04, 0x04, 0x04, 0x0e],
        '2' => [0x0e, 0x11, 0x01, 0x06, 0x08, 0x10, 0x1f],
        '3' => [0x1f, 0x02, 0x04, 0x02, 0x01, 0x11, 0x0e],
        '4' => [0x02, 0x06, 0x0a, 0x12, 0x1f, 0x02, 0x02],
        '5' => [0x1f, 0x10, 0x1e, 0x01, 0x01, 0x11, 0x0e],
        '6' => [0x06, 0x08, 0x10, 0x1e, 0x11, 0x11, 0x0e],
        '7' => [0x1f, 0x01, 0x02, 0x04, 0x08, 0x08, 0x08],
        '8' => [0x0e, 0x11, 0x11, 0x0e, 0x11, 0x11, 0x0e],
        '9' => [0x0e, 0x11, 0x11, 0x0f, 0x01, 0x02, 0x0c],
        '-' => [0, 0, 0, 0x1f, 0, 0, 0],
        '.' => [0, 0, 0, 0, 0, 0x0c, 0x0c],
        'k' => [0x10, 0x10, 0x12, 0x14, 0x18, 0x14, 0x12],
        's' => [0, 0, 0x0e, 0x10, 0x0e, 0x01, 0x1e],
        'd' => [0x01, 0x01, 0x0d, 0x13, 0x11, 0x13, 0x0d],
        'B' => [0x1e, 0x11, 0x11, 0x1e, 0x11, 0x11, 0x1e],
        'H' => [0x11, 0x11, 0x11, 0x1f, 0x11, 0x11, 0x11],
        'z' => [0, 0, 0x1f, 0x02, 0x04, 0x08, 0x1f],
        _ => [0; 7],
    }
}

fn text_width(text: &str) -> u32 {
    text.chars().count() as u32 * 6
}

/// Writes a text with its upper left corner at (x, y); what lies outside is cut.
fn write(picture: &mut RgbImage, x: u32, y: u32, text: &str) {
    for (left, character) in (x..).step_by(6).zip(text.chars()) {
        for (row, bits) in (y..).zip(glyph(character)) {
            for column in (0..5).filter(|column| bits >> (4 - column) & 1 == 1) {
                if left + column < picture.width() && row < picture.height() {
                    picture.put_pixel(left + column, row, INK);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::tests::tone;

    #[test]
    fn a_tone_is_a_line_at_its_pitch() {
        let audio = tone(1000.0, 0.5, 2.0, 32_000, 2);
        let picture = spectrogram(&audio, &SpectrogramOptions::default()).unwrap();
        assert_eq!(picture.dimensions(), (1200, 400));
        let height = 400 - TOP - BOTTOM;
        let share = (1000f64 / 40.0).ln() / (16_000f64 / 40.0).ln();
        let expected = TOP + ((1.0 - share) * f64::from(height)) as u32;
        let bright = |y: &u32| picture.get_pixel(600, *y).0.iter().map(|&x| u32::from(x)).sum::<u32>();
        let brightest = (TOP..TOP + height).max_by_key(bright).unwrap();
        assert!(brightest.abs_diff(expected) <= 3, "{brightest} for {expected}");
    }

    #[test]
    fn png_is_written_whole_and_the_same_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let audio = tone(200.0, 0.5, 0.01, 8000, 1);
        let options = SpectrogramOptions { width: 300, height: 120, ..SpectrogramOptions::default() };
        for name in ["a.png", "b.png"] {
            spectrogram_png(&audio, folder.path().join(name), &options).unwrap();
        }
        let bytes = std::fs::read(folder.path().join("a.png")).unwrap();
        assert!(bytes.starts_with(b"\x89PNG"));
        assert_eq!(bytes, std::fs::read(folder.path().join("b.png")).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let options = SpectrogramOptions::default();
        assert!(spectrogram(&Audio::mono(Vec::new(), 8000), &options).is_err());
        let audio = Audio::mono(vec![0.0; 10], 8000);
        assert!(spectrogram(&audio, &SpectrogramOptions { width: 10, ..options.clone() }).is_err());
        assert!(spectrogram(&audio, &SpectrogramOptions { min_hz: f64::NAN, ..options.clone() }).is_err());
        assert!(spectrogram(&audio, &options).is_ok());
    }
}
