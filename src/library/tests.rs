#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::{
    collections::{BTreeMap, HashMap},
    slice,
};

use candle_core::{Device, Tensor};
use musaic_core::weights::{InMemory, StoredAs, write_safetensors};

use super::*;

/// A file of features: each piece has two positions whose mean is the vector.
fn written(folder: &Path, name: &str, encoder: &str, pieces: &[(&str, [f32; 4])]) -> PathBuf {
    let tensor = |v: &[f32; 4]| {
        let twice: Vec<_> = v.iter().map(|x| x - 0.5).chain(v.iter().map(|x| x + 0.5)).collect();
        Tensor::from_vec(twice, (2, 4), &Device::Cpu).unwrap()
    };
    let tensors: HashMap<_, _> = pieces.iter().map(|(name, v)| ((*name).to_owned(), tensor(v))).collect();
    let note = serde_json::json!({ "encoder_sha256": encoder }).to_string();
    let notes = BTreeMap::from([("musaic_features".to_owned(), note)]);
    let path = folder.join(name);
    write_safetensors(&path, &InMemory::new(tensors), &notes, &|_, _| Some(StoredAs::F32)).unwrap();
    path
}

const PIECES: [(&str, [f32; 4]); 4] = [
    ("calm.wav", [1.0, 0.0, 0.0, 0.0]),
    ("calm-drums.wav", [1.0, 1.0, 0.0, 0.0]),
    ("drums.wav", [0.0, 1.0, 0.0, 0.0]),
    ("voice.wav", [0.0, 0.0, 1.0, 0.0]),
];

fn library(folder: &Path) -> Library {
    let features = read_features(&written(folder, "a.safetensors", "one", &PIECES)).unwrap();
    Library::build(&folder.join("knn.index"), Layout::Flat, features).unwrap()
}

#[test]
fn like_and_not_like() {
    let folder = tempfile::tempdir().unwrap();
    library(folder.path()).write().unwrap();
    let mut library = Library::open(&folder.path().join("knn.index")).unwrap();
    let vector = |library: &Library, name: &str| library.vector(name).unwrap();
    let (both, drums) = (vector(&library, "calm-drums.wav"), vector(&library, "drums.wav"));
    let except = ["calm-drums.wav".to_owned(), "drums.wav".to_owned()];

    let found = library.search(slice::from_ref(&both), &[], &[], 1).unwrap();
    assert_eq!(found[0].piece, "calm-drums.wav");
    assert!((found[0].similarity - 1.0).abs() < 1e-5);
    let found = library.search(slice::from_ref(&both), &[drums], &except, 4).unwrap();
    assert_eq!(found.iter().map(|f| f.piece.as_str()).collect::<Vec<_>>(), ["calm.wav", "voice.wav"]);
    let message = library.search(slice::from_ref(&both), slice::from_ref(&both), &[], 1).unwrap_err().to_string();
    assert!(message.contains("cancel out"), "{message}");
}

#[test]
fn grows_by_features_of_the_same_encoder_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut library = library(folder.path());
    let new = [("bells.wav", [0.0, 0.0, 0.0, 1.0])];
    let other = read_features(&written(folder.path(), "b.safetensors", "two", &new)).unwrap();
    assert!(library.add(other).unwrap_err().to_string().contains("encoder"));
    let same = read_features(&written(folder.path(), "c.safetensors", "one", &new)).unwrap();
    library.add(same.clone()).unwrap();
    assert!(library.add(same).unwrap_err().to_string().contains("twice"));
    library.write().unwrap();
    let library = Library::open(&folder.path().join("knn.index")).unwrap();
    assert_eq!(library.contents().unwrap().pieces.last().unwrap(), "bells.wav");
    assert_eq!(library.vector("bells.wav").unwrap(), [0.0, 0.0, 0.0, 1.0]);
}

#[test]
fn a_list_that_belongs_to_another_index_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    library(folder.path()).write().unwrap();
    let list = folder.path().join("knn.index.json");
    let text = std::fs::read_to_string(&list).unwrap();
    std::fs::write(&list, text.replace("\"calm.wav\",", "")).unwrap();
    let message = Library::open(&folder.path().join("knn.index")).unwrap_err().to_string();
    assert!(message.contains("4 pieces"), "{message}");
    std::fs::write(&list, "[").unwrap();
    assert!(Library::open(&folder.path().join("knn.index")).is_err());
}

#[test]
fn an_index_without_a_list_is_searched_by_id() {
    let folder = tempfile::tempdir().unwrap();
    library(folder.path()).write().unwrap();
    std::fs::remove_file(folder.path().join("knn.index.json")).unwrap();
    let mut library = Library::open(&folder.path().join("knn.index")).unwrap();
    let wish = library.vector("3").unwrap();
    let found = library.search(&[wish], &[], &[], 1).unwrap();
    assert_eq!(found[0].piece, "3");
    assert!(library.vector("4").is_err() && library.vector("calm.wav").is_err());
}

#[test]
fn odd_features_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let zero = written(folder.path(), "zero.safetensors", "one", &[("a", [0.0; 4])]);
    assert!(read_features(&zero).unwrap_err().to_string().contains("zeros"));
    let nan = written(folder.path(), "nan.safetensors", "one", &[("a", [f32::NAN; 4])]);
    assert!(read_features(&nan).unwrap_err().to_string().contains("finite"));
}
