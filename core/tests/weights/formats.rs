//! The same numbers, whatever file they come in.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use musaic_core::weights::{Checkpoint, InMemory, Source, StoredAs, write_safetensors};

use crate::{
    everything,
    torch_file::{Pickle, View, archive, f32s, state_dict},
    values,
};

fn goldens() -> impl Iterator<Item = PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let given = std::env::var_os("MUSAIC_GOLDENS").map(PathBuf::from);
    [given, Some(root.join("tests/goldens")), Some(root.join("../shared/goldens"))].into_iter().flatten()
}

fn golden(path: &str) -> Option<PathBuf> {
    goldens().map(|root| root.join(path)).find(|path| path.exists())
}

fn tensors() -> HashMap<String, Tensor> {
    let wave = |n: usize, shape: &[usize]| {
        let values: Vec<f32> = (0..n).map(|i| ((i * 7919 % 1013) as f32 - 506.0) / 128.0).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    };
    let large = 1200 * 1100;
    HashMap::from([
        ("a.weight".into(), wave(24, &[4, 6])),
        ("a.bias".into(), wave(4, &[4])),
        ("conv.weight".into(), wave(5 * 7 * 3, &[5, 7, 3])),
        ("empty".into(), wave(0, &[0, 3])),
        ("scalar".into(), wave(1, &[])),
        ("large".into(), wave(large, &[1200, 1100])),
    ])
}

fn write(path: &Path, stored: StoredAs) {
    let notes = BTreeMap::from([("made_by".to_owned(), "a \"test\"".to_owned())]);
    write_safetensors(path, &InMemory::new(tensors()), &notes, &|_, _| Some(stored)).unwrap();
}

#[test]
fn legacy_and_safetensors_of_a_golden_are_equal() {
    let Some(folder) = golden("musicgen/tiny/model_legacy") else { return };
    let bin = everything(&Checkpoint::open(&folder).unwrap());
    let Some(plain) = golden("musicgen/tiny/model/model.safetensors") else { return };
    let plain = everything(&Checkpoint::open(plain).unwrap());
    assert!(bin.len() > 100);
    for (name, (shape, values)) in &bin {
        if let Some(other) = plain.get(name) {
            assert_eq!((shape, values), (&other.0, &other.1), "{name}");
        }
    }
    let shared = bin.keys().filter(|name| plain.contains_key(*name)).count();
    assert!(shared * 10 >= bin.len() * 8, "{shared} of {}", bin.len());
}

#[test]
fn every_golden_checkpoint_opens() {
    let mut folders: Vec<_> = goldens().filter(|root| root.exists()).collect();
    let mut opened = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if [".pth", ".bin", ".pt", ".safetensors"].iter().any(|end| name.ends_with(end)) {
                let checkpoint = Checkpoint::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                for (name, shape) in checkpoint.tensors() {
                    assert_eq!(values(&checkpoint, name).len(), shape.iter().product::<usize>(), "{name}");
                }
                opened += 1;
            }
        }
    }
    assert!(opened >= 1);
}

#[test]
fn arguments_in_a_checkpoint_stay_inert() {
    let Some(path) = golden("m2ugen/llm-forward/model/ckpts/checkpoint.pth") else { return };
    let checkpoint = Checkpoint::open(path).unwrap();
    assert!(checkpoint.inert_names().contains("argparse.Namespace"));
    assert!(checkpoint.tensors().keys().any(|name| name.starts_with("model.")));
    assert!(checkpoint.summary().dtypes.contains_key("f16"));
}

#[test]
fn a_module_saved_whole_gives_the_names_of_its_state() {
    let Some(path) = golden("llm/anymodal-lora/model/input_tokenizer.pt") else { return };
    let whole = everything(&Checkpoint::open(&path).unwrap());
    let plain = everything(&Checkpoint::open(path.with_extension("safetensors")).unwrap());
    assert_eq!(whole, plain);
}

