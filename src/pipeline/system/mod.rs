//! Encoders, adapters and a language model as one: media and words in, words and conditioning for a decoder out.
//!
//! [`System::open`] finds the files and says what is missing; [`System::hear`] encodes media;
//! [`Mind`] holds the language model and answers. What belongs to a decoder is not here: `pipeline` gives it the conditioning.
//!
//! | stage | shape |
//! |---|---|
//! | media to features ([`System::hear`]) | `[1, positions, width]` each |
//! | instruction and features to an answer ([`Mind::answer`]) | words, states of the music tokens `[1, 8, dim]` |
//! | states to conditioning ([`Music::states`]) | `[1, tokens, width]` |

mod debug;
mod explain;
mod inspect;
mod media;
mod mind;
mod tree;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
    sync::Arc,
};

use candle_core::{Device, Tensor};
use musaic_adapters::{bridge::BridgeKind, knn::Index};
use musaic_core::{
    Error, Result, WeightFormat,
    files::{MAX_CONFIG, read_text, sha256_file},
    role::{AudioSpan, Cancel, DecoderSpec, Encoder, EncoderSpec},
    weights::{Checkpoint, Renamed, Source, Weights},
};
use sha2::{Digest, Sha256};

pub use self::{
    explain::Moved,
    inspect::{Inspection, inspect},
    media::{Input, kind_of, look, look_at, name_of, one_of_each},
    mind::{Mind, Music, Question, Reply},
    tree::{Tree, encoder_of},
};
use crate::{
    config::{RunConfig, SystemConfig},
    failure::BadInput,
    llm::m2ugen,
    pipeline::media::{self as files, MediaOptions},
    registry,
};

/// Name of the system of random weights.
pub const DEBUG: &str = "debug";

/// Features of one medium.
#[derive(Debug, Clone)]
pub struct Heard {
    /// What it is.
    pub kind: BridgeKind,
    /// `[1, positions, width]`, f32.
    pub features: Tensor,
}

/// Encoders that are loaded.
pub struct Encoders {
    device: Device,
    format: WeightFormat,
    keep: bool,
    held: Vec<(BridgeKind, Box<dyn Encoder>)>,
}

impl Encoders {
    /// None yet. With `keep` each stays loaded, for many files; otherwise there is one at a time.
    pub fn new(device: &Device, format: WeightFormat, keep: bool) -> Self {
        Self { device: device.clone(), format, keep, held: Vec::new() }
    }

    fn get(&mut self, system: &System, kind: BridgeKind) -> anyhow::Result<&dyn Encoder> {
        let place = match self.held.iter().position(|(held, _)| *held == kind) {
            Some(place) => place,
            None => {
                if !self.keep {
                    self.held.clear();
                }
                let encoder = system.encoder(kind, &self.device, self.format)?;
                system.check_bridge(encoder.spec(), kind)?;
                self.held.push((kind, encoder));
                self.held.len() - 1
            }
        };
        Ok(&*self.held[place].1)
    }
}

/// A system whose files are there.
pub struct System {
    config: SystemConfig,
    reference: bool,
    tree: Option<Tree>,
    source: Arc<dyn Source>,
    sha256: String,
}

impl System {
    /// Finds and opens everything that a request with media of these `kinds` needs; loads nothing.
    ///
    /// # Errors
    /// No system is configured, files are missing (all are listed), or the checkpoint is damaged.
    pub fn open(config: &RunConfig, kinds: &[BridgeKind]) -> anyhow::Result<Self> {
        let (settings, reference) = (config.system.clone(), config.reference);
        if settings.checkpoint.is_empty() {
            let message = "system.checkpoint: nothing given, expected M2UGen's checkpoint.pth";
            let hint = "`nano` has no language model yet; name a published one with --checkpoint and --llama, \
                        or see the plumbing with `--preset debug`";
            return Err(BadInput::new(message).hint(hint).into());
        }
        if settings.checkpoint == DEBUG {
            let source = Arc::new(debug::checkpoint());
            let sha256 = DEBUG.to_owned();
            return Ok(Self { config: settings, reference, tree: None, source, sha256 });
        }
        let tree = Tree::find(&settings, kinds)?;
        let (source, sha256) = open_weights(&tree)?;
        Ok(Self { config: settings, reference, source, sha256, tree: Some(tree) })
    }

