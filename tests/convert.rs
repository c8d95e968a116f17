//! `musaic convert` of language models: what is written loads, and is the model that was read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests, too

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use candle_core::{DType, Device, Tensor};
use half::f16;
use musaic::llm::{
    Llama, LlamaTokenizer, OpenLlama,
    gguf::{GgufFile, load_gguf},
    load_folder,
    m2ugen::{M2ugen, MUSIC_TOKENS, Vectors},
    meta::load_meta,
};
use musaic_core::{
    WeightFormat,
    role::LanguageModel,
    weights::{Checkpoint, InMemory, RandomWeights, Renamed, Source, StoredAs, write_safetensors},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn golden(name: &str) -> PathBuf {
    root().join("tests/goldens").join(name)
}

fn musaic(args: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_musaic")).args(args.iter().map(|arg| arg.as_ref())).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn refused(args: &[&dyn AsRef<std::ffi::OsStr>]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_musaic")).args(args.iter().map(|arg| arg.as_ref())).output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

fn values(source: &dyn Source, name: &str) -> Vec<f32> {
    let mut all = Vec::new();
    let mut push = |piece: &[f32]| {
        all.extend_from_slice(piece);
        Ok(())
    };
    source.read(name, &mut push).unwrap();
    all
}

fn logits(model: &Llama) -> Vec<f32> {
    let vocab = model.config().vocab_size as u32;
    let ids: Vec<_> = (0..40).map(|i| (i * i * 7 + 1) % vocab).collect();
    let ids = Tensor::from_slice(&ids, (1, ids.len()), &Device::Cpu).unwrap();
    let mut state = model.start(1, 40, DType::F32).unwrap();
    let hidden = model.feed(&model.embed(&ids).unwrap(), &mut state, &mut ()).unwrap();
    model.logits(&hidden, &mut ()).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Equal but for the order of sums over a head.
fn assert_near(a: &[f32], b: &[f32]) {
    let largest = b.iter().fold(0f32, |m, v| m.max(v.abs()));
    let off = a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(a.len() == b.len() && off <= 4e-6 * largest, "off by {off} of {largest}");
}

/// A random LLaMA in a Hugging Face folder, wide enough for whole blocks of `q4_k`.
fn wide(folder: &Path) {
    let (width, inner, kv, vocab) = (256, 512, 128, 90);
    let config = serde_json::json!({
        "model_type": "llama", "vocab_size": vocab, "hidden_size": width, "intermediate_size": inner,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
        "rope_theta": 50000.0, "bos_token_id": 1, "eos_token_id": 2,
        "rope_scaling": { "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32 },
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut names: BTreeMap<String, Vec<usize>> = [
        ("model.embed_tokens.weight".to_owned(), vec![vocab, width]),
        ("lm_head.weight".to_owned(), vec![vocab, width]),
        ("model.norm.weight".to_owned(), vec![width]),
    ]
    .into();
    for i in 0..2 {
        for (part, shape) in [
            ("self_attn.q_proj", vec![width, width]),
            ("self_attn.k_proj", vec![kv, width]),
            ("self_attn.v_proj", vec![kv, width]),
            ("self_attn.o_proj", vec![width, width]),
            ("mlp.gate_proj", vec![inner, width]),
            ("mlp.up_proj", vec![inner, width]),
            ("mlp.down_proj", vec![width, inner]),
            ("input_layernorm", vec![width]),
            ("post_attention_layernorm", vec![width]),
        ] {
            names.insert(format!("model.layers.{i}.{part}.weight"), shape);
        }
    }
    let source = RandomWeights::new(3).with_names(names);
    let path = folder.join("model.safetensors");
    write_safetensors(path, &source, &BTreeMap::new(), &|_, _| Some(StoredAs::Bf16)).unwrap();
}

#[test]
fn a_llama_becomes_a_gguf_file_of_the_same_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let (from, out) = (folder.path().join("from"), folder.path().join("out"));
    fs::create_dir(&from).unwrap();
    wide(&from);
    for format in [WeightFormat::Bf16, WeightFormat::Q8_0, WeightFormat::Q4K] {
        let to = format!("gguf:{format}");
        let output = musaic(&[&"convert", &from, &"-o", &out, &"--to", &to, &"--force"]);
        assert!(String::from_utf8_lossy(&output.stderr).contains("without a tokenizer"));
        let file = out.join("model.gguf");
        let opened = GgufFile::open(&file).unwrap();
        assert_eq!(opened.checkpoint().check_data().unwrap(), 1);
        assert_eq!(opened.checkpoint().dtype_of("blk.1.attn_k.weight"), Some(format.name()));
        assert!(opened.config.eos_token_ids.is_empty(), "no tokenizer, no ids");
        let expected = logits(&load_folder(&from, &Device::Cpu, format).unwrap());
        let got = logits(&load_gguf(&file, &Device::Cpu, format).unwrap());
        if format == WeightFormat::Bf16 {
            assert_near(&got, &expected);
        } else {
            // The order of sums over a head turns the rounding of an activation here and there.
            let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
            let off: Vec<_> = got.iter().zip(&expected).map(|(a, b)| (a - b).abs() / largest).collect();
            let (most, mean) = (off.iter().copied().fold(0.0, f32::max), off.iter().sum::<f32>() / off.len() as f32);
            assert!(most <= 0.03 && mean <= 0.003, "{format}: off by {most}, mean {mean}");
        }
        // The same again, to the byte.
        let before = fs::read(&file).unwrap();
        musaic(&[&"convert", &from, &"-o", &out, &"--to", &to, &"--force"]);
        assert!(fs::read(&file).unwrap() == before, "{format}");
    }
    // A number that changed on the disk is noticed.
    let file = out.join("model.gguf");
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 40;
    bytes[last] ^= 1;
    fs::write(&file, bytes).unwrap();
    let error = Checkpoint::open(&file).unwrap().check_data().unwrap_err().to_string();
    assert!(error.contains("sha256"), "{error}");
    let text = refused(&[&"convert", &from, &"-o", &out, &"--to", &"gguf:q4_k"]);
    assert!(text.contains("exists already"), "{text}");
}

#[test]
fn the_tokenizer_goes_along() {
    let folder = tempfile::tempdir().unwrap();
    let (from, out) = (folder.path().join("from"), folder.path().join("out"));
    fs::create_dir(&from).unwrap();
    let spm = golden("tokenizers/llama-spm/model-hf");
    for name in ["tokenizer.model", "added_tokens.json"] {
        fs::copy(spm.join(name), from.join(name)).unwrap();
    }
    // As many embeddings as tokens, and some more as published models have them.
    let names: BTreeMap<String, Vec<usize>> = [("model.embed_tokens.weight".to_owned(), vec![1016, 32])]
        .into_iter()
        .chain([("model.norm.weight".to_owned(), vec![32])])
        .chain(
            ["q_proj", "k_proj", "v_proj", "o_proj"]
                .map(|p| (format!("model.layers.0.self_attn.{p}.weight"), vec![32, 32])),
        )
        .chain(["gate_proj", "up_proj", "down_proj"].map(|p| (format!("model.layers.0.mlp.{p}.weight"), vec![32, 32])))
        .chain(["input", "post_attention"].map(|p| (format!("model.layers.0.{p}_layernorm.weight"), vec![32])))
        .collect();
    let source = RandomWeights::new(4).with_names(names);
    write_safetensors(from.join("model.safetensors"), &source, &BTreeMap::new(), &|_, _| Some(StoredAs::F32)).unwrap();
    let config = serde_json::json!({
        "model_type": "llama", "vocab_size": 1016, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "tie_word_embeddings": true,
    });
    fs::write(from.join("config.json"), config.to_string()).unwrap();
    musaic(&[&"convert", &from, &"-o", &out, &"--to", &"gguf:f32"]);
    let file = GgufFile::open(&out).unwrap();
    let taken = file.tokenizer().unwrap().unwrap();
    let model = LlamaTokenizer::open(&spm.join("tokenizer.model"), &MUSIC_TOKENS).unwrap();
    for text in ["calm piano melody", "a [AUD0] b[AUD7]", "déjà  vu\n", ""] {
        assert_eq!(taken.encode(text, true).unwrap(), model.encode(text, true).unwrap(), "{text}");
    }
    assert_eq!((file.config.bos_token_id, file.config.eos_token_ids.as_slice()), (Some(1), &[2][..]));
    // From one file of this kind to another: blocks and tokenizer stay what they are.
    let (first, again) = (out.join("model.gguf"), folder.path().join("again"));
    musaic(&[&"convert", &first, &"-o", &again, &"--to", &"gguf:f32"]);
    let copy = GgufFile::open(&again).unwrap();
    assert_eq!(copy.tokenizer().unwrap().unwrap().encode("hum", true).unwrap(), taken.encode("hum", true).unwrap());
    for name in file.checkpoint().tensors().keys() {
        assert_eq!(values(&**copy.checkpoint(), name), values(&**file.checkpoint(), name), "{name}");
    }
}

#[test]
fn shards_of_metas_become_shards_with_an_index() {
    let folder = tempfile::tempdir().unwrap();
    let from = golden("m2ugen/llm-forward/model/llama/13B");
    let out = folder.path().join("out");
    musaic(&[&"convert", &from, &"-o", &out, &"--to", &"f32", &"--shard-gb", &"0.0002"]);
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("model.safetensors.index.json")).unwrap()).unwrap();
    let files: BTreeSet<_> = index["weight_map"].as_object().unwrap().values().map(ToString::to_string).collect();
    assert!(files.len() > 2, "{files:?}");
    let written = Checkpoint::open(&out).unwrap();
    assert_eq!(written.check_data().unwrap(), files.len());
    assert_eq!(written.metadata()["source_sha256"].len(), 64);
    let load = |folder: &Path| logits(&load_meta(folder, &Device::Cpu, WeightFormat::F32).unwrap());
    let expected = load(&from);
    assert_eq!(load(&out), expected);
    // As one file, which takes the place of all others.
    musaic(&[&"convert", &from, &"-o", &out, &"--to", &"f32", &"--force"]);
    assert!(!out.join("model.safetensors.index.json").exists());
    assert_eq!(load(&out), expected);
    // In the other layout the rows of queries and keys lie otherwise: the logits say whether all of them do.
    let turned = OpenLlama::open(&from).unwrap().in_hugging_face_layout().unwrap();
    assert_near(&logits(&turned.load(&Device::Cpu, WeightFormat::F32).unwrap()), &expected);
    let text = refused(&[&"convert", &out, &"-o", &out, &"--force"]);
    assert!(text.contains("is the input itself"), "{text}");
}

/// States of the last layer for a short text with all media seen.
fn states(model: &M2ugen) -> Vec<f32> {
    let dim = model.llama().config().hidden_size;
    let mut vectors = Vectors::default();
    for (i, kind) in musaic_adapters::bridge::BridgeKind::ALL.into_iter().enumerate() {
        vectors.set(kind, Tensor::full(0.5 + i as f32, (1, 1, dim), &Device::Cpu).unwrap());
    }
    let mut session = model.session(&vectors).unwrap();
    session.start(1, 6).unwrap();
    let first = model.first_music_id();
    let ids = Tensor::new(&[[1u32, 50, 60, 70, first, first + 7]], &Device::Cpu).unwrap();
    session.feed(&ids).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn m2ugen_becomes_a_gguf_file_and_adapters() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let model = golden("m2ugen/generate/model");
    let (checkpoint, llama) = (model.join("ckpts/checkpoint.pth"), model.join("llama/7B"));
    for format in [WeightFormat::F32, WeightFormat::Q8_0] {
        let to = format!("gguf:{format}");
        musaic(&[&"convert", &checkpoint, &"--base", &llama, &"-o", &out, &"--to", &to, &"--force"]);
        let load = |a: &Path, b: &Path| M2ugen::load(Some(a), Some(b), &Device::Cpu, format).unwrap();
        let expected = states(&load(&checkpoint, &llama));
        let (adapters, file) = (out.join("adapters.safetensors"), out.join("model.gguf"));
        assert_eq!(states(&load(&adapters, &file)), expected, "{format}");
        let opened = GgufFile::open(&file).unwrap();
        let taken = opened.tokenizer().unwrap().unwrap();
        let known = LlamaTokenizer::open(&model.join("llama/tokenizer.model"), &MUSIC_TOKENS).unwrap();
        assert_eq!(taken.encode("hum [AUD3]", true).unwrap(), known.encode("hum [AUD3]", true).unwrap());
        assert!(!Checkpoint::open(&adapters).unwrap().has("llama.layers.0.attention.wq.weight"));
    }
    let out = folder.path().join("shards");
    musaic(&[&"convert", &checkpoint, &"-o", &out, &"--to", &"f32", &"--shard-gb", &"0.0004"]);
    let load = |a: &Path| M2ugen::load(Some(a), Some(&llama), &Device::Cpu, WeightFormat::F32).unwrap();
    assert_eq!(states(&load(&out)), states(&load(&checkpoint)));
}

/// A base, and a delta of half precision with one more token, made of a LLaMA.
fn delta_of(target: &dyn Source, folder: &Path, buffers: bool) -> BTreeMap<String, Vec<f32>> {
    let (base, delta) = (folder.join("base"), folder.join("delta"));
    let mut merged = BTreeMap::new();
    let (mut below, mut above) = (HashMap::new(), HashMap::new());
    for (name, shape) in target.tensors() {
        let half = |v: f32| f16::from_f32(v).to_f32();
        let whole: Vec<_> = values(target, name).into_iter().map(half).collect();
        let table = name == "model.embed_tokens.weight" || name == "lm_head.weight";
        let kept = if table { whole.len() - shape[1] } else { whole.len() };
        let low: Vec<_> = (0..kept).map(|i| half(((i * 31 % 997) as f32 - 498.0) / 1700.0)).collect();
        let zero = low.iter().copied().chain(std::iter::repeat(0.0));
        let off: Vec<_> = whole.iter().zip(zero.clone()).map(|(w, l)| half(w - l)).collect();
        merged.insert(name.clone(), off.iter().zip(zero).map(|(d, l)| half(d + l)).collect());
        let mut small = shape.clone();
        small[0] -= usize::from(table);
        below.insert(name.clone(), Tensor::from_vec(low, small, &Device::Cpu).unwrap());
        above.insert(name.clone(), Tensor::from_vec(off, shape.clone(), &Device::Cpu).unwrap());
    }
    if buffers {
        let buffer = Tensor::zeros(4, DType::F32, &Device::Cpu).unwrap();
        above.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), buffer);
    }
    for (path, tensors) in [(base, below), (delta, above)] {
        fs::create_dir_all(&path).unwrap();
        let choose = |_: &str, _: &[usize]| Some(StoredAs::F16);
        write_safetensors(path.join("model.safetensors"), &InMemory::new(tensors), &BTreeMap::new(), &choose).unwrap();
    }
    merged
}

