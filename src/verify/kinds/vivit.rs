//! `encoders/vivit`: frames to pixel values, pixel values to states.

use anyhow::{Context as _, Result, bail, ensure};
use candle_core::{Device, Tensor};
use musaic_core::{
    media::Picture,
    role::{AudioSpan, Encoder, Media},
    testing::{Case, Data, Values},
};
use musaic_encoders::{
    vision::ImageProcessor,
    vivit::{Vivit, VivitConfig},
};

use super::vit::planes;
use crate::verify::{case::Context, recorder::Recorder};

pub fn run(case: &Case, context: &Context<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    let config = VivitConfig::open(&context.model.join("config.json"))?;
    let processor = ImageProcessor::open_video(&context.model.join("preprocessor_config.json"))?;
    let weights = context.weights(&context.model)?;
    let model = Vivit::new(&config, processor.clone(), &weights)?;
    weights.finish()?;

    real_sizes(case, recorder, &processor)?;
    let frames = pictures(case, "in.video")?;
    ensure!(frames.len() >= 2, "fewer than two frames in in.video");
    let plain = pixel_values(&processor.clone().with_normalize(false), &frames[..1])?;
    recorder.tensor("out.pixel_values_first_no_normalize", &plain.squeeze(0)?)?;
    recorder.tensor("out.pixel_values_first2", &pixel_values(&processor, &frames[..2])?)?;
    recorder.tensor("out.pixel_values_last", &pixel_values(&processor, &frames[frames.len() - 1..])?.squeeze(0)?)?;

    let window = vec![(0..frames.len()).collect::<Vec<_>>()];
    let input = model.prepare(Media::Video { frames: &frames, windows: &window }, AudioSpan::Whole)?;
    let input = input.first().context("one window")?.to_device(context.device)?;
    let mut seen: Vec<(String, Tensor)> = Vec::new();
    let last = model.forward(&input, &mut seen)?;
    for (name, value) in &seen {
        let name = format!("mid.{name}");
        if recorder.stores(&name) {
            recorder.tensor(name, &value.squeeze(0)?)?;
        }
    }
    recorder.tensor("out.last_hidden_state", &last.squeeze(0)?)?;
    Ok(())
}

/// The processor at published sizes, which the description of `in.real_video` gives.
fn real_sizes(case: &Case, recorder: &mut Recorder<'_>, processor: &ImageProcessor) -> Result<()> {
    if !recorder.stores("out.real_u8") && !recorder.stores("out.real_corner") {
        return Ok(());
    }
    let about = case.field("inputs").and_then(|inputs| inputs.get("in.real_video")?.as_str()).unwrap_or_default();
    let number = |name: &str| -> Result<usize> {
        let rest = about.split_once(name).map(|(_, rest)| rest.trim_start()).unwrap_or_default();
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().with_context(|| format!("no number after `{name}` in the description of in.real_video"))
    };
    let processor = processor.clone().with_edge_and_crop(number("shortest edge")?, number("crop")?);
    let frames = pictures(case, "in.real_video")?;
    let fitted = frames.iter().map(|frame| planes(&processor.fit(frame)?)).collect::<Result<Vec<_>>>()?;
    let fitted = Tensor::stack(&fitted, 0)?;
    if let Some(stored) = case.stored("out.real_u8") {
        recorder.tensors.push(("out.real_u8".into(), within_a_level(Values::from_tensor(&fitted)?, stored)));
    }
    if let Some(stored) = case.stored("out.real_corner") {
        let &[_, _, rows, columns] = stored.shape.as_slice() else { bail!("out.real_corner is {:?}", stored.shape) };
        let values = pixel_values(&processor, &frames)?.narrow(2, 0, rows)?.narrow(3, 0, columns)?;
        recorder.tensor("out.real_corner", &values)?;
    }
    Ok(())
}

/// The rule of the notes for these bytes: one level off is right.
fn within_a_level(mut got: Values, want: &Values) -> Values {
    if let (Data::Integers(got), Data::Integers(want)) = (&mut got.data, &want.data) {
        for (got, want) in got.iter_mut().zip(want) {
            if got.abs_diff(*want) == 1 {
                *got = *want;
            }
        }
    }
    got
}

/// Frames `[count, height, width, 3]` of a case.
fn pictures(case: &Case, name: &str) -> Result<Vec<Picture>> {
    let stored = case.values(name)?;
    let &[count, height, width, 3] = stored.shape.as_slice() else {
        bail!("{name} is {:?}, not [frames, height, width, 3]", stored.shape)
    };
    let bytes = stored.integers()?.iter().map(|&x| u8::try_from(x)).collect::<Result<Vec<_>, _>>()?;
    let size = height * width * 3;
    Ok((0..count).map(|i| Picture { width, height, rgb: bytes[i * size..(i + 1) * size].to_vec() }).collect())
}

/// `[frames, 3, height, width]`.
fn pixel_values(processor: &ImageProcessor, frames: &[Picture]) -> Result<Tensor> {
    let mut values = Vec::new();
    let mut size = (0, 0);
    for frame in frames {
        let fitted = processor.fit(frame)?;
        size = (fitted.height, fitted.width);
        processor.values(&fitted, &mut values);
    }
    Ok(Tensor::from_vec(values, (frames.len(), 3, size.0, size.1), &Device::Cpu)?)
}
