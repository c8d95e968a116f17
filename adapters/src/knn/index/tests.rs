use std::fs;

use proptest::prelude::*;

use super::*;

/// Points on a circle in the first two dimensions, so that neighbours are known.
fn circle(count: usize, dim: usize) -> Vec<f32> {
    let point = |n: usize| {
        let angle = n as f32 / count as f32 * std::f32::consts::TAU;
        let mut vector = vec![0.0; dim];
        (vector[0], vector[1]) = (angle.cos(), angle.sin());
        vector
    };
    (0..count).flat_map(point).collect()
}

fn ids(hits: &[Hit]) -> Vec<u64> {
    hits.iter().filter_map(|hit| hit.id).collect()
}

#[test]
fn every_layout_finds_its_own_vectors_after_a_round_trip() {
    let (count, dim) = (1300, 8);
    let vectors = circle(count, dim);
    let folder = tempfile::tempdir().unwrap();
    for (name, layout) in Layout::NAMES {
        let path = folder.path().join(name);
        Index::build(layout, dim, &vectors).unwrap().write(&path).unwrap();
        let mut index = Index::open(&path).unwrap();
        assert_eq!((index.dim(), index.count(), index.metric()), (dim, 1300, Metric::InnerProduct));
        for id in [0, 7, 650, 1299] {
            let query = &vectors[id * dim..][..dim];
            // Product codes cannot tell close neighbours apart: what is found must be near, not first.
            let found = ids(&index.search(query, 40).unwrap()[0]);
            let apart = |other: &u64| (*other as usize).abs_diff(id).min(count - (*other as usize).abs_diff(id));
            assert_eq!(found.len(), 40, "{name}");
            assert!(found.iter().all(|other| apart(other) <= 45), "{name}: {found:?} for {id}");
            assert!(name == "pq" || found.contains(&(id as u64)), "{name}: {id} is not among {found:?}");
            let stored = index.vector(id as u64).unwrap();
            let cosine: f32 = stored.iter().zip(query).map(|(a, b)| a * b).sum();
            assert!(cosine > 0.95, "{name}: {stored:?} for {query:?}");
        }
    }
}

#[test]
fn added_vectors_go_on_with_the_ids() {
    let mut index = Index::build(Layout::Flat, 4, &circle(6, 4)).unwrap();
    index.add(&[0.0, 0.0, 1.0, 0.0]).unwrap();
    assert_eq!(ids(&index.search(&[0.0, 0.0, 1.0, 0.0], 1).unwrap()[0]), [6]);
}

#[test]
fn missing_hits_have_no_id() {
    let mut index = Index::build(Layout::Flat, 4, &circle(3, 4)).unwrap();
    let hits = index.search(&[1.0, 0.0, 0.0, 0.0], 5).unwrap().remove(0);
    assert_eq!(hits.iter().filter(|hit| hit.id.is_some()).count(), 3);
    assert_eq!(hits.len(), 5);
}

#[test]
fn wrong_widths_and_ids_are_refused() {
    let mut index = Index::build(Layout::Flat, 4, &circle(3, 4)).unwrap();
    assert!(index.search(&[1.0; 6], 1).is_err());
    assert!(index.search(&[], 1).is_err());
    assert!(index.add(&[1.0; 5]).is_err());
    assert!(index.vector(3).is_err());
}

#[test]
fn foreign_files_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("knn.index");
    for bytes in [&b""[..], b"IxFI", &[0xff; 100], b"not an index, but a text that is long enough to be one"] {
        fs::write(&path, bytes).unwrap();
        let message = Index::open(&path).unwrap_err().to_string();
        assert!(message.contains("knn.index") && !message.contains('\n'), "{message}");
    }
    assert!(Index::open(&folder.path().join("absent")).is_err());
}

#[test]
fn a_start_that_promises_too_much_is_refused_before_the_library_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("knn.index");
    Index::build(Layout::Flat, 4, &circle(3, 4)).unwrap().write(&path).unwrap();
    let good = fs::read(&path).unwrap();
    let refused = |at: usize, with: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + with.len()].copy_from_slice(with);
        fs::write(&path, bad).unwrap();
        Index::open(&path).unwrap_err().to_string()
    };
    assert!(refused(4, &u32::MAX.to_le_bytes()).contains("width"));
    assert!(refused(8, &(1u64 << 40).to_le_bytes()).contains("announced"));
    assert!(refused(8, &2u64.to_le_bytes()).contains("bytes where"));
    assert!(refused(33, &9u32.to_le_bytes()).contains("metric"));
}

#[test]
fn cut_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("knn.index");
    for (name, layout) in Layout::NAMES {
        Index::build(layout, 8, &circle(700, 8)).unwrap().write(&path).unwrap();
        let good = fs::read(&path).unwrap();
        for part in 1..16 {
            fs::write(&path, &good[..good.len() * part / 16]).unwrap();
            assert!(Index::open(&path).is_err(), "{name}: {part} sixteenths were taken for the whole");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A changed byte at the start either is noticed or leaves an index that can be searched.
    #[test]
    fn changed_starts_never_crash(at in 0usize..37, value: u8) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("knn.index");
        Index::build(Layout::Flat, 4, &circle(5, 4)).unwrap().write(&path).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] = value;
        fs::write(&path, bytes).unwrap();
        if let Ok(mut index) = Index::open(&path) {
            index.search(&vec![0.5; index.dim()], 3).unwrap();
        }
    }
}
