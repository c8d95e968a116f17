//! The calls that need `unsafe`: three things the wrapper does not offer.
#![allow(unsafe_code)]

use ffmpeg_next::{Packet, codec::Parameters, codec::packet::Ref as _, color, ffi, software::scaling};

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
