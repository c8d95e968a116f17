//! Frames of FFmpeg to pictures.

use ffmpeg_next::{Error, color, format::Pixel, frame, software::scaling};

use crate::media::{Picture, ffmpeg};

/// Turns frames of any format into pictures of one size.
#[derive(Default)]
pub(super) struct Painter {
    scaler: Option<(Key, scaling::Context)>,
    /// The first frame's, and so every one's.
    size: Option<(u32, u32)>,
}

/// What a scaler is for.
type Key = (Pixel, u32, u32, color::Space, bool);

impl Painter {
    /// A frame as a picture, of the first one's size.
    pub(super) fn paint(&mut self, frame: &frame::Video) -> Result<Picture, Error> {
        let (width, height) = *self.size.get_or_insert((frame.width(), frame.height()));
        // Old formats of JPEG's have the full range in their name.
        let jpeg = matches!(
            frame.format(),
            Pixel::YUVJ411P | Pixel::YUVJ420P | Pixel::YUVJ422P | Pixel::YUVJ440P | Pixel::YUVJ444P
        );
        let full = jpeg || frame.color_range() == color::Range::JPEG;
        let key = (frame.format(), frame.width(), frame.height(), frame.color_space(), full);
        let scaler = match &mut self.scaler {
            Some((old, scaler)) if *old == key => scaler,
            slot => {
                let (from, flags) = ((frame.width(), frame.height()), scaling::Flags::BILINEAR);
                let mut scaler =
                    scaling::Context::get(frame.format(), from.0, from.1, Pixel::RGB24, width, height, flags)?;
                ffmpeg::set_colours(&mut scaler, frame.color_space(), full);
                &mut slot.insert((key, scaler)).1
            }
        };
        let mut out = frame::Video::empty();
        scaler.run(frame, &mut out)?;
        let (width, height) = (width as usize, height as usize);
        let (stride, row) = (out.stride(0), width * 3);
        let mut rgb = Vec::with_capacity(row * height);
        for line in out.data(0).chunks(stride).take(height) {
            rgb.extend_from_slice(line.get(..row).ok_or(Error::InvalidData)?);
        }
        Ok(Picture { width, height, rgb })
    }
}
