//! Files that are damaged, or made to do damage: an error with a hint, never a panic, never a large allocation.

use std::{collections::BTreeMap, fs, path::Path};

use musaic_core::{
    Error, Hint,
    weights::{Checkpoint, InMemory, Source, StoredAs, write_safetensors},
};
use proptest::prelude::*;

use crate::torch_file::{Pickle, View, archive, f32s, state_dict, zip};

fn good_torch() -> Vec<u8> {
    let views = [("w", View::whole("FloatStorage", "0", &[4, 8])), ("b", View::whole("HalfStorage", "1", &[5]))];
    archive(&state_dict(&views), &[("0", &f32s((0..32).map(|i| i as f32))), ("1", &[0; 10])], false)
}

fn good_safetensors() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let random = candle_core::Tensor::rand(0f32, 1f32, (4, 40), &candle_core::Device::Cpu).unwrap();
    let tensors = [("w".to_owned(), random.clone()), ("p".to_owned(), random)].into();
    let choose = |name: &str, _: &[usize]| Some(if name == "p" { StoredAs::Q8_0 } else { StoredAs::F16 });
    write_safetensors(&path, &InMemory::new(tensors), &BTreeMap::new(), &choose).unwrap();
    fs::read(path).unwrap()
}

fn good_gguf() -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/gguf/types.gguf")).unwrap()
}

fn good(kind: usize) -> Vec<u8> {
    [good_torch, good_safetensors, good_gguf][kind]()
}

