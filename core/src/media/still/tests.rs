use std::io::Cursor;

use image::{
    DynamicImage, GrayAlphaImage, GrayImage, ImageBuffer, ImageFormat, Luma, LumaA, Rgb, RgbImage, Rgba, RgbaImage,
};

use super::*;

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.write_to(&mut Cursor::new(&mut bytes), format).unwrap();
    bytes
}

fn decoded(bytes: &[u8], options: &PictureOptions) -> Picture {
    decode_picture("picture", bytes, options).unwrap()
}

fn gradient(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7) as u8, (y * 5) as u8, (x * y) as u8]))
}

#[test]
fn every_format_and_depth_becomes_rgb() {
    let rgb = gradient(19, 13);
    let want = Picture { width: 19, height: 13, rgb: rgb.as_raw().clone() };
    let image = DynamicImage::ImageRgb8(rgb.clone());
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP] {
        assert_eq!(decoded(&encoded(&image, format), &PictureOptions::default()), want, "{format:?}");
    }
    // Lossy, or of few colours: near.
    for format in [ImageFormat::Jpeg, ImageFormat::Gif] {
        let got = decoded(&encoded(&image, format), &PictureOptions::default());
        assert_eq!((got.width, got.height), (19, 13));
        let off: u32 = got.rgb.iter().zip(&want.rgb).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
        assert!(off / 741 < 12, "{format:?}: {off}");
    }
    let deep = ImageBuffer::from_fn(300, 1, |x, _| Luma([(x * 219) as u16]));
    let got = decoded(&encoded(&DynamicImage::ImageLuma16(deep.clone()), ImageFormat::Png), &PictureOptions::default());
    for (pixel, Luma([value])) in got.rgb.chunks_exact(3).zip(deep.pixels()) {
        let want = (f64::from(*value) / 257.0).round() as u8;
        assert_eq!(pixel, [want; 3]);
    }
    let grey = GrayImage::from_fn(4, 4, |x, y| Luma([(x * 50 + y) as u8]));
    let got = decoded(&encoded(&DynamicImage::ImageLuma8(grey), ImageFormat::Png), &PictureOptions::default());
    assert_eq!(got.rgb[3..6], [50; 3]);
}

#[test]
fn transparent_places_are_white_or_as_stored() {
    let image = RgbaImage::from_fn(4, 1, |x, _| Rgba([200, 100, 0, [0, 128, 254, 255][x as usize]]));
    let bytes = encoded(&DynamicImage::ImageRgba8(image), ImageFormat::Png);
    let over = decoded(&bytes, &PictureOptions::default()).rgb;
    assert_eq!(over, [255, 255, 255, 227, 177, 127, 200, 101, 1, 200, 100, 0]);
    assert_eq!(decoded(&bytes, &PictureOptions::reference()).rgb, [200, 100, 0].repeat(4));
    let image = GrayAlphaImage::from_pixel(1, 1, LumaA([10, 0]));
    let bytes = encoded(&DynamicImage::ImageLumaA8(image), ImageFormat::Png);
    assert_eq!(decoded(&bytes, &PictureOptions::default()).rgb, [255; 3]);
    assert_eq!(decoded(&bytes, &PictureOptions::reference()).rgb, [10; 3]);
}

