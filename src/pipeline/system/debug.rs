//! A tiny system of random weights in the published layout: every part runs, in milliseconds, and knows nothing.

use std::{collections::BTreeMap, path::Path};

use candle_core::Device;
use musaic_adapters::bridge::BridgeKind;
use musaic_core::{
    Result, WeightFormat,
    role::Encoder,
    sentencepiece::{ModelType, Piece, PieceKind, SentencePieceModel},
    weights::{RandomWeights, Weights},
};
use musaic_encoders::{
    mert::{FeatureExtractor, Mert, MertConfig},
    vision::ImageProcessor,
    vit::{Vit, VitConfig},
    vivit::{Vivit, VivitConfig},
};
use serde_json::{Value, json};

use crate::llm::m2ugen::MUSIC_TOKENS;

/// Seed of all weights.
const SEED: u64 = 20;
/// Width of the language model.
const DIM: usize = 64;
const INNER: usize = 96;
const HEADS: usize = 4;
/// The last six of them see and hear.
const LAYERS: usize = 7;
const PREFIXED: usize = 6;
/// Width of the encoders' states.
const FEATURES: usize = 32;
/// Of the projector's transformer, and the states it gives to the decoder (those of `nano`'s text encoder).
const PROJECTOR: usize = 32;
const TOKENS: usize = 16;
const CONDITIONING: usize = 192;
/// Words it can say, and the letters that all others are cut into.
const WORDS: &str = "a and the with slow fast calm bright dark warm soft loud gentle heavy steady piano guitar violin cello \
                     flute trumpet organ choir drums bass strings synth bells melody rhythm chords beat song tune theme \
                     intro verse bridge minor major swing waltz march groove ambient rock jazz folk funk house disco blues \
                     here is music that sounds like an old slowly rising quiet evening under of in on for to from long \
                     short deep high low rich thin round clear broken dancing flowing simple busy sad happy tender wild";
const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz0123456789.,?!'";

/// The checkpoint: names and shapes as published, with gates that are open.
pub fn checkpoint() -> RandomWeights {
    let mut names = BTreeMap::new();
    let mut add = |name: String, shape: &[usize]| {
        names.insert(name, shape.to_vec());
    };
    for (kind, positions) in [(BridgeKind::Music, 3), (BridgeKind::Image, 5), (BridgeKind::Video, 5)] {
        let at = kind.prefix();
        add(format!("{at}_agg.weight"), &[1, positions, 1]);
        add(format!("{at}_agg.bias"), &[1]);
        add(format!("{at}_proj.weight"), &[DIM, FEATURES]);
        add(format!("{at}_proj.bias"), &[DIM]);
        for k in 1..=3 {
            add(format!("{at}_norm_{k}.weight"), &[DIM]);
            for i in 1..=3 {
                add(format!("{at}_f{i}_{k}.weight"), &[DIM, DIM]);
            }
        }
    }
    add("prefix_query.weight".into(), &[PREFIXED, DIM]);
    let vocab = vocabulary().len() + MUSIC_TOKENS.len();
    for name in ["tok_embeddings", "output"] {
        add(format!("llama.{name}.weight"), &[vocab, DIM]);
    }
    add("llama.norm.weight".into(), &[DIM]);
    for layer in 0..LAYERS {
        let at = format!("llama.layers.{layer}");
        for name in ["wq", "wk", "wv", "wo"] {
            add(format!("{at}.attention.{name}.weight"), &[DIM, DIM]);
        }
        add(format!("{at}.attention.gate"), &[1, HEADS, 1, 1]);
        add(format!("{at}.feed_forward.w1.weight"), &[INNER, DIM]);
        add(format!("{at}.feed_forward.w2.weight"), &[DIM, INNER]);
        add(format!("{at}.feed_forward.w3.weight"), &[INNER, DIM]);
        add(format!("{at}.attention_norm.weight"), &[DIM]);
        add(format!("{at}.ffn_norm.weight"), &[DIM]);
    }
    projector(&mut add);
    RandomWeights::new(SEED).with_names(names)
}

