//! Damaged and hostile weights: each is refused with an error that names the file and says what to
//! do, none causes a panic, and none makes the program ask for memory by the file's word.
//!
//! `tests/hostile/` holds one file for each rule, written by `tests/hostile/make.py`; what depends
//! on a whole folder is made here. The seeds of the fuzz targets run through the same functions.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::FloatDType;
use burn_apb::checkpoint::index::Index;
use burn_apb::checkpoint::safetensors::Header;
use burn_apb::checkpoint::{Checkpoint, ModelSource, WeightsError};
use safetensors::tensor::{Dtype, TensorView, serialize};

#[path = "common/data.rs"]
mod data;
#[path = "common/largest_request.rs"]
mod largest_request;

use largest_request::assert_modest;

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<PathBuf> = match fs::read_dir(&folder) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        // The published crate leaves the fuzz targets out.
        Err(_) if !folder.parent().unwrap().exists() => return Vec::new(),
        Err(error) => panic!("{}: {error}", folder.display()),
    };
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}

/// What the user reads has the file's name and more than that.
fn assert_helpful(error: &WeightsError, name: &str) {
    let text = error.to_string();
    assert!(text.contains(name), "the file is not named: {text}");
    assert!(text.len() > name.len() + 20, "{text}");
}

/// Reads every tensor of a checkpoint; a damaged one may hold tensors nobody asked for.
fn read_all(checkpoint: &Checkpoint) {
    for info in checkpoint.tensors() {
        if let Err(error) = checkpoint.read(&info.name, FloatDType::F32) {
            let allowed = matches!(error, WeightsError::StoredType { .. });
            assert!(allowed, "{}: {error}", info.name);
        }
    }
}

#[test]
fn every_hostile_safetensors_file_is_refused() {
    for path in files("tests/hostile/safetensors") {
        let folder = tempfile::tempdir().unwrap();
        fs::copy(&path, folder.path().join("model.safetensors")).unwrap();
        let error = Checkpoint::open(folder.path()).expect_err(&path.display().to_string());
        assert!(
            matches!(error, WeightsError::Header { .. }),
            "{}: {error}",
            path.display()
        );
        assert_helpful(&error, "model.safetensors");
        assert_modest(&path.to_string_lossy());
    }
}

#[test]
fn every_hostile_index_is_refused() {
    for path in files("tests/hostile/index") {
        let folder = tempfile::tempdir().unwrap();
        fs::copy(&path, folder.path().join("model.safetensors.index.json")).unwrap();
        // What some of the names would lead to, were they followed.
        fs::write(folder.path().join("pytorch_model.bin"), "x").unwrap();
        let error = Checkpoint::open(folder.path()).expect_err(&path.display().to_string());
        assert!(
            matches!(
                error,
                WeightsError::Index { .. } | WeightsError::ShardMissing { .. }
            ),
            "{}: {error}",
            path.display()
        );
        assert_helpful(&error, "model.safetensors.index.json");
        assert_modest(&path.to_string_lossy());
    }
}

#[cfg(feature = "gguf")]
#[test]
fn every_hostile_gguf_file_is_refused() {
    for path in files("tests/hostile/gguf") {
        let folder = tempfile::tempdir().unwrap();
        fs::copy(&path, folder.path().join("model.gguf")).unwrap();
        let error = Checkpoint::open(folder.path().join("model.gguf"))
            .expect_err(&path.display().to_string());
        assert!(
            matches!(error, WeightsError::Gguf { .. }),
            "{}: {error}",
            path.display()
        );
        assert_helpful(&error, "model.gguf");
        assert_modest(&path.to_string_lossy());
    }
}

