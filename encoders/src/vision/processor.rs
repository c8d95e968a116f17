//! From a picture to the numbers of a model, as `preprocessor_config.json` says.
//!
//! Resizing and cropping are done on bytes, exactly as the reference does them through PIL ([`musaic_core::media::still`]);
//! then each byte becomes `(byte * rescale_factor - offset - mean) / std`. Where there is an offset it comes *before* the
//! normalisation, so that with ViViT's defaults the range is -3 to 1.

use std::path::Path;

use musaic_core::{
    Error, Result,
    files::read_config,
    media::{
        Picture,
        still::{Filter, crop, resize},
    },
};
use serde::Deserialize;
use serde_json::Value;

use crate::files::{Problems, parse};

/// Largest side a processor may ask for.
const MAX_SIDE: usize = 1 << 13;

/// `size` and `crop_size`: a number in old files, named sides in new ones.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Size {
    Number(usize),
    Sides { height: usize, width: usize },
    ShortestEdge { shortest_edge: usize },
}

#[derive(Deserialize)]
struct Published {
    #[serde(default = "yes")]
    do_resize: bool,
    size: Option<Size>,
    #[serde(default = "bilinear")]
    resample: u64,
    do_center_crop: Option<bool>,
    crop_size: Option<Size>,
    #[serde(default = "yes")]
    do_rescale: bool,
    rescale_factor: Option<f64>,
    offset: Option<bool>,
    #[serde(default = "yes")]
    do_normalize: bool,
    #[serde(default = "halves")]
    image_mean: [f64; 3],
    #[serde(default = "halves")]
    image_std: [f64; 3],
}

fn yes() -> bool {
    true
}

fn bilinear() -> u64 {
    2
}

fn halves() -> [f64; 3] {
    [0.5; 3]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resize {
    /// Squashed to this size.
    Exact { width: usize, height: usize },
    /// The shorter side becomes this long, the other keeps the proportion (cut to a whole number).
    ShortestEdge(usize),
}

/// Picture to `[3, height, width]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageProcessor {
    resize: Option<Resize>,
    filter: Filter,
    /// Columns and rows.
    crop: Option<(usize, usize)>,
    scale: f64,
    offset: f32,
    do_normalize: bool,
    mean: [f64; 3],
    std: [f64; 3],
}

impl ImageProcessor {
    /// Reads the file of a picture model (`ViTImageProcessor`): squashed to `size`, 1/255, mean and deviation.
    ///
    /// # Errors
    /// The file is missing or broken, or asks for something that does not exist.
    pub fn open_image(path: &Path) -> Result<Self> {
        Self::image_from_json(path, &read_config(path)?)
    }

    /// As [`ImageProcessor::open_image`], from what the file at `path` holds.
    ///
    /// # Errors
    /// A value is not supported.
    pub fn image_from_json(path: &Path, json: &Value) -> Result<Self> {
        let file: Published = parse(path, json)?;
        let resize = match file.size.unwrap_or(Size::Number(224)) {
            Size::Number(side) => Resize::Exact { width: side, height: side },
            Size::Sides { height, width } => Resize::Exact { width, height },
            Size::ShortestEdge { .. } => {
                return Err(Error::config(path, "size: `shortest_edge`, expected a number or `height` and `width`"));
            }
        };
        // The reference hands pictures over in 0..1 and turns `do_rescale` off for that: bytes are scaled in any case.
        let scale = file.rescale_factor.unwrap_or(1.0 / 255.0);
        let crop = if file.do_center_crop == Some(true) { file.crop_size.or(file.size) } else { None };
        Self::build(path, &file, resize, crop, scale, 0.0)
    }

    /// Reads the file of a video model (`VivitImageProcessor`): shortest edge, centre crop, 1/127.5 minus 1, mean and deviation.
    ///
    /// # Errors
    /// The file is missing or broken, or asks for something that does not exist.
    pub fn open_video(path: &Path) -> Result<Self> {
        Self::video_from_json(path, &read_config(path)?)
    }