    /// Whether it is the system of random weights.
    pub fn is_debug(&self) -> bool {
        self.tree.is_none()
    }

    /// What tells this checkpoint from others: SHA-256 of its size, its names and shapes, its gates and its queries. (To hash all
    /// 25 GB would take minutes.)
    pub fn fingerprint(&self) -> &str {
        &self.sha256
    }

    /// Parameters of the language model and its adapters: what [`Mind::load`] holds.
    pub fn parameters(&self) -> u64 {
        // The shards' frequencies of positions are computed, not held.
        let held = |name: &str| !is_other_part(name) && name != "llama.rope.freqs";
        let ours = self.source.tensors().iter().filter(|(name, _)| held(name));
        ours.map(|(_, shape)| shape.iter().product::<usize>() as u64).sum()
    }

    /// Parameters of all encoders that are there.
    ///
    /// # Errors
    /// A folder is damaged.
    pub fn encoder_parameters(&self) -> Result<u64> {
        let Some(tree) = &self.tree else { return Ok(0) };
        let size =
            |source: &dyn Source| source.tensors().values().map(|s| s.iter().product::<usize>() as u64).sum::<u64>();
        let mut all = 0;
        for (kind, folder) in &tree.encoders {
            all += match self.part(part_of(*kind))? {
                Some(weights) => size(&weights),
                None => size(&Checkpoint::open(folder)?),
            };
        }
        Ok(all)
    }

