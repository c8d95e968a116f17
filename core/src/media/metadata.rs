//! What a file says about how it was made: written into every format, read back for `replay`.
//!
//! The recipe (a JSON text) and what a person reads are stored where players look for them:
//!
//! | format | recipe | title | comment | software |
//! |---|---|---|---|---|
//! | wav | `LIST`/`INFO` `ICMT` | `INAM` | `ISBJ` | `ISFT` |
//! | flac, opus | Vorbis comment `MUSAIC` | `TITLE` | `COMMENT` | `ENCODER` |
//! | mp3 | ID3v2.4 `TXXX:MUSAIC` | `TIT2` | `COMM` | `TSSE` |

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// Key of the recipe where a format has free keys.
const RECIPE_KEY: &str = "MUSAIC";
/// The most bytes a block of metadata may have to be looked at.
const MAX_BLOCK: u32 = 16 << 20;

/// Texts embedded in a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tags {
    /// JSON with all that is needed to make the file again.
    pub recipe: Option<String>,
    /// Title for players.
    pub title: Option<String>,
    /// Comment for people.
    pub comment: Option<String>,
    /// Program and version.
    pub software: Option<String>,
}

impl Tags {
    /// The texts present, under the names that one format gives to (recipe, title, comment, software).
    fn named<'a>(&'a self, names: [&'a str; 4]) -> impl Iterator<Item = (&'a str, &'a str)> {
        let texts = [&self.recipe, &self.title, &self.comment, &self.software];
        names.into_iter().zip(texts).filter_map(|(name, text)| Some((name, text.as_deref()?)))
    }

    /// A `LIST` chunk of kind `INFO`, or nothing.
    pub(super) fn riff_info(&self) -> Vec<u8> {
        let mut body = b"INFO".to_vec();
        for (name, text) in self.named(["ICMT", "INAM", "ISBJ", "ISFT"]) {
            body.extend(name.as_bytes());
            body.extend((text.len() as u32 + 1).to_le_bytes());
            body.extend(text.as_bytes());
            body.push(0);
            if body.len() % 2 == 1 {
                body.push(0);
            }
        }
        if body.len() == 4 {
            return Vec::new();
        }
        [b"LIST".as_slice(), &(body.len() as u32).to_le_bytes(), &body].concat()
    }

    /// A Vorbis comment without framing: vendor and entries.
    pub(super) fn vorbis_comment(&self, vendor: &str) -> Vec<u8> {
        let entries: Vec<String> = self
            .named([RECIPE_KEY, "TITLE", "COMMENT", "ENCODER"])
            .map(|(name, text)| format!("{name}={text}"))
            .collect();
        let mut out = Vec::new();
        let mut text = |text: &str| {
            out.extend((text.len() as u32).to_le_bytes());
            out.extend(text.as_bytes());
        };
        text(vendor);
        let mut body = (entries.len() as u32).to_le_bytes().to_vec();
        for entry in &entries {
            body.extend((entry.len() as u32).to_le_bytes());
            body.extend(entry.as_bytes());
        }
        out.extend(body);
        out
    }

    /// An ID3v2.4 tag, or nothing.
    #[cfg(feature = "mp3")]
    pub(super) fn id3(&self) -> Vec<u8> {
        let mut frames = Vec::new();
        for (name, text) in self.named(["TXXX", "TIT2", "COMM", "TSSE"]) {
            // 3: UTF-8. A comment has a language and an empty description before its text.
            let head: &[u8] = match name {
                "TXXX" => b"\x03MUSAIC\0",
                "COMM" => b"\x03und\0",
                _ => b"\x03",
            };
            frames.extend(name.as_bytes());
            frames.extend(synchsafe((head.len() + text.len()) as u32));
            frames.extend([0, 0]);
            frames.extend(head);
            frames.extend(text.as_bytes());
        }
        if frames.is_empty() {
            return frames;
        }
        [b"ID3\x04\0\0".as_slice(), &synchsafe(frames.len() as u32), &frames].concat()
    }
}

/// Seven bits a byte, as ID3 writes sizes.
#[cfg(feature = "mp3")]
fn synchsafe(size: u32) -> [u8; 4] {
    [21, 14, 7, 0].map(|shift| (size >> shift & 0x7f) as u8)
}

/// The recipe that a file carries, if it is a wav, flac, opus or mp3 file with one.
pub fn read_metadata(path: impl AsRef<Path>) -> Option<String> {
    let path = path.as_ref();
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut file = BufReader::new(File::open(path).ok()?);
    match &take::<4>(&mut file)? {
        b"RIFF" => riff(&mut file),
        b"fLaC" => flac(&mut file),
        b"OggS" => {
            file.rewind().ok()?;
            opus(&mut file)
        }
        [b'I', b'D', b'3', version @ 3..=4] => id3(&mut file, *version),
        _ => None,
    }
}

fn take<const N: usize>(file: &mut impl Read) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

/// Reads at most `MAX_BLOCK` bytes, all of them or nothing. The buffer grows with what is really there.
fn block(file: &mut impl Read, len: u32) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(u64::from(len.min(MAX_BLOCK))).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 == u64::from(len)).then_some(bytes)
}

