//! A request as it is written into the file it made, so that `musaic replay` can make it again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    iter::repeat_n,
};

use serde::{Deserialize, Serialize};

use crate::config::SystemConfig;

/// Room kept behind the request in a file for [`Request::stopped`], which is known when the head is long written.
const STOPPED_ROOM: usize = 96;

/// Everything that decides the bytes of a generated file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The words; empty for unconditional music.
    pub prompt: String,
    /// Seed of all random draws.
    pub seed: u64,
    /// Which of several pieces from one seed, from 0.
    pub take: u32,
    /// Length in seconds.
    pub seconds: f64,
    /// As the user named it.
    pub model: String,
    /// SHA-256 of the model's weight files.
    pub model_sha256: String,
    /// Classifier-free guidance.
    pub guidance: f64,
    /// Sampling temperature; 0 is greedy.
    pub temperature: f64,
    /// Number of likeliest tokens sampled among; 0 is all.
    pub top_k: usize,
    /// Probability mass sampled among; 1 is all.
    pub top_p: f64,
    /// Openings it was chosen from.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub openings: u32,
    /// The published reference's behaviour.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reference: bool,
    /// Track that was continued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continue_from: Option<Input>,
    /// Track whose tune was followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub melody: Option<Input>,
    /// What a language model made of media and words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub composed: Option<Composed>,
    /// What of the track is kept where it was edited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
    /// The span that was made anew, in the track that was continued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<Span>,
    /// Loudness asked for, in LUFS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalize_lufs: Option<f64>,
    /// Where the user stopped it before its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// What it was made with.
    pub made_with: MadeWith,
}

/// Where a piece was broken off.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Stopped {
    /// Steps of the decoder's slow part that were made.
    pub steps: usize,
    /// Length of the file in seconds.
    pub seconds: f64,
}

fn one() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature serde asks for
fn is_one(openings: &u32) -> bool {
    *openings == 1
}

impl Request {
    /// The text that is written into the file. Its length is the same whether the piece was stopped or not.
    ///
    /// # Errors
    /// A value has no form in JSON.
    pub fn recipe(&self) -> serde_json::Result<String> {
        let room = serde_json::to_string(&Self { stopped: None, ..self.clone() })?.len() + STOPPED_ROOM;
        let mut text = serde_json::to_string(self)?;
        text.extend(repeat_n(' ', room.saturating_sub(text.len())));
        Ok(text)
    }
}

/// What a language model made of media and words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Composed {
    /// The media.
    pub inputs: Vec<MediaInput>,
    /// What the language model said.
    pub answer: String,
    /// Whether the music tokens were put behind the answer, which lacked them.
    pub music_tokens_added: bool,
    /// The system and its settings; the format is the one that was chosen.
    pub system: SystemConfig,
    /// What tells its checkpoint from others.
    pub fingerprint: String,
    /// What tells the other files from others, by their key in the configuration: encoders that were used, `tokenizer`, `knn`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, String>,
}

impl Composed {
    /// The files of the system that are others than those of `other`.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        if self.fingerprint != other.fingerprint {
            let (was, is) = (&self.fingerprint, &other.fingerprint);
            differences.push(format!("the language model's checkpoint changed: it was {was}, is {is}"));
        }
        // Files of before these were written down name none.
        if self.parts.is_empty() {
            return differences;
        }
        let names: BTreeSet<_> = self.parts.keys().chain(other.parts.keys()).collect();
        for name in names {
            let (was, is) = (self.parts.get(name), other.parts.get(name));
            if was != is {
                let tell = |part: Option<&String>| part.map_or("none", String::as_str).to_owned();
                differences.push(format!("system.{name} changed: it was {}, is {}", tell(was), tell(is)));
            }
        }
        differences
    }
}

/// A medium that went in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MediaInput {
    /// `track`, `picture` or `video`.
    pub kind: String,
    /// The file.
    #[serde(flatten)]
    pub input: Input,
}

/// A part of a track that is made anew.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// Where it begins, in seconds.
    pub from_s: f64,
    /// Where it ends.
    pub to_s: f64,
    /// Takes of which the one that meets the right side best is used.
    pub takes: u32,
}

/// What of a track is kept where it is edited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Nothing but what the language model heard of it.
    None,
    /// Its first seconds, as codes that the decoder goes on from.
    #[default]
    Start,
    /// Its tune, where the decoder follows one.
    Melody,
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Start => "start",
            Self::Melody => "melody",
        })
    }
}

/// A file that went in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Its path as given.
    pub path: String,
    /// Its contents.
    pub sha256: String,
}

/// What the same bytes depend on besides the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeWith {
    /// Version of the program.
    pub version: String,
    /// SHA-256 of the program itself.
    pub program_sha256: String,
    /// `cpu` or `cuda:0`.
    pub device: String,
    /// How weights were held.
    pub format: String,
    /// Vector extensions that the kernels chose between.
    pub cpu: String,
}

impl MadeWith {
    /// Names of the fields in which `self` and `other` differ, with both values.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        [
            ("version", &self.version, &other.version),
            ("program", &self.program_sha256, &other.program_sha256),
            ("device", &self.device, &other.device),
            ("weight format", &self.format, &other.format),
            ("class of CPU", &self.cpu, &other.cpu),
        ]
        .into_iter()
        .filter(|(_, a, b)| a != b)
        .map(|(name, a, b)| format!("{name} was {a}, is {b}"))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_named() {
        let composed = |fingerprint: &str, parts: &[(&str, &str)]| Composed {
            inputs: Vec::new(),
            answer: String::new(),
            music_tokens_added: false,
            system: SystemConfig::default(),
            fingerprint: fingerprint.into(),
            parts: parts.iter().map(|(name, hash)| ((*name).into(), (*hash).into())).collect(),
        };
        let then = composed("a", &[("mert", "1"), ("tokenizer", "2")]);
        assert!(then.differences(&then).is_empty());
        let now = composed("b", &[("mert", "3"), ("tokenizer", "2"), ("knn", "4")]);
        let told = then.differences(&now);
        assert_eq!(told.len(), 3);
        assert!(told[0].contains("checkpoint changed: it was a, is b"), "{told:?}");
        assert!(told[1].contains("system.knn changed: it was none, is 4"), "{told:?}");
        assert_eq!(composed("b", &[]).differences(&now), Vec::<String>::new());
    }

    #[test]
    fn a_recipe_has_room_for_the_end() {
        let mut request: Request = serde_json::from_value(serde_json::json!({
            "prompt": "größer — ♫", "seed": u64::MAX, "take": 0, "seconds": 3600.0, "model": "nano", "model_sha256": "",
            "guidance": 3.0, "temperature": 1.0, "top_k": 250, "top_p": 1.0,
            "made_with": {"version": "", "program_sha256": "", "device": "cpu", "format": "f32", "cpu": ""},
        }))
        .unwrap();
        let whole = request.recipe().unwrap();
        assert!(!whole.contains("stopped"));
        request.stopped = Some(Stopped { steps: 1 << 24, seconds: 86_399.999_999_999_99 });
        let stopped = request.recipe().unwrap();
        assert_eq!(whole.len(), stopped.len());
        assert_eq!(serde_json::from_str::<Request>(&stopped).unwrap(), request);
    }
}
