//! ViT ([An Image is Worth 16x16 Words](https://arxiv.org/abs/2010.11929)): one picture to a feature vector a patch.
//!
//! Checkpoints: `google/vit-base-patch16-224-in21k` and others of its layout (`ViTModel`). The reference is transformers 4.57.
//!
//! | stage | shape |
//! |---|---|
//! | pixel values ([`ImageProcessor`]) | `[batch, 3, image_size, image_size]` |
//! | patches, row by row | `[batch, patches, 3 * patch_size²]` |
//! | tokens, the class token first | `[batch, 1 + patches, hidden_size]` |
//! | last hidden state | the same |
//! | pooler ([`Vit::pool`]), where the file has one | `[batch, pooler_output_size]` |

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use musaic_core::{
    Error, Result, WeightFormat,
    files::read_config,
    nn::{Linear, tanh_of},
    probe::Probe,
    role::{AudioSpan, Encoder, EncoderSpec, Media, Modality},
    weights::Weights,
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    files::{Problems, parse},
    vision::{Embeddings, ImageProcessor, Stack, VisionConfig},
};

/// What the published `config.json` says. Unknown keys are training settings.
#[derive(Debug, Clone, Deserialize)]
pub struct VitConfig {
    /// The transformer and the pictures it looks at.
    #[serde(flatten)]
    pub vision: VisionConfig,
    /// Added to the variance in the norms.
    #[serde(default = "epsilon")]
    pub layer_norm_eps: f64,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Width of the pooler, if it is not that of the states.
    pub pooler_output_size: Option<usize>,
    /// Activation of the pooler.
    #[serde(default = "tanh")]
    pub pooler_act: String,
}

fn epsilon() -> f64 {
    1e-12
}

fn tanh() -> String {
    "tanh".into()
}

impl VitConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// The file is missing or broken, or asks for something that does not exist.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_json(path, &read_config(path)?)
    }

    /// From what the file at `path` holds.
    ///
    /// # Errors
    /// Lists every value that is not supported.
    pub fn from_json(path: &Path, json: &Value) -> Result<Self> {
        let config: Self = parse(path, json)?;
        let mut problems = Problems::default();
        config.vision.check(&mut problems);
        problems.size("patch_size", config.patch_size, config.vision.image_size);
        let pooler = &config.pooler_act;
        problems.expect(pooler == "tanh", || format!("pooler_act `{pooler}`, expected tanh"));
        problems.finish(path)?;
        Ok(config)
    }

    /// Patches on a side of the picture.
    fn grid(&self) -> usize {
        self.vision.image_size / self.patch_size
    }

    /// What a model of this configuration is, before it is built.
    pub fn spec(&self) -> EncoderSpec {
        EncoderSpec {
            name: "vit",
            modality: Modality::Image,
            positions: 1 + self.grid() * self.grid(),
            dim: self.vision.hidden_size,
            frames: None,
        }
    }
}

/// A whole ViT.
#[derive(Debug, Clone)]
pub struct Vit {
    config: VitConfig,
    spec: EncoderSpec,
    processor: ImageProcessor,
    embeddings: Embeddings,
    stack: Stack,
    pooler: Option<Linear>,
}

impl Vit {
    /// Loads a published folder.
    ///
    /// # Errors
    /// A file is missing or damaged, the configuration is not supported, or weights are missing, misshaped or left over.
    pub fn load(folder: &Path, device: &Device, format: WeightFormat) -> Result<Self> {
        let weights = Weights::open(folder, device, format)?;
        let model = Self::configured(folder, &weights)?;
        weights.finish()?;
        Ok(model)
    }

    /// As [`Vit::new`], with what a published folder says of the model: its weights may lie elsewhere.
    ///
    /// # Errors
    /// A file is missing or broken, the configuration is not supported, or the weights cannot be read.
    pub fn configured(folder: &Path, weights: &Weights) -> Result<Self> {
        let config = VitConfig::open(&folder.join("config.json"))?;
        let processor = ImageProcessor::open_image(&folder.join("preprocessor_config.json"))?;
        Self::new(&config, processor, weights)
    }

    /// Builds the model at the place of `weights`, which may be a part of a larger checkpoint: their account is left open.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn new(config: &VitConfig, processor: ImageProcessor, weights: &Weights) -> Result<Self> {
        // Checkpoints with a classification head have the model one level down.
        let at = if weights.has("vit.embeddings.cls_token") { weights.pp("vit") } else { weights.clone() };
        weights.ignore_under("classifier", "the head of another task");
        let width = config.vision.hidden_size;
        let patch = [config.vision.num_channels, config.patch_size, config.patch_size];
        let spec = config.spec();
        let embeddings = at.pp("embeddings");
        embeddings.ignore("mask_token", "only for training by reconstruction");
        let dense = at.pp("pooler.dense");
        Ok(Self {
            embeddings: Embeddings::load(width, &patch, spec.positions - 1, &embeddings)?,
            stack: Stack::load(&config.vision, config.layer_norm_eps, &at)?,
            pooler: if dense.has("weight") {
                let width = config.pooler_output_size.unwrap_or(width);
                Some(Linear::load(width, width, true, &dense)?)
            } else {
                None
            },
            processor,
            spec,
            config: config.clone(),
        })
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// What its folder says about pictures.
    pub fn processor(&self) -> &ImageProcessor {
        &self.processor
    }

