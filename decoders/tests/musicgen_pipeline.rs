//! MusicGen against its parity cases, every stage.
#![allow(clippy::unwrap_used, clippy::panic)]

mod musicgen_common;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use musaic_core::{WeightFormat, role::Sampling};
use musaic_decoders::musicgen::{
    Conditioned, Generation, Musicgen, Plan,
    delay::{Codes, DelayPattern},
    guide_halves,
};
use musicgen_common::Checked;

struct Case {
    checked: Checked,
    model: Musicgen,
    pattern: DelayPattern,
    max_new_tokens: usize,
}

fn load(folder: &Path) -> Musicgen {
    Musicgen::load(folder, &Device::Cpu, WeightFormat::F32).unwrap()
}

impl Case {
    fn open(name: &str, model: &str) -> Self {
        let checked = Checked::open(name);
        let folder = musicgen_common::golden(name).join(model);
        // The first publication had no tokenizer in its folder; the ids are given.
        let model = if folder.join("tokenizer.json").is_file() { load(&folder) } else { legacy(&folder) };
        let pattern = model.config().decoder.delay_pattern().unwrap();
        let max_new_tokens = checked.case.field("max_new_tokens").unwrap().as_u64().unwrap() as usize;
        Self { checked, model, pattern, max_new_tokens }
    }

    fn ids(&self, name: &str) -> Tensor {
        self.checked.input(name).to_dtype(DType::U32).unwrap()
    }

    fn mask(&self, name: &str) -> Tensor {
        self.checked.input(name).to_dtype(DType::F32).unwrap()
    }

    fn codes(&self, name: &str) -> Codes {
        Codes::from_tensor(&self.checked.input(name), self.pattern.codebooks()).unwrap()
    }

    /// One greedy run: codes, the logits of the first steps, the waveform.
    fn run(&mut self, name: &str, conditioned: &Conditioned, guidance_scale: f64, prompt: Option<Codes>) {
        let plan = Plan {
            guidance_scale,
            sampling: Sampling::Greedy,
            ..Plan::reference(&self.pattern, prompt, self.max_new_tokens)
        };
        let want = self.checked.case.values(&format!("out.{name}.step_logits")).unwrap().shape.clone();
        let mut generation = Generation::new(self.model.lm(), conditioned, plan).unwrap();
        let mut steps = Vec::new();
        while !generation.is_done() {
            let before = generation.progress().0;
            generation.step(&mut ()).unwrap();
            if generation.progress().0 > before && steps.len() < want[0] {
                let logits = generation.last_logits().to_vec();
                steps.push(Tensor::from_vec(logits, (want[1], want[2]), &Device::Cpu).unwrap());
            }
        }
        let codes = generation.codes(0..generation.finished());
        let tensor = codes.to_tensor(&Device::Cpu).unwrap();
        self.checked.see(&format!("out.{name}.step_logits"), &Tensor::stack(&steps, 0).unwrap());
        self.checked.see(&format!("out.{name}.codes"), &tensor);
        let waveform = self.model.waveform(&codes).unwrap();
        self.checked.see(&format!("out.{name}.waveform"), &waveform);
    }
}

fn legacy(folder: &Path) -> Musicgen {
    use musaic_core::weights::Weights;
    let config = musaic_decoders::musicgen::MusicgenConfig::open(&folder.join("config.json")).unwrap();
    let weights = Weights::open(folder, &Device::Cpu, WeightFormat::F32).unwrap();
    Musicgen::from_weights(&config, &weights).unwrap().0
}

