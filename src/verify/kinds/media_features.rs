//! `media/features`: what goes into CLAP, EnCodec and LP-MusicCaps.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result, bail};
use candle_core::{Device, Tensor};
use musaic_core::{
    files::read_config,
    testing::{Case, Data, Tolerance, Values},
};
use musaic_decoders::encodec::EncodecExtractor;
use musaic_encoders::{clap::ClapProcessor, lp_music_caps};
use serde_json::Value;

use crate::verify::{case::Context, recorder::Recorder};

/// By the notes: below this many dB rounding is amplified, and a difference of this many is allowed.
const FAINT: (f64, f64) = (-80.0, 1.0);

pub fn run(case: &Case, _: &Context<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    // `in.EXTRACTOR.CLIP`
    let mut clips: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in case.names().filter_map(|name| name.strip_prefix("in.")) {
        let (extractor, clip) =
            name.rsplit_once('.').with_context(|| format!("in.{name}, expected in.EXTRACTOR.CLIP"))?;
        clips.entry(extractor).or_default().push(clip);
    }
    for (extractor, clips) in clips {
        if extractor == "lp-logmel" {
            for clip in clips {
                let name = format!("{extractor}.{clip}");
                loud(case, recorder, &name, &lp_music_caps::log_mel(&samples(case, &name)?)?)?;
            }
            continue;
        }
        let path = case.path(&format!("model/{extractor}"))?.join("preprocessor_config.json");
        let config = read_config(&path)?;
        match config.get("feature_extractor_type").and_then(Value::as_str) {
            Some("ClapFeatureExtractor") => {
                let processor = ClapProcessor::from_json(&path, &config)?;
                for clip in clips {
                    let name = format!("{extractor}.{clip}");
                    loud(case, recorder, &name, &processor.process(&samples(case, &name)?)?)?;
                }
            }
            Some("EncodecFeatureExtractor") => encodec(case, recorder, extractor, &clips, (&path, &config))?,
            other => bail!("{}: feature_extractor_type {other:?}, which is not known", path.display()),
        }
    }
    Ok(())
}

fn samples(case: &Case, name: &str) -> Result<Vec<f32>> {
    Ok(case.tensor(&format!("in.{name}"), &Device::Cpu)?.to_vec1()?)
}

/// Clips 0, 1, .. as one batch.
fn encodec(
    case: &Case,
    recorder: &mut Recorder<'_>,
    name: &str,
    clips: &[&str],
    (path, config): (&Path, &Value),
) -> Result<()> {
    let clips = (0..clips.len()).map(|i| case.tensor(&format!("in.{name}.{i}"), &Device::Cpu));
    let clips = clips.collect::<musaic_core::Result<Vec<_>>>()?;
    let (values, mask) = EncodecExtractor::from_json(path, config)?.process(&clips)?;
    recorder.tensor(format!("out.{name}.input_values"), &values)?;
    recorder.tensor(format!("out.{name}.padding_mask"), &mask)
}

/// A picture in dB: within the tolerance of the case, but for what is faint.
fn loud(case: &Case, recorder: &mut Recorder<'_>, name: &str, picture: &Tensor) -> Result<()> {
    let name = format!("out.{name}");
    let tolerance = case.tolerance(&name).with_context(|| format!("no tolerance for {name}"))?;
    let share = share(&Values::from_tensor(picture)?, case.values(&name)?, tolerance);
    recorder.by_rule(name, share, 1.0);
    Ok(())
}

/// The largest difference as a share of what is allowed.
fn share(got: &Values, want: &Values, tolerance: Tolerance) -> f64 {
    let (Data::Floats(floats), Data::Floats(wanted)) = (&got.data, &want.data) else { return f64::NAN };
    if got.shape != want.shape {
        return f64::NAN;
    }
    let share = |(got, want): (&f64, &f64)| {
        let allowed = if *want < FAINT.0 { FAINT.1 } else { tolerance.atol + tolerance.rtol * want.abs() };
        (got - want).abs() / allowed
    };
    // What is no number makes the whole none.
    let larger = |most: f64, share: f64| if most.is_nan() || share <= most { most } else { share };
    floats.iter().zip(wanted).map(share).fold(0.0, larger)
}
