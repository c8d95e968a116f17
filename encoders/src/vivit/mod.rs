//! ViViT ([A Video Vision Transformer](https://arxiv.org/abs/2103.15691)): a window of pictures to a feature vector a tubelet.
//!
//! Checkpoints: `google/vivit-b-16x2-kinetics400` and others of its layout, whose model lies below `vivit.` beside a
//! `classifier` that is not used, or lies bare. The reference is transformers 4.57.
//!
//! | stage | shape |
//! |---|---|
//! | pixel values ([`ImageProcessor`]) | `[batch, num_frames, 3, image_size, image_size]` |
//! | tubelets in order of time, row, column | `[batch, tubelets, 3 * t * h * w]` |
//! | tokens, the class token first | `[batch, 1 + tubelets, hidden_size]` |
//! | last hidden state | the same |

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use musaic_core::{
    Error, Result, WeightFormat,
    files::read_config,
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
pub struct VivitConfig {
    /// The transformer and the pictures it looks at.
    #[serde(flatten)]
    pub vision: VisionConfig,
    /// Added to the variance in the norms.
    #[serde(default = "epsilon")]
    pub layer_norm_eps: f64,
    /// Pictures of a window.
    pub num_frames: usize,
    /// Pictures, rows and columns of a tubelet.
    pub tubelet_size: [usize; 3],
}

fn epsilon() -> f64 {
    1e-6
}

impl VivitConfig {
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
        problems.size("num_frames", config.num_frames, 1 << 12);
        let [frames, rows, columns] = config.tubelet_size;
        problems.size("tubelet_size[0]", frames, config.num_frames);
        problems.size("tubelet_size[1]", rows, config.vision.image_size);
        problems.size("tubelet_size[2]", columns, config.vision.image_size);
        problems.finish(path)?;
        Ok(config)
    }

    /// Tubelets in time, down and across.
    fn grid(&self) -> [usize; 3] {
        let [frames, rows, columns] = self.tubelet_size;
        [self.num_frames / frames, self.vision.image_size / rows, self.vision.image_size / columns]
    }

    /// What a model of this configuration is, before it is built.
    pub fn spec(&self) -> EncoderSpec {
        EncoderSpec {
            name: "vivit",
            modality: Modality::Video,
            positions: 1 + self.grid().iter().product::<usize>(),
            dim: self.vision.hidden_size,
            frames: Some(self.num_frames),
        }
    }
}

/// A whole ViViT.
#[derive(Debug, Clone)]
pub struct Vivit {
    config: VivitConfig,
    spec: EncoderSpec,
    processor: ImageProcessor,
    embeddings: Embeddings,
    stack: Stack,
}

impl Vivit {
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

    /// As [`Vivit::new`], with what a published folder says of the model: its weights may lie elsewhere.
    ///
    /// # Errors
    /// A file is missing or broken, the configuration is not supported, or the weights cannot be read.
    pub fn configured(folder: &Path, weights: &Weights) -> Result<Self> {
        let config = VivitConfig::open(&folder.join("config.json"))?;
        let processor = ImageProcessor::open_video(&folder.join("preprocessor_config.json"))?;
        Self::new(&config, processor, weights)
    }

    /// Builds the model at the place of `weights`, which may be a part of a larger checkpoint: their account is left open.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn new(config: &VivitConfig, processor: ImageProcessor, weights: &Weights) -> Result<Self> {
        let at = if weights.has("vivit.embeddings.cls_token") { weights.pp("vivit") } else { weights.clone() };
        weights.ignore_under("classifier", "the head of another task");
        at.ignore_under("pooler", "features are the last hidden state");
        let [frames, rows, columns] = config.tubelet_size;
        let width = config.vision.hidden_size;
        let patch = [config.vision.num_channels, frames, rows, columns];
        let spec = config.spec();
        Ok(Self {
            embeddings: Embeddings::load(width, &patch, spec.positions - 1, &at.pp("embeddings"))?,
            stack: Stack::load(&config.vision, config.layer_norm_eps, &at)?,
            processor,
            spec,
            config: config.clone(),
        })
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &VivitConfig {
        &self.config
    }