fn riff(file: &mut (impl Read + Seek)) -> Option<String> {
    file.seek(SeekFrom::Start(12)).ok()?;
    loop {
        let (kind, len) = (take::<4>(file)?, u32::from_le_bytes(take(file)?));
        if &kind != b"LIST" || len > MAX_BLOCK {
            file.seek_relative_to(i64::from(len) + i64::from(len & 1))?;
            continue;
        }
        let body = block(file, len)?;
        let mut rest = body.strip_prefix(b"INFO").unwrap_or_default();
        while let Some((head, tail)) = rest.split_at_checked(8) {
            let len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
            let text = tail.get(..len)?;
            if head.starts_with(b"ICMT") {
                return recipe(text);
            }
            rest = tail.get(len + (len & 1)..).unwrap_or_default();
        }
        if len & 1 == 1 {
            take::<1>(file)?;
        }
    }
}

fn flac(file: &mut (impl Read + Seek)) -> Option<String> {
    loop {
        let head = u32::from_be_bytes(take(file)?);
        let (last, kind, len) = (head >> 31 == 1, head >> 24 & 0x7f, head & 0xff_ffff);
        if kind == 4 {
            return vorbis(&block(file, len)?);
        }
        file.seek_relative_to(i64::from(len))?;
        if last {
            return None;
        }
    }
}

/// The second packet of an Ogg stream, if it is `OpusTags`.
fn opus(file: &mut impl Read) -> Option<String> {
    let mut packet = Vec::new();
    let mut packets = 0;
    while packet.len() < MAX_BLOCK as usize {
        let head = take::<27>(file)?;
        if &head[..4] != b"OggS" {
            return None;
        }
        let lacing = block(file, u32::from(head[26]))?;
        for len in lacing {
            let part = block(file, u32::from(len))?;
            if packets == 1 {
                packet.extend(part);
            }
            if len < 255 {
                packets += 1;
            }
            if packets == 2 {
                return vorbis(packet.strip_prefix(b"OpusTags")?);
            }
        }
    }
    None
}

fn vorbis(bytes: &[u8]) -> Option<String> {
    let text = |rest: &mut &[u8]| -> Option<Vec<u8>> {
        let (len, tail) = rest.split_first_chunk::<4>()?;
        let (text, tail) = tail.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        *rest = tail;
        Some(text.to_vec())
    };
    let mut rest = bytes;
    text(&mut rest)?;
    let (count, tail) = rest.split_first_chunk::<4>()?;
    rest = tail;
    (0..u32::from_le_bytes(*count)).map_while(|_| text(&mut rest)).find_map(|entry| {
        let (name, value) = entry.split_at_checked(RECIPE_KEY.len() + 1)?;
        name.eq_ignore_ascii_case(b"MUSAIC=").then(|| recipe(value)).flatten()
    })
}

fn id3(file: &mut impl Read, version: u8) -> Option<String> {
    let synchsafe_size = |bytes: [u8; 4]| bytes.iter().fold(0u32, |size, byte| size << 7 | u32::from(byte & 0x7f));
    take::<2>(file)?;
    let len = synchsafe_size(take(file)?);
    let body = block(file, len)?;
    let mut rest = body.as_slice();
    loop {
        let (head, tail) = rest.split_first_chunk::<10>()?;
        let size = [head[4], head[5], head[6], head[7]];
        // Only version 4 keeps the top bits clear.
        let size = if version == 4 { synchsafe_size(size) } else { u32::from_be_bytes(size) } as usize;
        let (frame, tail) = tail.split_at_checked(size)?;
        if let Some(text) = frame.strip_prefix(b"\x03MUSAIC\0").filter(|_| head.starts_with(b"TXXX")) {
            return recipe(text);
        }
        rest = tail;
    }
}

/// A text that may be a recipe: UTF-8 and a JSON object by its first letter. Room left behind it is cut off.
fn recipe(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end_matches(['\0', ' ']);
    text.trim_start().starts_with('{').then(|| text.to_owned())
}

/// Skipping without leaving the buffer, for any reader.
trait SeekBy {
    fn seek_relative_to(&mut self, by: i64) -> Option<()>;
}

impl<T: Seek> SeekBy for T {
    fn seek_relative_to(&mut self, by: i64) -> Option<()> {
        self.seek(SeekFrom::Current(by)).ok().map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(recipe: &str) -> Tags {
        Tags {
            recipe: Some(recipe.into()),
            title: Some("t".into()),
            comment: Some("c".into()),
            software: Some("s".into()),
        }
    }

    #[test]
    fn nothing_to_say_takes_no_space() {
        assert!(Tags::default().riff_info().is_empty());
        assert_eq!(vorbis(&Tags::default().vorbis_comment("v")), None);
    }

    #[test]
    fn vorbis_comments_come_back() {
        let recipe = "{\"prompt\":\"größer = ♫\"}";
        let bytes = tags(recipe).vorbis_comment("v");
        assert_eq!(vorbis(&bytes).as_deref(), Some(recipe));
        for cut in 0..bytes.len() {
            vorbis(&bytes[..cut]);
        }
    }

    #[test]
    fn hostile_heads_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        for bytes in [
            b"RIFF\xff\xff\xff\xffWAVELIST\xff\xff\xff\xffINFOICMT\xff\xff\xff\xff{".as_slice(),
            b"fLaC\x84\xff\xff\xff",
            b"OggS",
            b"ID3\x04\0\0\x7f\x7f\x7f\x7fTXXX",
            b"",
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(read_metadata(&path), None);
        }
        assert_eq!(read_metadata(folder.path()), None);
    }
}