/// What the fuzz target of quantised checkpoints does: a model whose `config.json` is in its metadata, read as floats.
fn read_quantized(bytes: &[u8]) -> Result<usize, String> {
    let folder = tempfile::tempdir().unwrap();
    let header = Header::parse(bytes).map_err(|error| error.to_string())?;
    let config = header.metadata.get("config").map_or("{}", String::as_str);
    fs::write(folder.path().join("config.json"), config).unwrap();
    fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    let source = ModelSource::open(folder.path()).map_err(|error| error.to_string())?;
    let checkpoint = source.checkpoint().map_err(|error| error.to_string())?;
    let mut elements = 0;
    for info in checkpoint.tensors() {
        assert!(info.elements() <= 2 * bytes.len(), "{info:?}");
        let read = checkpoint.read(&info.name, FloatDType::F32);
        let read = read.map_err(|error| error.to_string())?;
        assert_eq!(read.as_bytes().len(), 4 * info.elements());
        elements += info.elements();
    }
    Ok(elements)
}

#[test]
fn every_hostile_quantized_checkpoint_is_refused() {
    for path in files("tests/hostile/quantized_checkpoint") {
        let error = read_quantized(&fs::read(&path).unwrap());
        let error = error.expect_err(&path.display().to_string());
        let named = error.contains("model.safetensors") && error.contains("`l.");
        assert!(
            named || error.contains("`quantization_config."),
            "{}: {error}",
            path.display()
        );
        assert_modest(&path.to_string_lossy());
    }
}

#[test]
fn no_single_byte_makes_a_quantized_checkpoint_dangerous() {
    let Some(good) = seed("quantized_checkpoint/good_gptq_act_order") else {
        return;
    };
    let (mut accepted, mut refused) = (0, 0);
    mutate(&good, |bytes| match read_quantized(bytes) {
        Ok(_) => accepted += 1,
        Err(_) => refused += 1,
    });
    assert!(accepted > 0 && refused > 0, "{accepted} {refused}");
    assert_modest("good_gptq_act_order");
}

/// Bytes of a safetensors file with f32 tensors of two elements.
fn shard(names: &[&str]) -> Vec<u8> {
    let data = [0u8; 8];
    let views = names.iter().map(|name| {
        (
            (*name).to_string(),
            TensorView::new(Dtype::F32, vec![2], &data).unwrap(),
        )
    });
    serialize(views, None::<HashMap<String, String>>).unwrap()
}