/// A jpeg whose EXIF data says how it is to be turned.
fn turned_jpeg(image: &RgbImage, orientation: u8) -> Vec<u8> {
    let plain = encoded(&DynamicImage::ImageRgb8(image.clone()), ImageFormat::Jpeg);
    let tiff = [b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".as_slice(), &[orientation], &[0; 6]].concat();
    let body = [b"Exif\0\0".as_slice(), &tiff].concat();
    let length = (body.len() as u16 + 2).to_be_bytes();
    [&plain[..2], b"\xff\xe1", &length, &body, &plain[2..]].concat()
}

#[test]
fn pictures_are_turned_as_they_say() {
    let image = RgbImage::from_fn(32, 16, |x, _| if x < 16 { Rgb([250, 0, 0]) } else { Rgb([0, 0, 250]) });
    let red = |picture: &Picture, x: usize, y: usize| picture.rgb[(y * picture.width + x) * 3] > 128;
    // A quarter to the right: what was left is on top.
    let bytes = turned_jpeg(&image, 6);
    let upright = decoded(&bytes, &PictureOptions::default());
    assert_eq!((upright.width, upright.height, upright.rgb.len()), (16, 32, 16 * 32 * 3));
    assert!(red(&upright, 8, 2) && !red(&upright, 8, 30));
    let stored = decoded(&bytes, &PictureOptions::reference());
    assert_eq!((stored.width, stored.height), (32, 16));
    assert!(red(&stored, 2, 8) && !red(&stored, 30, 8));
    let half = decoded(&turned_jpeg(&image, 3), &PictureOptions::default());
    assert!(half.width == 32 && !red(&half, 2, 8) && red(&half, 30, 8));
}

#[test]
fn budgets_hold_before_anything_is_decoded() {
    let bytes = encoded(&DynamicImage::ImageRgb8(gradient(100, 100)), ImageFormat::Png);
    let small = PictureOptions { pixels: 9_999, ..PictureOptions::default() };
    let error = decode_picture("a.png", &bytes, &small).unwrap_err().to_string();
    assert!(error.contains("100 x 100") && error.contains("at most 9999 pixels"), "{error}");
    let short = PictureOptions { file_bytes: 10, ..PictureOptions::default() };
    assert!(decode_picture("a.png", &bytes, &short).is_err());
    // A head that promises 2^31 pixels on a side.
    let mut huge = bytes.clone();
    huge[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    assert!(decode_picture("a.png", &huge, &PictureOptions::default()).is_err());
}

#[test]
fn what_is_no_whole_picture_is_refused_with_one_message() {
    for format in
        [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP]
    {
        let whole = encoded(&DynamicImage::ImageRgb8(gradient(64, 48)), format);
        for length in [4, 20, whole.len() / 4] {
            let error = decode_picture("a", &whole[..length], &PictureOptions::default()).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(EXPECTED) && !text.contains('\n'), "{format:?} of {length} bytes: {text}");
        }
    }
    for bytes in [&b""[..], b"words", &[0; 64], b"\x89PNG\r\n\x1a\n"] {
        assert!(decode_picture("a", bytes, &PictureOptions::default()).is_err());
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(read_picture(folder.path(), &PictureOptions::default()).unwrap_err().to_string().contains("a folder"));
    assert!(read_picture(folder.path().join("none.png"), &PictureOptions::default()).is_err());
}

#[test]
fn resizing_keeps_plain_colours_and_sizes() {
    let plain = Picture { width: 17, height: 9, rgb: [3, 128, 255].repeat(17 * 9) };
    for number in 0..6 {
        let filter = Filter::of_number(number).unwrap();
        for (width, height) in [(17, 9), (5, 30), (40, 1), (1, 1)] {
            let got = resize(&plain, width, height, filter).unwrap();
            assert_eq!((got.width, got.height), (width, height));
            assert_eq!(got.rgb, [3, 128, 255].repeat(width * height), "{filter:?}");
        }
    }
    let short = Picture { width: 3, height: 3, rgb: vec![0; 26] };
    assert!(resize(&short, 2, 2, Filter::Box).is_err() && Filter::of_number(6).is_none());
    assert!(resize(&plain, 0, 1, Filter::Box).is_err() && resize(&plain, 1, 1 << 20, Filter::Box).is_err());
}

#[test]
fn cropping_takes_the_middle_and_pads_with_black() {
    let rgb: Vec<u8> = (0..5u8).flat_map(|x| [x + 1; 3]).collect();
    let row = Picture { width: 5, height: 1, rgb };
    let firsts = |picture: &Picture| picture.rgb.iter().step_by(3).copied().collect::<Vec<_>>();
    assert_eq!(firsts(&crop(&row, 2, 1)), [2, 3]);
    assert_eq!(firsts(&crop(&row, 3, 1)), [2, 3, 4]);
    assert_eq!(firsts(&crop(&row, 8, 1)), [0, 0, 1, 2, 3, 4, 5, 0]);
    assert_eq!(firsts(&crop(&row, 1, 2)), [0, 3]);
}

/// What Pillow makes of 11 x 7 pixels brought to 4 x 9, every fourth row: all six filters, growing and shrinking.
#[test]
fn filters_are_pillows_to_the_bit() {
    let byte = |x: usize, y: usize, c: usize| ((x * x * 37 + y * 91 + c * 53 + x * y * 13) % 256) as u8;
    let rgb = (0..7 * 11 * 3).map(|i| byte(i / 3 % 11, i / 33, i % 3)).collect();
    let picture = Picture { width: 11, height: 7, rgb };
    let pillow: [(Filter, [u8; 36]); 6] = [
        (
            Filter::Nearest,
            [
                37, 90, 143, 80, 133, 186, 52, 105, 158, 181, 234, 31, 93, 146, 199, 253, 50, 103, 47, 100, 153, 37,
                90, 143, 149, 202, 255, 170, 223, 20, 42, 95, 148, 149, 202, 255,
            ],
        ),
        (
            Filter::Lanczos,
            [
                51, 104, 170, 109, 176, 171, 55, 122, 110, 120, 175, 135, 116, 82, 135, 219, 54, 107, 75, 138, 191, 55,
                106, 159, 88, 147, 213, 106, 180, 138, 89, 89, 155, 174, 146, 132,
            ],
        ),
        (
            Filter::Bilinear,
            [
                57, 110, 163, 101, 154, 160, 68, 121, 123, 120, 173, 126, 119, 87, 140, 201, 62, 115, 85, 125, 178, 56,
                109, 162, 95, 148, 201, 109, 162, 134, 94, 108, 148, 162, 153, 135,
            ],
        ),
        (
            Filter::Bicubic,
            [
                53, 107, 166, 106, 167, 165, 59, 120, 116, 122, 175, 131, 115, 85, 138, 214, 57, 110, 78, 132, 185, 54,
                108, 161, 89, 146, 209, 108, 171, 134, 87, 98, 155, 170, 151, 130,
            ],
        ),
        (
            Filter::Box,
            [
                62, 115, 168, 105, 158, 125, 37, 90, 143, 120, 173, 141, 118, 85, 138, 192, 75, 128, 51, 104, 157, 62,
                115, 168, 88, 141, 194, 109, 162, 130, 66, 119, 172, 174, 141, 109,
            ],
        ),
        (
            Filter::Hamming,
            [
                52, 105, 158, 96, 149, 164, 58, 111, 126, 131, 184, 122, 107, 96, 149, 215, 52, 105, 69, 120, 173, 52,
                105, 158, 98, 151, 204, 118, 171, 121, 79, 109, 160, 165, 160, 136,
            ],
        ),
    ];
    for (filter, want) in pillow {
        let got = resize(&picture, 4, 9, filter).unwrap();
        let rows: Vec<u8> = got.rgb.chunks_exact(12).step_by(4).flatten().copied().collect();
        assert_eq!(rows, want, "{filter:?}");
    }
}
