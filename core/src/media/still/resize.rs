//! Resizing exactly as Pillow 9.5 does on 8-bit pictures, which is what the published encoders were trained and run with.
//!
//! Two passes, always the horizontal one first; a pass whose size does not change is left out. For output `x` with
//! `scale = in / out`, the taps around `centre = (x + 0.5) * scale` within the filter's reach (times the scale where the
//! picture shrinks: antialiasing) are normalised, rounded to 22 fractional bits, and each pass rounds to 8 bits.

use std::{borrow::Cow, f64::consts::PI};

use super::Picture;
use crate::{Error, Result};

/// Fractional bits of a tap.
const PRECISION: u32 = 22;
/// Most pixels on a side of what comes out.
const MAX_SIDE: usize = 1 << 15;

/// Which neighbours an output pixel is made of, with the numbers that `preprocessor_config.json` knows them by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// The nearest one (0).
    Nearest,
    /// Windowed sine over three pixels on each side (1).
    Lanczos,
    /// A triangle (2).
    Bilinear,
    /// Cubic with `a = -0.5` (3).
    Bicubic,
    /// The mean of all within (4).
    Box,
    /// Windowed sine over one pixel on each side (5).
    Hamming,
}

impl Filter {
    /// The filter of this number in PIL and in `preprocessor_config.json`.
    pub fn of_number(number: u64) -> Option<Self> {
        [Self::Nearest, Self::Lanczos, Self::Bilinear, Self::Bicubic, Self::Box, Self::Hamming]
            .get(usize::try_from(number).ok()?)
            .copied()
    }

    /// Reach on each side, in input pixels at scale 1.
    fn support(self) -> f64 {
        match self {
            Self::Nearest | Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) };
        let near = x.abs();
        match self {
            Self::Nearest | Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bilinear => (1.0 - near).max(0.0),
            Self::Hamming if near >= 1.0 => 0.0,
            Self::Hamming => sinc(x) * (0.54 + 0.46 * (PI * x).cos()),
            Self::Bicubic if near < 1.0 => (1.5 * near - 2.5) * near * near + 1.0,
            Self::Bicubic if near < 2.0 => ((near - 5.0) * near + 8.0) * near * -0.5 + 2.0,
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Bicubic | Self::Lanczos => 0.0,
        }
    }
}

/// Taps of one output position.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// Taps of all `to` output positions over `from` input positions.
fn taps(filter: Filter, from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let reach = filter.support() * stretch;
    let one = f64::from(1u32 << PRECISION);
    (0..to)
        .map(|x| {
            let centre = (x as f64 + 0.5) * scale;
            if filter == Filter::Nearest {
                return Taps { first: (centre as usize).min(from - 1), weights: vec![1 << PRECISION] };
            }
            // Casts cut towards zero, as the reference's do.
            let first = (centre - reach + 0.5).max(0.0) as usize;
            let last = ((centre + reach + 0.5) as usize).min(from);
            let weights: Vec<f64> = (first..last).map(|i| filter.weight((i as f64 - centre + 0.5) / stretch)).collect();
            let sum: f64 = weights.iter().sum();
            let share = |w: f64| if sum == 0.0 { w } else { w / sum };
            // Halves away from zero.
            let weights = weights.iter().map(|w| (share(*w) * one + 0.5f64.copysign(*w)) as i32).collect();
            Taps { first, weights }
        })
        .collect()
}

/// Rounds a sum of `PRECISION` fractional bits to a byte.
fn round(sum: i32) -> u8 {
    // 255 * 2^22 and the filters' overshoot stay well below 2^31.
    ((sum + (1 << (PRECISION - 1))) >> PRECISION).clamp(0, 255) as u8
}

/// The same picture with `width` columns and `height` rows; its proportions are not kept.
///
/// # Errors
/// A side is 0 or above 32768, or the picture's bytes are not those of its size.
pub fn resize(picture: &Picture, width: usize, height: usize, filter: Filter) -> Result<Picture> {
    if picture.rgb.is_empty() || picture.rgb.len() != picture.width * picture.height * 3 {
        let found = format!("{} bytes for {} x {} pixels", picture.rgb.len(), picture.width, picture.height);
        return Err(Error::argument("picture", found, "three bytes a pixel"));
    }
    for (what, size) in [("width", width), ("height", height)] {
        if size == 0 || size > MAX_SIDE {
            return Err(Error::argument(what, size.to_string(), format!("1 to {MAX_SIDE} pixels")));
        }
    }
    let mut out = Cow::Borrowed(picture);
    if out.width != width {
        let taps = taps(filter, out.width, width);
        let mut rgb = Vec::with_capacity(width * out.height * 3);
        for row in out.rgb.chunks_exact(out.width * 3) {
            for Taps { first, weights } in &taps {
                let mut sums = [0i32; 3];
                for (pixel, weight) in row[3 * first..].as_chunks::<3>().0.iter().zip(weights) {
                    for (sum, value) in sums.iter_mut().zip(pixel) {
                        *sum += i32::from(*value) * *weight;
                    }
                }
                rgb.extend(sums.map(round));
            }
        }
        out = Cow::Owned(Picture { width, height: out.height, rgb });
    }
    if out.height != height {
        let stride = out.width * 3;
        let mut rgb = Vec::with_capacity(stride * height);
        let mut sums = vec![0i32; stride];
        for Taps { first, weights } in taps(filter, out.height, height) {
            sums.fill(0);
            for (row, weight) in out.rgb[first * stride..].chunks_exact(stride).zip(&weights) {
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += i32::from(*value) * *weight;
                }
            }
            rgb.extend(sums.iter().map(|sum| round(*sum)));
        }
        out = Cow::Owned(Picture { width: out.width, height, rgb });
    }
    Ok(out.into_owned())
}

/// The middle `width` columns and `height` rows; black where the picture is smaller.
pub fn crop(picture: &Picture, width: usize, height: usize) -> Picture {
    // Where the picture begins in the result, or the result in the picture.
    let place = |from: usize, to: usize| {
        if from >= to { (((from - to) / 2), 0, to) } else { (0, (to - from).div_ceil(2), from) }
    };
    let (left, indent, columns) = place(picture.width, width);
    let (top, above, rows) = place(picture.height, height);
    let mut rgb = vec![0; width * height * 3];
    for row in 0..rows {
        let from = ((top + row) * picture.width + left) * 3;
        let to = ((above + row) * width + indent) * 3;
        rgb[to..to + columns * 3].copy_from_slice(&picture.rgb[from..from + columns * 3]);
    }
    Picture { width, height, rgb }
}
