//! Encoders wide enough for whole blocks, for [`super::own`].

use std::path::Path;

use anyhow::Result;
use candle_core::Tensor;
use musaic_core::{probe::Probe, weights::Weights};
use musaic_encoders::{
    mert::{FeatureExtractor, Mert, MertConfig},
    vision::ImageProcessor,
    vit::{Vit, VitConfig},
};
use serde_json::json;

use super::own::{WIDTH, uniform};

/// Two pre-norm layers over 59 frames.
pub(super) fn mert(weights: &Weights, probe: &mut dyn Probe) -> Result<()> {
    let path = Path::new("config.json");
    let config = MertConfig::from_json(
        path,
        &json!({
            "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 2 * WIDTH,
            "hidden_act": "gelu", "do_stable_layer_norm": true,
            "conv_dim": [64, WIDTH], "conv_kernel": [10, 3], "conv_stride": [5, 2],
            "feat_extract_norm": "group", "feat_extract_activation": "gelu",
            "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
        }),
    )?;
    let extractor = FeatureExtractor::from_json(path, &json!({"sampling_rate": 24000}))?;
    let model = Mert::new(&config, extractor, weights)?;
    if !weights.has_values() {
        return Ok(());
    }
    let samples: Vec<f32> = uniform("samples", 600).collect();
    let means = model.forward(&Tensor::from_vec(samples, (1, 600), weights.device())?, probe)?;
    probe.see("hidden_means", &means)?;
    Ok(())
}

/// Two layers over 16 patches and the class token.
pub(super) fn vit(weights: &Weights, probe: &mut dyn Probe) -> Result<()> {
    let path = Path::new("config.json");
    let config = VitConfig::from_json(
        path,
        &json!({
            "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 2 * WIDTH,
            "hidden_act": "gelu", "image_size": 32, "patch_size": 8,
        }),
    )?;
    let processor = ImageProcessor::image_from_json(path, &json!({"size": 32}))?;
    let model = Vit::new(&config, processor, weights)?;
    if !weights.has_values() {
        return Ok(());
    }
    let pixels: Vec<f32> = uniform("pixels", 3 * 32 * 32).collect();
    model.forward(&Tensor::from_vec(pixels, (1, 3, 32, 32), weights.device())?, probe)?;
    Ok(())
}