fn projector(add: &mut impl FnMut(String, &[usize])) {
    const WIDE: usize = 2 * PROJECTOR;
    let at = "output_projector";
    add(format!("{at}.fc.weight"), &[PROJECTOR, DIM]);
    add(format!("{at}.fc.bias"), &[PROJECTOR]);
    add(format!("{at}.query_embs"), &[1, TOKENS, PROJECTOR]);
    add(format!("{at}.model.weight"), &[CONDITIONING, PROJECTOR]);
    add(format!("{at}.model.bias"), &[CONDITIONING]);
    for (stack, attentions, norms) in
        [("encoder", &["self_attn"][..], 2), ("decoder", &["self_attn", "multihead_attn"], 3)]
    {
        let at = format!("{at}.tfm.{stack}");
        for part in ["weight", "bias"] {
            add(format!("{at}.norm.{part}"), &[PROJECTOR]);
            for n in 1..=norms {
                add(format!("{at}.layers.0.norm{n}.{part}"), &[PROJECTOR]);
            }
        }
        let at = format!("{at}.layers.0");
        for attention in attentions {
            add(format!("{at}.{attention}.in_proj_weight"), &[3 * PROJECTOR, PROJECTOR]);
            add(format!("{at}.{attention}.in_proj_bias"), &[3 * PROJECTOR]);
            add(format!("{at}.{attention}.out_proj.weight"), &[PROJECTOR, PROJECTOR]);
            add(format!("{at}.{attention}.out_proj.bias"), &[PROJECTOR]);
        }
        add(format!("{at}.linear1.weight"), &[WIDE, PROJECTOR]);
        add(format!("{at}.linear1.bias"), &[WIDE]);
        add(format!("{at}.linear2.weight"), &[PROJECTOR, WIDE]);
        add(format!("{at}.linear2.bias"), &[PROJECTOR]);
    }
}

/// Marks, the newline, letters and some words.
fn vocabulary() -> Vec<Piece> {
    let piece = |text: &str, kind, score| Piece { text: text.to_owned(), score, kind };
    let mut pieces = vec![piece("<unk>", PieceKind::Unknown, 0.0)];
    pieces.extend(["<s>", "</s>"].map(|mark| piece(mark, PieceKind::Control, 0.0)));
    pieces.push(piece("<0x0A>", PieceKind::Byte, 0.0));
    pieces.push(piece("▁", PieceKind::Normal, -1000.0));
    pieces.extend(LETTERS.chars().map(|letter| piece(&letter.to_string(), PieceKind::Normal, -1000.0)));
    let words = WORDS.split_whitespace().enumerate();
    pieces.extend(words.map(|(i, word)| piece(&format!("▁{word}"), PieceKind::Normal, -(i as f32))));
    pieces
}

/// The model that cuts text for it.
pub fn tokenizer() -> SentencePieceModel {
    SentencePieceModel {
        pieces: vocabulary(),
        model_type: ModelType::Bpe,
        byte_fallback: false,
        unk_id: 0,
        bos_id: Some(1),
        eos_id: Some(2),
        charsmap: Vec::new(),
        add_dummy_prefix: true,
        remove_extra_whitespaces: false,
    }
}

/// The encoder of a kind of media, its input as large as need be.
///
/// # Errors
/// Out of memory.
pub fn encoder(kind: BridgeKind, device: &Device, format: WeightFormat) -> Result<Box<dyn Encoder>> {
    let path = Path::new("debug system");
    let weights = Weights::new(RandomWeights::new(SEED).without(["pooler.dense.weight"]), device, format);
    Ok(match kind {
        BridgeKind::Music => {
            let config = json!({
                "conv_dim": [FEATURES, FEATURES], "conv_kernel": [20, 16], "conv_stride": [20, 16], "conv_bias": false,
                "feat_extract_norm": "group", "feat_extract_activation": "gelu", "num_conv_pos_embeddings": 8,
                "num_conv_pos_embedding_groups": 4,
            });
            let extractor = FeatureExtractor::from_json(path, &json!({"do_normalize": true, "sampling_rate": 24_000}))?;
            Box::new(Mert::new(&MertConfig::from_json(path, &with_body(config))?, extractor, &weights)?)
        }
        BridgeKind::Image => {
            let config = with_body(json!({"image_size": 32, "patch_size": 16}));
            let processor = ImageProcessor::image_from_json(path, &json!({"size": 32}))?;
            Box::new(Vit::new(&VitConfig::from_json(path, &config)?, processor, &weights)?)
        }
        BridgeKind::Video => {
            let config = with_body(json!({"image_size": 32, "num_frames": 8, "tubelet_size": [8, 16, 16]}));
            let settings = json!({"size": {"shortest_edge": 36}, "crop_size": 32});
            let processor = ImageProcessor::video_from_json(path, &settings)?;
            Box::new(Vivit::new(&VivitConfig::from_json(path, &config)?, processor, &weights)?)
        }
    })
}

/// The transformer that all three are.
fn with_body(mut config: Value) -> Value {
    for (key, value) in [
        ("hidden_size", json!(FEATURES)),
        ("num_hidden_layers", json!(2)),
        ("num_attention_heads", json!(HEADS)),
        ("intermediate_size", json!(2 * FEATURES)),
        ("hidden_act", json!("gelu")),
    ] {
        config[key] = value;
    }
    config
}
