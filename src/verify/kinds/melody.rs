//! `musicgen/melody`: chroma of the melody, states in front of the codes, logits, greedy pieces.

use anyhow::{Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use musaic_core::{files::read_config, testing::Case};
use musaic_decoders::musicgen::{
    Conditioned,
    chroma::{ChromaConfig, ChromaExtractor, one_hot},
    delay::Codes,
};

use super::greedy::{self, ids_and_mask, load};
use crate::verify::{case::Context, recorder::Recorder};

pub fn run(case: &Case, context: &Context<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    let model = load(context)?;
    let chroma = chroma(case, context, recorder)?.to_device(context.device)?;

    let (ids, mask) = ids_and_mask(case, "in.input_ids", "in.attention_mask", context.device)?;
    let states = model.text_states(&ids, &mask, &mut ())?;
    let condition = |chroma: Option<&Tensor>| model.condition(&states, Some(&mask), chroma, &mut ());
    let (melody, text) = (condition(Some(&chroma))?, condition(None)?);
    recorder.tensor("mid.conditioning", melody.states())?;
    recorder.tensor("mid.conditioning_text_only", text.states())?;
    let codebooks = model.config().decoder.num_codebooks;
    let ids = Codes::from_tensor(&case.tensor("in.decoder_input_ids", &Device::Cpu)?, codebooks)?;
    let mut logits = |name: &str, conditioned: &Conditioned| -> Result<()> {
        recorder.tensor(name, &model.logits(&ids, conditioned, false, &mut ())?)
    };
    logits("out.logits", &melody)?;
    logits("out.logits_text_only", &text)?;

    for run in greedy::runs(case)? {
        let conditioned = match run.source.as_str() {
            "melody" => &melody,
            "text" => &text,
            other => bail!("the run `{}` is conditioned on `{other}`, which is not known", run.name),
        };
        greedy::compare(case, context, recorder, &model, &run, conditioned, None)?;
    }
    Ok(())
}

/// Chroma of the clips, by the folder's own extractor; always computed on the CPU in f32.
fn chroma(case: &Case, context: &Context<'_>, recorder: &mut Recorder<'_>) -> Result<Tensor> {
    let path = context.model.join("preprocessor_config.json");
    let json = read_config(&path)?;
    let extractor = ChromaExtractor::new(&ChromaConfig::from_json(&path, &json)?)?;
    recorder.tensor("mid.chroma_filters", &extractor.filters()?)?;
    let clips = (0..)
        .map_while(|i| case.stored(&format!("in.clip_{i}")))
        .map(|clip| Ok(clip.to_tensor(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?))
        .collect::<Result<Vec<_>>>()?;
    ensure!(!clips.is_empty(), "no in.clip_0");
    let clips: Vec<_> = clips.iter().map(Vec::as_slice).collect();
    let energies = extractor.energies(&clips)?;
    recorder.tensor("mid.raw_chroma", &energies)?;
    let chroma = one_hot(&energies)?;
    recorder.tensor("out.chroma", &chroma)?;
    Ok(chroma)
}