    /// What tells the files beside the checkpoint from others, by their key in the configuration: the encoders of `inputs`, the
    /// tokenizer, the index.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn parts(&self, inputs: &[Input]) -> Result<BTreeMap<String, String>> {
        let mut parts = BTreeMap::new();
        let Some(tree) = &self.tree else { return Ok(parts) };
        for (kind, folder) in tree.encoders.iter().filter(|(kind, _)| inputs.iter().any(|i| i.kind == *kind)) {
            parts.insert(encoder_of(&self.config, *kind).0.to_owned(), folder_fingerprint(folder)?);
        }
        parts.insert("tokenizer".into(), sha256_file(&tree.tokenizer)?);
        if let Some(index) = &tree.knn {
            parts.insert("knn".into(), ends_fingerprint(index)?);
        }
        Ok(parts)
    }

    /// Bytes of keys and values of a text of `positions`, in f32.
    pub fn cache_bytes(&self, positions: usize) -> u64 {
        let tensors = self.source.tensors();
        let layers =
            (0..).take_while(|i| tensors.contains_key(&format!("llama.layers.{i}.attention.wk.weight"))).count();
        let width = tensors.get("llama.layers.0.attention.wk.weight").map_or(0, |shape| shape[0]);
        (2 * 4 * layers * width * positions) as u64
    }

    /// Whether a decoder listens to what the projector gives.
    ///
    /// # Errors
    /// It does not; the message says what fits.
    pub fn check_decoder(&self, config: &RunConfig, spec: &DecoderSpec) -> Result<(), BadInput> {
        let tensors = self.source.tensors();
        let shape = |name: &str| tensors.get(&format!("output_projector.{name}")).map(Vec::as_slice);
        let (Some(&[_, tokens, _]), Some(&[width, _])) = (shape("query_embs"), shape("model.weight")) else {
            return Ok(());
        };
        if config.system.conditioning != "projected" || width == spec.conditioning_dim {
            return Ok(());
        }
        let made_for = if tokens == 1 { "AudioLDM 2".to_owned() } else { format!("a MusicGen of text width {width}") };
        let message = format!(
            "model `{}`: listens to states of width {}, but the checkpoint's projector is made for {made_for}",
            config.model, spec.conditioning_dim
        );
        let hint = "name the decoder that the checkpoint was trained with (--model facebook/musicgen-small or -medium), \
                    or let the words of the answer condition it (--conditioning caption)";
        Err(BadInput::new(message).hint(hint))
    }

    /// Weights under `prefix`, without it, if the checkpoint has any.
    ///
    /// # Errors
    /// Two names become one.
    pub fn part(&self, prefix: &str) -> Result<Option<Renamed<Arc<dyn Source>>>> {
        let prefix = format!("{prefix}.");
        if !self.source.tensors().keys().any(|name| name.starts_with(&prefix)) {
            return Ok(None);
        }
        Renamed::new(self.source.clone(), |name| name.strip_prefix(&prefix).map(str::to_owned)).map(Some)
    }

    /// Loads the encoder of a kind of media. Weights in the checkpoint come before those of the published folder.
    ///
    /// # Errors
    /// The folder or its weights are damaged or do not fit.
    pub fn encoder(&self, kind: BridgeKind, device: &Device, format: WeightFormat) -> anyhow::Result<Box<dyn Encoder>> {
        let Some(tree) = &self.tree else { return Ok(debug::encoder(kind, device, format)?) };
        let folder = tree.encoders.iter().find(|(other, _)| *other == kind).map(|(_, folder)| folder);
        let Some(folder) = folder else {
            // Says which is missing.
            Tree::find(&self.config, &[kind])?;
            return Err(Error::argument("encoder", format!("none for a {}", media::name_of(kind)), "one").into());
        };
        Ok(match self.part(part_of(kind))? {
            Some(weights) => registry::build_encoder(folder, &Weights::new(weights, device, format))?,
            None => registry::open_encoder(folder, device, format)?,
        })
    }

    /// Encodes media.
    ///
    /// # Errors
    /// A file is broken or not what its name says, an encoder does not load, or somebody asked to stop.
    pub fn hear(
        &self,
        inputs: &[Input],
        encoders: &mut Encoders,
        seed: u64,
        cancel: &Cancel,
        watch: &mut dyn FnMut(&Input, usize, usize),
    ) -> anyhow::Result<Vec<Heard>> {
        let options = MediaOptions { reference: self.reference, windows: self.config.video_windows, seed };
        let span = if self.reference { AudioSpan::First60 } else { self.config.audio.parse()? };
        let mut heard = Vec::with_capacity(inputs.len());
        for input in inputs {
            cancel.check()?;
            let encoder = encoders.get(self, input.kind)?;
            let media = files::read(&input.path, encoder.spec(), &options)?;
            let features = encoder.features(media.borrow(), span, cancel, &mut |done, of| watch(input, done, of))?;
            heard.push(Heard { kind: input.kind, features });
        }
        Ok(heard)
    }

    /// Whether the features of an encoder are what the bridge was trained on.
    fn check_bridge(&self, spec: &EncoderSpec, kind: BridgeKind) -> anyhow::Result<()> {
        let shape = |part: &str| self.source.tensors().get(&format!("{}_{part}.weight", kind.prefix()));
        let (Some(&[_, positions, _]), Some(&[_, dim])) =
            (shape("agg").map(Vec::as_slice), shape("proj").map(Vec::as_slice))
        else {
            let message = format!("{}: no bridge for {}", self.source.label(), media::name_of(kind));
            return Err(BadInput::new(message).hint("this checkpoint was trained without that medium").into());
        };
        if (positions, dim) != (spec.positions, spec.dim) {
            let key = encoder_of(&self.config, kind).0;
            let message = format!(
                "system.{key}: gives {} features of width {}, expected {positions} of width {dim} as in the checkpoint",
                spec.positions, spec.dim
            );
            return Err(BadInput::new(message).hint("name the encoder that the checkpoint was trained with").into());
        }
        Ok(())
    }

    /// The neighbours that are blended into what is heard, if any are.
    ///
    /// # Errors
    /// The file is no index, or this build lacks the feature `knn`.
    fn neighbours(&self) -> Result<Option<Index>> {
        self.tree.as_ref().and_then(|tree| tree.knn.as_deref()).map(Index::open).transpose()
    }
}

