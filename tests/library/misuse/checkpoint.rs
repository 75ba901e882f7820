//! Paths, names and files that are not what they should be.

use std::path::Path;
use std::time::Duration;

use burn::tensor::{Device, FloatDType};
use burn_apb::checkpoint::hub::{FetchFrom, Hub, Spec, cache_dir, fetch, fetch_with, resolve};
use burn_apb::checkpoint::{
    Checkpoint, FileError, LoadOptions, ModelSource, Progress, Quantization, UnfinishedFile,
    convert, keep_quantized, load, module_path, quantize, resolve_tying, write_file,
};
use burn_apb::model::{Architecture, DecoderConfig};

use super::{Calls, copy, fixture};

const PATHS: [&str; 6] = ["", "/", "/nowhere/x", "\u{0}", "Cargo.toml", "tests"];

#[test]
fn checkpoint() {
    let mut calls = Calls::default();
    let device = Device::flex();
    for path in PATHS {
        calls.refused("checkpoint::Checkpoint::open", || Checkpoint::open(path));
        calls.refused("checkpoint::ModelSource::open", || {
            ModelSource::open(path)?.tokenizer()
        });
        calls.refused("checkpoint::convert", || {
            convert(path, "/proc/nowhere/x", FloatDType::F64, &mut |_| ())
        });
    }
    for &to in Quantization::ALL {
        for path in PATHS {
            calls.refused("checkpoint::quantize", || {
                quantize(path, "/proc/nowhere/x", to, &mut |_| ())
            });
        }
        for out in ["", "/", "/proc/nowhere/x", "\u{0}", "tests"] {
            calls.refused("checkpoint::quantize", || {
                quantize(fixture("models/llama-gqa"), out, to, &mut |_| ())
            });
        }
    }
    for path in ["", "/", "/proc/nowhere/x", "\u{0}"] {
        calls.refused("checkpoint::write_file", || {
            write_file(Path::new(path), |_| Ok::<(), FileError>(()))
        });
        calls.refused("checkpoint::UnfinishedFile::create", || {
            UnfinishedFile::create(Path::new(path)).map(|_| ())?;
            // Some systems only find out when it is renamed.
            Err::<(), _>(FileError::at(Path::new(path))(std::io::Error::other(
                "not created where it should be",
            )))
        });
    }
    calls.call("checkpoint::FileError::at", || {
        FileError::at(Path::new(""))(std::io::Error::other(""))
    });
    calls.call("error_path", || {
        assert_eq!(burn_apb::error_path(&std::fmt::Error), None);
    });
    let folder = fixture("models/llama-gqa");
    let checkpoint = Checkpoint::open(&folder).expect("the model");
    for name in ["", "model.embed_tokens.weigth", "\u{0}"] {
        calls.call("checkpoint::Checkpoint::info", || {
            checkpoint.info(name).is_some()
        });
        calls.refused("checkpoint::Checkpoint::read", || {
            checkpoint.read(name, FloatDType::F32)
        });
        calls.refused("checkpoint::Checkpoint::check_finite", || {
            checkpoint.check_finite(name)
        });
        calls.call("checkpoint::module_path", || module_path(name));
    }
    let stored = checkpoint.tensors().next().expect("a tensor").name.clone();
    for dtype in [FloatDType::F64, FloatDType::Flex32] {
        calls.refused("checkpoint::Checkpoint::read", || {
            checkpoint.read(&stored, dtype)
        });
        calls.refused("checkpoint::LoadOptions::new", || {
            let config = DecoderConfig::new(Architecture::Llama, 8, 8, 8, 1, 1, 1, 8);
            let options = LoadOptions::new(dtype);
            load(
                config.init(&device),
                &checkpoint,
                options,
                module_path,
                &mut |_| (),
            )
        });
    }
    for strict in [true, false] {
        calls.refused("checkpoint::load", || {
            let config = DecoderConfig::new(Architecture::Llama, 8, 8, 8, 1, 1, 1, 8);
            let options = LoadOptions::new(FloatDType::F32).with_strict(strict);
            load(
                config.init(&device),
                &checkpoint,
                options,
                |_| String::new(),
                &mut |_| (),
            )
        });
    }
    calls.call("checkpoint::Checkpoint::quantization", || {
        checkpoint.quantization()
    });
    for dequantize in [true, false] {
        calls.call("checkpoint::Checkpoint::loaded_bytes", || {
            let options = LoadOptions::new(FloatDType::F64).with_dequantize(dequantize);
            checkpoint.loaded_bytes(options)
        });
    }
    calls.call("checkpoint::keep_quantized", || {
        let config = DecoderConfig::new(Architecture::Qwen3, 0, 0, 0, 0, 0, 0, 0);
        keep_quantized(config.init(&device), &checkpoint)
    });
    calls.tried.extend([
        "checkpoint::LoadOptions::with_dequantize",
        "checkpoint::LoadOptions::with_strict",
    ]);
    calls.call("checkpoint::resolve_tying", || {
        let config = DecoderConfig::new(Architecture::Qwen3, 0, 0, 0, 0, 0, 0, 0);
        resolve_tying(&checkpoint, &config, FloatDType::F64)
    });
    calls.call("checkpoint::Progress::new", || {
        Progress::new("", u64::MAX, 0)
    });
    calls.refused("checkpoint::ModelSource::open", || {
        let folder = copy("models/llama-gqa");
        std::fs::write(folder.path().join("config.json"), "\u{0}").expect("written");
        burn_apb::ModelText::load(&ModelSource::open(folder.path())?)
            .map_err(Box::<dyn std::error::Error>::from)
    });

    // No hub is asked: names that are none, and a hub that is not there.
    let cache = tempfile::tempdir().expect("a folder");
    let nowhere = || {
        Hub::from_env()
            .with_cache(cache.path())
            .with_endpoint("http://127.0.0.1:1")
            .with_token(Some("\n"))
            .with_symlinks(false)
            .with_timeouts(Duration::ZERO, Duration::ZERO)
    };
    for name in [
        "",
        "/",
        "a/b/c",
        "../x",
        "a//b",
        "a/b@",
        "a/b@../../x",
        "\u{0}/\u{0}",
    ] {
        calls.refused("checkpoint::hub::Spec::parse", || Spec::parse(name));
        calls.refused("checkpoint::hub::resolve", || resolve(name, &mut |_| ()));
        calls.refused("checkpoint::hub::fetch", || {
            fetch(name, None, FetchFrom::Hub, &mut |_| ())
        });
    }
    let spec = Spec::parse("a/b").expect("a name");
    calls.refused("checkpoint::hub::Hub::resolve", || {
        nowhere().resolve(&spec, &mut |_| ())
    });
    calls.refused("checkpoint::hub::Hub::with_offline", || {
        nowhere().with_offline(true).resolve(&spec, &mut |_| ())
    });
    calls.refused("checkpoint::hub::Hub::config", || nowhere().config(&spec));
    calls.refused("checkpoint::hub::Hub::config", || {
        nowhere().with_offline(true).config(&spec)
    });
    for endpoint in ["", "no address", "ftp://x", "http://", "file:///etc"] {
        calls.refused("checkpoint::hub::Hub::with_endpoint", || {
            nowhere()
                .with_endpoint(endpoint)
                .resolve(&spec, &mut |_| ())
        });
    }
    for folder in ["", "/proc/nowhere", "\u{0}"] {
        calls.refused("checkpoint::hub::Hub::with_cache", || {
            nowhere().with_cache(folder).resolve(&spec, &mut |_| ())
        });
        calls.refused("checkpoint::hub::fetch_with", || {
            let to = Some(Path::new(folder));
            fetch_with("a/b", to, FetchFrom::Hub, &nowhere(), &mut |_| ())
        });
    }
    calls.tried.extend([
        "checkpoint::hub::Hub::with_token",
        "checkpoint::hub::Hub::with_symlinks",
        "checkpoint::hub::Hub::with_timeouts",
    ]);
    calls.call("cache_dir", cache_dir);
    calls.tried.remove("cache_dir");
    calls.finish(&["checkpoint", "error_path"], &[]);
}