    /// What its folder says about pictures.
    pub fn processor(&self) -> &ImageProcessor {
        &self.processor
    }

    /// Pixel values `[batch, num_frames, 3, image_size, image_size]` to the last hidden state
    /// `[batch, positions, hidden_size]`. The probe sees `embeddings` and `layer_i`.
    ///
    /// # Errors
    /// The shape differs.
    pub fn forward(&self, pixel_values: &Tensor, probe: &mut dyn Probe) -> Result<Tensor> {
        let VisionConfig { image_size: side, num_channels: channels, .. } = self.config.vision;
        let num_frames = self.config.num_frames;
        let shape = pixel_values.dims();
        if shape.len() != 5 || shape[1..] != [num_frames, channels, side, side] {
            let expected = format!("[batch, {num_frames}, {channels}, {side}, {side}]");
            return Err(Error::argument("pixel values", format!("{shape:?}"), expected));
        }
        let (batch, [t, h, w], [times, rows, columns]) = (shape[0], self.config.tubelet_size, self.config.grid());
        // What fills no whole tubelet is not looked at.
        let whole = pixel_values.narrow(1, 0, times * t)?.narrow(3, 0, rows * h)?.narrow(4, 0, columns * w)?;
        let tubelets = whole
            .reshape(&[batch, times, t, channels, rows, h, columns, w])?
            .permute([0, 1, 4, 6, 3, 2, 5, 7])?
            .reshape((batch, times * rows * columns, channels * t * h * w))?;
        let tokens = self.embeddings.forward(&tubelets)?;
        probe.see("embeddings", &tokens)?;
        Ok(self.stack.forward(tokens, probe)?)
    }
}

impl Encoder for Vivit {
    fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    fn prepare(&self, media: Media<'_>, _: AudioSpan) -> Result<Vec<Tensor>> {
        let Media::Video { frames, windows } = media else {
            return Err(Error::argument("media", format!("{:?}", media.modality()), "windows of pictures"));
        };
        // A picture may be in several windows.
        let mut fitted = Vec::with_capacity(frames.len());
        for frame in frames {
            fitted.push(self.processor.fit(frame)?);
        }
        windows.iter().map(|window| self.window(window, &fitted)).collect()
    }

    fn encode(&self, input: &Tensor, probe: &mut dyn Probe) -> Result<Tensor> {
        Ok(self.forward(input, probe)?.to_dtype(DType::F32)?)
    }
}

impl Vivit {
    /// Pixel values of one window, `[1, num_frames, 3, height, width]`.
    fn window(&self, window: &[usize], fitted: &[musaic_core::media::Picture]) -> Result<Tensor> {
        let wanted = self.config.num_frames;
        if window.len() != wanted {
            return Err(Error::argument("window", format!("{} pictures", window.len()), format!("{wanted}")));
        }
        let outside = || Error::argument("window", "a picture that is not there", "places among the pictures");
        let first = fitted.get(window[0]).ok_or_else(outside)?;
        let (width, height) = (first.width, first.height);
        let mut values = Vec::with_capacity(wanted * first.rgb.len());
        for &place in window {
            let picture = fitted.get(place).ok_or_else(outside)?;
            if (picture.width, picture.height) != (width, height) {
                let found = format!("{} x {} after {width} x {height}", picture.width, picture.height);
                return Err(Error::argument("window", found, "pictures of one size"));
            }
            self.processor.values(picture, &mut values);
        }
        Ok(Tensor::from_vec(values, (1, wanted, 3, height, width), &Device::Cpu)?)
    }
}

#[cfg(test)]
mod tests {
    use musaic_core::{media::Picture, role::Cancel};
    use serde_json::json;

    use super::*;