/// Opens the weights as [`Mind::load`] will see them, LLaMA's own among them where the checkpoint lacks these, with what tells
/// them from others.
fn open_weights(tree: &Tree) -> Result<(Arc<dyn Source>, String)> {
    let source = m2ugen::open(Some(&tree.checkpoint), Some(&tree.llama))?.source;
    let mut hash = Sha256::new();
    let meta = std::fs::metadata(&tree.checkpoint).map_err(|e| Error::io(&tree.checkpoint, e))?;
    hash.update(meta.len().to_le_bytes());
    listing(&source, &mut hash);
    // The gates and the first of the queries are small, and no two trainings share them.
    let small = |name: &&String| name.ends_with(".gate") || name.starts_with("prefix_query");
    for name in source.tensors().keys().filter(small) {
        source.read(name, &mut |values| {
            values.iter().for_each(|value| hash.update(value.to_le_bytes()));
            Ok(())
        })?;
    }
    Ok((Arc::new(source), format!("{:x}", hash.finalize())))
}

/// Names and shapes.
fn listing(source: &dyn Source, hash: &mut Sha256) {
    for (name, shape) in source.tensors() {
        hash.update(format!("{name} {shape:?}\n"));
    }
}

/// What tells an encoder's folder from others: its `config.json`, names and shapes, and how many bytes they take.
fn folder_fingerprint(folder: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(read_text(&folder.join("config.json"), MAX_CONFIG)?);
    let weights = Checkpoint::open(folder)?;
    hash.update(weights.summary().bytes.to_le_bytes());
    listing(&weights, &mut hash);
    Ok(format!("{:x}", hash.finalize()))
}

/// What tells a file that may be large from others: its length, its first and its last megabyte.
fn ends_fingerprint(path: &Path) -> Result<String> {
    const PIECE: u64 = 1 << 20;
    let wrap = |e| Error::io(path, e);
    let mut file = File::open(path).map_err(wrap)?;
    let bytes = file.metadata().map_err(wrap)?.len();
    let mut hash = Sha256::new();
    hash.update(bytes.to_le_bytes());
    for from in [0, bytes.saturating_sub(PIECE)] {
        let mut piece = Vec::new();
        file.seek(SeekFrom::Start(from)).map_err(wrap)?;
        (&mut file).take(PIECE).read_to_end(&mut piece).map_err(wrap)?;
        hash.update(piece);
    }
    Ok(format!("{:x}", hash.finalize()))
}

/// Where the weights of an encoder lie in a checkpoint.
fn part_of(kind: BridgeKind) -> &'static str {
    match kind {
        BridgeKind::Music => "mert_model",
        BridgeKind::Image => "vit_model",
        BridgeKind::Video => "vivit_model",
    }
}

/// Where the weights of the decoder lie in a checkpoint.
pub const DECODER_PART: &str = "generation_model";

fn is_other_part(name: &str) -> bool {
    BridgeKind::ALL
        .iter()
        .map(|kind| part_of(*kind))
        .chain([DECODER_PART])
        .any(|part| name.strip_prefix(part).is_some_and(|rest| rest.starts_with('.')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;

    #[test]
    fn a_checkpoint_of_adapters_counts_with_its_llama() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/m2ugen/llm-forward/model");
        let open = |checkpoint: &str| {
            let mut layers = Layers::defaults().unwrap();
            let name = |path: &str| Some(model.join(path).display().to_string());
            layers.flag("system.checkpoint", name(checkpoint));
            layers.flag("system.llama", name("llama/7B"));
            System::open(&layers.finish().unwrap(), &[]).unwrap()
        };
        let (whole, adapter) = (open("ckpts/checkpoint.pth"), open("ckpts/adapter.pth"));
        assert_eq!(adapter.parameters(), whole.parameters());
        assert!(adapter.cache_bytes(10) > 0);
        assert_eq!(adapter.cache_bytes(10), whole.cache_bytes(10));
        assert_ne!(adapter.fingerprint(), whole.fingerprint());
        // The tokenizer is told from others as well.
        assert_eq!(whole.parts(&[]).unwrap()["tokenizer"].len(), 64);
    }
}
