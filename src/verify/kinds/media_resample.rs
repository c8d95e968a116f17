//! `media/resample`: waveforms at other rates.

use anyhow::{Context as _, Result};
use candle_core::Tensor;
use musaic_core::{
    media::{Audio, resample},
    testing::Case,
};

use crate::verify::{case::Context, recorder::Recorder};

pub fn run(case: &Case, context: &Context<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    for input in case.names().filter(|name| name.starts_with("in.")) {
        // in.FROM_TO_CHANNELSch_SAMPLES
        let name = &input["in.".len()..];
        let mut rates = name.split('_').map(|part| part.parse::<u32>().ok());
        let (from, to) =
            rates.next().flatten().zip(rates.next().flatten()).with_context(|| format!("rates in {input}"))?;
        let channels = case.tensor(input, context.device)?.to_vec2()?;
        let audio = resample(&Audio { channels, sample_rate_hz: from }, to)?;
        let (rows, columns) = (audio.channels.len(), audio.len());
        let flat = audio.channels.concat();
        recorder.tensor(format!("out.{name}"), &Tensor::from_vec(flat, (rows, columns), context.device)?)?;
    }
    Ok(())
}
