use std::path::PathBuf;

use super::*;

/// Real files of a parity case.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/media/files/files").join(name)
}

fn spec(modality: Modality, frames: Option<usize>) -> EncoderSpec {
    EncoderSpec { name: "test", modality, positions: 1, dim: 1, frames }
}

#[test]
fn kinds_by_name_and_by_first_bytes() {
    let folder = tempfile::tempdir().unwrap();
    for (name, modality) in [
        ("mp3_stereo.mp3", Modality::Audio),
        ("mp3_id3_noxing.mp3", Modality::Audio),
        ("flac16_stereo.flac", Modality::Audio),
        ("pcm16_stereo.wav", Modality::Audio),
        ("opus_stereo.opus", Modality::Audio),
        ("aac_adts.aac", Modality::Audio),
        ("aac_stereo.m4a", Modality::Audio),
        ("aiff16.aiff", Modality::Audio),
        ("animated.gif", Modality::Image),
        ("truncated.jpg", Modality::Image),
        ("h264_33.mp4", Modality::Video),
        ("h264_mkv.mkv", Modality::Video),
        ("vp9_odd.webm", Modality::Video),
        ("mpeg4.avi", Modality::Video),
    ] {
        assert_eq!(modality_of(&file(name)).unwrap(), modality, "{name}");
        for nameless in ["nameless", "name.less"] {
            let nameless = folder.path().join(nameless);
            fs::copy(file(name), &nameless).unwrap();
            assert_eq!(modality_of(&nameless).unwrap(), modality, "{name}");
            fs::remove_file(nameless).unwrap();
        }
    }
    // The ending counts, in whatever letters.
    fs::copy(file("png_named.jpg"), folder.path().join("PICTURE.JPG")).unwrap();
    assert_eq!(modality_of(&folder.path().join("PICTURE.JPG")).unwrap(), Modality::Image);
    assert_eq!(modality_of(folder.path()).unwrap(), Modality::Video);
    for name in ["words", "nothing"] {
        fs::write(folder.path().join(name), &"some words"[..10 * usize::from(name == "words")]).unwrap();
        let text = modality_of(&folder.path().join(name)).unwrap_err().to_string();
        assert!(text.contains(name) && text.contains("expected sound, a picture or a video"), "{text}");
    }
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(modality_of(&empty).unwrap_err().to_string().contains("no picture"));
    assert!(modality_of(&file("missing")).is_err());
}

#[test]
fn sound_and_pictures() {
    let options = MediaOptions::default();
    let read = |name: &str, modality| read(&file(name), &spec(modality, None), &options);
    let OwnedMedia::Audio(audio) = read("mp3_stereo.mp3", Modality::Audio).unwrap() else { panic!("no sound") };
    assert_eq!(audio.channels.len(), 2);
    let OwnedMedia::Image(picture) = read("animated.gif", Modality::Image).unwrap() else { panic!("no picture") };
    assert!(picture.width > 0);
    assert!(read("mp3_stereo.mp3", Modality::Image).is_err());
    assert!(read("text.png", Modality::Audio).is_err());
    assert!(read("mp3_stereo.mp3", Modality::Text).is_err());
    let folder = super::read(&file(""), &spec(Modality::Audio, None), &options);
    assert!(folder.unwrap_err().to_string().contains("a folder, expected an audio file"));
}

#[cfg(not(feature = "video"))]
#[test]
fn a_build_without_video_says_so() {
    let error = read(&file("h264_33.mp4"), &spec(Modality::Video, Some(32)), &MediaOptions::default()).unwrap_err();
    assert!(error.to_string().contains("`video`"), "{error}");
}

#[cfg(feature = "video")]
mod video {
    use super::*;

    fn read(path: &Path, options: &MediaOptions) -> (Vec<Picture>, Vec<Vec<usize>>) {
        match super::read(path, &spec(Modality::Video, Some(32)), options).unwrap() {
            OwnedMedia::Video { frames, windows } => (frames, windows),
            other => panic!("{other:?}"),
        }
    }

    fn starts(windows: &[Vec<usize>]) -> Vec<usize> {
        windows.iter().map(|window| window[0]).collect()
    }

    /// All frames of a video as numbered pictures.
    fn pictures(video: &Path, folder: &Path) {
        let options = VideoOptions { selection: Selection::Every, ..VideoOptions::default() };
        for (number, frame) in read_video(video, &options).unwrap().frames.into_iter().enumerate() {
            let out = fs::File::create(folder.join(format!("frame{number}.png"))).unwrap();
            let mut encoder = png::Encoder::new(out, frame.width as u32, frame.height as u32);
            encoder.set_color(png::ColorType::Rgb);
            encoder.write_header().unwrap().write_image_data(&frame.rgb).unwrap();
        }
    }

    #[test]
    fn a_file_and_the_folder_of_its_frames_are_the_same() {
        let (clip, folder) = (file("h264_silent_bframes.mp4"), tempfile::tempdir().unwrap());
        pictures(&clip, folder.path());
        // Frames between two windows are not among those that are read.
        for (windows, expected) in [(4, vec![0, 19, 38]), (2, vec![0, 32]), (1, vec![0])] {
            let options = MediaOptions { windows, ..MediaOptions::default() };
            let (frames, windows) = read(&clip, &options);
            assert_eq!(starts(&windows), expected);
            assert!((frames, windows) == read(folder.path(), &options));
        }
        for seed in 0..4 {
            let options = MediaOptions { reference: true, seed, ..MediaOptions::default() };
            let (frames, windows) = read(&clip, &options);
            assert_eq!((frames.len(), windows.len()), (32, 1));
            assert!((frames, windows) == read(folder.path(), &options));
        }
    }

    #[test]
    fn the_reference_draws_a_place_and_does_not_turn() {
        let read = |name: &str, reference, seed| read(&file(name), &MediaOptions { reference, seed, windows: 4 }).0;
        let drawn = |seed| read("h264_silent_bframes.mp4", true, seed);
        assert!(drawn(3) == drawn(3));
        assert!((0..8).any(|seed| drawn(seed) != drawn(3)));
        let sides = |reference| {
            let frame = &read("h264_rotated.mp4", reference, 0)[0];
            (frame.width, frame.height)
        };
        assert_eq!((sides(true), sides(false)), ((64, 48), (48, 64)));
    }
}

#[test]
fn folders_are_known_by_their_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let picture = fs::read(file("png_named.jpg")).unwrap();
    for name in ["1.png", "2.png"] {
        fs::write(folder.path().join(name), &picture).unwrap();
    }
    let before = sha256(folder.path()).unwrap();
    fs::write(folder.path().join("notes.txt"), "no picture").unwrap();
    assert_eq!(sha256(folder.path()).unwrap(), before);
    fs::write(folder.path().join("3.png"), &picture).unwrap();
    assert_ne!(sha256(folder.path()).unwrap(), before);
    let media = read(folder.path(), &spec(Modality::Video, Some(4)), &MediaOptions::default()).unwrap();
    let OwnedMedia::Video { frames, windows } = media else { panic!("no video") };
    assert_eq!((frames.len(), windows), (3, vec![vec![0, 0, 1, 2]]));
}