/// Opens, and reads all there is; how much that may be is bounded by the file.
fn exercise(bytes: Vec<u8>) {
    let size = bytes.len();
    let Ok(checkpoint) = Checkpoint::from_bytes("x", bytes) else { return };
    for (name, shape) in checkpoint.tensors() {
        let count = shape.iter().fold(1usize, |n, &dim| n.saturating_mul(dim));
        assert!(count <= size.max(1 << 20), "{name} {shape:?}");
        let mut found = 0;
        let read = checkpoint.read(name, &mut |piece| {
            found += piece.len();
            Ok(())
        });
        assert!(read.is_err() || found == count, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn flipped_bytes(kind in 0usize..3, flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = good(kind);
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        exercise(bytes);
    }

    #[test]
    fn flipped_bytes_of_the_tables(kind in 0usize..3, at in 0usize..1600, value: u8) {
        let mut bytes = good(kind);
        let at = at.min(bytes.len() - 1);
        bytes[at] = value;
        exercise(bytes);
    }

    #[test]
    fn arbitrary_pickles(ops in prop::collection::vec(prop::sample::select(b"()]}tdleausqhN02bRQ.cXK\x85\x86\x87\x81\x93\x94\x00\x01m\n".to_vec()), 0..200)) {
        exercise(archive(&Pickle([vec![0x80, 2], ops].concat()), &[], false));
    }
}

#[test]
fn every_truncation() {
    for bytes in [good_torch(), good_safetensors()] {
        for len in 0..bytes.len() {
            let error = Checkpoint::from_bytes("x", bytes[..len].to_vec()).err();
            assert!(error.unwrap_or_else(|| panic!("{len} bytes were enough")).hint().is_some());
        }
    }
    let bytes = good_gguf();
    for len in (0..4096).chain([bytes.len() - 1]) {
        assert!(Checkpoint::from_bytes("x", bytes[..len].to_vec()).is_err(), "{len} bytes were enough");
    }
}

fn refused(bytes: impl Into<Vec<u8>>) -> String {
    let error = Checkpoint::from_bytes("x", bytes.into()).err().expect("this should not open");
    assert!(error.hint().is_some(), "{error}");
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

#[test]
fn code_is_named_and_refused() {
    for (module, name) in [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("subprocess", "Popen")] {
        let mut table = Pickle::new();
        table.global(module, name).text("echo pwned > /tmp/musaic-pwned").op(0x85).op(b'R').op(b'.');
        let message = refused(archive(&table, &[], false));
        assert!(message.contains(&format!("`{module}.{name}`")), "{message}");
    }
    let mut table = Pickle::new();
    table.text("os").text("system").op(0x93).text("id").op(0x85).op(b'R').op(b'.');
    assert!(refused(archive(&table, &[], false)).contains("`os.system`"));
    let mut table = Pickle::new();
    table.global("some.where", "Thing").op(b')').op(b'R').op(b'.');
    assert!(refused(archive(&table, &[], false)).contains("`some.where.Thing`"));
}

#[test]
fn tensors_outside_their_storage() {
    let numbers = f32s([0.0; 8]);
    let whole = View::whole("FloatStorage", "0", &[2, 4]);
    for view in [
        View { offset: 1, ..whole.clone() },
        View { strides: vec![5, 1], ..whole.clone() },
        View { shape: vec![usize::MAX / 2, 4], strides: vec![0, 0], ..whole.clone() },
        View { shape: vec![1 << 40], strides: vec![0], ..whole.clone() },
        View { strides: vec![1 << 62, 1 << 62], ..whole.clone() },
        View { len: 9, ..whole.clone() },
        View { offset: (u64::MAX >> 1) as usize, ..whole },
    ] {
        let message = refused(archive(&state_dict(&[("w", view)]), &[("0", &numbers)], false));
        assert!(message.contains("`w`"), "{message}");
    }
    let elsewhere = View::whole("FloatStorage", "../../etc/passwd", &[2]);
    assert!(
        refused(archive(&state_dict(&[("w", elsewhere)]), &[("0", &numbers)], false)).contains("lacks the numbers")
    );
}

#[test]
fn types_that_are_not_weights() {
    let whole = View::whole("QInt8Storage", "0", &[8]);
    let checkpoint =
        Checkpoint::from_bytes("x", archive(&state_dict(&[("w", whole.clone())]), &[("0", &[0; 8])], false));
    let error = checkpoint.unwrap().read("w", &mut |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("`w` is stored as QInt8Storage"), "{error}");
    let huge = View { shape: vec![1 << 40], strides: vec![1], ..whole };
    assert!(refused(archive(&state_dict(&[("w", huge)]), &[("0", &[0; 8])], false)).contains("`w`"));
}

#[test]
fn laughing_tables_end() {
    // Each list holds the one before many times; unfolded there would be 16^20 values.
    let mut table = Pickle::new();
    table.tensor(&View::whole("FloatStorage", "0", &[1]));
    for level in 0..20u8 {
        table.0.extend([b'q', level, b']', b'(']);
        (0..16).for_each(|_| table.0.extend([b'h', level]));
        table.op(b'e');
    }
    table.op(b'.');
    assert!(refused(archive(&table, &[("0", &[0; 4])], false)).contains("nested without end"));
    let mut cycle = Pickle::new();
    cycle.op(b']').0.extend([b'q', 0, b'h', 0, b'a', b'.']);
    assert!(refused(archive(&cycle, &[], false)).contains("nested without end"));
    let mut long = Pickle::new();
    long.0.extend([0x8d, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, b'.']);
    assert!(refused(archive(&long, &[], false)).contains("string"));
}

#[test]
fn archives_that_are_none_of_torch() {
    assert!(refused(zip(&[("a.txt", b"hello")], false)).contains("not one written by torch"));
    let mut twice = good_torch();
    let at = twice.windows(8).rposition(|w| w == b"m/data/1").unwrap();
    twice[at + 7] = b'0';
    assert!(refused(twice).contains("two entries"));
    let mut compressed = good_torch();
    let at = compressed.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    compressed[at + 10] = 8;
    assert!(refused(compressed).contains("compressed"));
}

#[test]
fn headers_of_safetensors() {
    let file = |header: &str, data: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    let tensor = |name: &str, shape: &str, from: usize, to: usize| {
        format!("\"{name}\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[{from},{to}]}}")
    };
    let overlapping = format!("{{{},{}}}", tensor("a", "[2]", 0, 8), tensor("b", "[2]", 4, 12));
    assert!(refused(file(&overlapping, 12)).contains("damaged"));
    let duplicate = format!("{{{},{}}}", tensor("a", "[2]", 0, 8), tensor("a", "[2]", 8, 16));
    assert!(refused(file(&duplicate, 16)).contains("damaged"));
    let short = format!("{{{}}}", tensor("a", "[2]", 0, 8));
    assert!(refused(file(&short, 4)).contains("describes"));
    assert!(refused(file(&short, 40)).contains("describes"));
    assert!(refused(file(&format!("{{{}}}", tensor("a", "[4294967296,4294967296]", 0, 8)), 8)).contains("damaged"));
    assert!(refused(file("{}", 0)).contains("no tensor"));
    let mut huge = (1u64 << 40).to_le_bytes().to_vec();
    huge.extend(b"{   ");
    assert!(refused(huge).contains("claims"));
    let packed =
        r#"{"__metadata__":{"musaic.packed":"{\"a\":{\"format\":\"q8_0\",\"shape\":[1,4611686018427387904]}}"},"#;
    let packed = format!("{packed}{}", r#""a":{"dtype":"U8","shape":[1,34],"data_offsets":[0,34]}}"#);
    assert!(refused(file(&packed, 34)).contains("does not fit"));
}

#[test]
fn files_of_other_kinds() {
    for (bytes, says) in [
        (&b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"[..], "git-lfs pointer"),
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"just some text that is no model", "neither"),
        (b"\x80\x04]q\x00.", "bare pickle"),
    ] {
        let message = refused(bytes);
        assert!(message.contains(says), "{message}");
    }
}

fn folder_says(path: &Path) -> (String, String) {
    let error = Checkpoint::open(path).err().expect("this should not open");
    (error.to_string(), error.hint().expect("a hint"))
}

#[test]
fn folders() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert!(matches!(Checkpoint::open(path.join("nowhere")), Err(Error::Io { .. })));
    assert!(folder_says(path).0.contains("empty"));
    fs::write(path.join("readme.md"), "hello").unwrap();
    let (message, hint) = folder_says(path);
    assert!(message.contains("readme.md") && hint.contains("pytorch_model.bin"), "{message} {hint}");
    let index = path.join("model.safetensors.index.json");
    for bad in ["../x.safetensors", "/etc/passwd", "a/../../b", "."] {
        fs::write(&index, format!("{{\"weight_map\": {{\"w\": {bad:?}}}}}")).unwrap();
        assert!(folder_says(path).0.contains("outside the folder"), "{bad}");
    }
    fs::write(&index, r#"{"weight_map": {"w": "model-1.safetensors"}}"#).unwrap();
    assert!(folder_says(path).0.contains("1 of 1 shards are missing"));
    fs::write(path.join("model-1.safetensors"), good_safetensors()).unwrap();
    Checkpoint::open(path).unwrap();
    fs::write(&index, r#"{"weight_map": {"w": "model-1.safetensors", "z": "model-1.safetensors"}}"#).unwrap();
    assert!(folder_says(path).0.contains("`z`"));
    fs::write(&index, "{").unwrap();
    assert!(folder_says(path).0.contains("damaged"));
}

#[test]
fn a_failed_write_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let huge = candle_core::Tensor::full(1e9f32, (2, 2), &candle_core::Device::Cpu).unwrap();
    let source = InMemory::new([("w".to_owned(), huge)].into());
    let error = write_safetensors(&path, &source, &BTreeMap::new(), &|_, _| Some(StoredAs::F16)).unwrap_err();
    assert!(error.to_string().contains("`w` holds 1000000000"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
