//! Peak memory of loading M2UGen's language core, each format in a process of its own: at most 1.1 x the weights as
//! they are held, and 300 MB. The checkpoint has the published layout at about a thirty-second of the size.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // helpers of tests, too

use std::{fs, os::unix::fs::MetadataExt, process::Command};

use musaic::bench::{Row, checkpoint};

const SCALE: &str = "0.03125";

#[test]
fn peak_memory_stays_near_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    // Zeros that take no room: packing them allocates as much as packing numbers does.
    let output = Command::new(env!("CARGO_BIN_EXE_musaic"))
        .args(["bench", "load", "--scale", SCALE, "--sparse", "--json"])
        .arg(folder.path())
        .args(["--formats", "q4_k", "q8_0", "bf16", "f32"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
    let rows: Vec<Row> = serde_json::from_slice(&output.stdout).unwrap();
    for row in &rows {
        let (held, peak) = (row.weight_bytes.unwrap(), row.peak_memory_bytes.unwrap() as f64);
        println!("{}: held {held}, peak {peak} of {}", row.component, checkpoint::allowed(held));
        assert!(held > 100e6 && peak <= checkpoint::allowed(held), "{}: peak {peak} for {held}", row.component);
        // All of it was really there: the file's zeros are no pages of ours.
        assert!(peak >= held, "{}: peak {peak} for {held}", row.component);
    }
    assert_eq!(rows.len(), 4);
    let path = checkpoint::path(folder.path(), SCALE.parse().unwrap());
    let meta = fs::metadata(path).unwrap();
    assert!(meta.blocks() * 512 < meta.len() / 2, "{} of {}", meta.blocks() * 512, meta.len());
}
