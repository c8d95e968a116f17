//! Laws of the generation: the same piece whichever way it is made.
#![allow(clippy::unwrap_used, clippy::panic)]

mod musicgen_common;

use std::sync::LazyLock;

use candle_core::{DType, Device, Tensor};
use musaic_core::{
    Result, WeightFormat,
    probe::Probe,
    role::{AudioSink, Cancel, Conditioning, DecodeOptions, Decoder, Sampling},
};
use musaic_decoders::musicgen::{
    Conditioned, Generation, GenerationConfig, Musicgen, Plan, delay::Codes, guide_halves, philox::Piece,
};
use musicgen_common::golden;

static MONO: LazyLock<Musicgen> = LazyLock::new(|| load("musicgen/tiny"));

fn load(case: &str) -> Musicgen {
    Musicgen::load(&golden(case).join("model"), &Device::Cpu, WeightFormat::F32).unwrap()
}

/// Random-looking text states for `batch` pieces.
fn conditioned(model: &Musicgen, batch: usize) -> Conditioned {
    let width = model.config().text_encoder.d_model;
    let values: Vec<_> = (0..batch * 7 * width).map(|i| ((i * 7919 % 1000) as f32 / 500.0) - 1.0).collect();
    let states = Tensor::from_vec(values, (batch, 7, width), &Device::Cpu).unwrap();
    let mask: Vec<_> = (0..batch * 7).map(|i| if i % 7 < 7 - i / 7 { 1f32 } else { 0.0 }).collect();
    let mask = Tensor::from_vec(mask, (batch, 7), &Device::Cpu).unwrap();
    model.condition(&states, Some(&mask), None, &mut ()).unwrap()
}

fn rows(conditioned: &Conditioned, at: usize) -> Conditioned {
    let Conditioned::Cross { states, mask } = conditioned else { panic!("a prefix") };
    let mask = mask.as_ref().map(|mask| mask.narrow(0, at, 1).unwrap());
    Conditioned::Cross { states: states.narrow(0, at, 1).unwrap(), mask }
}

fn take(take: u32) -> Piece {
    Piece { take, opening: 0 }
}

fn plan(frames: usize) -> Plan {
    Plan { guidance_scale: 3.0, sampling: Sampling::default(), seed: 11, ..Plan::new(frames) }
}

fn run(model: &Musicgen, conditioned: &Conditioned, plan: Plan) -> Codes {
    Generation::new(model.lm(), conditioned, plan).unwrap().run().unwrap()
}