    /// Pixel values `[batch, 3, image_size, image_size]` to the last hidden state `[batch, positions, hidden_size]`. The probe
    /// sees `embeddings` and `layer_i`.
    ///
    /// # Errors
    /// The shape differs.
    pub fn forward(&self, pixel_values: &Tensor, probe: &mut dyn Probe) -> Result<Tensor> {
        let VisionConfig { image_size: side, num_channels: channels, .. } = self.config.vision;
        let patch = self.config.patch_size;
        let shape = pixel_values.dims();
        if shape.len() != 4 || shape[1..] != [channels, side, side] {
            let expected = format!("[batch, {channels}, {side}, {side}]");
            return Err(Error::argument("pixel values", format!("{shape:?}"), expected));
        }
        let (batch, grid) = (shape[0], self.config.grid());
        // Columns and rows that fill no whole patch are not looked at.
        let whole = pixel_values.narrow(2, 0, grid * patch)?.narrow(3, 0, grid * patch)?;
        let patches = whole
            .reshape(&[batch, channels, grid, patch, grid, patch])?
            .permute([0, 2, 4, 1, 3, 5])?
            .reshape((batch, grid * grid, channels * patch * patch))?;
        let tokens = self.embeddings.forward(&patches)?;
        probe.see("embeddings", &tokens)?;
        Ok(self.stack.forward(tokens, probe)?)
    }

    /// The last hidden state `[batch, positions, hidden_size]` to the pooled one `[batch, pooler_output_size]`, where the
    /// checkpoint has a pooler.
    ///
    /// # Errors
    /// The shape differs.
    pub fn pool(&self, last_hidden_state: &Tensor) -> Result<Option<Tensor>> {
        let Some(dense) = &self.pooler else { return Ok(None) };
        let class = last_hidden_state.narrow(1, 0, 1)?.squeeze(1)?;
        Ok(Some(tanh_of(&dense.forward(&class)?)?))
    }
}

impl Encoder for Vit {
    fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    fn prepare(&self, media: Media<'_>, _: AudioSpan) -> Result<Vec<Tensor>> {
        let Media::Image(picture) = media else {
            return Err(Error::argument("media", format!("{:?}", media.modality()), "a picture"));
        };
        let fitted = self.processor.fit(picture)?;
        let mut values = Vec::with_capacity(fitted.rgb.len());
        self.processor.values(&fitted, &mut values);
        Ok(vec![Tensor::from_vec(values, (1, 3, fitted.height, fitted.width), &Device::Cpu)?])
    }

    fn encode(&self, input: &Tensor, probe: &mut dyn Probe) -> Result<Tensor> {
        Ok(self.forward(input, probe)?.to_dtype(DType::F32)?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config() -> VitConfig {
        let json = json!({
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
            "hidden_act": "gelu", "image_size": 24, "patch_size": 8,
        });
        VitConfig::from_json(Path::new("config.json"), &json).unwrap()
    }

    fn model() -> Vit {
        let processor = ImageProcessor::image_from_json(Path::new("p"), &json!({"size": 24})).unwrap();
        Vit::new(&config(), processor, &Weights::random(3, &Device::Cpu, WeightFormat::F32)).unwrap()
    }

    fn close(a: &Tensor, b: &Tensor, bound: f32) {
        let off = (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(off <= bound, "{off}");
    }

    /// A convolution written out: what the patches and their order must come to.
    #[test]
    fn patches_are_a_convolution() {
        // Random weights have every name, that of the prefix too.
        let weights = Weights::random(3, &Device::Cpu, WeightFormat::F32);
        let at = weights.pp("vit.embeddings.patch_embeddings.projection");
        let kernel = at.tensor((32, 3, 8, 8), "weight").unwrap();
        let bias = at.tensor(32, "bias").unwrap().reshape((1, 32, 1, 1)).unwrap();
        let pixels = Tensor::randn(0f32, 1.0, (2, 3, 24, 24), &Device::Cpu).unwrap();
        let plain = pixels.conv2d(&kernel, 0, 8, 1, 1).unwrap().broadcast_add(&bias).unwrap();
        let plain = plain.flatten_from(2).unwrap().transpose(1, 2).unwrap();
        let mut seen: Vec<(String, Tensor)> = Vec::new();
        model().forward(&pixels, &mut seen).unwrap();
        let positions = weights.pp("vit.embeddings").tensor((1, 10, 32), "position_embeddings").unwrap();
        let tokens = seen[0].1.broadcast_sub(&positions).unwrap().narrow(1, 1, 9).unwrap();
        close(&tokens, &plain, 1e-4);
    }

    #[test]
    fn a_batch_is_its_pictures_one_by_one() {
        let model = model();
        let pixels = Tensor::randn(0f32, 1.0, (2, 3, 24, 24), &Device::Cpu).unwrap();
        let both = model.forward(&pixels, &mut ()).unwrap();
        for i in 0..2 {
            let one = model.forward(&pixels.narrow(0, i, 1).unwrap(), &mut ()).unwrap();
            close(&one, &both.narrow(0, i, 1).unwrap(), 1e-5);
        }
        assert_eq!(both.dim(2).unwrap(), model.spec().dim);
        assert!(model.forward(&pixels.narrow(3, 0, 23).unwrap(), &mut ()).is_err());
    }

    #[test]
    fn a_picture_of_any_size_is_taken_and_a_sound_is_not() {
        let model = model();
        let picture = musaic_core::media::Picture { width: 5, height: 40, rgb: vec![90; 600] };
        let features = model
            .features(Media::Image(&picture), AudioSpan::Whole, &musaic_core::role::Cancel::default(), &mut |_, _| {})
            .unwrap();
        assert_eq!(features.dims(), [1, model.spec().positions, model.spec().dim]);
        let sound = musaic_core::media::Audio::mono(vec![0.0; 100], 100);
        assert!(model.prepare(Media::Audio(&sound), AudioSpan::Whole).is_err());
    }
}