#[test]
fn a_delta_is_added_to_its_base() {
    let folder = tempfile::tempdir().unwrap();
    let wide = root().join("tests/fixtures/gguf/wide");
    let target = Checkpoint::open(&wide).unwrap();
    let merged = delta_of(&target, folder.path(), true);
    let [base, delta, out] = ["base", "delta", "out"].map(|name| folder.path().join(name));
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(wide.join("config.json")).unwrap()).unwrap();
    fs::write(delta.join("config.json"), config.to_string()).unwrap();
    config["vocab_size"] = (config["vocab_size"].as_u64().unwrap() - 1).into();
    fs::write(base.join("config.json"), config.to_string()).unwrap();
    let opened = OpenLlama::open_delta(&base, &delta).unwrap();
    assert_eq!(opened.source.tensors(), target.tensors());
    for (name, expected) in &merged {
        assert_eq!(&values(&*opened.source, name), expected, "{name}");
    }
    let direct = logits(&opened.load(&Device::Cpu, WeightFormat::F32).unwrap());
    musaic(&[&"convert", &"--base", &base, &delta, &"-o", &out, &"--to", &"f16"]);
    assert_eq!(logits(&load_folder(&out, &Device::Cpu, WeightFormat::F32).unwrap()), direct);
    let written = Checkpoint::open(&out).unwrap();
    assert!(written.metadata().contains_key("base_sha256") && written.metadata().contains_key("source_sha256"));
    // Of another size: refused before anything is written.
    let other = golden("llm/llama-hf-gqa-tied/model");
    let text = refused(&[&"convert", &"--base", &other, &delta, &"-o", &folder.path().join("never")]);
    assert!(text.contains("expected `") && !folder.path().join("never").exists(), "{text}");
}

