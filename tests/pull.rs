//! `musaic pull` against a hub on this machine: what it takes, that it goes on where it stopped, and that a wrong byte is
//! never kept.
#![cfg(feature = "hub")]
#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub with one model, `lab/tiny`.
struct Hub {
    address: String,
    state: Arc<State>,
}

struct State {
    files: BTreeMap<&'static str, Vec<u8>>,
    /// Answers after this many requests for contents are cut off.
    fail_after: AtomicUsize,
    /// Contents come with one byte changed.
    lie: AtomicBool,
    bytes_sent: AtomicUsize,
}

impl Hub {
    fn start() -> Self {
        let weights: Vec<u8> = (0..(20 << 20)).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let files = BTreeMap::from([
            ("config.json", b"{\"model_type\": \"musicgen\"}".to_vec()),
            ("model.safetensors", weights),
            ("pytorch_model.bin", b"not wanted".to_vec()),
            ("README.md", b"not wanted".to_vec()),
        ]);
        let state = Arc::new(State {
            files,
            fail_after: AtomicUsize::new(usize::MAX),
            lie: AtomicBool::new(false),
            bytes_sent: AtomicUsize::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                thread::spawn(move || serve(&state, stream));
            }
        });
        Self { address, state }
    }
}

fn serve(state: &State, mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut request = String::new();
    if reader.read_line(&mut request).is_err() {
        return;
    }
    let mut range = None;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
            break;
        }
        if let Some(text) = line.to_lowercase().trim().strip_prefix("range: bytes=") {
            let (from, to) = text.split_once('-').unwrap();
            range = Some((from.parse::<usize>().unwrap(), to.parse::<usize>().unwrap()));
        }
    }
    let mut words = request.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = path.split('?').next().unwrap_or_default();
    if let Some(name) = path.strip_prefix(&format!("/lab/tiny/resolve/{COMMIT}/")) {
        contents(state, &mut stream, method, name, range);
    } else if path.contains("/tree/") {
        let rows: Vec<_> = state
            .files
            .iter()
            .map(|(name, bytes)| serde_json::json!({"type": "file", "oid": COMMIT, "size": bytes.len(), "path": name}))
            .collect();
        reply(&mut stream, "200 OK", "content-type: application/json\r\n", &serde_json::to_vec(&rows).unwrap(), method);
    } else if path.starts_with("/api/models/lab/tiny") {
        let info = serde_json::json!({"id": "lab/tiny", "sha": COMMIT, "tags": ["license:mit"]});
        reply(&mut stream, "200 OK", "content-type: application/json\r\n", info.to_string().as_bytes(), method);
    } else {
        reply(&mut stream, "404 Not Found", "x-error-code: RepoNotFound\r\n", b"{}", method);
    }
}

fn contents(state: &State, stream: &mut TcpStream, method: &str, name: &str, range: Option<(usize, usize)>) {
    let Some(bytes) = state.files.get(name) else { return reply(stream, "404 Not Found", "", b"", method) };
    let etag = format!("etag: \"{:x}\"\r\nx-repo-commit: {COMMIT}\r\naccept-ranges: bytes\r\n", Sha256::digest(bytes));
    if method == "HEAD" {
        return reply(stream, "200 OK", &etag, bytes, method);
    }
    if state.fail_after.load(Ordering::SeqCst) == 0 {
        return reply(stream, "403 Forbidden", "", b"", method);
    }
    state.fail_after.fetch_sub(1, Ordering::SeqCst);
    let (from, to) = range.unwrap_or((0, bytes.len() - 1));
    let mut part = bytes[from..=to.min(bytes.len() - 1)].to_vec();
    if state.lie.load(Ordering::SeqCst) {
        part[0] ^= 1;
    }
    state.bytes_sent.fetch_add(part.len(), Ordering::SeqCst);
    let headers = format!("{etag}content-range: bytes {from}-{to}/{}\r\n", bytes.len());
    reply(stream, "206 Partial Content", &headers, &part, method);
}

fn reply(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8], method: &str) {
    let head = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    // The client may have gone: that is its business.
    let _ = stream.write_all(head.as_bytes());
    if method != "HEAD" {
        let _ = stream.write_all(body);
    }
}

fn pull(hub: &Hub, home: &Path, id: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_musaic"))
        .args(["pull", id])
        .env_clear()
        .env("HOME", home)
        .env("HF_ENDPOINT", &hub.address)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_model_is_pulled_and_an_interruption_costs_nothing() {
    let hub = Hub::start();
    let home = tempfile::tempdir().unwrap();

    // config.json and the first of two pieces of the weights arrive, then the hub refuses.
    hub.state.fail_after.store(2, Ordering::SeqCst);
    let output = pull(&hub, home.path(), "lab/tiny");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    let model = home.path().join(".cache/huggingface/hub/models--lab--tiny");
    assert!(!model.join("refs/main").exists(), "an unfinished model is not offered");
    let sent = hub.state.bytes_sent.load(Ordering::SeqCst);
    assert!(sent >= 16 << 20);

    hub.state.fail_after.store(usize::MAX, Ordering::SeqCst);
    let output = pull(&hub, home.path(), "lab/tiny");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("licence mit"));
    let total: usize = ["config.json", "model.safetensors"].iter().map(|name| hub.state.files[name].len()).sum();
    assert_eq!(hub.state.bytes_sent.load(Ordering::SeqCst), total, "nothing was fetched twice");

    let snapshot = model.join("snapshots").join(COMMIT);
    assert_eq!(text(&output.stdout).trim(), snapshot.display().to_string());
    for name in ["config.json", "model.safetensors"] {
        assert_eq!(std::fs::read(snapshot.join(name)).unwrap(), hub.state.files[name], "{name}");
    }
    assert_eq!(std::fs::read_dir(&snapshot).unwrap().count(), 2, "only what is wanted");

    // Again: nothing to do.
    assert!(pull(&hub, home.path(), "lab/tiny").status.success());
    assert_eq!(hub.state.bytes_sent.load(Ordering::SeqCst), total);
}

#[test]
fn a_wrong_byte_is_refused() {
    let hub = Hub::start();
    hub.state.lie.store(true, Ordering::SeqCst);
    let home = tempfile::tempdir().unwrap();
    let output = pull(&hub, home.path(), "lab/tiny");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("hash"), "{}", text(&output.stderr));
    let blobs = home.path().join(".cache/huggingface/hub/models--lab--tiny/blobs");
    assert_eq!(std::fs::read_dir(blobs).unwrap().count(), 0);
}

#[test]
fn what_does_not_exist_is_said() {
    let hub = Hub::start();
    let home = tempfile::tempdir().unwrap();
    for id in ["lab/none", "no-slash", "../../etc"] {
        let output = pull(&hub, home.path(), id);
        assert_eq!(output.status.code(), Some(2), "{id}: {}", text(&output.stderr));
    }
}