    /// As [`ImageProcessor::open_video`], from what the file at `path` holds.
    ///
    /// # Errors
    /// A value is not supported.
    pub fn video_from_json(path: &Path, json: &Value) -> Result<Self> {
        let file: Published = parse(path, json)?;
        let resize = match file.size.unwrap_or(Size::Number(256)) {
            Size::Number(side) | Size::ShortestEdge { shortest_edge: side } => Resize::ShortestEdge(side),
            Size::Sides { height, width } => Resize::Exact { width, height },
        };
        let offset = file.offset.unwrap_or(true);
        if offset && !file.do_rescale {
            return Err(Error::config(path, "offset without do_rescale, expected both or neither"));
        }
        let scale = if file.do_rescale { file.rescale_factor.unwrap_or(1.0 / 127.5) } else { 1.0 };
        let crop =
            if file.do_center_crop.unwrap_or(true) { Some(file.crop_size.unwrap_or(Size::Number(224))) } else { None };
        Self::build(path, &file, resize, crop, scale, if offset { 1.0 } else { 0.0 })
    }

    fn build(
        path: &Path,
        file: &Published,
        resize: Resize,
        crop: Option<Size>,
        scale: f64,
        offset: f32,
    ) -> Result<Self> {
        let mut problems = Problems::default();
        let filter = Filter::of_number(file.resample);
        problems.expect(filter.is_some(), || format!("resample = {}, expected 0 to 5", file.resample));
        let sides = match resize {
            Resize::Exact { width, height } => [width, height],
            Resize::ShortestEdge(side) => [side; 2],
        };
        let crop = match crop {
            None => None,
            Some(Size::Number(side)) => Some((side, side)),
            Some(Size::Sides { height, width }) => Some((width, height)),
            Some(Size::ShortestEdge { .. }) => {
                problems
                    .expect(false, || "crop_size: `shortest_edge`, expected a number or `height` and `width`".into());
                None
            }
        };
        for side in sides.into_iter().chain(crop.into_iter().flat_map(|(width, height)| [width, height])) {
            problems.size("size", side, MAX_SIDE);
        }
        problems.expect(scale.is_finite() && scale != 0.0, || format!("rescale_factor = {scale}, expected not 0"));
        let good =
            file.image_std.iter().all(|x| x.is_finite() && *x != 0.0) && file.image_mean.iter().all(|x| x.is_finite());
        problems.expect(good, || "image_mean or image_std, expected finite numbers, and no deviation of 0".into());
        problems.finish(path)?;
        Ok(Self {
            resize: file.do_resize.then_some(resize),
            filter: filter.unwrap_or(Filter::Bilinear),
            crop,
            scale,
            offset,
            do_normalize: file.do_normalize,
            mean: file.image_mean,
            std: file.image_std,
        })
    }

    /// The same with the shorter side resized to `edge` and a square of `side` cut out.
    #[must_use]
    pub fn with_edge_and_crop(self, edge: usize, side: usize) -> Self {
        Self { resize: Some(Resize::ShortestEdge(edge)), crop: Some((side, side)), ..self }
    }

    /// The same squashed to a square of `side`.
    #[must_use]
    pub fn with_side(self, side: usize) -> Self {
        Self { resize: Some(Resize::Exact { width: side, height: side }), ..self }
    }

    /// The same with mean and deviation applied or not.
    #[must_use]
    pub fn with_normalize(self, do_normalize: bool) -> Self {
        Self { do_normalize, ..self }
    }

    /// The same with other values for a byte of 1 before mean and deviation are applied.
    #[must_use]
    pub fn with_scale(self, scale: f64) -> Self {
        Self { scale, ..self }
    }

    /// The picture resized and cropped, still in bytes.
    ///
    /// # Errors
    /// A side comes out as 0 or too large.
    pub fn fit(&self, picture: &Picture) -> Result<Picture> {
        let (width, height) = match self.resize {
            None => (picture.width, picture.height),
            Some(Resize::Exact { width, height }) => (width, height),
            Some(Resize::ShortestEdge(edge)) => {
                let (short, long) = (picture.width.min(picture.height).max(1), picture.width.max(picture.height));
                let long = (edge as f64 * long as f64 / short as f64) as usize;
                if picture.width <= picture.height { (edge, long) } else { (long, edge) }
            }
        };
        let fitted = resize(picture, width, height, self.filter)?;
        Ok(match self.crop {
            Some((width, height)) => crop(&fitted, width, height),
            None => fitted,
        })
    }