fn pipeline(name: &str, model: &str) {
    let mut case = Case::open(name, model);
    let mut seen = Vec::new();
    let mask = case.mask("in.attention_mask");
    let states = case.model.text_states(&case.ids("in.input_ids"), &mask, &mut seen).unwrap();
    let conditioned = case.model.condition(&states, Some(&mask), None, &mut seen).unwrap();
    case.checked.see_probe(&seen);
    case.checked.see("out.text_states", &states);
    let full_mask = case.mask("in.attention_mask_max_length");
    let full = case.model.text_states(&case.ids("in.input_ids_max_length"), &full_mask, &mut ()).unwrap();
    case.checked.see("out.text_states_max_length", &full);

    // Logits of given codes.
    let codes = case.codes("in.codes");
    let frames = codes.length;
    let mut prompt = Codes::filled(codes.batch, codes.codebooks, frames + 1, case.pattern.pad());
    for row in 0..codes.batch * codes.codebooks {
        prompt.ids[row * (frames + 1) + 1..(row + 1) * (frames + 1)].copy_from_slice(codes.row(row));
    }
    let pattern_mask = case.pattern.mask(&prompt, 1 + frames + case.pattern.channel_codebooks()).unwrap();
    case.checked.see("mid.pattern_mask", &pattern_mask.to_tensor(&Device::Cpu).unwrap());
    let delayed = pattern_mask.apply(&Codes::filled(codes.batch, codes.codebooks, frames + 1, 0)).unwrap();
    let rows = codes.batch * codes.codebooks;
    case.checked.see("mid.delayed_ids", &delayed.to_tensor(&Device::Cpu).unwrap().reshape((rows, ())).unwrap());
    let mut seen = Vec::new();
    let logits = case.model.logits(&delayed, &conditioned, false, &mut seen).unwrap();
    case.checked.see_probe(&seen);
    case.checked.see("out.logits", &logits);
    let both = case.model.logits(&delayed, &conditioned, true, &mut ()).unwrap();
    case.checked.see("out.logits_cfg_both", &both);
    case.checked.see("out.logits_cfg_3.0", &guide_halves(&both, 3.0).unwrap());
    let unconditional = case.model.unconditional(codes.batch).unwrap();
    let logits = case.model.logits(&delayed, &unconditional, false, &mut ()).unwrap();
    case.checked.see("out.logits_unconditional", &logits);
    let injected = case.checked.input("in.injected_states");
    let injected_nomask = case.model.condition(&injected, None, None, &mut ()).unwrap();
    let first = Codes { batch: 1, ids: delayed.ids[..delayed.ids.len() / 2].to_vec(), ..delayed };
    let logits = case.model.logits(&first, &injected_nomask, false, &mut ()).unwrap();
    case.checked.see("out.logits_injected_nomask", &logits);

    // Greedy runs.
    case.run("text_cfg3", &conditioned, 3.0, None);
    case.run("text_nocfg", &conditioned, 1.0, None);
    case.run("uncond", &unconditional, 1.0, None);
    case.run("injected_nocfg", &injected_nomask, 1.0, None);
    let ones = Tensor::ones((1, injected.dims()[1]), DType::F32, &Device::Cpu).unwrap();
    let injected = case.model.condition(&injected, Some(&ones), None, &mut ()).unwrap();
    case.run("injected_cfg3.5", &injected, 3.5, None);
    let audio = case.checked.input("in.prompt_audio");
    let padding = case.mask("in.prompt_padding_mask");
    let prompt = case.model.prompt_codes(&audio, Some(&padding)).unwrap();
    if case.checked.case.stored("mid.prompt_codes").is_some() {
        let tensor = prompt.to_tensor(&Device::Cpu).unwrap().unsqueeze(0).unwrap();
        case.checked.see("mid.prompt_codes", &tensor);
    }
    case.run("continued_cfg3", &conditioned, 3.0, Some(prompt));
    case.checked.finish();
}

#[test]
fn mono_equals_the_reference() {
    pipeline("musicgen/tiny", "model");
}

#[test]
fn the_first_publication_of_the_weights_gives_the_same() {
    pipeline("musicgen/tiny", "model_legacy");
}

#[test]
fn stereo_equals_the_reference() {
    pipeline("musicgen/stereo", "model");
}
