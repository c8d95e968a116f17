//! Cases of our own for formats below 32 bits: random models wide enough for whole blocks, against our own f32.
//!
//! The cases of the project prove the f32 arithmetic; from there these carry the proof to the other formats. Everything is
//! made from a seed, so nothing needs to be stored.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use musaic_core::{
    WeightFormat,
    probe::Probe,
    testing::{Data, Tolerance, Values, compare_within},
    weights::{Source, Weights},
};
use musaic_decoders::{
    musicgen::{Lm, LmConfig, delay::Codes},
    t5::{T5Config, T5Encoder},
};

use super::{
    case::chain,
    own_encoders,
    report::{CaseReport, Status, TensorReport},
    rounding::{MARGIN, Rounded, bounds},
};
use crate::llm::{Hooks, Layout, Llama, LlamaConfig, rope::RopeConfig};

/// A case made from a seed.
pub struct Own {
    /// Its name in place of a folder.
    pub name: &'static str,
    compute: fn(&Weights, &mut dyn Probe) -> Result<()>,
}

/// All of them.
pub const CASES: &[Own] = &[
    Own { name: "own/musicgen-lm-256", compute: language_model },
    Own { name: "own/t5-256", compute: text_encoder },
    Own { name: "own/mert-256", compute: own_encoders::mert },
    Own { name: "own/vit-256", compute: own_encoders::vit },
    Own { name: "own/llama-256", compute: llama },
];

/// Width of the models: one super-block of `q4_k`.
pub(super) const WIDTH: usize = 256;
/// Below this, differences are those of the order of sums.
const FLOOR: Tolerance = Tolerance { rtol: 1e-4, atol: 1e-4 };

/// Weights by name.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Runs a case: our f32, our f32 with rounded weights for the bounds, and the format on the device.
pub fn run(own: &Own, device: &Device, format: WeightFormat) -> CaseReport {
    let report = CaseReport::new(own.name, "own", Status::Ok);
    match weights_of(own).and_then(|weights| compare(own, &weights, &weights, device, format)) {
        Ok(tensors) => judge(report, tensors),
        Err(error) => CaseReport { status: Status::Failed, ..report }.with_reason(chain(&error)),
    }
}

fn judge(mut report: CaseReport, tensors: Vec<TensorReport>) -> CaseReport {
    report.compared = tensors.len();
    report.of = tensors.len();
    let cause = tensors.iter().find(|tensor| !tensor.passed).map(TensorReport::describe);
    report.tensors = tensors;
    report.pick_worst();
    if report.compared == 0 {
        return CaseReport { status: Status::Failed, ..report }.with_reason("nothing was compared");
    }
    match cause {
        Some(cause) => CaseReport { status: Status::Failed, ..report }.with_reason(cause),
        None => report,
    }
}

/// Compares `tested` in `format` on `device` with `sound` in f32 on the CPU; the two differ where a fault is planted.
fn compare(
    own: &Own,
    sound: &Tensors,
    tested: &Tensors,
    device: &Device,
    format: WeightFormat,
) -> Result<Vec<TensorReport>> {
    let compute = |weights: Weights| -> Result<Vec<(String, Values)>> {
        let mut seen: Vec<(String, Tensor)> = Vec::new();
        (own.compute)(&weights, &mut seen)?;
        weights.finish()?;
        seen.into_iter().map(|(name, value)| Ok((name, Values::from_tensor(&value)?))).collect()
    };
    let source = |tensors: &Tensors| Made::new(tensors.clone());
    let original = compute(Weights::new(source(sound), &Device::Cpu, WeightFormat::F32))?;
    let rounded = compute(Weights::new(Rounded::new(source(sound), format), &Device::Cpu, WeightFormat::F32))?;
    let got = compute(Weights::new(source(tested), device, format))?;
    let bounds = bounds(&original, &rounded);
    let wanted: HashMap<_, _> = original.into_iter().collect();
    // A fault spreads over many elements where rounding has a few bad ones: the mean is held to the same multiple.
    let rounding: HashMap<_, _> = rounded
        .iter()
        .filter_map(|(name, rounded)| Some((name.clone(), MARGIN * rms_difference(rounded, wanted.get(name)?))))
        .collect();
    Ok(got
        .iter()
        .filter_map(|(name, got)| {
            let want = wanted.get(name)?;
            let derived = bounds.get(name).copied().unwrap_or(0.0);
            let bound = |_, want: f64| (FLOOR.atol + FLOOR.rtol * want.abs()).max(derived);
            let mut report = TensorReport::new(compare_within(name, got, want, bound), None);
            let (off, allowed) =
                (rms_difference(got, want), rounding.get(name).copied().unwrap_or(0.0).max(FLOOR.atol));
            if report.passed && off > allowed {
                report.passed = false;
                report.fault = Some(format!("off by {off:.1e} in the root mean square, allowed {allowed:.1e}"));
            }
            Some(report)
        })
        .collect())
}

