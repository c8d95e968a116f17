//! First bytes of audio that symphonia does not know but FFmpeg reads, so that a build without FFmpeg can say what it lacks.

/// Where a signature begins, the signature, and what it is of.
const SIGNATURES: &[(usize, &[u8], &str)] = &[
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "wma or another asf"),
    (0, b"wvpk", "wavpack"),
    (0, b"MAC ", "monkey's audio"),
    (0, b"MPCK", "musepack"),
    (0, b"MP+", "musepack"),
    (0, b"TTA1", "true audio"),
    (0, b"#!AMR", "amr"),
    (0, b"\x0b\x77", "ac-3"),
    (0, b"\x7f\xfe\x80\x01", "dts"),
    (0, b".snd", "au"),
    (0, b"RF64", "rf64"),
    (0, b"BW64", "bw64"),
    (0, b"riff\x2e\x91\xcf\x11", "wave64"),
    (0, b"Creative Voice File", "voc"),
    (0, b"DSD ", "dsf"),
    (0, b"FLV", "flv"),
    (0, b"\0\0\x01\xba", "an mpeg program stream"),
    (0, b"RIFF", "avi"),
    (0, b"OggS", "an ogg of another codec"),
    (0, b"\x1aE\xdf\xa3", "a matroska of another codec"),
    (4, b"ftyp", "an mp4 of another codec"),
    (0, b"G", "an mpeg transport stream"),
];

/// Bytes of a head that hold every signature.
pub(super) const HEAD: u64 = 400;

/// What a file that begins with `head` may be.
pub(super) fn other(head: &[u8]) -> Option<&'static str> {
    let fits = |&&(at, signature, what): &&(usize, &[u8], &str)| {
        let here = head.get(at..).is_some_and(|rest| rest.starts_with(signature));
        match what {
            "avi" => here && head.get(8..11) == Some(b"AVI"),
            // It has no signature but that each of its packets, of 188 bytes, begins with a `G`.
            "an mpeg transport stream" => here && head.get(188) == Some(&b'G') && head.get(376) == Some(&b'G'),
            _ => here,
        }
    };
    SIGNATURES.iter().find(fits).map(|(_, _, what)| *what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures() {
        assert_eq!(other(b"wvpk\0\0"), Some("wavpack"));
        assert_eq!(other(b"RIFF\0\0\0\0AVI LIST"), Some("avi"));
        assert_eq!(other(b"RIFF\0\0\0\0WAVEfmt "), None);
        assert_eq!(other(b"Good morning"), None);
        let mut stream = [0; 400];
        for at in [0, 188, 376] {
            stream[at] = b'G';
        }
        assert_eq!(other(&stream), Some("an mpeg transport stream"));
        assert_eq!(other(b"\0\0\0\x20ftypisom"), Some("an mp4 of another codec"));
        assert_eq!(other(b""), None);
    }
}
