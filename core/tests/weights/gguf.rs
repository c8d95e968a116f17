//! GGUF files: one made by another writer, and headers that lie.

use std::{
    fs,
    path::{Path, PathBuf},
};

use candle_core::Device;
use musaic_core::{
    Hint, WeightFormat,
    weights::{Checkpoint, GgufValue, Layered, Renamed, Source, Weights},
};

use crate::values;

/// Random blocks of every type beside the numbers that the format's own package reads from them; made by
/// `tests/fixtures/gguf/make.py`.
fn blocks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/gguf/types.gguf")
}

const TYPES: [&str; 10] = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"];

#[test]
fn every_type_is_read_as_its_own_package_reads_it() {
    let checkpoint = Checkpoint::open(blocks()).unwrap();
    assert_eq!(checkpoint.tensors().len(), 2 * TYPES.len());
    for kind in TYPES {
        assert_eq!(checkpoint.dtype_of(kind), Some(kind));
        assert_eq!(checkpoint.tensors()[kind], [3, 512]);
        let (got, want) = (values(&checkpoint, kind), values(&checkpoint, &format!("{kind}.expected")));
        assert_eq!(got.len(), 3 * 512);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(got.to_bits(), want.to_bits(), "{kind} {i}: {got}, expected {want}");
        }
    }
    let settings = checkpoint.settings().unwrap();
    assert_eq!(settings.text("general.architecture").unwrap(), Some("test"));
    assert!(settings.size("general.architecture").is_err() && settings.size("absent").unwrap().is_none());
}

/// Packing `q4_k` anew would move its numbers; the blocks are held as they are, whatever lies between.
#[test]
fn a_matrix_takes_stored_blocks_over() {
    let open = || Checkpoint::open(blocks()).unwrap();
    let rows = |weights: &Weights, names: &[&str]| {
        let matrix = weights.matrix_stacked(&vec![3; names.len()], 512, names).unwrap();
        (matrix.format(), matrix.dense().unwrap().to_vec2::<f32>().unwrap().concat())
    };
    for (kind, format) in [("q8_0", WeightFormat::Q8_0), ("q4_k", WeightFormat::Q4K)] {
        let plain = open();
        let expected = values(&plain, &format!("{kind}.expected"));
        let sources: [Box<dyn Source>; 3] = [
            Box::new(plain),
            Box::new(Renamed::new(open(), |name| Some(name.to_owned())).unwrap()),
            Box::new(Layered::new(vec![Box::new(open())])),
        ];
        for source in sources {
            assert_eq!(source.packed_as(kind), Some(format));
            let weights = Weights::new(source, &Device::Cpu, format);
            assert_eq!(rows(&weights, &[kind]), (format, expected.clone()), "{kind}");
            // Beside another type only the other is packed.
            let (_, both) = rows(&weights, &["q5_k", kind]);
            assert_eq!(both[3 * 512..], expected, "{kind}");
        }
        let widened = Weights::new(open(), &Device::Cpu, WeightFormat::F32);
        assert_eq!(rows(&widened, &[kind]), (WeightFormat::F32, expected));
    }
    assert_eq!(open().packed_as("q6_k"), None);
}

/// A file in the making.
struct File(Vec<u8>);

impl File {
    fn new(version: u32, tensors: u64, settings: u64) -> Self {
        Self([&b"GGUF"[..], &version.to_le_bytes(), &tensors.to_le_bytes(), &settings.to_le_bytes()].concat())
    }