#[test]
fn cached_equals_uncached() {
    let model = &*MONO;
    let pattern = model.config().decoder.delay_pattern().unwrap();
    let conditioned = conditioned(model, 2);
    for guidance_scale in [1.0, 3.0] {
        let frames = 20;
        let plan = Plan { guidance_scale, pad_finished: true, ..plan(frames) };
        let mut generation = Generation::new(model.lm(), &conditioned, plan).unwrap();
        let mut steps = Vec::new();
        while !generation.is_done() {
            generation.step(&mut ()).unwrap();
            steps.push(generation.last_logits().to_vec());
        }
        // The finished piece once more, all columns at once.
        let codes = generation.codes(0..frames);
        let mut ids = Codes::filled(2, 4, frames + 1, pattern.pad());
        for row in 0..8 {
            ids.ids[row * (frames + 1) + 1..(row + 1) * (frames + 1)].copy_from_slice(codes.row(row));
        }
        let length = frames + pattern.channel_codebooks();
        let delayed = pattern.mask(&ids, length).unwrap().apply(&Codes::filled(2, 4, length, 0)).unwrap();
        let guided = guidance_scale != 1.0;
        let mut logits = model.logits(&delayed, &conditioned, guided, &mut ()).unwrap();
        if guided {
            logits = guide_halves(&logits, guidance_scale).unwrap();
        }
        let logits = logits.to_vec3::<f32>().unwrap();
        assert_eq!(steps.len(), length - 1);
        for (step, got) in steps.iter().enumerate() {
            for (row, got) in got.chunks(model.config().decoder.vocab_size).enumerate() {
                for (got, want) in got.iter().zip(&logits[row][step]) {
                    assert!(
                        (got - want).abs() < 1e-4,
                        "guidance {guidance_scale}, step {step}, row {row}: {got} {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_batch_is_its_singles_and_takes_count_on() {
    let model = &*MONO;
    let conditioned = conditioned(model, 2);
    for guidance_scale in [1.0, 3.0] {
        let both = run(model, &conditioned, Plan { guidance_scale, first: take(5), ..plan(25) });
        for at in 0..2 {
            let first = take(5 + at as u32);
            let single = run(model, &rows(&conditioned, at), Plan { guidance_scale, first, ..plan(25) });
            assert_eq!(single.ids, both.ids[at * 100..(at + 1) * 100], "guidance {guidance_scale}, piece {at}");
        }
    }
    let again = run(model, &rows(&conditioned, 0), Plan { first: take(6), ..plan(25) });
    assert_ne!(again.ids, run(model, &rows(&conditioned, 0), Plan { first: take(5), ..plan(25) }).ids, "another take");
}

#[test]
fn openings_of_one_take_are_pieces_of_their_own() {
    let model = &*MONO;
    let conditioned = conditioned(model, 2);
    let both = run(model, &conditioned, Plan { guidance_scale: 3.0, first: take(5), openings: true, ..plan(25) });
    for opening in 0..2u32 {
        let first = Piece { take: 5, opening };
        let at = opening as usize;
        let single = run(model, &rows(&conditioned, at), Plan { guidance_scale: 3.0, first, ..plan(25) });
        assert_eq!(single.ids, both.ids[at * 100..(at + 1) * 100], "opening {opening}");
    }
}

#[test]
fn a_longer_piece_begins_with_the_shorter_one() {
    let model = &*MONO;
    let conditioned = conditioned(model, 1);
    let window = 30;
    let long = run(model, &conditioned, Plan { window, ..plan(101) });
    assert_eq!(long.length, 101);
    for frames in [1, 2, 3, 10, 27, 29, 30, 31, 57, 59, 61, 100] {
        let short = run(model, &conditioned, Plan { window, ..plan(frames) });
        // Where a window ends within the last delays of a piece, it is not placed anew for them: columns 31, 41, ...
        let ends_with_window = (frames + 1..=frames + 3).any(|column| column > window && column % 10 == 1);
        let same = if ends_with_window { frames - 3 } else { frames };
        assert_eq!(short.columns(0..same), long.columns(0..same), "{frames} frames");
    }
    // One window that holds all gives the same until the first one is full.
    let whole = run(model, &conditioned, Plan { window: 200, ..plan(101) });
    assert_eq!(whole.columns(0..window - 3), long.columns(0..window - 3));
}

/// Behind a slide of the window the model sees exactly a continuation of the kept codes.
#[test]
fn a_new_window_is_a_continuation() {
    let model = &*MONO;
    let pattern = model.config().decoder.delay_pattern().unwrap();
    let conditioned = conditioned(model, 1);
    let (window, frames) = (30, 45);
    let mut generation = Generation::new(model.lm(), &conditioned, Plan { window, ..plan(frames) }).unwrap();
    // Column 31 is the first one of the second window, which keeps 20 of 30 frames.
    while generation.progress().0 < window + 1 {
        generation.step(&mut ()).unwrap();
    }
    let got = generation.last_logits().to_vec();
    while !generation.is_done() {
        generation.step(&mut ()).unwrap();
    }
    let keep = generation.codes(10..frames);
    let mut ids = Codes::filled(1, 4, keep.length + 1, pattern.pad());
    for row in 0..4 {
        ids.ids[row * (keep.length + 1) + 1..(row + 1) * (keep.length + 1)].copy_from_slice(keep.row(row));
    }
    let length = keep.length + 4;
    let delayed = pattern.mask(&ids, length).unwrap().apply(&Codes::filled(1, 4, length, 0)).unwrap();
    let logits = model.logits(&delayed.columns(0..21), &conditioned, true, &mut ()).unwrap();
    let logits = guide_halves(&logits, 3.0).unwrap().narrow(1, 20, 1).unwrap().flatten_all().unwrap();
    for (got, want) in got.iter().zip(logits.to_vec1::<f32>().unwrap()) {
        assert!((got - want).abs() < 1e-4, "{got} {want}");
    }
}

#[test]
fn a_prompt_is_kept_and_may_be_longer_than_the_window() {
    let model = &*MONO;
    let conditioned = conditioned(model, 1);
    for (prompt_frames, window) in [(1, 30), (29, 30), (30, 30), (31, 30), (150, 30), (150, 1500)] {
        let mut prompt = Codes::filled(1, 4, prompt_frames, 0);
        prompt.ids.iter_mut().enumerate().for_each(|(i, id)| *id = (i * 31 % 64) as u32);
        let plan = Plan { prompt: Some(prompt.clone()), window, ..plan(prompt_frames + 20) };
        let codes = run(model, &conditioned, plan);
        assert_eq!(codes.length, prompt_frames + 20);
        assert_eq!(codes.columns(0..prompt_frames), prompt);
        assert!(codes.ids.iter().all(|&id| id < 64), "every code is a real token");
    }
}

#[derive(Default)]
struct Collected {
    channels: Vec<Vec<f32>>,
    blocks: usize,
    progress: Vec<(usize, usize)>,
    cancel_at: Option<(usize, Cancel)>,
}

impl AudioSink for Collected {
    fn block(&mut self, channels: &[&[f32]]) -> Result<()> {
        self.channels.resize(channels.len(), Vec::new());
        self.channels.iter_mut().zip(channels).for_each(|(all, block)| all.extend_from_slice(block));
        self.blocks += 1;
        Ok(())
    }

    fn progress(&mut self, done: usize, total: usize) {
        self.progress.push((done, total));
        if let Some((at, cancel)) = &self.cancel_at
            && done >= *at
        {
            cancel.cancel();
        }
    }
}

fn decode(model: &mut Musicgen, text: &str, options: &DecodeOptions) -> Collected {
    let mut sink = Collected::default();
    let summary = model.decode(&Conditioning::Text(text.into()), options, &Cancel::default(), &mut sink).unwrap();
    assert!(!summary.cancelled && sink.channels.iter().all(|channel| channel.len() == summary.samples));
    sink
}

#[test]
fn the_stream_is_the_whole_and_has_the_exact_length() {
    for (case, channels) in [("musicgen/tiny", 1), ("musicgen/stereo", 2)] {
        let mut model = load(case);
        let hop = model.codec().config().hop_length();
        let rate = f64::from(model.spec().sample_rate_hz);
        for frames in [0.4, 3.0, 90.3] {
            let options = DecodeOptions { duration_s: frames * hop as f64 / rate, seed: 3, ..Default::default() };
            let sink = decode(&mut model, "calm piano melody", &options);
            assert_eq!(sink.channels.len(), channels);
            let samples = (frames * hop as f64).round() as usize;
            assert!(sink.channels.iter().all(|channel| channel.len() == samples));
            let (done, total) = *sink.progress.last().unwrap();
            assert_eq!((done, total), (frames.ceil() as usize + 3, total));

            let text = Conditioning::Text("calm piano melody".into());
            let codes = model.begin(&text, &options, None, frames.ceil() as usize).unwrap().run().unwrap();
            let whole = model.waveform(&codes).unwrap().squeeze(0).unwrap().to_vec2::<f32>().unwrap();
            for (got, want) in sink.channels.iter().zip(&whole) {
                let error = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                assert!(error < 1e-4, "{case}, {frames} frames: {error}");
            }
        }
    }
}

#[test]
fn a_stop_request_is_obeyed_within_a_step_and_keeps_what_is_finished() {
    let mut model = load("musicgen/tiny");
    let cancel = Cancel::default();
    let mut sink = Collected { cancel_at: Some((40, cancel.clone())), ..Default::default() };
    let text = Conditioning::Text("calm".into());
    let summary = model.decode(&text, &DecodeOptions::default(), &cancel, &mut sink).unwrap();
    assert!(summary.cancelled);
    assert_eq!(summary.steps, 40);
    assert_eq!((summary.samples, sink.channels[0].len()), (37 * 640, 37 * 640));
}

#[test]
fn an_empty_prompt_is_no_conditioning_but_under_reference() {
    let model = &*MONO;
    let begin = |text: &str, guidance_scale: f64, reference: bool| {
        let options = DecodeOptions { guidance_scale, reference, seed: 4, ..Default::default() };
        let text = Conditioning::Text(text.into());
        model.begin(&text, &options, None, 20).unwrap().run().unwrap()
    };
    let plain = run(model, &model.unconditional(1).unwrap(), Plan { guidance_scale: 1.0, seed: 4, ..plan(20) });
    assert_eq!(begin("", 3.0, false), plain);
    assert_eq!(begin("  \n", 9.0, false), plain);
    assert_ne!(begin("", 3.0, true), begin("", 1.0, true), "guided like any other");
}

#[test]
fn a_continuation_gives_the_new_part_or_both() {
    for case in ["musicgen/tiny", "musicgen/stereo"] {
        let mut model = load(case);
        let (hop, channels) = (model.codec().config().hop_length(), model.spec().channels);
        let samples = 12 * hop + 7;
        let wave: Vec<_> = (0..channels * samples).map(|i| (i as f32 * 0.05).sin() * 0.4).collect();
        let audio = Tensor::from_vec(wave, (1, channels, samples), &Device::Cpu).unwrap();
        let duration_s = 5.5 * hop as f64 / f64::from(model.spec().sample_rate_hz);
        let options = DecodeOptions { duration_s, continue_from: Some(audio), ..Default::default() };
        let new = decode(&mut model, "calm", &options);
        let both = decode(&mut model, "calm", &DecodeOptions { emit_prompt: true, ..options });
        let added = (5.5 * hop as f64).round() as usize;
        assert_eq!(new.channels[0].len(), added);
        assert_eq!(both.channels[0].len(), 12 * hop + added);
        assert_eq!(new.channels[0], both.channels[0][12 * hop..]);
    }
}

#[test]
fn a_window_of_the_folder_is_used_and_long_pieces_go_on() {
    let window = GenerationConfig { musaic_window_frames: Some(24), ..Default::default() };
    let mut model = load("musicgen/tiny").with_generation_config(window);
    assert!((model.spec().window_s - 24.0 * 640.0 / 32_000.0).abs() < 1e-9);
    let sink = decode(&mut model, "calm", &DecodeOptions { duration_s: 2.0, ..Default::default() });
    assert_eq!(sink.channels[0].len(), 64_000);
    assert!(sink.blocks > 2);
}

#[test]
fn half_precision_caches_change_little() {
    let model = &*MONO;
    let conditioned = conditioned(model, 1);
    let logits = |cache_dtype| {
        let plan = Plan { cache_dtype, sampling: Sampling::Greedy, ..plan(10) };
        let mut generation = Generation::new(model.lm(), &conditioned, plan).unwrap();
        generation.step(&mut ()).unwrap();
        generation.last_logits().to_vec()
    };
    for (half, full) in logits(DType::F16).iter().zip(logits(DType::F32)) {
        assert!((half - full).abs() < 0.02, "{half} {full}");
    }
}

#[test]
fn bad_requests_are_refused() {
    let mut model = load("musicgen/tiny");
    let text = Conditioning::Text("calm".into());
    let mut refuse = |conditioning: &Conditioning, options: DecodeOptions| {
        let mut sink = Collected::default();
        let error = model.decode(conditioning, &options, &Cancel::default(), &mut sink).unwrap_err();
        assert!(sink.channels.is_empty());
        error.to_string()
    };
    for duration_s in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
        assert!(refuse(&text, DecodeOptions { duration_s, ..Default::default() }).contains("seconds"));
    }
    let sampling = Sampling::Draw { temperature: 0.0, top_k: 0, top_p: 1.0 };
    assert!(refuse(&text, DecodeOptions { sampling, ..Default::default() }).contains("temperature"));
    assert!(refuse(&text, DecodeOptions { guidance_scale: f64::NAN, ..Default::default() }).contains("guidance"));
    let long = Conditioning::Text("music ".repeat(5000));
    assert!(refuse(&long, DecodeOptions::default()).contains("tokens"));
    let wide = Conditioning::States(Tensor::zeros((1, 4, 7), DType::F32, &Device::Cpu).unwrap());
    assert!(refuse(&wide, DecodeOptions::default()).contains("conditioning states"));
    let melody = Some(Tensor::zeros((1, 1, 3200), DType::F32, &Device::Cpu).unwrap());
    assert!(refuse(&text, DecodeOptions { melody, ..Default::default() }).contains("melody"));
}

/// Layers are seen in the order they are computed.
#[test]
fn the_probe_sees_the_layers_in_order() {
    let model = &*MONO;
    let mut seen: Vec<(String, Tensor)> = Vec::new();
    assert!(seen.wants("decoder.layer_0"));
    let ids = Codes::filled(1, 4, 3, 64);
    model.logits(&ids, &conditioned(model, 1), false, &mut seen).unwrap();
    let names: Vec<_> = seen.iter().map(|(name, _)| name.as_str()).collect();
    let want = ["decoder.positions", "decoder.embedded", "decoder.layer_0", "decoder.layer_1", "decoder.layer_norm"];
    assert_eq!(names, want);
}
