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

/// The name that a tensor of one layout has in the other; `None` for one that is in no plain LLaMA.
pub(super) fn translate(name: &str, from: Layout, to: Layout) -> Option<String> {
    let (from, to) = (Names::of(from), Names::of(to));
    let (stem, end) = name.rsplit_once('.')?;
    for (ours, theirs) in [(from.embeddings, to.embeddings), (from.norm, to.norm), (from.head, to.head)] {
        if stem == ours {
            return Some(format!("{theirs}.{end}"));
        }
    }
    let (layer, part) = stem.strip_prefix(from.layers)?.strip_prefix('.')?.split_once('.')?;
    let parts = |names: &'static Names| {
        let within = |group: &str, name: &str| format!("{group}.{name}");
        let mut all: Vec<_> = names.qkvo.iter().map(|name| within(names.attention, name)).collect();
        all.extend(names.gate_up_down.iter().map(|name| within(names.feed_forward, name)));
        all.extend([names.attention_norm.to_owned(), names.ffn_norm.to_owned()]);
        all
    };
    let place = parts(from).iter().position(|ours| ours == part)?;
    Some(format!("{}.{layer}.{}.{end}", to.layers, parts(to)[place]))
}

impl Names {
    pub(super) fn of(layout: Layout) -> &'static Self {
        match layout {
            Layout::HuggingFace => &HUGGING_FACE,
            Layout::Meta => &META,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for (hf, meta) in [
            ("model.embed_tokens.weight", "tok_embeddings.weight"),
            ("lm_head.weight", "output.weight"),
            ("model.norm.weight", "norm.weight"),
            ("model.layers.31.self_attn.k_proj.bias", "layers.31.attention.wk.bias"),
            ("model.layers.0.mlp.up_proj.weight", "layers.0.feed_forward.w3.weight"),
            ("model.layers.0.post_attention_layernorm.weight", "layers.0.ffn_norm.weight"),
        ] {
            assert_eq!(translate(hf, Layout::HuggingFace, Layout::Meta).as_deref(), Some(meta));
            assert_eq!(translate(meta, Layout::Meta, Layout::HuggingFace).as_deref(), Some(hf));
        }
        assert_eq!(translate("layers.0.attention.gate", Layout::Meta, Layout::HuggingFace), None);
        assert_eq!(translate("model.layers.0.self_attn.rotary_emb.inv_freq", Layout::HuggingFace, Layout::Meta), None);
    }
}