#[test]
fn written_types_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let original = tensors();
    for (stored, slack) in [(StoredAs::F32, 0.0), (StoredAs::F16, 5e-4), (StoredAs::Bf16, 4e-3), (StoredAs::Q8_0, 4e-3)]
    {
        let path = folder.path().join("model.safetensors");
        write(&path, stored);
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(checkpoint.metadata().get("made_by").unwrap(), "a \"test\"");
        assert_eq!(checkpoint.tensors().len(), original.len());
        for (name, tensor) in &original {
            assert_eq!(checkpoint.tensors()[name], tensor.dims(), "{name}");
            let expected = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let found = values(&checkpoint, name);
            assert_eq!(expected.len(), found.len(), "{name}");
            for (a, b) in expected.iter().zip(&found) {
                assert!((a - b).abs() <= slack * 4.0, "{stored:?} {name} {a} {b}");
            }
        }
        let again = folder.path().join("again.safetensors");
        write(&again, stored);
        assert_eq!(fs::read(&path).unwrap(), fs::read(&again).unwrap(), "the same bytes every time");
        // Any reader of safetensors can open it.
        let theirs = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        assert_eq!(theirs.len(), original.len());
        fs::remove_file(again).unwrap();
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no part files are left");
}

#[test]
fn candle_files_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16, DType::U8, DType::I64, DType::U32] {
        let tensors: HashMap<_, _> =
            tensors().into_iter().map(|(name, t)| (name, t.abs().unwrap().to_dtype(dtype).unwrap())).collect();
        candle_core::safetensors::save(&tensors, &path).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        for (name, tensor) in &tensors {
            let expected = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(expected, values(&checkpoint, name), "{dtype:?} {name}");
        }
    }
}

#[test]
fn shards_are_one_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let source = InMemory::new(tensors());
    let none = BTreeMap::new();
    let pick = |wanted: bool| move |name: &str, _: &[usize]| (name.starts_with('a') == wanted).then_some(StoredAs::F32);
    write_safetensors(folder.path().join(first), &source, &none, &pick(true)).unwrap();
    write_safetensors(folder.path().join(second), &source, &none, &pick(false)).unwrap();
    let map: Vec<_> = source
        .tensors()
        .keys()
        .map(|name| format!("{name:?}: {:?}", if name.starts_with('a') { first } else { second }))
        .collect();
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(&index, format!("{{\"metadata\": {{}}, \"weight_map\": {{{}}}}}", map.join(","))).unwrap();
    let sharded = Checkpoint::open(folder.path()).unwrap();
    let whole = folder.path().join("whole.safetensors");
    write(&whole, StoredAs::F32);
    let whole = Checkpoint::open(&whole).unwrap();
    assert_eq!(everything(&sharded), everything(&whole));
    assert_eq!(sharded.files().count(), 2);
    let summary = sharded.summary();
    assert_eq!((summary.files, summary.tensors), (2, tensors().len()));
    assert_eq!(summary.parameters, whole.summary().parameters);
    assert_eq!(everything(&Checkpoint::open(index).unwrap()), everything(&whole));
}

