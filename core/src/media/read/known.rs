//! First bytes of audio that FFmpeg reads and symphonia does not, so that neither is asked in vain: symphonia may find an mpeg
//! frame in anything, and a build without FFmpeg can say what it lacks.

/// Where a signature begins, the signature, and what it is of.
type Signature = (usize, &'static [u8], &'static str);

/// Kinds that symphonia does not read.
const FOREIGN: &[Signature] = &[
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
    (0, b"FLV\x01", "flv"),
    (0, b"\0\0\x01\xba", "an mpeg program stream"),
    (8, b"AVI ", "avi"),
];

/// Containers that symphonia reads, with codecs that it may not know.
const CONTAINERS: &[Signature] = &[
    (0, b"OggS", "an ogg of another codec"),
    (0, b"\x1aE\xdf\xa3", "a matroska of another codec"),
    (4, b"ftyp", "an mp4 of another codec"),
];

/// Bytes of a head that hold every signature.
pub(super) const HEAD: u64 = 400;

/// What a file that begins with `head` is, if symphonia does not read its kind.
pub(super) fn foreign(head: &[u8]) -> Option<&'static str> {
    // It has no signature but that each of its packets, of 188 bytes, begins with a `G`.
    let transport = [0, 188, 376].iter().all(|&at| head.get(at) == Some(&b'G'));
    find(FOREIGN, head).or(transport.then_some("an mpeg transport stream"))
}

/// What a file that symphonia could not make sense of may be.
pub(super) fn container(head: &[u8]) -> Option<&'static str> {
    find(CONTAINERS, head)
}

fn find(signatures: &[Signature], head: &[u8]) -> Option<&'static str> {
    let fits = |&&(at, signature, _): &&Signature| head.get(at..).is_some_and(|rest| rest.starts_with(signature));
    signatures.iter().find(fits).map(|(_, _, what)| *what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures() {
        assert_eq!(foreign(b"wvpk\0\0"), Some("wavpack"));
        assert_eq!(foreign(b"RIFF\0\0\0\0AVI LIST"), Some("avi"));
        assert_eq!(foreign(b"RIFF\0\0\0\0WAVEfmt "), None);
        assert_eq!(foreign(b"Good morning"), None);
        let mut stream = [0; 400];
        for at in [0, 188, 376] {
            stream[at] = b'G';
        }
        assert_eq!(foreign(&stream), Some("an mpeg transport stream"));
        assert_eq!(container(b"\0\0\0\x20ftypisom"), Some("an mp4 of another codec"));
        assert_eq!(foreign(b""), None);
    }
}
