//! The delay pattern and the sampling of MusicGen against their parity cases, and as laws.
#![allow(clippy::unwrap_used, clippy::panic)]

mod musicgen_common;

use candle_core::{D, DType, Device, Tensor};
use musaic_core::role::Sampling;
use musaic_decoders::musicgen::{
    delay::{Codes, DelayPattern},
    sampling::{Sampler, guide},
};
use musicgen_common::Checked;
use proptest::prelude::*;

fn rows(codes: &Codes) -> Tensor {
    let shape = (codes.batch * codes.codebooks, codes.length);
    codes.to_tensor(&Device::Cpu).unwrap().reshape(shape).unwrap().to_dtype(DType::I64).unwrap()
}

#[test]
fn delay_equals_the_reference() {
    let mut checked = Checked::open("musicgen/delay");
    let plan = checked.case.field("plan").unwrap().clone();
    for row in plan.as_array().unwrap() {
        let name = row["name"].as_str().unwrap();
        let number = |key: &str| row[key].as_u64().unwrap() as usize;
        let codebooks = number("num_codebooks");
        let ids = Codes::from_tensor(&checked.input(&format!("in.{name}.ids")), codebooks).unwrap();
        let generated = Codes::from_tensor(&checked.input(&format!("in.{name}.generated")), codebooks).unwrap();
        let pad = ids.ids[0];
        let pattern = DelayPattern::new(codebooks, number("channels"), pad).unwrap();
        let mask = pattern.mask(&ids, number("max_length")).unwrap();
        assert_eq!((ids.batch, ids.length), (number("batch"), number("prompt_len")));

        // The first ids are the given columns, or the ids themselves where nothing is delayed.
        let first = if pattern.applies(mask.length) {
            mask.apply(&Codes::filled(ids.batch, codebooks, mask.length, pad)).unwrap().columns(0..mask.first)
        } else {
            ids.clone()
        };
        checked.see(&format!("out.{name}.first_ids"), &rows(&first));
        checked.see(&format!("out.{name}.mask"), &mask.to_tensor(&Device::Cpu).unwrap());
        let applied = mask.apply(&generated).unwrap();
        checked.see(&format!("out.{name}.applied"), &rows(&applied));
        let codes = pattern.revert(&applied).unwrap().to_tensor(&Device::Cpu).unwrap();
        checked.see(&format!("out.{name}.codes"), &codes.to_dtype(DType::I64).unwrap());
    }
    checked.finish();
}

#[test]
fn sampling_equals_the_reference() {
    let mut checked = Checked::open("musicgen/sampling");
    let cond = checked.input("in.logits_cond").to_vec2::<f32>().unwrap();
    let uncond = checked.input("in.logits_uncond").to_vec2::<f32>().unwrap();
    let names: Vec<_> = checked.case.expected().map(str::to_owned).collect();
    let mut sampler = Sampler::default();
    for name in names {
        let guided = |scale: f64| -> Vec<Vec<f32>> {
            let mut rows = cond.clone();
            if scale != 1.0 {
                rows.iter_mut().zip(&uncond).for_each(|(row, uncond)| guide(row, uncond, scale));
            }
            rows
        };
        let tensor = |rows: Vec<Vec<f32>>| Tensor::new(rows, &Device::Cpu).unwrap();
        if let Some(scale) = name.strip_prefix("out.cfg_") {
            checked.see(&name, &tensor(guided(scale.trim_start_matches('g').parse().unwrap())));
            continue;
        }
        let parts: Vec<_> = name.strip_prefix("out.probs_").unwrap().split('_').collect();
        let value = |letter: char| -> f64 {
            let part = parts.iter().find(|part| part.starts_with(letter)).unwrap();
            part[1..].parse().unwrap()
        };
        let sampling = Sampling::Draw { temperature: value('t'), top_k: value('k') as usize, top_p: value('p') };
        let rows = guided(value('g')).iter().map(|row| sampler.probabilities(row, &sampling)).collect();
        let probabilities = tensor(rows);
        let sums = probabilities.sum(D::Minus1).unwrap().to_vec1::<f32>().unwrap();
        assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-5));
        checked.see(&name, &probabilities);
    }
    checked.finish();
}

proptest! {
    #[test]
    fn delayed_and_reverted_codes_are_the_same(
        batch in 1usize..3, per_channel in 1usize..9, channels in 1usize..3, frames in 1usize..40, seed in any::<u32>(),
    ) {
        let (codebooks, pad) = (per_channel * channels, 64);
        let pattern = DelayPattern::new(codebooks, channels, pad).unwrap();
        let length = frames + per_channel;
        prop_assume!(pattern.applies(length));
        let mut codes = Codes::filled(batch, codebooks, frames + 1, pad);
        for row in 0..batch * codebooks {
            for frame in 0..frames {
                codes.ids[row * (frames + 1) + frame + 1] = seed.wrapping_mul(31).wrapping_add((row * 977 + frame * 13) as u32) % 64;
            }
        }
        let mask = pattern.mask(&codes, length).unwrap();
        let delayed = mask.apply(&Codes::filled(batch, codebooks, length, 63)).unwrap();
        // Every place is given, each code stands where its delay puts it, and the way back loses nothing.
        prop_assert!(mask.given.iter().all(Option::is_some));
        for row in 0..batch * codebooks {
            let delay = pattern.delay(row % codebooks);
            for frame in 0..frames {
                prop_assert_eq!(delayed.row(row)[frame + delay + 1], codes.row(row)[frame + 1]);
            }
        }
        prop_assert_eq!(pattern.revert(&delayed).unwrap(), codes.columns(1..frames + 1));
    }
}