#[test]
fn sha256_is_that_of_the_bytes() {
    // From sha256sum, of a file as long as the header says and of zeros otherwise.
    let mut bytes = 64u64.to_le_bytes().to_vec();
    bytes.extend(format!("{:<64}", r#"{"w":{"dtype":"U8","shape":[56],"data_offsets":[0,56]}}"#).bytes());
    bytes.resize(128, 0);
    let checkpoint = Checkpoint::from_bytes("x", bytes).unwrap();
    assert_eq!(checkpoint.sha256().unwrap(), "67e53d61edcf3a7b6f1c843db66d3f687e6870dc259eb3b91e05467173bf8efb");
    assert_eq!(Checkpoint::from_bytes("y", small()).unwrap().sha256().unwrap().len(), 64);
}

fn small() -> Vec<u8> {
    archive(
        &state_dict(&[("w", View::whole("FloatStorage", "0", &[2, 3]))]),
        &[("0", &f32s((0..6).map(|i| i as f32)))],
        false,
    )
}

#[test]
fn views_of_one_storage() {
    let numbers = f32s((0..12).map(|i| i as f32));
    let whole = View::whole("FloatStorage", "0", &[3, 4]);
    let transposed = View { shape: vec![4, 3], strides: vec![1, 4], ..whole.clone() };
    let corner = View { shape: vec![2, 2], strides: vec![4, 1], offset: 5, ..whole.clone() };
    let expanded = View { shape: vec![2, 3], strides: vec![0, 0], offset: 7, ..whole.clone() };
    let views = [
        ("whole", whole.clone()),
        ("tied", whole),
        ("transposed", transposed),
        ("corner", corner),
        ("expanded", expanded),
    ];
    for wide in [false, true] {
        let checkpoint = Checkpoint::from_bytes("x", archive(&state_dict(&views), &[("0", &numbers)], wide)).unwrap();
        let read = |name: &str| values(&checkpoint, name);
        assert_eq!(read("whole"), read("tied"));
        assert_eq!(read("transposed"), [0., 4., 8., 1., 5., 9., 2., 6., 10., 3., 7., 11.]);
        assert_eq!(read("corner"), [5., 6., 9., 10.]);
        assert_eq!(read("expanded"), [7.; 6]);
    }
}

#[test]
fn nested_tables_and_lists_are_flattened() {
    let view = View::whole("LongStorage", "k", &[2]);
    let mut table = Pickle::new();
    table.op(b'}').op(b'(').text("model").op(b'}').op(b'(').text("a.b").tensor(&view).op(b'u');
    table.text("list").op(b']').op(b'(').tensor(&view).int(3).tensor(&view).op(b'e');
    table.text("args").global("argparse", "Namespace").op(b')').op(0x81).op(b'}').text("lr").int(1).op(b's').op(b'b');
    table
        .text("parameter")
        .global("torch._utils", "_rebuild_parameter")
        .op(b'(')
        .tensor(&view)
        .op(0x88)
        .op(b'}')
        .op(b't');
    table.op(b'R').op(b'u').op(b'.');
    let numbers: Vec<u8> = [3i64, -4].iter().flat_map(|v| v.to_le_bytes()).collect();
    let checkpoint = Checkpoint::from_bytes("x", archive(&table, &[("k", &numbers)], false)).unwrap();
    let names: Vec<_> = checkpoint.tensors().keys().map(String::as_str).collect();
    assert_eq!(names, ["list.0", "list.2", "model.a.b", "parameter"]);
    assert!(names.iter().all(|name| values(&checkpoint, name) == [3.0, -4.0]));
    assert_eq!(checkpoint.inert_names().iter().collect::<Vec<_>>(), ["argparse.Namespace"]);
    assert_eq!(checkpoint.dtype_of("list.0"), Some("i64"));
}

#[test]
fn the_format_before_zip() {
    let magic = [0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];
    let mut file = magic.to_vec();
    file.extend(Pickle::new().int(1001).op(b'.').0.iter());
    file.extend(Pickle::new().op(b'}').op(b'.').0.iter());
    // Old files end a storage's id with the view it is of: none.
    let table =
        state_dict(&[("w", View::whole("HalfStorage", "7", &[2])), ("b", View::whole("FloatStorage", "9", &[1]))]);
    file.extend(&table.0);
    file.extend(Pickle::new().op(b']').op(b'(').text("7").text("9").op(b'e').op(b'.').0.iter());
    file.extend(2u64.to_le_bytes());
    file.extend([0x00, 0x3c, 0x00, 0xc0]);
    file.extend(1u64.to_le_bytes());
    file.extend(0.25f32.to_le_bytes());
    let checkpoint = Checkpoint::from_bytes("old", file).unwrap();
    assert_eq!(values(&checkpoint, "w"), [1.0, -2.0]);
    assert_eq!(values(&checkpoint, "b"), [0.25]);
}
