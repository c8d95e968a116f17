//! The melody variant against its parity case.
#![allow(clippy::unwrap_used, clippy::panic)]

mod musicgen_common;

use candle_core::{DType, Device, Tensor};
use musaic_core::{
    WeightFormat,
    role::{Conditioning, DecodeOptions, Sampling},
};
use musaic_decoders::musicgen::{Conditioned, Generation, Musicgen, Plan, delay::Codes};
use musicgen_common::{Checked, golden};

fn run(checked: &mut Checked, model: &Musicgen, name: &str, conditioned: &Conditioned, guidance_scale: f64) {
    let steps = checked.case.field("max_new_tokens").unwrap().as_u64().unwrap() as usize;
    let pattern = model.config().decoder.delay_pattern().unwrap();
    let plan = Plan { guidance_scale, sampling: Sampling::Greedy, ..Plan::reference(&pattern, None, steps) };
    let shape = checked.case.values(&format!("out.{name}.step_logits")).unwrap().shape.clone();
    let mut generation = Generation::new(model.lm(), conditioned, plan).unwrap();
    let mut logits = Vec::new();
    while !generation.is_done() {
        generation.step(&mut ()).unwrap();
        logits.push(Tensor::from_slice(generation.last_logits(), (shape[1], shape[2]), &Device::Cpu).unwrap());
    }
    checked.see(&format!("out.{name}.step_logits"), &Tensor::stack(&logits[..shape[0]], 0).unwrap());
    let codes = generation.codes(0..generation.finished());
    checked.see(&format!("out.{name}.codes"), &codes.to_tensor(&Device::Cpu).unwrap());
    checked.see(&format!("out.{name}.waveform"), &model.waveform(&codes).unwrap());
}

#[test]
fn melody_equals_the_reference() {
    let mut checked = Checked::open("musicgen/melody");
    let folder = golden("musicgen/melody").join("model");
    let model = Musicgen::load(&folder, &Device::Cpu, WeightFormat::F32).unwrap();
    let extractor = model.chroma_extractor().unwrap();
    let clips: Vec<_> = (0..2).map(|i| checked.input(&format!("in.clip_{i}")).to_vec1::<f32>().unwrap()).collect();
    let clips: Vec<_> = clips.iter().map(Vec::as_slice).collect();
    checked.see("mid.chroma_filters", &extractor.filters().unwrap());
    checked.see("mid.raw_chroma", &extractor.energies(&clips).unwrap());
    let chroma = extractor.extract(&clips).unwrap();
    checked.see("out.chroma", &chroma);

    let ids = checked.input("in.input_ids").to_dtype(DType::U32).unwrap();
    let mask = checked.input("in.attention_mask").to_dtype(DType::F32).unwrap();
    let states = model.text_states(&ids, &mask, &mut ()).unwrap();
    let with_melody = model.condition(&states, Some(&mask), Some(&chroma), &mut ()).unwrap();
    let text_only = model.condition(&states, Some(&mask), None, &mut ()).unwrap();
    checked.see("mid.conditioning", with_melody.states());
    checked.see("mid.conditioning_text_only", text_only.states());

    let ids = Codes::from_tensor(&checked.input("in.decoder_input_ids"), 4).unwrap();
    checked.see("out.logits", &model.logits(&ids, &with_melody, false, &mut ()).unwrap());
    checked.see("out.logits_text_only", &model.logits(&ids, &text_only, false, &mut ()).unwrap());
    run(&mut checked, &model, "melody_cfg3", &with_melody, 3.0);
    run(&mut checked, &model, "melody_nocfg", &with_melody, 1.0);
    run(&mut checked, &model, "text_cfg3", &text_only, 3.0);
    checked.finish();
}

/// The role takes the waveform of a melody, with words or without, and guides by it; without both it plays freely.
#[test]
fn a_melody_is_heard_by_the_role() {
    let folder = golden("musicgen/melody").join("model");
    let model = Musicgen::load(&folder, &Device::Cpu, WeightFormat::F32).unwrap();
    let tone = |hz: f32| {
        let wave: Vec<_> = (0..6000).map(|i| (i as f32 * hz * std::f32::consts::TAU / 32_000.0).sin()).collect();
        Some(Tensor::from_vec(wave, (1, 1, 6000), &Device::Cpu).unwrap())
    };
    let begin = |text: &str, melody: Option<Tensor>| {
        let options = DecodeOptions { melody, guidance_scale: 5.0, seed: 2, ..Default::default() };
        model.begin(&Conditioning::Text(text.into()), &options, None, 30).unwrap().run().unwrap()
    };
    let free = begin("", None);
    let (a, e) = (begin("", tone(440.0)), begin("", tone(659.3)));
    assert!(a != e && a != free && begin("calm", tone(440.0)) != a);
    assert_eq!(begin("calm", tone(440.0)), begin("calm", tone(440.0)));
}
