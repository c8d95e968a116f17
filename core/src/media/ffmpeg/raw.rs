//! The calls that need `unsafe`: four things the wrapper does not offer.
#![allow(unsafe_code)]

use ffmpeg_next::{
    Error, Packet, Stream, codec::Parameters, codec::packet::Ref as _, color, ffi, format::context::Output,
    software::scaling,
};

/// Whether the container says that a packet is only decoded for the sake of others (edit lists of mp4).
pub(in crate::media) fn is_discarded(packet: &Packet) -> bool {
    // SAFETY: the pointer is that of the packet borrowed here, which lives as long as the borrow.
    let flags = unsafe { (*packet.as_ptr()).flags };
    flags & ffi::AV_PKT_FLAG_DISCARD != 0
}

/// Columns and rows that a container or a first look declares; zeros where neither does.
pub(in crate::media) fn declared_size(parameters: &Parameters) -> (u64, u64) {
    // SAFETY: the pointer is that of the parameters borrowed here, which live as long as the borrow.
    let (width, height) = unsafe { ((*parameters.as_ptr()).width, (*parameters.as_ptr()).height) };
    (width.max(0) as u64, height.max(0) as u64)
}

/// Sets how a scaler reads its input's colours. Unmarked pictures are taken as BT.601 with limited range.
pub(in crate::media) fn set_colours(scaler: &mut scaling::Context, space: color::Space, full_range: bool) {
    let space = match space {
        color::Space::BT709 => ffi::SWS_CS_ITU709,
        color::Space::FCC => ffi::SWS_CS_FCC,
        color::Space::SMPTE240M => ffi::SWS_CS_SMPTE240M,
        color::Space::BT2020NCL | color::Space::BT2020CL => ffi::SWS_CS_BT2020,
        _ => ffi::SWS_CS_ITU601,
    };
    const UNITY: i32 = 1 << 16;
    // SAFETY: the context is alive and borrowed mutably; the tables are static arrays of FFmpeg that it copies. A refusal
    // (where input and output are both RGB) leaves the context as it was.
    unsafe {
        let table = ffi::sws_getCoefficients(space as _);
        let to = ffi::sws_getCoefficients(ffi::SWS_CS_DEFAULT as _);
        ffi::sws_setColorspaceDetails(scaler.as_mut_ptr(), table, full_range.into(), to, 1, 0, UNITY, UNITY);
    }
}

/// Adds a stream whose packets are copied of another: its parameters, the shape of its pixels, and how it is to be shown (how it
/// is turned, its light, whether it is a sphere).
pub(in crate::media) fn add_copied_stream(output: &mut Output, from: &Stream<'_>) -> Result<(), Error> {
    /// Marks of HEVC whose parameter sets are in its head, the one that all players know.
    const HVC1: u32 = u32::from_le_bytes(*b"hvc1");
    // SAFETY: both contexts are alive, one borrowed mutably, and have this stream; FFmpeg copies the parameters, whose pointers
    // it allocated with the streams. The tables of tags are static, or null where a container has none.
    let to = unsafe {
        let to = ffi::avformat_new_stream(output.as_mut_ptr(), std::ptr::null());
        if to.is_null() {
            return Err(Error::from(ffi::AVERROR(ffi::ENOMEM)));
        }
        let from = from.as_ptr();
        let copied = ffi::avcodec_parameters_copy((*to).codecpar, (*from).codecpar);
        if copied < 0 {
            return Err(Error::from(copied));
        }
        let parameters = (*to).codecpar;
        if (*from).sample_aspect_ratio.num != 0 {
            (*parameters).sample_aspect_ratio = (*from).sample_aspect_ratio;
        }
        (*to).sample_aspect_ratio = (*parameters).sample_aspect_ratio;
        // A mark that another container gave is kept only where this one knows it.
        let (tags, id) = ((*(*output.as_ptr()).oformat).codec_tag, (*parameters).codec_id);
        if !tags.is_null() && ffi::av_codec_get_id(tags, (*parameters).codec_tag) != id {
            let knows = id == ffi::AVCodecID::AV_CODEC_ID_HEVC && ffi::av_codec_get_id(tags, HVC1) == id;
            (*parameters).codec_tag = if knows { HVC1 } else { 0 };
        }
        to
    };
    for data in from.side_data() {
        let bytes = data.data();
        // SAFETY: the stream is alive; the room is null or holds as many bytes as were asked for.
        unsafe {
            let room = new_side_data(to, data.kind().into(), bytes.len());
            if !room.is_null() {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), room, bytes.len());
            }
        }
    }
    Ok(())
}

/// Room for side data of a stream; null where FFmpeg has none for it.
///
/// # Safety
/// The stream is alive and nobody else changes it.
unsafe fn new_side_data(stream: *mut ffi::AVStream, kind: ffi::AVPacketSideDataType, len: usize) -> *mut u8 {
    /// FFmpeg 8 has this call no more: there, side data is among the parameters, and was copied with them. Where it has it, its
    /// name hides this one.
    #[allow(dead_code)]
    unsafe fn av_stream_new_side_data(_: *mut ffi::AVStream, _: ffi::AVPacketSideDataType, _: usize) -> *mut u8 {
        std::ptr::null_mut()
    }
    {
        #[allow(unused_imports)]
        use ffi::*;
        // SAFETY: as the caller says.
        unsafe { av_stream_new_side_data(stream, kind, len as _) }
    }
}