    fn text(mut self, text: &str) -> Self {
        self.0.extend((text.len() as u64).to_le_bytes());
        self.0.extend(text.bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn tensor(self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        let file = self.text(name).u32(dims.len() as u32);
        dims.iter().fold(file, |file, &dim| file.u64(dim)).u32(kind).u64(offset)
    }

    /// Filled up to the alignment, and this many bytes of numbers.
    fn data(mut self, count: usize) -> Vec<u8> {
        let start = self.0.len().next_multiple_of(32);
        self.0.resize(start + count, 0);
        self.0
    }
}

fn open(bytes: Vec<u8>) -> Result<Checkpoint, String> {
    Checkpoint::from_bytes("x.gguf", bytes).map_err(|e| {
        assert!(e.hint().is_some(), "{e}");
        e.to_string()
    })
}

#[test]
fn settings_of_every_type_are_read() {
    let file = File::new(3, 1, 5).text("a").u32(5).u32(u32::MAX).text("b").u32(7);
    let file = File([file.0, vec![1]].concat()).text("c").u32(9).u32(6).u64(2).u32(0).u32(0x3f80_0000);
    let file = file.text("d").u32(12).u64(0.5f64.to_bits()).text("e").u32(9).u32(8).u64(2).text("x").text("▁y");
    let checkpoint = open(file.tensor("w", &[4, 2], 0, 0).data(32)).unwrap();
    let settings = checkpoint.settings().unwrap();
    assert_eq!(settings.get("a"), Some(&GgufValue::Int(-1)));
    assert_eq!(settings.flag("b").unwrap(), Some(true));
    assert_eq!(settings.floats("c").unwrap(), Some(&[0.0, 1.0][..]));
    assert_eq!(settings.number("d").unwrap(), Some(0.5));
    assert_eq!(settings.texts("e").unwrap().unwrap(), ["x", "▁y"]);
    assert!(settings.size("a").is_err());
    assert_eq!(checkpoint.tensors()["w"], [2, 4]);
}

#[test]
fn headers_that_lie_are_refused() {
    let good = |kind, dims: &[u64], offset| File::new(3, 1, 0).tensor("w", dims, kind, offset).data(256);
    assert!(open(good(0, &[8, 8], 0)).is_ok());
    let whole = File::new(3, 1, 0);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("version 1", File::new(1, 1, 0).data(64)),
        ("big-endian", File::new(3u32.swap_bytes(), 1, 0).data(64)),
        ("version 9", File::new(9, 1, 0).data(64)),
        ("claims", File::new(3, u64::MAX, 0).data(64)),
        ("claims", File::new(3, 1, 1 << 40).data(64)),
        ("header goes on", File::new(3, 1, 1).u64(u64::MAX).data(64)),
        ("value of type 99", File::new(3, 1, 1).text("a").u32(99).data(64)),
        ("a list of", File::new(3, 1, 1).text("a").u32(9).u32(8).u64(1 << 60).data(64)),
        ("a list of lists", File::new(3, 1, 1).text("a").u32(9).u32(9).u64(1).data(64)),
        ("alignment", File::new(3, 1, 1).text("general.alignment").u32(4).u32(0).data(64)),
        ("alignment", File::new(3, 1, 1).text("general.alignment").u32(4).u32(48).data(64)),
        ("dimensions", File::new(3, 1, 0).text("w").u32(5).data(64)),
        ("does not fit", good(0, &[u64::MAX, u64::MAX], 0)),
        ("does not fit", good(8, &[33], 0)),
        ("does not fit", good(12, &[128, 2], 0)),
        ("beyond the end", good(0, &[8, 9], 0)),
        ("beyond the end", good(0, &[8, 8], u64::MAX)),
        ("beyond the end", good(0, &[8, 8], 32)),
        ("two tensors", File::new(3, 2, 0).tensor("w", &[1], 0, 0).tensor("w", &[1], 0, 0).data(64)),
        ("no tensor", File::new(3, 0, 0).data(64)),
        ("not UTF-8", File([whole.0, 1u64.to_le_bytes().to_vec(), vec![0xff]].concat()).data(64)),
    ];
    for (says, bytes) in cases {
        let text = open(bytes).err().unwrap_or_else(|| panic!("{says}: was opened"));
        assert!(text.contains(says), "{says}: {text}");
    }
    // A type that nobody knows is listed, and refused when it is read.
    let unknown = open(good(77, &[8, 8], 0)).unwrap();
    let error = unknown.read("w", &mut |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("type 77 of ggml"), "{error}");
}

#[test]
fn parts_are_put_together_and_none_may_be_missing() {
    let folder = tempfile::tempdir().unwrap();
    let part = |i: usize| folder.path().join(format!("m-{i:05}-of-00002.gguf"));
    let write = |i: usize, name: &str| {
        let file = File::new(3, 1, 1).text("split.no").u32(4).u32(i as u32).tensor(name, &[4], 0, 0).data(16);
        fs::write(part(i), file).unwrap();
    };
    write(1, "a");
    let text = Checkpoint::open(part(1)).err().unwrap().to_string();
    assert!(text.contains("00002-of-00002"), "{text}");
    write(2, "b");
    for path in [part(1), part(2), folder.path().to_owned()] {
        let whole = Checkpoint::open(path).unwrap();
        assert_eq!(whole.tensors().keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(whole.settings().unwrap().size("split.no").unwrap(), Some(1));
    }
    fs::write(folder.path().join("other.gguf"), File::new(3, 1, 0).tensor("c", &[4], 0, 0).data(16)).unwrap();
    let text = Checkpoint::open(folder.path()).err().unwrap().to_string();
    assert!(text.contains("several files"), "{text}");
}