/// Root mean square of the differences of floats of one shape.
fn rms_difference(a: &Values, b: &Values) -> f64 {
    match (&a.data, &b.data) {
        (Data::Floats(a), Data::Floats(b)) if a.len() == b.len() && !a.is_empty() => {
            (a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / a.len() as f64).sqrt()
        }
        _ => 0.0,
    }
}

/// Two layers of the language model over 24 columns, with cross attention to 12 states of which 3 are padding.
fn language_model(weights: &Weights, probe: &mut dyn Probe) -> Result<()> {
    let config = LmConfig {
        vocab_size: 64,
        hidden_size: WIDTH,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        ffn_dim: 2 * WIDTH,
        num_codebooks: 4,
        audio_channels: 1,
        max_position_embeddings: 64,
        activation_function: "gelu".into(),
        pad_token_id: Some(64),
        tie_word_embeddings: false,
    };
    let lm = Lm::load(&config, true, weights)?;
    if !weights.has_values() {
        return Ok(());
    }
    let (batch, columns, states) = (2, 24, 12);
    let ids = uniform("ids", batch * config.num_codebooks * columns).map(|u| ((u + 1.0) * 32.0) as u32).collect();
    let ids = Codes { batch, codebooks: config.num_codebooks, length: columns, ids };
    let mask: Vec<f32> = (0..batch * states).map(|i| if i % states < states - 3 { 1.0 } else { 0.0 }).collect();
    let mask = Tensor::from_vec(mask, (batch, states), lm.device())?;
    let heard: Vec<f32> = uniform("states", batch * states * WIDTH).collect();
    let heard = Tensor::from_vec(heard, (batch, states, WIDTH), lm.device())?.to_dtype(lm.dtype())?;
    let mut state = lm.start(batch, Some(&heard), Some(&mask), columns, lm.dtype())?;
    let xs = lm.feed(&lm.embed(&ids, 1)?, &mut state, probe)?;
    let logits = lm.logits(&xs, probe)?;
    probe.see("logits", &logits)?;
    Ok(())
}

/// Two blocks of the text encoder over 16 tokens, of which 4 are padding.
fn text_encoder(weights: &Weights, probe: &mut dyn Probe) -> Result<()> {
    let config: T5Config = serde_json::from_value(serde_json::json!({
        "vocab_size": 64, "d_model": WIDTH, "d_kv": 64, "d_ff": 2 * WIDTH, "num_layers": 2, "num_heads": 4,
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "feed_forward_proj": "relu",
        "layer_norm_epsilon": 1e-6,
    }))?;
    let encoder = T5Encoder::load(&config, weights)?;
    if !weights.has_values() {
        return Ok(());
    }
    let length = 16;
    let ids: Vec<u32> = uniform("tokens", length).map(|u| ((u + 1.0) * 32.0) as u32).collect();
    let ids = Tensor::from_vec(ids, (1, length), weights.device())?;
    let mask: Vec<f32> = (0..length).map(|i| if i < length - 4 { 1.0 } else { 0.0 }).collect();
    let mask = Tensor::from_vec(mask, (1, length), weights.device())?;
    let states = encoder.forward(&ids, &mask, probe)?;
    probe.see("text_states", &states.to_dtype(DType::F32)?)?;
    Ok(())
}

/// Three layers of a LLaMA over 24 positions: heads that share keys, biases, LoRA, and a prefix in the last two layers.
fn llama(weights: &Weights, probe: &mut dyn Probe) -> Result<()> {
    let config = LlamaConfig {
        layout: Layout::Meta,
        vocab_size: 64,
        hidden_size: WIDTH,
        intermediate_size: 2 * WIDTH,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 64,
        rms_norm_eps: 1e-5,
        max_position_embeddings: 64,
        rope: RopeConfig::plain(10_000.0),
        tie_word_embeddings: false,
        attention_bias: false,
        mlp_bias: false,
        hooks: Hooks { biases: true, lora_rank: Some(16), gates: true },
        bos_token_id: None,
        eos_token_ids: Vec::new(),
    };
    let model = Llama::load(&config, weights)?;
    if !weights.has_values() {
        return Ok(());
    }
    let (batch, length) = (2, 24);
    let ids: Vec<u32> = uniform("tokens", batch * length).map(|u| ((u + 1.0) * 32.0) as u32).collect();
    let ids = Tensor::from_vec(ids, (batch, length), model.device())?;
    let mut prefixes = vec![None];
    for layer in 1..3 {
        let adapter: Vec<f32> = uniform(&format!("adapter {layer}"), WIDTH).collect();
        prefixes.push(model.prefix(layer, &Tensor::from_vec(adapter, (1, 1, WIDTH), model.device())?)?);
    }
    let mut state = model.start(batch, length, model.dtype())?;
    model.set_prefixes(&mut state, prefixes)?;
    let hidden = model.feed(&model.embed(&ids)?, &mut state, probe)?;
    let logits = model.logits(&hidden, probe)?;
    probe.see("logits", &logits)?;
    Ok(())
}

