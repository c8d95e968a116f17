//! `encoders/vit`: picture files to RGB, RGB to pixel values, pixel values to states.
//!
//! The three are compared by themselves: decoders of JPEG differ by a few levels, so pixel values are made of the stored RGB.

use std::{fs::File, io::BufReader, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use candle_core::{Device, Tensor};
use musaic_core::{
    media::{Picture, PictureOptions, read_picture},
    testing::Case,
};
use musaic_encoders::{
    vision::ImageProcessor,
    vit::{Vit, VitConfig},
};
use serde_json::{Value, json};

use crate::verify::{case::Context, recorder::Recorder};

/// How far two JPEG decoders may be apart: in the mean, and anywhere.
const JPEG: (f64, u8) = (1.0, 8);

pub fn run(case: &Case, context: &Context<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    let config = VitConfig::open(&context.model.join("config.json"))?;
    let processor = ImageProcessor::open_image(&context.model.join("preprocessor_config.json"))?;
    let weights = context.weights(&context.model)?;
    let model = Vit::new(&config, processor.clone(), &weights)?;
    weights.finish()?;
    let files: Vec<String> = serde_json::from_value(case.field("images").context("no field `images`")?.clone())?;
    ensure!(!files.is_empty(), "no picture in `images`");
    for file in &files {
        let path = case.path(&format!("images/{file}"))?;
        let stem = file.replace('.', "_");
        let picture = stored_picture(case, &format!("in.{stem}.rgb_u8"))?;
        compare_decoded(recorder, file, &path, &picture);
        let pixels = pixel_values(&processor, &picture)?;
        let out = |what: &str| format!("out.{stem}.{what}");
        recorder.tensor(out("pixel_values"), &pixels)?;
        if recorder.stores(&out("pixel_values_reference")) {
            recorder.tensor(out("pixel_values_reference"), &as_the_reference(&processor, &path, &picture)?)?;
        }
        // Resized to some other side, in bytes.
        let sides = case.names().filter_map(|name| name.strip_prefix(&out("resized_"))?.strip_suffix("_u8"));
        for side in sides.map(str::to_owned).collect::<Vec<_>>() {
            let fitted = processor.clone().with_side(side.parse()?).fit(&picture)?;
            recorder.tensor(out(&format!("resized_{side}_u8")), &planes(&fitted)?)?;
        }
        if recorder.stores(&out("last_hidden_state")) {
            let mut seen: Vec<(String, Tensor)> = Vec::new();
            let last = model.forward(&pixels.unsqueeze(0)?.to_device(context.device)?, &mut seen)?;
            for (name, value) in &seen {
                let name = format!("mid.{stem}.{name}");
                if recorder.stores(&name) {
                    recorder.tensor(name, &value.squeeze(0)?)?;
                }
            }
            recorder.tensor(out("last_hidden_state"), &last.squeeze(0)?)?;
            if let Some(pooled) = model.pool(&last)? {
                recorder.tensor(out("pooler_output"), &pooled.squeeze(0)?)?;
            }
        }
    }
    Ok(())
}

/// A stored `[height, width, 3]`.
pub(super) fn stored_picture(case: &Case, name: &str) -> Result<Picture> {
    let stored = case.values(name)?;
    let &[height, width, 3] = stored.shape.as_slice() else {
        bail!("{name} is {:?}, not [height, width, 3]", stored.shape)
    };
    let rgb = stored.integers()?.iter().map(|&x| u8::try_from(x)).collect::<Result<_, _>>()?;
    Ok(Picture { width, height, rgb })
}

/// `[3, height, width]` of bytes.
pub(super) fn planes(picture: &Picture) -> Result<Tensor> {
    let pixels = Tensor::from_slice(&picture.rgb, (picture.height, picture.width, 3), &Device::Cpu)?;
    Ok(pixels.permute((2, 0, 1))?.contiguous()?)
}

/// One entry a file: read as the reference reads, equal for lossless files, near for JPEG.
fn compare_decoded(recorder: &mut Recorder<'_>, file: &str, path: &Path, want: &Picture) {
    let name = format!("images/{file}");
    let got = match read_picture(path, &PictureOptions::reference()) {
        Ok(got) => got,
        Err(error) => {
            return recorder.entry(&name, file, &[("picture", json!(error.to_string()), &json!("a picture"))]);
        }
    };
    let size = json!([want.width, want.height]);
    let apart: Vec<u8> = got.rgb.iter().zip(&want.rgb).map(|(a, b)| a.abs_diff(*b)).collect();
    let mean = apart.iter().map(|x| f64::from(*x)).sum::<f64>() / apart.len().max(1) as f64;
    let most = apart.iter().copied().max().unwrap_or(0);
    let lossy =
        Path::new(file).extension().is_some_and(|e| e.eq_ignore_ascii_case("jpg") || e.eq_ignore_ascii_case("jpeg"));
    let bound = if lossy { JPEG } else { (0.0, 0) };
    let within = mean <= bound.0 && most <= bound.1 && got.rgb.len() == want.rgb.len();
    let differences = if within { Value::Null } else { json!(format!("{mean:.3} in the mean, {most} at most")) };
    recorder.entry(
        &name,
        file,
        &[("size", json!([got.width, got.height]), &size), ("levels apart", differences, &Value::Null)],
    );
}

fn pixel_values(processor: &ImageProcessor, picture: &Picture) -> Result<Tensor> {
    let fitted = processor.fit(picture)?;
    let mut values = Vec::with_capacity(fitted.rgb.len());
    processor.values(&fitted, &mut values);
    Ok(Tensor::from_vec(values, (3, fitted.height, fitted.width), &Device::Cpu)?)
}

/// Pixel values with two faults of the reference, which no option of ours has: it takes the numbers of a palette's colours for
/// shades of grey, and a picture of nothing but 0 and 255 for one of 0 and 1, which the resize then rounds to 0 and 1 again.
fn as_the_reference(processor: &ImageProcessor, path: &Path, picture: &Picture) -> Result<Tensor> {
    let numbers = palette_numbers(path)?;
    let picture = numbers.as_ref().unwrap_or(picture);
    if picture.rgb.iter().all(|x| matches!(x, 0 | 255)) {
        let bits = Picture { rgb: picture.rgb.iter().map(|x| x / 255).collect(), ..*picture };
        return pixel_values(&processor.clone().with_scale(1.0), &bits);
    }
    pixel_values(processor, picture)
}

/// For a PNG with a palette: the number of each pixel's colour, in all three channels.
fn palette_numbers(path: &Path) -> Result<Option<Picture>> {
    if path.extension().is_none_or(|e| !e.eq_ignore_ascii_case("png")) {
        return Ok(None);
    }
    let mut decoder = png::Decoder::new(BufReader::new(File::open(path)?));
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info()?;
    let info = reader.info();
    let (width, height, depth) = (info.width as usize, info.height as usize, info.bit_depth);
    if info.color_type != png::ColorType::Indexed {
        return Ok(None);
    }
    ensure!(!info.interlaced, "{}: an interlaced palette picture", path.display());
    let mut rgb = Vec::new();
    let bits = depth as usize;
    while let Some(row) = reader.next_row()? {
        for x in 0..width {
            let at = x * bits;
            let number = (row.data()[at / 8] >> (8 - bits - at % 8)) & (u8::MAX >> (8 - bits));
            rgb.extend([number; 3]);
        }
    }
    ensure!(rgb.len() == width * height * 3, "{}: a picture that ends early", path.display());
    Ok(Some(Picture { width, height, rgb }))
}