    fn model() -> Vivit {
        let json = json!({
            "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48,
            "hidden_act": "gelu_fast", "image_size": 16, "num_frames": 4, "tubelet_size": [2, 8, 4],
        });
        let config = VivitConfig::from_json(Path::new("config.json"), &json).unwrap();
        let processor = json!({"size": {"shortest_edge": 18}, "crop_size": {"height": 16, "width": 16}});
        let processor = ImageProcessor::video_from_json(Path::new("p"), &processor).unwrap();
        Vivit::new(&config, processor, &Weights::random(3, &Device::Cpu, WeightFormat::F32)).unwrap()
    }

    fn values(xs: &Tensor) -> Vec<f32> {
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// The convolution over time, rows and columns written out.
    #[test]
    fn tubelets_are_a_convolution() {
        // Random weights have every name, that of the prefix too.
        let weights = Weights::random(3, &Device::Cpu, WeightFormat::F32);
        let at = weights.pp("vivit.embeddings.patch_embeddings.projection");
        let kernel = values(&at.tensor((32, 3, 2, 8, 4), "weight").unwrap());
        let bias = values(&at.tensor(32, "bias").unwrap());
        let positions = values(&weights.pp("vivit.embeddings").tensor((1, 17, 32), "position_embeddings").unwrap());
        let pixels = Tensor::randn(0f32, 1.0, (1, 4, 3, 16, 16), &Device::Cpu).unwrap();
        let mut seen: Vec<(String, Tensor)> = Vec::new();
        model().forward(&pixels, &mut seen).unwrap();
        let (tokens, pixels) = (values(&seen[0].1), values(&pixels));
        for (time, row, column) in [(0, 0, 0), (0, 1, 2), (1, 0, 3), (1, 1, 1)] {
            let token = 1 + (time * 2 + row) * 4 + column;
            for unit in [0, 31] {
                let mut sum = bias[unit] + positions[token * 32 + unit];
                for (i, weight) in kernel[unit * 192..(unit + 1) * 192].iter().enumerate() {
                    let (channel, t, y, x) = (i / 64, i / 32 % 2, i / 4 % 8, i % 4);
                    let at = (((2 * time + t) * 3 + channel) * 16 + 8 * row + y) * 16 + 4 * column + x;
                    sum += weight * pixels[at];
                }
                assert!((tokens[token * 32 + unit] - sum).abs() < 1e-4, "{token}, {unit}");
            }
        }
    }

    #[test]
    fn features_are_the_mean_over_windows() {
        let model = model();
        let frames: Vec<_> = (0..6u8)
            .map(|i| Picture {
                width: 30,
                height: 20,
                rgb: (0..1800).map(|at| (at as u8).wrapping_mul(i + 1)).collect(),
            })
            .collect();
        let features = |windows: &[Vec<usize>]| {
            let media = Media::Video { frames: &frames, windows };
            model.features(media, AudioSpan::Whole, &Cancel::default(), &mut |_, _| {}).map(|xs| values(&xs))
        };
        let (a, b) = (vec![0, 1, 2, 3], vec![2, 3, 4, 5]);
        let both = features(&[a.clone(), b.clone()]).unwrap();
        let (a, b) = (features(&[a]).unwrap(), features(&[b]).unwrap());
        for ((both, a), b) in both.iter().zip(a).zip(b) {
            assert!((both - (a + b) / 2.0).abs() < 1e-6);
        }
        for wrong in [vec![0, 1, 2], vec![3, 4, 5, 6]] {
            assert!(features(&[wrong]).is_err());
        }
        assert!(features(&[]).is_err());
        let cancel = Cancel::default();
        cancel.cancel();
        let media = Media::Video { frames: &frames, windows: &[vec![0, 1, 2, 3]] };
        let stopped = model.features(media, AudioSpan::Whole, &cancel, &mut |_, _| {});
        assert!(matches!(stopped, Err(Error::Cancelled)));
    }
}
