//! Where a piece goes, decided and checked before anything slow happens.

use std::path::{Path, PathBuf};

use musaic_core::media::AudioFormat;

use crate::failure::BadInput;

/// Where the takes of one request go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// One take as WAV on standard output.
    Stdout,
    /// One file a take.
    Files(Vec<PathBuf>),
}

impl Output {
    /// Plans the files of `takes` takes. Without `given`, the name comes from the prompt and the seed.
    ///
    /// # Errors
    /// The format is unknown or not in this build, the folder is missing or not writable, or a file is there already
    /// and `force` is not set.
    pub fn plan(given: Option<&Path>, prompt: &str, seed: u64, takes: u32, force: bool) -> anyhow::Result<Self> {
        if given.is_some_and(|path| path.as_os_str() == "-") {
            if takes > 1 {
                return Err(BadInput::new(format!("takes: {takes}, expected 1 when writing to standard output")).into());
            }
            return Ok(Self::Stdout);
        }
        let first = given.map_or_else(|| PathBuf::from(format!("{}-{seed}.wav", slug(prompt))), Path::to_owned);
        if first.is_dir() {
            return Err(BadInput::new(format!("output {}: a folder, expected a file name", first.display()))
                .hint(format!("name a file in it, such as {}", first.join("music.wav").display()))
                .into());
        }
        let format = AudioFormat::of_path(&first)?;
        if let Some(feature) = format.missing_feature() {
            let what = format!("writing .{}", format.extension());
            return Err(musaic_core::Error::MissingFeature { feature, what }.into());
        }
        let folder = match first.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !folder.is_dir() {
            let message = format!("output {}: no such folder {}", first.display(), folder.display());
            return Err(BadInput::new(message).hint("make the folder first").into());
        }
        // Asking who may write where is no answer for root, full disks and odd file systems: a file without a name is.
        if let Err(error) = tempfile::tempfile_in(folder) {
            let message = format!("output {}: no file can be made in {}: {error}", first.display(), folder.display());
            return Err(BadInput::new(message).hint("choose another folder, or check who may write there").into());
        }
        let files: Vec<_> = (0..takes).map(|take| numbered(&first, take, takes)).collect();
        for file in &files {
            if file.exists() && !force {
                return Err(BadInput::new(format!("output {}: exists already", file.display()))
                    .hint("--force overwrites it")
                    .into());
            }
        }
        Ok(Self::Files(files))
    }
}

/// `song.wav` for a single take, `song-1.wav`, `song-2.wav`, ... for several.
fn numbered(path: &Path, take: u32, takes: u32) -> PathBuf {
    if takes == 1 {
        return path.to_owned();
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}-{}.{extension}", take + 1))
}

/// The first words of a prompt as a file name.
fn slug(prompt: &str) -> String {
    let words: Vec<String> = prompt
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .take(6)
        .map(str::to_lowercase)
        .collect();
    let name: String = words.join("-").chars().take(48).collect();
    if name.is_empty() { "music".into() } else { name.trim_end_matches('-').into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_prompt() {
        assert_eq!(slug("Calm piano, in C# minor! Slow..."), "calm-piano-in-c-minor-slow");
        assert_eq!(slug("../../etc"), "etc");
        assert_eq!(slug("!?"), "music");
        assert!(slug(&"long".repeat(100)).len() <= 48);
    }

    #[test]
    fn takes_are_numbered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wav");
        let Output::Files(files) = Output::plan(Some(&path), "x", 1, 2, false).unwrap() else { panic!("files") };
        assert_eq!(files, [folder.path().join("a-1.wav"), folder.path().join("a-2.wav")]);
    }

    #[test]
    fn nothing_is_overwritten_unasked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wav");
        std::fs::write(&path, "old").unwrap();
        assert!(Output::plan(Some(&path), "x", 1, 1, false).unwrap_err().to_string().contains("exists already"));
        assert!(Output::plan(Some(&path), "x", 1, 1, true).is_ok());
        assert!(Output::plan(Some(&folder.path().join("no/a.wav")), "x", 1, 1, false).is_err());
        assert!(Output::plan(Some(&folder.path().join("a.xyz")), "x", 1, 1, false).is_err());
    }
}