    /// Appends the values of a fitted picture, `[3, height, width]`.
    pub fn values(&self, fitted: &Picture, out: &mut Vec<f32>) {
        for channel in 0..3 {
            // In the order and the precision of the reference: scaled in f64, the rest in f32.
            let table: [f32; 256] = std::array::from_fn(|byte| {
                let value = (byte as f64 * self.scale) as f32 - self.offset;
                let (mean, std) = (self.mean[channel] as f32, self.std[channel] as f32);
                if self.do_normalize { (value - mean) / std } else { value }
            });
            out.extend(fitted.rgb.iter().skip(channel).step_by(3).map(|byte| table[usize::from(*byte)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn picture(width: usize, height: usize) -> Picture {
        Picture { width, height, rgb: (0..width * height * 3).map(|i| (i * 31) as u8).collect() }
    }

    #[test]
    fn old_and_new_layouts_say_the_same() {
        let path = Path::new("preprocessor_config.json");
        let old = ImageProcessor::image_from_json(path, &json!({"size": 32})).unwrap();
        let new = json!({"size": {"height": 32, "width": 32}, "do_rescale": true, "rescale_factor": 1.0 / 255.0});
        assert_eq!(old, ImageProcessor::image_from_json(path, &new).unwrap());
        let fitted = old.fit(&picture(50, 20)).unwrap();
        assert_eq!((fitted.width, fitted.height), (32, 32));
        let mut values = Vec::new();
        old.values(&Picture { width: 2, height: 1, rgb: vec![0, 51, 255, 255, 0, 102] }, &mut values);
        for (got, want) in values.iter().zip([-1.0, 1.0, -0.6, -1.0, 1.0, -0.2]) {
            assert!((got - want).abs() < 1e-6, "{values:?}");
        }
    }

    #[test]
    fn the_shorter_edge_keeps_the_proportion_and_the_offset_comes_first() {
        let path = Path::new("preprocessor_config.json");
        let video = ImageProcessor::video_from_json(path, &json!({"size": 20, "crop_size": 16})).unwrap();
        for (width, height) in [(31, 50), (50, 31), (9, 9)] {
            let fitted = video.fit(&picture(width, height)).unwrap();
            assert_eq!((fitted.width, fitted.height, fitted.rgb.len()), (16, 16, 16 * 16 * 3));
        }
        let mut values = Vec::new();
        video.values(&Picture { width: 1, height: 1, rgb: vec![0, 255, 127] }, &mut values);
        assert!((values[0] + 3.0).abs() < 1e-6 && (values[1] - 1.0).abs() < 1e-6, "{values:?}");
        values.clear();
        video.with_normalize(false).values(&Picture { width: 1, height: 1, rgb: vec![0, 255, 127] }, &mut values);
        assert!((values[0] + 1.0).abs() < 1e-6 && (values[1] - 1.0).abs() < 1e-6, "{values:?}");
    }

    #[test]
    fn everything_that_is_wrong_is_told() {
        let path = Path::new("preprocessor_config.json");
        let json = json!({"size": 0, "resample": 9, "image_std": [1, 0, 1]});
        let text = ImageProcessor::image_from_json(path, &json).unwrap_err().to_string();
        assert!(text.contains("size = 0") && text.contains("resample = 9") && text.contains("image_std"), "{text}");
        for json in [json!({"size": {"shortest_edge": 8}}), json!({"size": "large"}), json!({"image_mean": [1]})] {
            assert!(ImageProcessor::image_from_json(path, &json).is_err(), "{json}");
        }
        assert!(ImageProcessor::video_from_json(path, &json!({"do_rescale": false})).is_err());
        assert!(ImageProcessor::video_from_json(path, &json!({"do_rescale": false, "offset": false})).is_ok());
    }
}
