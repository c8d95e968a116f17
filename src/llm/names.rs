//! Names of tensors in the two layouts.

use super::config::Layout;

/// Where each part of a model lies.
pub(super) struct Names {
    pub embeddings: &'static str,
    pub layers: &'static str,
    pub attention_norm: &'static str,
    pub attention: &'static str,
    /// Query, key, value, output.
    pub qkvo: [&'static str; 4],
    pub ffn_norm: &'static str,
    pub feed_forward: &'static str,
    /// Gate, up, down.
    pub gate_up_down: [&'static str; 3],
    pub norm: &'static str,
    pub head: &'static str,
}

const HUGGING_FACE: Names = Names {
    embeddings: "model.embed_tokens",
    layers: "model.layers",
    attention_norm: "input_layernorm",
    attention: "self_attn",
    qkvo: ["q_proj", "k_proj", "v_proj", "o_proj"],
    ffn_norm: "post_attention_layernorm",
    feed_forward: "mlp",
    gate_up_down: ["gate_proj", "up_proj", "down_proj"],
    norm: "model.norm",
    head: "lm_head",
};

const META: Names = Names {
    embeddings: "tok_embeddings",
    layers: "layers",
    attention_norm: "attention_norm",
    attention: "attention",
    qkvo: ["wq", "wk", "wv", "wo"],
    ffn_norm: "ffn_norm",
    feed_forward: "feed_forward",
    gate_up_down: ["w1", "w3", "w2"],
    norm: "norm",
    head: "output",
};

impl Names {
    pub(super) fn of(layout: Layout) -> &'static Self {
        match layout {
            Layout::HuggingFace => &HUGGING_FACE,
            Layout::Meta => &META,
        }
    }
}
