//! A folder of pictures as a video, in the order of their names.

use std::{
    cmp::Ordering,
    fs,
    path::{Path, PathBuf},
};

use musaic_core::{
    Error,
    media::{
        Limits, PictureOptions, Selection, read_picture,
        video::select::{self, once},
    },
};

use super::{OwnedMedia, kind};

/// The chosen windows of `count` pictures each, as of a clip whose frames are these pictures at an even rate.
///
/// # Errors
/// There is no picture, too many, one is broken, or all are too large together.
pub(super) fn read(
    folder: &Path,
    selection: Selection,
    count: usize,
    options: &PictureOptions,
    limits: &Limits,
) -> anyhow::Result<OwnedMedia> {
    let pictures = pictures(folder, limits)?;
    let times: Vec<f64> = (0..pictures.len()).map(|number| number as f64).collect();
    let (numbers, windows) = once(&select::windows(selection, count, &times, None));
    let mut frames = Vec::with_capacity(numbers.len());
    let mut pixels = 0;
    for number in numbers {
        let picture = read_picture(&pictures[number], options)?;
        pixels += picture.width as u64 * picture.height as u64;
        if pixels > limits.total_pixels {
            let most = format!("at most {} pixels in all the pictures that are looked at", limits.total_pixels);
            return Err(Error::format(folder, most, "more").into());
        }
        frames.push(picture);
    }
    Ok(OwnedMedia::Video { frames, windows })
}

/// The pictures of a folder in the order of their names, numbers in them counted as numbers.
///
/// # Errors
/// There is none, or too many.
pub(super) fn pictures(folder: &Path, limits: &Limits) -> anyhow::Result<Vec<PathBuf>> {
    let mut pictures = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        if kind::is_picture_name(&path) {
            pictures.push(path);
        }
        if pictures.len() > limits.frames {
            return Err(Error::format(folder, format!("at most {} pictures", limits.frames), "more").into());
        }
    }
    if pictures.is_empty() {
        return Err(Error::format(folder, "a folder of pictures (a video, frame by frame)", "no picture").into());
    }
    pictures.sort_by(|a, b| by_numbers(&a.to_string_lossy(), &b.to_string_lossy()));
    Ok(pictures)
}

/// `frame_2` before `frame_10`.
fn by_numbers(a: &str, b: &str) -> Ordering {
    let (mut x, mut y) = (a, b);
    loop {
        let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (m, n) = (digits(x), digits(y));
        if m > 0 && n > 0 {
            let (p, q) = (x[..m].trim_start_matches('0'), y[..n].trim_start_matches('0'));
            match p.len().cmp(&q.len()).then_with(|| p.cmp(q)) {
                Ordering::Equal => (x, y) = (&x[m..], &y[n..]),
                order => return order,
            }
            continue;
        }
        match (x.chars().next(), y.chars().next()) {
            (Some(c), Some(d)) if c == d => (x, y) = (&x[c.len_utf8()..], &y[d.len_utf8()..]),
            (None, None) => return a.cmp(b),
            (c, d) => return c.cmp(&d),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count() {
        let mut names = ["f10.png", "f2.png", "f1.png", "f002a.png", "e9.png", "f.png"];
        names.sort_by(|a, b| by_numbers(a, b));
        assert_eq!(names, ["e9.png", "f.png", "f1.png", "f2.png", "f002a.png", "f10.png"]);
    }
}