/// Random weights of every tensor the model of a case asks for.
fn weights_of(own: &Own) -> Result<Tensors> {
    let names = Weights::from_names(BTreeMap::new());
    (own.compute)(&names, &mut ())?;
    let missing = names.report().missing;
    Ok(missing
        .into_iter()
        .map(|missing| {
            let values = random(&missing.name, &missing.shape);
            (missing.name, (missing.shape, values))
        })
        .collect())
}

/// Scaled so that the states keep their size from layer to layer.
fn random(name: &str, shape: &[usize]) -> Vec<f32> {
    let numbers = uniform(name, shape.iter().product());
    match shape {
        [_] if name.ends_with("bias") => numbers.map(|u| 0.1 * u).collect(),
        [_] => numbers.map(|u| 1.0 + 0.2 * u).collect(),
        // Gates: half open.
        [1, _, 1, 1] => numbers.collect(),
        _ if ["tok_embeddings", "embed_tokens", "shared", "bias"].iter().any(|part| name.contains(part)) => {
            numbers.collect()
        }
        _ => {
            // Attention that looks somewhere: T5 does not scale its scores, the decoder divides them by the root of 64.
            let gain = match name {
                _ if name.ends_with("SelfAttention.q.weight") => 0.25,
                _ if name.ends_with("q_proj.weight") || name.ends_with("attention.query.weight") => 2.0,
                _ if name.ends_with("q_proj.weight") || name.ends_with("wq.weight") => 2.0,
                // An update is small beside what it updates.
                _ if name.contains("lora_") && name.ends_with("_l2.weight") => 0.5,
                _ => 1.0,
            };
            let scale = gain * (3.0 / shape.last().copied().unwrap_or(1).max(1) as f32).sqrt();
            numbers.map(|u| scale * u).collect()
        }
    }
}

/// Numbers in [-1, 1) that depend on the name alone: splitmix64 from an FNV hash of it.
pub(super) fn uniform(name: &str, count: usize) -> impl Iterator<Item = f32> {
    let mut state = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    (0..count).map(move |_| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    })
}

/// Made weights as a source.
struct Made {
    shapes: BTreeMap<String, Vec<usize>>,
    values: Tensors,
}

impl Made {
    fn new(values: Tensors) -> Self {
        Self { shapes: values.iter().map(|(name, (shape, _))| (name.clone(), shape.clone())).collect(), values }
    }
}

impl Source for Made {
    fn label(&self) -> String {
        "weights from a seed".into()
    }

    fn tensors(&self) -> &BTreeMap<String, Vec<usize>> {
        &self.shapes
    }

