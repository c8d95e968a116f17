//! LLaMA and M2UGen: the same answer in several ways, and the rules that end an answer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests, too

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use candle_core::{D, DType, Device, Tensor};
use musaic::llm::{
    Hooks, Layout, Llama, LlamaConfig, LlamaTokenizer, Session, load_folder,
    m2ugen::{AnswerOptions, Answering, M2ugen, MAX_POSITIONS, MUSIC_TOKENS, Stopped, Vectors},
    meta::load_meta,
    rope::RopeConfig,
};
use musaic_adapters::bridge::BridgeKind;
use musaic_core::{
    WeightFormat,
    role::{Cancel, LanguageModel, Sampling},
    weights::Weights,
};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

fn ids(rows: &[&[u32]]) -> Tensor {
    Tensor::new(rows.iter().map(|row| row.to_vec()).collect::<Vec<_>>(), &Device::Cpu).unwrap()
}

fn values(xs: &Tensor) -> Vec<f32> {
    xs.flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(xs: &Tensor) -> Vec<u32> {
    values(xs).into_iter().map(f32::to_bits).collect()
}

/// States of all positions, fed in parts of these lengths.
fn in_parts(model: &Llama, text: &Tensor, parts: &[usize], capacity: usize) -> Tensor {
    let mut state = model.start(text.dim(0).unwrap(), capacity, DType::F32).unwrap();
    let fed: Vec<_> = parts
        .iter()
        .map(|&count| {
            let part = text.narrow(1, state.len(), count).unwrap();
            model.feed(&model.embed(&part).unwrap(), &mut state, &mut ()).unwrap()
        })
        .collect();
    Tensor::cat(&fed, 1).unwrap()
}

/// Heads that share keys, biases everywhere, LoRA and gates; random.
fn wide(format: WeightFormat) -> Llama {
    let config = LlamaConfig {
        layout: Layout::Meta,
        vocab_size: 90,
        hidden_size: 256,
        intermediate_size: 512,
        num_hidden_layers: 3,
        num_attention_heads: 8,
        num_key_value_heads: 2,
        head_dim: 32,
        rms_norm_eps: 1e-5,
        max_position_embeddings: 512,
        rope: RopeConfig::plain(10_000.0),
        tie_word_embeddings: false,
        attention_bias: false,
        mlp_bias: false,
        hooks: Hooks { biases: true, lora_rank: Some(4), gates: true },
        bos_token_id: None,
        eos_token_ids: Vec::new(),
    };
    Llama::load(&config, &Weights::random(7, &Device::Cpu, format)).unwrap()
}

#[test]
fn in_parts_is_at_once_and_a_batch_is_its_texts() {
    let small = load_folder(&golden("llm/llama-hf-gqa-tied/model"), &Device::Cpu, WeightFormat::F32).unwrap();
    for model in [small, wide(WeightFormat::Bf16), wide(WeightFormat::Q8_0), wide(WeightFormat::Q4K)] {
        let vocab = model.config().vocab_size as u32;
        let text = |seed: u32| (0..40).map(|i| (i * i * 7 + seed) % vocab).collect::<Vec<_>>();
        let (one, other) = (text(1), text(2));
        let (a, b) = (ids(&[&one]), ids(&[&other]));
        let whole = in_parts(&model, &a, &[40], 40);
        assert_eq!(bits(&in_parts(&model, &a, &[1; 40], 40)), bits(&whole), "step by step");
        assert_eq!(bits(&in_parts(&model, &a, &[17, 1, 20, 2], 64)), bits(&whole), "in parts, in a larger cache");
        let both = in_parts(&model, &ids(&[&one, &other]), &[40], 40);
        assert_eq!(bits(&both.narrow(0, 0, 1).unwrap()), bits(&whole));
        assert_eq!(bits(&both.narrow(0, 1, 1).unwrap()), bits(&in_parts(&model, &b, &[40], 40)));
    }
}

#[test]
fn padding_on_the_left_changes_nothing() {
    let model = load_folder(&golden("llm/llama-hf-gqa-tied/model"), &Device::Cpu, WeightFormat::F32).unwrap();
    let (long, short): (&[u32], &[u32]) = (&[5, 9, 33, 70, 2, 8, 120], &[44, 3, 9]);
    let padded = [&[0; 4][..], short].concat();
    let batch = ids(&[long, &padded]);
    for parts in [&[7][..], &[3, 2, 1, 1]] {
        let mut state = model.start_padded(&[0, 4], 7, DType::F32).unwrap();
        let fed: Vec<_> = parts
            .iter()
            .map(|&count| {
                let part = batch.narrow(1, state.len(), count).unwrap();
                model.feed(&model.embed(&part).unwrap(), &mut state, &mut ()).unwrap()
            })
            .collect();
        let both = Tensor::cat(&fed, 1).unwrap();
        let alone = in_parts(&model, &ids(&[short]), &[3], 3);
        let got = both.narrow(0, 1, 1).unwrap().narrow(1, 4, 3).unwrap();
        for (got, want) in values(&got).iter().zip(values(&alone)) {
            assert!((got - want).abs() < 1e-5, "{got} {want}");
        }
        assert_eq!(bits(&both.narrow(0, 0, 1).unwrap()), bits(&in_parts(&model, &ids(&[long]), &[7], 7)));
    }
}

#[test]
fn a_session_is_the_model_with_its_state() {
    let model = Arc::new(wide(WeightFormat::F32));
    let text = ids(&[&(0..300).map(|i| i * 13 % 90).collect::<Vec<_>>()]);
    let whole = in_parts(&model, &text, &[300], 300);
    let mut session = Session::new(model.clone());
    assert!(session.feed(&text).is_err(), "not started");
    for _ in 0..2 {
        session.start(1, 300).unwrap();
        assert_eq!(bits(&session.feed(&text).unwrap()), bits(&whole));
    }
    assert!(session.feed(&text).is_err(), "no room left");
    let mut half = Session::new(model).with_half_cache();
    half.start(1, 300).unwrap();
    let off = (half.feed(&text).unwrap() - &whole).unwrap().abs().unwrap().max_all().unwrap();
    let off = off.to_scalar::<f32>().unwrap();
    assert!(off > 0.0 && off < 0.1, "{off}");
    assert_eq!(session.logits(&whole).unwrap().dim(D::Minus1).unwrap(), 90);
}

#[test]
fn a_plain_llama_of_one_shard_is_that_of_two() {
    let folder = golden("m2ugen/llm-forward/model/llama");
    let text = ids(&[&[1, 40, 200, 13, 7]]);
    let states = ["7B", "13B"].map(|name| {
        let model = load_meta(&folder.join(name), &Device::Cpu, WeightFormat::F32).unwrap();
        bits(&in_parts(&model, &text, &[5], 5))
    });
    assert_eq!(states[0], states[1]);
    assert!(load_meta(&folder, &Device::Cpu, WeightFormat::F32).is_err(), "two models in one folder");
}

fn m2ugen() -> M2ugen {
    let model = golden("m2ugen/generate/model");
    let (checkpoint, llama) = (model.join("ckpts/checkpoint.pth"), model.join("llama/7B"));
    M2ugen::load(Some(&checkpoint), Some(&llama), &Device::Cpu, WeightFormat::F32).unwrap()
}

fn tokenizer() -> LlamaTokenizer {
    LlamaTokenizer::open(&golden("m2ugen/generate/model/llama/tokenizer.model"), &MUSIC_TOKENS).unwrap()
}

/// Names and shapes of both published models at full size, without their numbers.
#[test]
fn every_published_name_and_shape_is_matched() {
    let path = golden("m2ugen/llm-forward/published_shapes.json");
    let table: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let read = |variant: &str| -> BTreeMap<String, Vec<usize>> {
        serde_json::from_value(table[variant]["tensors"].clone()).unwrap()
    };
    for variant in ["musicgen", "audioldm2"] {
        let mut names = read("musicgen");
        names.extend(read(variant));
        // The first layer stands for all.
        for (name, shape) in names.clone() {
            if let Some(rest) = name.strip_prefix("llama.layers.0.") {
                names.extend((1..32).map(|i| (format!("llama.layers.{i}.{rest}"), shape.clone())));
            }
        }
        assert_eq!(names.len() as u64, table[variant]["count_without_encoders_and_decoder"].as_u64().unwrap());
        let elements: usize = names.values().map(|shape| shape.iter().product::<usize>()).sum();
        assert_eq!(elements as u64, table[variant]["elements"].as_u64().unwrap());
        let weights = Weights::from_names(names);
        let model = M2ugen::from_weights(None, &weights).unwrap();
        weights.finish().unwrap();
        assert_eq!((model.prefix_layers(), model.first_music_id()), ((14, 18), 32000));
        let projector = model.projector().unwrap().config();
        let expected = if variant == "musicgen" { (128, 768) } else { (1, 137_216) };
        assert_eq!((projector.tokens, projector.width), expected);
    }
}

#[test]
fn every_medium_is_noticed_while_gates_are_open() {
    let model = m2ugen();
    let dim = model.llama().config().hidden_size;
    let text = ids(&[&[1, 50, 60, 70]]);
    let states = |vectors: &Vectors| {
        let mut session = model.session(vectors).unwrap();
        session.start(1, 4).unwrap();
        bits(&session.feed(&text).unwrap())
    };
    let nothing = states(&Vectors::default());
    for kind in BridgeKind::ALL {
        assert!(model.can_notice(kind));
        let mut seen = Vec::new();
        for size in [0.5f32, 1.0] {
            let mut vectors = Vectors::default();
            vectors.set(kind, Tensor::full(size, (1, 1, dim), &Device::Cpu).unwrap());
            seen.push(states(&vectors));
        }
        assert!(seen[0] != nothing && seen[1] != nothing && seen[0] != seen[1], "{kind:?}");
    }
}

#[test]
fn a_checkpoint_of_another_size_is_refused_in_words() {
    let model = golden("m2ugen/generate/model");
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(model.join("llama/7B/consolidated.00.pth"), folder.path().join("consolidated.00.pth")).unwrap();
    std::fs::write(folder.path().join("params.json"), r#"{"dim": 64, "n_layers": 20, "n_heads": 4}"#).unwrap();
    let checkpoint = model.join("ckpts/checkpoint.pth");
    let error = M2ugen::load(Some(&checkpoint), Some(folder.path()), &Device::Cpu, WeightFormat::F32).err().unwrap();
    assert!(error.to_string().contains("20 layers of width 32"), "{error}");
    assert!(M2ugen::load(None, None, &Device::Cpu, WeightFormat::F32).is_err());
}

/// A model that says what it is told, whatever it is fed.
struct Script {
    spec: musaic_core::role::LanguageModelSpec,
    says: Vec<u32>,
    prompt: usize,
    fed: usize,
}

impl Script {
    fn new(says: &[u32], prompt: usize, vocab_size: usize) -> Self {
        let spec = musaic_core::role::LanguageModelSpec { name: "script", hidden_size: 1, vocab_size };
        Self { spec, says: says.to_vec(), prompt, fed: 0 }
    }
}

impl LanguageModel for Script {
    fn spec(&self) -> &musaic_core::role::LanguageModelSpec {
        &self.spec
    }

    fn start(&mut self, _: usize, _: usize) -> musaic_core::Result<()> {
        self.fed = 0;
        Ok(())
    }

    fn feed(&mut self, ids: &Tensor) -> musaic_core::Result<Tensor> {
        let (batch, time) = ids.dims2()?;
        let states = Tensor::arange(self.fed as u32 + 1, (self.fed + time + 1) as u32, &Device::Cpu)?;
        self.fed += time;
        Ok(states.to_dtype(candle_core::DType::F32)?.reshape((batch, time, 1))?)
    }

    fn truncate(&mut self, positions: usize) {
        self.fed = self.fed.min(positions);
    }

    fn logits(&self, hidden: &Tensor) -> musaic_core::Result<Tensor> {
        let at = values(hidden)[0] as usize - self.prompt;
        let next = self.says.get(at).copied().unwrap_or(0) as usize;
        let row: Vec<f32> = (0..self.spec.vocab_size).map(|id| if id == next { 1.0 } else { 0.0 }).collect();
        Ok(Tensor::from_vec(row, (1, 1, self.spec.vocab_size), &Device::Cpu)?)
    }
}

#[test]
fn answers_end_where_they_are_complete() {
    let tokenizer = tokenizer();
    let first = (tokenizer.vocab_size() - MUSIC_TOKENS.len()) as u32;
    let encode = |text: &str| tokenizer.encode(text, false).unwrap();
    let newline = tokenizer.id_of("<0x0A>").unwrap();
    let end = tokenizer.eos_id().unwrap();
    let music: Vec<u32> = (first..first + 8).collect();
    let hash = vec![tokenizer.id_of("##").unwrap(), tokenizer.id_of("#").unwrap()];
    let answer = |says: &[Vec<u32>], options: AnswerOptions| {
        let says = says.concat();
        let prompt = [1, 300, 301];
        let mut model = Script::new(&says, prompt.len(), tokenizer.vocab_size());
        let options = AnswerOptions { sampling: Sampling::Greedy, max_new_tokens: says.len(), ..options };
        let cancel = Cancel::default();
        let answering =
            Answering::new(&mut model, &tokenizer, &prompt, (first, 8), MAX_POSITIONS, options, &cancel).unwrap();
        let mut shown = String::new();
        let answer = answering
            .run(&cancel, &mut |text| {
                shown += text;
                Ok(())
            })
            .unwrap();
        assert!(answer.text.starts_with(shown.trim_end()), "{shown:?} of {:?}", answer.text);
        let last = answer.music.as_ref().map(|states| values(states)[7]);
        (answer.text, answer.stopped, last)
    };
    let (calm, more) = (encode("calm music"), encode("more"));
    let default = AnswerOptions::default;
    let reference = || AnswerOptions { reference: true, ..default() };

    let said = [calm.clone(), vec![newline], more.clone()];
    assert_eq!(answer(&said, default()), ("calm music".into(), Stopped::Newline, None));
    let (text, stopped, _) = answer(&said, AnswerOptions { stop_at_newline: false, ..default() });
    assert!(stopped == Stopped::Length && text.contains("calm music\n"), "{text:?}");
    assert_eq!(answer(&said, reference()), ("calm music".into(), Stopped::Length, None));

    let said = [vec![newline], calm.clone(), vec![end], more.clone()];
    assert_eq!(answer(&said, default()), ("calm music".into(), Stopped::End, None), "nothing said before the newline");

    let said = [calm.clone(), music[..4].to_vec(), vec![newline], music[4..].to_vec(), vec![newline], more.clone()];
    let last = (3 + calm.len() + 4 + 1 + 3) as f32;
    assert_eq!(answer(&said, default()), ("calm music".into(), Stopped::Newline, Some(last)));
    let contiguous = AnswerOptions { contiguous: true, ..default() };
    assert_eq!(answer(&said, contiguous).2, None);

    let said = [calm.clone(), vec![newline], hash, more];
    let (text, stopped, _) = answer(&said, AnswerOptions { stop_at_newline: false, ..default() });
    assert_eq!((text.as_str(), stopped), ("calm music", Stopped::NextTurn));
    let (text, stopped, _) = answer(&said, reference());
    assert_eq!((text.as_str(), stopped), ("calm music", Stopped::NextTurn));
}

#[test]
fn music_follows_the_words_and_not_the_mark_of_a_turn() {
    let tokenizer = tokenizer();
    let first = (tokenizer.vocab_size() - MUSIC_TOKENS.len()) as u32;
    let id = |piece: &str| tokenizer.id_of(piece).unwrap();
    let (calm, prompt) = (tokenizer.encode("calm music", false).unwrap(), [1, 300, 301]);
    let music: Vec<u32> = (first..first + 8).collect();
    let says = [calm.clone(), vec![id("<0x0A>"), id("##"), id("#")]].concat();
    let cancel = Cancel::default();
    // The whole mark, and one that the length cuts off.
    for (most, stopped) in [(says.len(), Stopped::NextTurn), (says.len() - 1, Stopped::Length)] {
        let mut model = Script::new(&says, prompt.len(), tokenizer.vocab_size());
        let options = AnswerOptions {
            sampling: Sampling::Greedy,
            max_new_tokens: most,
            stop_at_newline: false,
            leave_room: true,
            ..AnswerOptions::default()
        };
        let mut answering =
            Answering::new(&mut model, &tokenizer, &prompt, (first, 8), MAX_POSITIONS, options, &cancel).unwrap();
        answering.advance(&cancel, &mut |_| Ok(())).unwrap();
        assert!(answering.add_music().unwrap());
        let answer = answering.finish().unwrap();
        assert_eq!((answer.text.as_str(), answer.stopped), ("calm music", stopped));
        let words = if stopped == Stopped::NextTurn { calm.len() } else { most };
        assert_eq!(answer.ids[words..], music);
        // Each token's state is that of the position before it.
        let states: Vec<_> = (0..8).map(|k| (prompt.len() + words + k) as f32).collect();
        assert_eq!(values(answer.music.as_ref().unwrap()), states);
        assert_eq!(model.fed, prompt.len() + words + 8);
    }
}

#[test]
fn a_long_answer_leaves_room_for_music() {
    let tokenizer = tokenizer();
    let music = ((tokenizer.vocab_size() - MUSIC_TOKENS.len()) as u32, 8);
    let (word, cancel) = (tokenizer.encode("calm", false).unwrap()[0], Cancel::default());
    for (leave_room, new) in [(true, 21), (false, 29)] {
        let mut model = Script::new(&[word; 64], 3, tokenizer.vocab_size());
        let options = AnswerOptions { sampling: Sampling::Greedy, leave_room, ..AnswerOptions::default() };
        let mut answering =
            Answering::new(&mut model, &tokenizer, &[1, 300, 301], music, 32, options, &cancel).unwrap();
        answering.advance(&cancel, &mut |_| Ok(())).unwrap();
        assert_eq!(answering.new_ids().len(), new);
        assert_eq!(answering.add_music().unwrap(), leave_room);
    }
}

#[test]
fn a_stop_is_heard_and_options_are_checked() {
    let tokenizer = tokenizer();
    let model = m2ugen();
    let music = (model.first_music_id(), MUSIC_TOKENS.len());
    let make = |prompt: &[u32], options: AnswerOptions, cancel: &Cancel| {
        let mut session = model.session(&Vectors::default()).unwrap();
        Answering::new(&mut session, &tokenizer, prompt, music, 64, options, cancel)
            .and_then(|answering| answering.run(cancel, &mut |_| Ok(())))
    };
    let cancel = Cancel::default();
    cancel.cancel();
    let answer = make(&[1, 2, 3], AnswerOptions::default(), &cancel).unwrap();
    assert_eq!((answer.stopped, answer.ids.len()), (Stopped::Cancelled, 0));
    let free = Cancel::default();
    let long = vec![5; 64];
    for (prompt, options) in [
        (&long[..], AnswerOptions::default()),
        (&[][..], AnswerOptions::default()),
        (
            &[1][..],
            AnswerOptions {
                sampling: Sampling::Draw { temperature: 0.0, top_k: 0, top_p: 0.8 },
                ..AnswerOptions::default()
            },
        ),
    ] {
        assert!(make(prompt, options, &free).is_err());
    }
    let draw = |seed| make(&[1, 9, 30], AnswerOptions { seed, max_new_tokens: 20, ..AnswerOptions::default() }, &free);
    assert_eq!(draw(3).unwrap().ids, draw(3).unwrap().ids, "one seed, one answer");
}
