//! What sound and video share of FFmpeg: opening, packets, and the few calls its safe wrapper lacks.

mod raw;

use std::fs::File;
use std::sync::Once;

use ffmpeg_next::{
    Dictionary, Error, Packet,
    format::{self, context::Input, context::StreamIo},
    log,
};

pub(super) use self::raw::{add_copied_stream, declared_size, is_discarded, set_colours};

/// Containers that may be opened. Play lists and others that name further files are not among them.
const CONTAINERS: &str = "mov,matroska,avi,gif,mpegts,mpeg,mpegvideo,flv,asf,ogg,ivf,apng,h264,hevc,m4v,dv,mxf,\
    wav,w64,mp3,flac,aac,ac3,eac3,dts,amr,ape,wv,tta,tak,mpc,mpc8,aiff,caf,au,voc,dsf";
/// Times in a row that a demuxer may find nothing but damage.
const MAX_DAMAGE: usize = 1000;

/// Opens a container. FFmpeg reads through the open file alone: it gets no name, and no protocol to open another one with.
pub(super) fn open(file: File) -> Result<Input, Error> {
    static QUIET: Once = Once::new();
    // What it finds wrong is in our own message.
    QUIET.call_once(|| log::set_level(log::Level::Quiet));
    let mut options = Dictionary::new();
    options.set("format_whitelist", CONTAINERS);
    options.set("protocol_whitelist", "none");
    format::input_from_stream(StreamIo::from_read_seek(file)?, None, Some(options))
}

/// The next packet of a stream; nothing at the end, or where the file is damaged for good.
pub(super) fn next_packet(input: &mut Input, stream: usize) -> Option<Packet> {
    let mut packet = Packet::empty();
    let mut damage = 0;
    while damage < MAX_DAMAGE {
        match packet.read(input) {
            Ok(()) if packet.stream() == stream => return Some(packet),
            Ok(()) => damage = 0,
            // It may find its way again behind the damage.
            Err(Error::InvalidData) => damage += 1,
            Err(_) => return None,
        }
    }
    None
}

/// What FFmpeg says, in the words of our messages.
pub(super) fn describe(fault: Error) -> String {
    match fault {
        Error::InvalidData => "data that its decoder cannot cope with".into(),
        Error::DecoderNotFound => "a codec that FFmpeg was built without".into(),
        Error::Eof => "a file that ends early".into(),
        other => match other.to_string().to_lowercase() {
            // Of most of its own faults it has no words unless it is told to.
            nothing if nothing.is_empty() => "data that cannot be read".into(),
            words => words,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_words() {
        for fault in [Error::Eof, Error::InvalidData, Error::MuxerNotFound, Error::Bug, Error::Other { errno: 22 }] {
            assert!(!describe(fault).is_empty(), "{fault:?}");
        }
    }
}