    fn read(&self, name: &str, sink: &mut dyn FnMut(&[f32]) -> musaic_core::Result<()>) -> musaic_core::Result<()> {
        match self.values.get(name) {
            Some((_, values)) => sink(values),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMATS: [WeightFormat; 4] = [WeightFormat::Bf16, WeightFormat::F16, WeightFormat::Q8_0, WeightFormat::Q4K];

    #[test]
    fn every_format_is_within_its_bounds() {
        for own in CASES {
            for format in FORMATS {
                let report = run(own, &Device::Cpu, format);
                let mut line = Vec::new();
                report.write(&mut line, true).unwrap();
                let line = String::from_utf8(line).unwrap();
                assert_eq!(report.status, Status::Ok, "{format}: {line}");
                println!("{format} {line}");
            }
        }
    }

    /// Rows `[from * rows, (from + 1) * rows)` and those of `to` change places.
    fn swap_rows(tensor: &mut (Vec<usize>, Vec<f32>), rows: usize, from: usize, to: usize) {
        let size = rows * tensor.0[1];
        let (head, tail) = tensor.1.split_at_mut(to * size);
        head[from * size..(from + 1) * size].swap_with_slice(&mut tail[..size]);
    }

    /// What is planted, in which case, whether it shows above the noise of four bits too, and how it is done.
    type Fault = (&'static str, usize, bool, fn(&mut Tensors));

    fn planted() -> Vec<Fault> {
        vec![
            ("heads 0 and 1 of a query projection swapped", 0, true, |w| {
                swap_rows(w.get_mut("model.decoder.layers.0.self_attn.q_proj.weight").unwrap(), 64, 0, 1);
            }),
            ("heads of the cross attention's values swapped", 0, false, |w| {
                swap_rows(w.get_mut("model.decoder.layers.1.encoder_attn.v_proj.weight").unwrap(), 64, 1, 2);
            }),
            ("a feed-forward layer half as loud again", 0, false, |w| {
                let tensor = w.get_mut("model.decoder.layers.1.fc2.weight").unwrap();
                tensor.1.iter_mut().for_each(|v| *v *= 1.5);
            }),
            ("two codebooks' heads swapped", 0, true, |w| {
                let first = w["lm_heads.0.weight"].clone();
                let second = w.insert("lm_heads.1.weight".into(), first).unwrap();
                w.insert("lm_heads.0.weight".into(), second);
            }),
            ("keys taken for values", 1, true, |w| {
                let name = |part: &str| format!("encoder.block.1.layer.0.SelfAttention.{part}.weight");
                let k = w[&name("k")].clone();
                let v = w.insert(name("v"), k).unwrap();
                w.insert(name("k"), v);
            }),
            ("no relative positions", 1, false, |w| {
                let name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
                w.get_mut(name).unwrap().1.fill(0.0);
            }),
            ("heads of a MERT layer's queries swapped", 2, false, |w| {
                swap_rows(w.get_mut("encoder.layers.0.attention.q_proj.weight").unwrap(), 64, 0, 1);
            }),
            ("keys taken for values in a ViT layer", 3, false, |w| {
                let name = |part: &str| format!("encoder.layer.1.attention.attention.{part}.weight");
                let key = w[&name("key")].clone();
                let value = w.insert(name("value"), key).unwrap();
                w.insert(name("key"), value);
            }),
            ("a norm that does not scale", 1, false, |w| {
                w.get_mut("encoder.block.1.layer.1.layer_norm.weight").unwrap().1.fill(0.5);
            }),
            ("keys of a shared head swapped", 4, false, |w| {
                swap_rows(w.get_mut("layers.1.attention.wk.weight").unwrap(), 64, 0, 1);
            }),
            ("gate and up projections swapped", 4, false, |w| {
                let first = w["layers.0.feed_forward.w1.weight"].clone();
                let second = w.insert("layers.0.feed_forward.w3.weight".into(), first).unwrap();
                w.insert("layers.0.feed_forward.w1.weight".into(), second);
            }),
            ("an update that is left out", 4, false, |w| {
                w.get_mut("layers.0.attention.lora_wv_l2.weight").unwrap().1.fill(0.0);
            }),
            ("rows of the head in the other order", 4, true, |w| {
                let (shape, values) = w.get_mut("output.weight").unwrap();
                let rows: Vec<_> = values.chunks(shape[1]).rev().flatten().copied().collect();
                *values = rows;
            }),
            ("closed gates", 4, false, |w| w.get_mut("layers.2.attention.gate").unwrap().1.fill(0.0)),
        ]
    }

    #[test]
    fn planted_faults_exceed_the_bounds() {
        let mut missed = Vec::new();
        for (what, case, coarse, plant) in planted() {
            let own = &CASES[case];
            let sound = weights_of(own).unwrap();
            let mut faulty = sound.clone();
            plant(&mut faulty);
            for format in FORMATS.into_iter().filter(|&format| coarse || format != WeightFormat::Q4K) {
                let tensors = compare(own, &sound, &faulty, &Device::Cpu, format).unwrap();
                let report = judge(CaseReport::new(own.name, "own", Status::Ok), tensors);
                if report.status != Status::Failed {
                    missed.push(format!("{what} in {format}"));
                }
            }
        }
        assert_eq!(missed, Vec::<String>::new());
    }

    #[test]
    fn made_weights_do_not_change() {
        let weights = weights_of(&CASES[0]).unwrap();
        assert_eq!(weights, weights_of(&CASES[0]).unwrap());
        let mean = |name: &str| weights[name].1.iter().sum::<f32>() / weights[name].1.len() as f32;
        assert!(mean("model.decoder.layers.0.fc1.weight").abs() < 1e-3);
        assert!((mean("model.decoder.layer_norm.weight") - 1.0).abs() < 0.05);
    }
}