/// A folder with shards `x` and `y` and an index.
fn sharded(index: &[(&str, &str)], shards: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let map: serde_json::Map<String, serde_json::Value> = index
        .iter()
        .map(|(t, s)| ((*t).to_string(), (*s).into()))
        .collect();
    let index = serde_json::json!({ "weight_map": map }).to_string();
    fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    for (name, bytes) in shards {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

const INDEX: [(&str, &str); 2] = [("a", "x.safetensors"), ("b", "y.safetensors")];

#[test]
fn shards_that_do_not_belong_together_are_refused() {
    let (a, b, ab) = (shard(&["a"]), shard(&["b"]), shard(&["a", "b"]));
    let error =
        |shards: &[(&str, &[u8])]| Checkpoint::open(sharded(&INDEX, shards).path()).unwrap_err();
    let good: [(&str, &[u8]); 2] = [("x.safetensors", &a), ("y.safetensors", &b)];
    read_all(&Checkpoint::open(sharded(&INDEX, &good).path()).unwrap());

    let missing = error(&[("x.safetensors", &a)]);
    assert!(
        matches!(&missing, WeightsError::ShardMissing { shards, .. } if shards == &["y.safetensors"]),
        "{missing}"
    );
    assert!(
        missing.to_string().contains("1 shard that is not"),
        "{missing}"
    );

    let lacks = error(&[("x.safetensors", &a), ("y.safetensors", &a)]);
    let WeightsError::ShardDisagrees { faults, .. } = &lacks else {
        panic!("{lacks}")
    };
    assert_eq!(faults, &["y.safetensors lacks `b`"]);

    // The same tensor in two shards is no damage, and said when the weights are loaded.
    let twice = sharded(&INDEX, &[("x.safetensors", &a), ("y.safetensors", &ab)]);
    let twice = Checkpoint::open(twice.path()).unwrap();
    assert_eq!(twice.shard_notes().repeated, ["a"]);
    read_all(&twice);

    let empty = error(&[("x.safetensors", &a), ("y.safetensors", b"")]);
    assert!(matches!(empty, WeightsError::Header { .. }), "{empty}");
    assert_helpful(&empty, "y.safetensors");
    let folder = sharded(&INDEX, &good[..1]);
    fs::create_dir(folder.path().join("y.safetensors")).unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err();
    assert!(matches!(error, WeightsError::NotAFile { .. }), "{error}");
}

/// What `git clone` leaves without Git LFS.
#[test]
fn pointers_of_git_lfs_are_named_as_such() {
    let pointer =
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 538090408\n";
    let folder = tempfile::tempdir().unwrap();
    for name in ["model.safetensors", "model.gguf"] {
        let path = folder.path().join(name);
        fs::write(&path, pointer).unwrap();
        let error = Checkpoint::open(&path).unwrap_err();
        assert!(matches!(error, WeightsError::Local(_)), "{error}");
        assert_helpful(&error, name);
        assert!(error.to_string().contains("git lfs pull"), "{error}");
    }
    let shards: [(&str, &[u8]); 2] = [
        ("x.safetensors", &shard(&["a"])),
        ("y.safetensors", pointer),
    ];
    let error = Checkpoint::open(sharded(&INDEX, &shards).path()).unwrap_err();
    assert!(error.to_string().contains("Git LFS pointer"), "{error}");
    assert_helpful(&error, "y.safetensors");
}

/// Every length a broken download can leave.
#[test]
fn every_truncation_of_a_shard_is_refused() {
    let whole = shard(&["a", "b"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for len in 0..whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        let error = Checkpoint::open(&path).expect_err("a truncated file");
        assert!(
            matches!(error, WeightsError::Header { .. }),
            "{len}: {error}"
        );
        assert_helpful(&error, "model.safetensors");
    }
    fs::write(&path, &whole).unwrap();
    read_all(&Checkpoint::open(&path).unwrap());
    assert_modest(&path.to_string_lossy());
}

#[test]
fn places_without_weights_are_refused() {
    let missing = Checkpoint::open("/nowhere/at/all").unwrap_err();
    assert!(
        matches!(missing, WeightsError::NotFound { .. }),
        "{missing}"
    );
    let folder = tempfile::tempdir().unwrap();
    let error = || Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(error().contains("an empty folder"), "{}", error());
    fs::write(folder.path().join("pytorch_model.bin"), "x").unwrap();
    assert!(
        error().contains("pytorch_model.bin") && error().contains("save_pretrained"),
        "{}",
        error()
    );
    for (name, hint) in [
        ("model.fp16.safetensors", "rename it to model.safetensors"),
        ("adapter_model.safetensors", "merge_and_unload"),
        ("consolidated.safetensors", "another program"),
        (
            "model-00001-of-00002.safetensors",
            "fetch model.safetensors.index.json",
        ),
    ] {
        fs::write(folder.path().join(name), "x").unwrap();
        assert!(error().contains(hint), "{name}: {}", error());
    }
    let other = Checkpoint::open(folder.path().join("pytorch_model.bin")).unwrap_err();
    assert!(
        matches!(other, WeightsError::UnknownFormat { .. }),
        "{other}"
    );
    fs::create_dir(folder.path().join("model.safetensors")).unwrap();
    let found = Checkpoint::open(folder.path()).unwrap_err();
    assert!(
        matches!(
            found,
            WeightsError::NotAFile {
                found: "a folder",
                ..
            }
        ),
        "{found}"
    );
}

#[test]
fn tensors_are_asked_for_by_name_and_type() {
    let folder = tempfile::tempdir().unwrap();
    let data = [0u8; 8];
    let view = |dtype, shape: Vec<usize>| TensorView::new(dtype, shape, &data).unwrap();
    let tensors = [
        ("model.embed.weight", view(Dtype::F32, vec![2])),
        ("model.steps", view(Dtype::I64, vec![1])),
    ];
    fs::write(
        folder.path().join("model.safetensors"),
        serialize(tensors, None::<HashMap<String, String>>).unwrap(),
    )
    .unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let error = |name: &str, dtype| checkpoint.read(name, dtype).unwrap_err().to_string();
    let unknown = error("model.embed.weigth", FloatDType::F32);
    assert!(unknown.contains("`model.embed.weight`"), "{unknown}");
    assert!(error("model.steps", FloatDType::F32).contains("I64"));
    assert!(error("model.embed.weight", FloatDType::F64).contains("F64"));
}

/// Every byte of a good file turned into others: read or refused, never a panic, never much memory.
fn mutate(good: &[u8], mut run: impl FnMut(&[u8])) {
    for at in 0..good.len() {
        for value in [
            0,
            1,
            0x7f,
            0xff,
            good[at] ^ 1,
            good[at] ^ 0x80,
            good[at].wrapping_add(1),
        ] {
            let mut bytes = good.to_vec();
            bytes[at] = value;
            run(&bytes);
        }
    }
}

/// A seed of the fuzz targets, which the published crate leaves out.
fn seed(name: &str) -> Option<Vec<u8>> {
    Some(fs::read(data::find("fuzz/corpus", name, None)?).unwrap())
}

#[test]
fn no_single_byte_makes_a_safetensors_header_dangerous() {
    let good = seed("safetensors_header/good").unwrap_or_else(|| shard(&["a", "b"]));
    let mut accepted = 0;
    mutate(&good, |bytes| {
        let ours = Header::parse(bytes);
        let theirs = safetensors::SafeTensors::read_metadata(bytes);
        accepted += usize::from(ours.is_ok());
        assert!(
            ours.is_err() || theirs.is_ok(),
            "accepted what safetensors refuses: {}",
            bytes.escape_ascii()
        );
    });
    assert!(accepted > 0, "a changed letter of a name is no mistake");
    assert_modest("safetensors_header/good");
}

#[cfg(feature = "gguf")]
#[test]
fn no_single_byte_makes_a_gguf_file_dangerous() {
    use burn_apb::checkpoint::gguf::Gguf;

    for name in ["good", "good_sentencepiece"] {
        let Some(good) = seed(&format!("gguf/{name}")) else {
            return;
        };
        let header = good.len() - 384;
        for len in 0..good.len() {
            assert!(Gguf::parse(&good[..len]).is_err(), "{name} cut at {len}");
        }
        let mut accepted = 0;
        mutate(&good[..header], |bytes| {
            let bytes = [bytes, &good[header..]].concat();
            if let Ok(gguf) = Gguf::parse(&bytes) {
                accepted += 1;
                let _ = (
                    gguf.config(),
                    gguf.tokenizer(),
                    gguf.tokenizer_config(),
                    gguf.generation_config(),
                );
            }
        });
        assert!(accepted > 0, "a changed letter of a token is no mistake");
        assert_modest(name);
    }
}

/// The seeds of the fuzz targets, through what the targets run.
#[test]
fn the_seeds_of_the_fuzz_targets_run() {
    let mut accepted = 0;
    for path in files("fuzz/corpus/safetensors_header") {
        let bytes = fs::read(&path).unwrap();
        accepted += usize::from(Header::parse(&bytes).is_ok());
    }
    for path in files("fuzz/corpus/quantized_checkpoint") {
        let name = path.file_name().unwrap().to_str().unwrap();
        let read = read_quantized(&fs::read(&path).unwrap());
        assert_eq!(read.is_ok(), name.starts_with("good_"), "{name}: {read:?}");
    }
    for path in files("fuzz/corpus/safetensors_index") {
        accepted += usize::from(Index::parse(&fs::read(&path).unwrap()).is_ok());
    }
    #[cfg(feature = "gguf")]
    for path in files("fuzz/corpus/gguf") {
        use burn_apb::checkpoint::gguf::Gguf;
        if let Ok(gguf) = Gguf::parse(&fs::read(&path).unwrap()) {
            gguf.config().unwrap();
            gguf.tokenizer().unwrap();
            accepted += 1;
        }
    }
    let published = !Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").exists();
    // Of the hostile ones, `shard_missing` and `nested` are good indices of folders that lack a shard.
    let good = if cfg!(feature = "gguf") { 10 } else { 5 };
    assert!(accepted == good || published, "{accepted}");
}

#[test]
fn the_seeds_of_the_text_fuzz_targets_run() {
    use burn_apb::model::DecoderConfig;
    use burn_apb::text::chat_template::{ChatMessage, ChatTemplate, RenderOptions};

    for path in files("fuzz/corpus/config") {
        let text = fs::read_to_string(&path).unwrap();
        let config = DecoderConfig::from_json(&text);
        // What fuzzing found, and is refused since, keeps the name of the field.
        if let Some(field) = path
            .file_stem()
            .unwrap()
            .to_str()
            .unwrap()
            .strip_prefix("refused_")
        {
            let refused = config.unwrap_err().to_string();
            assert!(refused.contains(field), "{}: {refused}", path.display());
            continue;
        }
        assert!(config.is_ok(), "{}: {config:?}", path.display());
    }
    let messages = [ChatMessage::new("user", "Why is the sky blue?")];
    for path in files("fuzz/corpus/chat_template") {
        let template = ChatTemplate::parse(&fs::read_to_string(&path).unwrap());
        let text = template.and_then(|t| {
            t.with_special_token("bos_token", "<s>")
                .render(&messages, &RenderOptions::default())
        });
        assert!(text.is_ok(), "{}: {text:?}", path.display());
    }
}

#[cfg(feature = "train")]
#[test]
fn the_seeds_of_the_sample_file_fuzz_target_run() {
    use burn_apb::training::data::SampleFile;

    for path in files("fuzz/corpus/sample_file") {
        let name = path.file_name().unwrap().to_str().unwrap();
        let (all, some) = (name.starts_with("good_"), name.starts_with("some_"));
        let strict = SampleFile::open(&path, true);
        assert_eq!(strict.is_ok(), all, "{name}: {strict:?}");
        let samples = SampleFile::open(&path, false);
        assert_eq!(samples.is_ok(), all || some, "{name}: {samples:?}");
        if let Ok(samples) = samples {
            assert_eq!(samples.report().skipped == 0, all, "{name}");
            for index in 0..samples.len() {
                samples.get(index).unwrap();
            }
        }
    }
}

#[cfg(feature = "hub")]
#[test]
fn the_seeds_of_the_hub_answers_fuzz_target_run() {
    use burn_apb::checkpoint::hub::{Head, fuzz_answer};

    let hash = "0123456789abcdef0123456789abcdef01234567";
    for path in files("fuzz/corpus/hub_answers") {
        let name = path.file_name().unwrap().to_str().unwrap();
        let answer = fuzz_answer(&fs::read(&path).unwrap()).expect(name);
        let errors = [answer.head.as_ref().err(), answer.list.as_ref().err()];
        for error in errors.into_iter().flatten() {
            assert!(error.len() < 4000, "{name}: {error}");
            assert!(!error.contains(char::is_control), "{name}: {error:?}");
        }
        match name {
            "good_list" => {
                let (commit, names) = answer.list.unwrap();
                assert_eq!((commit.as_deref(), names.len()), (Some(hash), 4));
                assert!(matches!(answer.head, Ok(Head::File { .. })));
            }
            "good_redirect" => {
                let head = answer.head.unwrap();
                assert!(matches!(head, Head::Redirect { token: false, .. }));
            }
            "names_that_lead_elsewhere" => {
                assert!(answer.head.unwrap_err().contains("X-Linked-Etag"));
                let (commit, names) = answer.list.unwrap();
                assert_eq!((commit.as_deref(), names.len()), (Some("abcdef0"), 0));
            }
            "part_and_page" => {
                let Ok(Head::File { size, start, .. }) = answer.head else {
                    panic!("{name}: {:?}", answer.head);
                };
                assert_eq!((size, start), (Some(100), 20));
                assert!(answer.list.is_err());
            }
            "redirect_without_encryption" => {
                assert!(answer.head.unwrap_err().contains("without encryption"));
            }
            _ => {}
        }
    }
}

#[test]
fn the_seeds_of_the_targets_of_sessions_and_heads_run() {
    use std::sync::Arc;

    use burn::tensor::Device;
    use burn_apb::apb::SavedSession;
    use burn_apb::apb::heads::HeadsFile;
    use burn_apb::model::{Architecture, CausalLm, DecoderConfig};

    let config = DecoderConfig::new(Architecture::Llama, 512, 64, 160, 3, 4, 2, 16);
    let device = Device::flex();
    let model: Arc<dyn CausalLm> = Arc::new(config.init_random(FloatDType::F32, &device));
    for path in files("fuzz/corpus/saved_session") {
        let name = path.file_name().unwrap().to_str().unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::copy(&path, folder.path().join("rank-0-of-1.safetensors")).unwrap();
        let restored =
            SavedSession::open(folder.path()).and_then(|saved| saved.restore(model.clone(), 4));
        assert_eq!(
            restored.is_ok(),
            name.starts_with("good_"),
            "{name}: {restored:?}"
        );
    }
    for path in files("fuzz/corpus/heads") {
        let name = path.file_name().unwrap().to_str().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("heads.safetensors");
        fs::copy(&path, &file).unwrap();
        let loaded =
            HeadsFile::open(&file, &config).and_then(|file| file.load(FloatDType::F32, &device));
        assert_eq!(
            loaded.is_ok(),
            name.starts_with("good_"),
            "{name}: {loaded:?}"
        );
    }
}

/// Every fuzz target starts from seeds.
#[test]
fn every_fuzz_target_has_seeds() {
    for path in files("fuzz/fuzz_targets") {
        let target = path.file_stem().unwrap().to_str().unwrap();
        assert!(!files(&format!("fuzz/corpus/{target}")).is_empty());
    }
}

/// Windows cannot check a tree out that has such a name.
#[test]
fn no_file_has_a_name_that_windows_reserves() {
    let refused = |name: &str| {
        let stem = name.split('.').next().unwrap_or(name);
        let stem = stem.trim_end().to_lowercase();
        let numbered = stem.strip_prefix("com").or(stem.strip_prefix("lpt"));
        matches!(stem.as_str(), "con" | "prn" | "aux" | "nul")
            || numbered
                .is_some_and(|rest| rest.len() == 1 && rest != "0" && rest.parse::<u8>().is_ok())
            || name.ends_with(['.', ' '])
            || name.contains(|c: char| c.is_control() || "<>:\"/\\|?*".contains(c))
    };
    for name in [
        "nul", "NUL.txt", "aux.rs", "com1", "lpt9.x", "a.", "a ", "a:b", "a\\b", "a?",
    ] {
        assert!(refused(name), "{name}");
    }
    for name in [
        "null",
        "console.rs",
        "com",
        "com0",
        "command",
        ".gitignore",
        "a.b.c",
        "a b",
    ] {
        assert!(!refused(name), "{name}");
    }

    let mut folders = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR"))];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy();
            // What git leaves alone: builds, and itself.
            if matches!(&*name, "target" | ".git" | "__pycache__") {
                continue;
            }
            assert!(!refused(&name), "{}", path.display());
            seen += 1;
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            }
        }
    }
    assert!(seen > 100, "{seen} files");
}