#[test]
fn the_base_may_be_metas() {
    let folder = tempfile::tempdir().unwrap();
    let meta = golden("m2ugen/generate/model/llama/7B");
    // The target has the names of Hugging Face's layout and other numbers; base and target are the same size.
    let base = OpenLlama::open(&meta).unwrap().in_hugging_face_layout().unwrap();
    let names = base.source.tensors().clone();
    let delta = folder.path().join("delta");
    fs::create_dir(&delta).unwrap();
    let random = RandomWeights::new(9).with_names(names.clone());
    let random = Renamed::new(random, |name| Some(name.to_owned())).unwrap();
    write_safetensors(delta.join("model.safetensors"), &random, &BTreeMap::new(), &|_, _| Some(StoredAs::F32)).unwrap();
    let config = &base.config;
    let json = serde_json::json!({
        "model_type": "llama", "vocab_size": config.vocab_size, "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size, "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads, "rms_norm_eps": config.rms_norm_eps,
    });
    fs::write(delta.join("config.json"), json.to_string()).unwrap();
    let opened = OpenLlama::open_delta(&meta, &delta).unwrap();
    for name in names.keys() {
        let sums: Vec<_> = values(&*base.source, name).iter().zip(values(&random, name)).map(|(a, b)| a + b).collect();
        assert_eq!(values(&*opened.source, name), sums, "{name}");
    }
    opened.load(&Device::Cpu, WeightFormat::F32).unwrap();
}
