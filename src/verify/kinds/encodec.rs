//! `musicgen/encodec`: waveform to codes and back, layer by layer.
//!
//! Two shapes of case: one model in `model/` with waveforms `in.waveform_N`; or several models in sub-folders, each with one
//! waveform `in.NAME` and every bit rate (`_bwRATE`) it is asked for.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result, ensure};
use candle_core::{D, DType, Tensor};
use musaic_core::{
    files::read_config,
    testing::{Case, Values},
};
use musaic_decoders::encodec::{Encodec, EncodecConfig, Encoded};

use crate::verify::{case::Context, recorder::Recorder};

pub fn run(case: &Case, context: &Context<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    if context.model.join("config.json").is_file() {
        return plain(case, context, recorder);
    }
    let mut found = 0;
    for name in case.names().filter_map(|name| name.strip_prefix("in.")) {
        let folder = context.model.join(name);
        // Names come from the case: only a plain folder beside the others is meant.
        if !name.contains(['/', '\\', '.']) && folder.join("config.json").is_file() {
            variant(case, context, recorder, name, &open(context, &folder)?)?;
            found += 1;
        }
    }
    ensure!(found > 0, "no model in {} and none in a sub-folder that an input names", context.model.display());
    Ok(())
}

fn open(context: &Context<'_>, folder: &Path) -> Result<Encodec> {
    let path = folder.join("config.json");
    let json = read_config(&path)?;
    let weights = context.weights(folder)?;
    let codec = Encodec::load(&EncodecConfig::from_json(&path, &json)?, &weights)?;
    weights.finish()?;
    Ok(codec)
}

/// The MusicGen configuration, with every layer.
fn plain(case: &Case, context: &Context<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    let codec = open(context, &context.model)?;
    let lengths: Vec<_> = case
        .names()
        .filter_map(|name| name.strip_prefix("in.waveform_"))
        .filter(|suffix| suffix.bytes().all(|b| b.is_ascii_digit()))
        .collect();
    // The layers belong to the waveform that is as long as the output of the first one.
    let probed = case.stored("mid.encoder.layers.0").and_then(|first| first.shape.last()).map(usize::to_string);
    for length in lengths {
        let waveform = case.tensor(&format!("in.waveform_{length}"), context.device)?;
        let is_probed = probed.as_deref() == Some(length);
        if is_probed {
            let mut seen: Vec<(String, Tensor)> = Vec::new();
            codec.encode_probed(&waveform.narrow(0, 0, 1)?, None, None, &mut seen)?;
            for (name, value) in seen.iter().filter(|(name, _)| name.starts_with("encoder.")) {
                recorder.tensor(format!("mid.{name}"), value)?;
            }
        }
        let mut seen: Vec<(String, Tensor)> = Vec::new();
        let mut encoded = codec.encode_probed(&waveform, None, None, &mut seen)?;
        let seen: BTreeMap<_, _> = seen.into_iter().collect();
        if let Some(latents) = seen.get("latents") {
            recorder.tensor(format!("mid.latents_{length}"), latents)?;
        }
        let agree = codes(case, context, recorder, &format!("out.codes_{length}"), &mut encoded.codes)?;
        if is_probed && let Some(residuals) = seen.get("residuals") {
            if agree {
                recorder.tensor("mid.residuals", residuals)?;
            } else {
                recorder.given("mid.residuals", "belong to other codes, see out.codes");
            }
        }
        if is_probed {
            let chunk = encoded.codes.squeeze(0)?;
            let mut seen: Vec<(String, Tensor)> = Vec::new();
            codec.decode_probed(&chunk.narrow(0, 0, 1)?, &mut seen)?;
            let mut quantized: Vec<(String, Tensor)> = Vec::new();
            codec.decode_probed(&chunk, &mut quantized)?;
            for (name, value) in quantized.iter().filter(|(name, _)| name == "quantized") {
                recorder.tensor(format!("mid.{name}"), value)?;
            }
            for (name, value) in seen.iter().filter(|(name, _)| name.starts_with("decoder.")) {
                recorder.tensor(format!("mid.{name}"), value)?;
            }
        }
        recorder.tensor(format!("out.decoded_{length}"), &codec.decode(&encoded, None)?)?;
    }
    if recorder.stores("out.codes_padded") {
        let waveform = case.tensor("in.waveform_padded", context.device)?;
        let mask = case.tensor("in.padding_mask", context.device)?;
        let mut encoded = codec.encode(&waveform, Some(&mask), None)?;
        codes(case, context, recorder, "out.codes_padded", &mut encoded.codes)?;
    }
    if recorder.stores("out.decoded_random_codes") {
        let codes = case.tensor("in.random_codes", context.device)?.to_dtype(DType::U32)?;
        let encoded = Encoded { codes, scales: None, last_frame_pad_length: 0 };
        recorder.tensor("out.decoded_random_codes", &codec.decode(&encoded, None)?)?;
    }
    Ok(())
}

/// A model in a sub-folder, at every bit rate the case has.
fn variant(case: &Case, context: &Context<'_>, recorder: &mut Recorder<'_>, name: &str, codec: &Encodec) -> Result<()> {
    let waveform = case.tensor(&format!("in.{name}"), context.device)?;
    let samples = waveform.dim(D::Minus1)?;
    let prefix = format!("out.{name}.codes_bw");
    let rates: Vec<_> = case.names().filter_map(|stored| stored.strip_prefix(&prefix)).collect();
    ensure!(!rates.is_empty(), "no bit rate for the model `{name}`");
    let mut highest: Option<(f64, Encoded)> = None;
    for spelled in rates {
        let rate: f64 = spelled.parse().with_context(|| format!("the bit rate in {prefix}{spelled}"))?;
        let mut encoded = codec.encode(&waveform, None, Some(rate))?;
        let out = |what: &str| format!("out.{name}.{what}_bw{spelled}");
        if let Some(scales) = &encoded.scales {
            recorder.tensor(out("scales"), scales)?;
        }
        codes(case, context, recorder, &out("codes"), &mut encoded.codes)?;
        let pad = Tensor::new(encoded.last_frame_pad_length as i64, context.device)?;
        recorder.tensor(out("last_frame_pad_length"), &pad)?;
        recorder.tensor(out("decoded"), &codec.decode(&encoded, None)?)?;
        if highest.as_ref().is_none_or(|(most, _)| rate > *most) {
            highest = Some((rate, encoded));
        }
    }
    // Decoding under a padding mask of ones cuts to the length of the mask; the case takes the highest bit rate.
    let masked = format!("out.{name}.decoded_masked");
    if let Some((_, encoded)) = highest.filter(|_| recorder.stores(&masked)) {
        recorder.tensor(masked, &codec.decode(&encoded, Some(samples))?)?;
    }
    Ok(())
}

/// Records codes. A rounded model may decide a close call otherwise: then (teacher-forced only) the codes of the case take
/// their place, so that what follows is compared on its own. Says whether they agree.
fn codes(
    case: &Case,
    context: &Context<'_>,
    recorder: &mut Recorder<'_>,
    name: &str,
    codes: &mut Tensor,
) -> Result<bool> {
    let agree = case.stored(name).is_some_and(|want| Values::from_tensor(codes).is_ok_and(|got| got == *want));
    if context.forced && !agree {
        recorder.given(name, "a decision between close codebook rows; the codes of the case are decoded");
        *codes = case.tensor(name, context.device)?.to_dtype(DType::U32)?;
    } else {
        recorder.tensor(name, codes)?;
    }
    Ok(agree)
}
