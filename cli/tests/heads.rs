//! Retaining heads: loaded beside their models, converted from PyTorch files, and refused.
//!
//! `tests/fixtures/heads/` holds PyTorch files written by `make.py` there: `good/`, and `hostile/`
//! with one file for each thing that can be wrong.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use burn::tensor::{DType, Device, Distribution, FloatDType, Tensor, activation};
use burn_apb::apb::heads::{
    HEADS_FORMAT, HEADS_MODEL, HeadsError, HeadsFault, HeadsFile, HeadsInfo, RetainingHeads,
    RetainingHeadsConfig, convert_heads,
};
use burn_apb::checkpoint::Checkpoint;
use burn_apb::checkpoint::ModelSource;
use burn_apb::model::DecoderConfig;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};

#[path = "../../tests/common/largest_request.rs"]
mod largest_request;

use largest_request::assert_modest;

/// The header of the heads at `path`.
fn header(path: impl AsRef<Path>, model: &DecoderConfig) -> HeadsInfo {
    HeadsFile::open(path, model).unwrap().info().clone()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .join("tests/fixtures")
        .join(name)
}

/// Models with heads, and the dimensions that their configurations say: layers, heads, key/value
/// heads, width of a head.
const MODELS: [(&str, [usize; 4]); 4] = [
    ("llama-gqa", [3, 4, 2, 16]),
    ("llama3-tied", [4, 8, 2, 16]),
    ("qwen2-bias", [3, 6, 2, 16]),
    ("qwen3-qknorm", [4, 4, 2, 32]),
];

fn model(name: &str) -> DecoderConfig {
    DecoderConfig::from_json_file(&fixture("models").join(name).join("config.json")).unwrap()
}

fn heads_file(name: &str) -> PathBuf {
    fixture("models").join(name).join("heads.safetensors")
}

fn random(shape: [usize; 3], device: &Device) -> Tensor<3> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.cast(DType::F32).into_data().try_to_vec().unwrap()
}

fn worst(a: Vec<f32>, b: Vec<f32>) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(&b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

/// The matrix of a file as f32, with nothing of this crate between.
fn matrix(file: &SafeTensors, name: &str, device: &Device) -> Tensor<2> {
    let view = file.tensor(name).unwrap();
    assert_eq!(view.dtype(), Dtype::F32);
    let numbers: Vec<f32> = view
        .data()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    let shape = [view.shape()[0], view.shape()[1]];
    Tensor::<1>::from_floats(numbers.as_slice(), device).reshape(shape)
}

#[test]
fn heads_are_loaded_beside_their_models_and_score_as_their_formula_says() {
    let device = Device::flex();
    for (name, [layers, heads, kv_heads, head_dim]) in MODELS {
        let (config, path) = (model(name), heads_file(name));
        let info = header(&path, &config);
        assert_eq!((info.layers, info.width), (layers, 32), "{name}");
        assert_eq!(info.dtypes, [FloatDType::F32]);
        assert_eq!(info.base_model, None);
        let folder = path.parent().unwrap();
        assert_eq!(header(folder, &config), info);

        let bytes = fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let loaded = RetainingHeads::load(&path, &config, FloatDType::F32, &device).unwrap();
        let half = RetainingHeads::load(&path, &config, FloatDType::BF16, &device).unwrap();
        assert_eq!(loaded.layers.len(), layers);
        assert_eq!(half.layers[0].fc1.weight.val().dtype(), DType::BF16);
        for rows in [1, 37] {
            let q = random([2, rows, heads * head_dim], &device);
            let [k, v] = [0, 1].map(|_| random([2, rows, kv_heads * head_dim], &device));
            for layer in 0..layers {
                let [fc1, fc2] = [1, 2].map(|m| {
                    let name = format!("model.layers.{layer}.self_attn.fc{m}.weight");
                    matrix(&file, &name, &device)
                });
                let all = Tensor::cat(vec![q.clone(), k.clone(), v.clone()], 2);
                let hidden = all.matmul(fc1.transpose().unsqueeze());
                let expected = activation::silu(hidden).matmul(fc2.transpose().unsqueeze());
                let expected = values(expected.swap_dims(1, 2));

                let score = |heads: &RetainingHeads| {
                    let head = &heads.layers[layer];
                    head.score(q.clone(), k.clone(), v.clone()).unwrap()
                };
                let found = score(&loaded);
                assert_eq!(found.dims(), [2, kv_heads, rows]);
                assert_eq!(found.dtype(), DType::F32);
                let scale = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                let difference = worst(values(found), expected.clone());
                assert!(difference <= 1e-5 * scale, "{name} {layer}: {difference}");
                let difference = worst(values(score(&half)), expected);
                assert!(
                    // One row may score near zero.
                    difference > 0.0 && difference <= 0.02 * scale.max(0.5),
                    "{difference}"
                );
            }
        }
    }
}

#[test]
fn random_heads_have_the_width_asked_for() {
    let config = model("qwen2-bias");
    let heads = RetainingHeadsConfig::new().init(&config, &Device::flex());
    assert_eq!(heads.layers.len(), 3);
    // `[d_input, d_output]` views of what files store.
    assert_eq!(heads.layers[2].fc1.weight.val().dims(), [160, 256]);
    assert_eq!(heads.layers[2].fc2.weight.val().dims(), [256, 2]);
    assert!(heads.layers[0].fc1.bias.is_none() && heads.layers[0].fc2.bias.is_none());
}

#[test]
fn heads_of_another_model_are_refused_before_a_weight_is_read() {
    let refused = |file: &str, config: &DecoderConfig| {
        let path = heads_file(file);
        let error = HeadsFile::open(&path, config).unwrap_err();
        let loaded = RetainingHeads::load(&path, config, FloatDType::F32, &Device::flex());
        assert_eq!(loaded.unwrap_err().to_string(), error.to_string());
        assert!(error.to_string().contains("heads.safetensors"), "{error}");
        error
    };
    let mut config = model("llama-gqa");
    let error = refused("qwen3-qknorm", &config);
    assert!(
        matches!(
            error,
            HeadsError::OtherShape {
                expected: 3,
                found: 4,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("a model of 4 layers, 2 key/value heads"),
        "{error}"
    );
    let error = refused("qwen2-bias", &config);
    assert!(
        matches!(
            error,
            HeadsError::OtherShape {
                expected: 128,
                found: 160,
                ..
            }
        ),
        "{error}"
    );
    // As many projected columns, otherwise divided.
    (config.num_attention_heads, config.num_key_value_heads) = (6, 1);
    let error = refused("llama-gqa", &config);
    assert!(
        matches!(
            error,
            HeadsError::OtherShape {
                expected: 1,
                found: 2,
                ..
            }
        ),
        "{error}"
    );
}

/// Type and shape of a file's tensors by their names.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>)>;

/// Heads for `llama-gqa` as a file, edited.
fn heads_with(
    edit: impl FnOnce(&mut Tensors),
    metadata: &[(&str, &str)],
) -> Result<(), HeadsError> {
    let mut tensors = Tensors::new();
    for layer in 0..3 {
        let name = |m| format!("model.layers.{layer}.self_attn.fc{m}.weight");
        tensors.insert(name(1), (Dtype::F32, vec![5, 128]));
        tensors.insert(name(2), (Dtype::F32, vec![2, 5]));
    }
    edit(&mut tensors);
    let zeros = vec![0u8; 8 * 128 * 8];
    let views = tensors.into_iter().map(|(name, (dtype, shape))| {
        let len = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        (name, TensorView::new(dtype, shape, &zeros[..len]).unwrap())
    });
    let metadata: HashMap<String, String> = metadata
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("heads.safetensors");
    // `serialize` writes no JSON for an empty map without tensors.
    let metadata = (!metadata.is_empty()).then_some(metadata);
    fs::write(&path, serialize(views, metadata).unwrap()).unwrap();
    HeadsFile::open(&path, &model("llama-gqa")).map(|_| ())
}

/// Heads may name the one model they are for; another of the same shape is then refused.
#[test]
fn heads_that_name_another_model_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = ModelSource::open(fixture("models").join("llama-gqa")).unwrap();
    let bytes = fs::read(heads_file("llama-gqa")).unwrap();
    let heads = SafeTensors::deserialize(&bytes).unwrap();
    let inspected = |fingerprint: &str| {
        let metadata = HashMap::from([
            (HEADS_MODEL.to_string(), fingerprint.to_string()),
            ("base_model".to_string(), "its sister".to_string()),
        ]);
        let path = folder.path().join("heads.safetensors");
        fs::write(&path, serialize(heads.tensors(), Some(metadata)).unwrap()).unwrap();
        HeadsFile::open(&path, &model("llama-gqa"))
            .unwrap()
            .check_model(&source)
    };
    assert!(inspected(&source.fingerprint().unwrap()).is_ok());
    let refused = inspected("0123").unwrap_err();
    assert!(
        matches!(refused, HeadsError::OtherModel { .. }),
        "{refused}"
    );
    assert!(refused.to_string().contains("its sister"), "{refused}");
}

#[test]
fn heads_that_are_not_a_whole_set_are_refused() {
    const FC1: &str = "model.layers.1.self_attn.fc1.weight";
    const FC2: &str = "model.layers.1.self_attn.fc2.weight";
    heads_with(|_| {}, &[]).unwrap();
    heads_with(|_| {}, &[("format", HEADS_FORMAT), ("width", "5")]).unwrap();

    let fault = |edit: fn(&mut Tensors)| match heads_with(edit, &[]) {
        Err(HeadsError::Fault { fault, .. }) => fault,
        other => panic!("{other:?}"),
    };
    let missing = fault(|t| drop(t.remove(FC2)));
    assert_eq!(
        missing,
        HeadsFault::Missing {
            names: vec![FC2.into()]
        }
    );
    assert_eq!(fault(|t| t.clear()), HeadsFault::None);
    for edit in [
        (|t| t.get_mut(FC1).unwrap().1 = vec![6, 128]) as fn(&mut Tensors),
        |t| t.get_mut(FC1).unwrap().1 = vec![5, 64],
        |t| t.get_mut(FC2).unwrap().1 = vec![2, 6],
        |t| t.get_mut(FC2).unwrap().1 = vec![3, 5],
        |t| t.get_mut(FC2).unwrap().1 = vec![10],
    ] {
        let found = fault(edit);
        assert!(matches!(found, HeadsFault::Shape { .. }), "{found}");
        assert!(found.to_string().contains("layers.1."), "{found}");
    }

    let other = heads_with(
        |t| drop(t.insert("lm_head.weight".into(), (Dtype::F32, vec![2, 2]))),
        &[],
    );
    let other = other.unwrap_err();
    assert!(
        matches!(&other, HeadsError::Unexpected { names, .. } if names.len() == 1),
        "{other}"
    );
    assert!(
        other.to_string().contains("lm_head.weight") && other.to_string().contains("convert-heads")
    );
    let whole = heads_with(|t| t.get_mut(FC1).unwrap().0 = Dtype::I64, &[]).unwrap_err();
    assert!(matches!(whole, HeadsError::StoredType { .. }), "{whole}");
    let later = heads_with(|_| {}, &[("format", "apb-retaining-heads-2")]).unwrap_err();
    assert!(matches!(later, HeadsError::Format { .. }), "{later}");
    let width = heads_with(|_| {}, &[("width", "6")]).unwrap_err();
    assert!(
        matches!(width, HeadsError::Width { expected: 5, .. }),
        "{width}"
    );

    let zeros = "[0,0],[0,0],[0,0]";
    let scale = |std: &str| {
        let text = format!("{{\"mean\":[{zeros}],\"std\":[{std}]}}");
        heads_with(|_| {}, &[("label_scale", &text)])
    };
    scale("[1,1],[2,2],[3,3]").unwrap();
    for hostile in [
        zeros,
        "[1,1],[1,1]",
        "[1],[1],[1]",
        "[1e39,1],[1,1],[1,1]",
        "1",
        "]]",
    ] {
        let refused = scale(hostile).unwrap_err();
        assert!(
            matches!(refused, HeadsError::LabelScale { .. }),
            "{refused}"
        );
        assert!(refused.to_string().contains("label_scale"), "{refused}");
    }

    let layers = heads_with(
        |t| t.retain(|name, _| !name.contains("layers.2.")),
        &[("base_model", "org/small")],
    );
    let layers = layers.unwrap_err();
    assert!(
        layers.to_string().contains("made for org/small (2 layers"),
        "{layers}"
    );
}

#[test]
fn places_without_heads_are_refused() {
    let config = model("llama-gqa");
    let error = |path: &Path| HeadsFile::open(path, &config).unwrap_err();
    let missing = error(Path::new("/nowhere/heads.safetensors"));
    assert!(matches!(missing, HeadsError::NotFound { .. }), "{missing}");

    let folder = tempfile::tempdir().unwrap();
    let empty = error(folder.path());
    assert!(matches!(empty, HeadsError::NoHeadsFile { .. }), "{empty}");
    fs::write(folder.path().join("pytorch_model.bin"), "PK").unwrap();
    let bin = error(folder.path()).to_string();
    assert!(bin.contains("convert-heads` on pytorch_model.bin"), "{bin}");

    // PyTorch files are read, not run, whatever they are called.
    for bad in ["hostile/legacy.pt", "hostile/builtins_eval.pt"] {
        let found = error(&fixture("heads").join(bad));
        assert!(matches!(found, HeadsError::Convert(_)), "{found}");
        let renamed = folder.path().join("renamed.safetensors");
        fs::copy(fixture("heads").join(bad), &renamed).unwrap();
        assert!(matches!(error(&renamed), HeadsError::Convert(_)));
    }
    let text = folder.path().join("notes.txt");
    fs::write(&text, "x").unwrap();
    assert!(matches!(error(&text), HeadsError::NotSafetensors { .. }));
    let damaged = folder.path().join("damaged.safetensors");
    fs::write(&damaged, "these are no tensors").unwrap();
    let damaged = error(&damaged);
    assert!(matches!(damaged, HeadsError::Weights(_)), "{damaged}");
}

/// A model that the heads of `tests/fixtures/heads` would be for.
fn converted_model() -> DecoderConfig {
    let mut config = model("llama-gqa");
    config.num_hidden_layers = 2;
    config.head_dim = 4;
    config
}

/// The elements of the `k`-th tensor of the fixtures, as `make.py` says.
fn expected(k: usize, len: usize) -> Vec<f32> {
    (0..len)
        .map(|j| (((7 * j + 13 * k) % 64) as f32 - 32.0) / 8.0)
        .collect()
}

#[test]
fn published_files_load_as_they_are() {
    let (device, config) = (Device::flex(), converted_model());
    let published = fixture("heads/good/f32.pt");
    let folder = tempfile::tempdir().unwrap();
    let converted = folder.path().join("heads.safetensors");
    convert_heads(&published, &converted, None).unwrap();
    let load = |path: &Path| RetainingHeads::load(path, &config, FloatDType::F32, &device).unwrap();
    let (direct, converted) = (load(&published), load(&converted));
    for (direct, converted) in direct.layers.iter().zip(&converted.layers) {
        for (a, b) in [(&direct.fc1, &converted.fc1), (&direct.fc2, &converted.fc2)] {
            assert_eq!(values(a.weight.val()), values(b.weight.val()));
        }
    }
    // Another model is refused under the name the user gave.
    let other = HeadsFile::open(&published, &model("qwen2-bias")).unwrap_err();
    assert!(other.to_string().contains("f32.pt"), "{other}");
}

/// An open file is shared by threads, and converted when it is opened and not again.
#[test]
fn a_pytorch_file_is_converted_once() {
    fn shared<T: Clone + Send + Sync>(_: &T) {}
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("heads.pt");
    fs::copy(fixture("heads/good/f32.pt"), &path).unwrap();
    let file = HeadsFile::open(&path, &converted_model()).unwrap();
    shared(&file);
    fs::remove_file(&path).unwrap();
    assert_eq!((file.path(), file.info().width), (path.as_path(), 6));
    for dtype in [FloatDType::F32, FloatDType::BF16] {
        let heads = file.load(dtype, &Device::flex()).unwrap();
        assert_eq!(heads.layers.len(), 2);
    }
}

#[test]
fn pytorch_files_become_the_same_heads() {
    for (name, dtype, ignored) in [
        ("f32.pt", FloatDType::F32, &[][..]),
        ("f16.pt", FloatDType::F16, &[]),
        ("bf16.pt", FloatDType::BF16, &[]),
        ("shards", FloatDType::BF16, &[]),
        ("views.pt", FloatDType::F32, &[]),
        ("nested.pt", FloatDType::F32, &[]),
        ("no_checksums.pt", FloatDType::F32, &[]),
        (
            "model.pt",
            FloatDType::F32,
            &["module.model.embed_tokens.weight", "module.steps"],
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("heads.safetensors");
        let input = fixture("heads/good").join(name);
        let report = convert_heads(&input, &out, Some("org/small")).expect(name);
        assert_eq!(
            (report.tensors, report.layers, report.width, report.kv_heads),
            (4, 2, 6, 2)
        );
        assert_eq!(report.ignored, ignored, "{name}");
        assert_eq!(report.path, out);

        let checkpoint = Checkpoint::open(&out).unwrap();
        for (k, (layer, m)) in [(0, 1), (0, 2), (1, 1), (1, 2)].into_iter().enumerate() {
            let tensor = format!("model.layers.{layer}.self_attn.fc{m}.weight");
            let info = checkpoint.info(&tensor).expect("named as the heads are");
            assert_eq!(info.shape, if m == 1 { [6, 32] } else { [2, 6] });
            assert_eq!(info.stored.to_string(), format!("{dtype:?}"), "{name}");
            let data = checkpoint.read(&tensor, FloatDType::F32).unwrap();
            let found: Vec<f32> = data.try_into_vec().unwrap();
            assert_eq!(found, expected(k, found.len()), "{name} {tensor}");
        }
        // What Python's safetensors reads too.
        SafeTensors::deserialize(&fs::read(&out).unwrap()).unwrap();

        let info = header(&out, &converted_model());
        assert_eq!((info.width, info.dtypes), (6, vec![dtype]));
        assert_eq!(info.base_model.as_deref(), Some("org/small"));
        assert_eq!(info.source.as_deref(), Some(name));
        assert_eq!(info.metadata["format"], HEADS_FORMAT);
        RetainingHeads::load(
            folder.path(),
            &converted_model(),
            FloatDType::F32,
            &Device::flex(),
        )
        .unwrap();

        // The result converts to itself, and keeps the name of its model.
        let again = folder.path().join("again.safetensors");
        convert_heads(&out, &again, None).unwrap();
        let info = header(&again, &converted_model());
        assert_eq!(info.base_model.as_deref(), Some("org/small"));
        let tensors = |path: &Path| {
            let bytes = fs::read(path).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            let mut tensors: Vec<_> = file
                .iter()
                .map(|(n, v)| (n.to_string(), v.data().to_vec()))
                .collect();
            tensors.sort();
            tensors
        };
        assert_eq!(tensors(&out), tensors(&again));
    }
}

/// Every file of `hostile/`, and what its refusal says.
const HOSTILE: [(&str, &str); 50] = [
    ("beyond_storage.pt", "declares 192"),
    ("bias.pt", "fc1.bias"),
    ("builtins_eval.pt", "builtins.eval"),
    ("deep.pt", "nesting"),
    ("dtype_f64.pt", "stored as F64"),
    ("dtype_i64.pt", "stored as I64"),
    ("empty.pt", "found neither"),
    ("empty_dictionary.pt", "found none"),
    ("entry_claims_4_gib.pt", "claims 4294967280 bytes"),
    ("expanded.pt", "claims 4294967296 bytes"),
    ("fc2_missing.pt", "model.layers.1.self_attn.fc2.weight"),
    ("inst.pt", "byte 0x69"),
    ("layer_missing.pt", "model.layers.1.self_attn.fc1.weight"),
    ("layers_differ.pt", "as in layer 0"),
    ("legacy.pt", "before version 1.6"),
    ("memo_bomb.pt", "memo bomb"),
    ("memo_missing.pt", "memo reference 7"),
    ("no_heads.pt", "found none"),
    ("no_stop.pt", "breaks off"),
    ("not_a_dictionary.pt", "damaged"),
    ("offset_beyond_storage.pt", "declares 192"),
    ("offset_overflows.pt", "overflows"),
    ("one_axis.pt", "[192]"),
    ("os_system.pt", "os.system"),
    ("persistent_id_short.pt", "persistent id"),
    (
        "prefixes_collide.pt",
        "are both model.layers.0.self_attn.fc1.weight",
    ),
    ("shape_huge.pt", "claims 4294967296 bytes"),
    ("shape_negative.pt", "non-negative"),
    ("shape_overflows.pt", "overflows"),
    ("shard_lacks_a_tensor", "which does not hold it"),
    ("shard_missing", "which is not in the folder"),
    ("shard_outside", "would lead elsewhere"),
    ("shard_twice", "are both"),
    ("short_arguments.pt", "at least 6 arguments"),
    ("stack_global.pt", "ShortBinUnicode"),
    ("stack_underflow.pt", "underflow"),
    ("state_calls.pt", "subprocess.Popen"),
    ("storage_claims_more.pt", "only 100 are available"),
    ("storage_missing.pt", "'archive/data/17'"),
    ("storage_outside.pt", "'archive/data/../version'"),
    ("storage_type_unknown.pt", "torch.QInt8Storage"),
    ("stride_of_one_axis.pt", "stride rank 1"),
    ("tar.pt", "found neither"),
    ("text.pt", "found neither"),
    ("text_of_4_gib.pt", "breaks off"),
    ("truncated.pt", "download it again"),
    ("two_pickles.pt", "found 2"),
    ("unpacks_to_more.pt", "claims 1048576 bytes"),
    ("zip_without_pickle.pt", "found 0"),
    ("nowhere.pt", "no such file"),
];

#[test]
fn every_hostile_pytorch_file_is_refused_and_nothing_written() {
    let hostile = fixture("heads/hostile");
    for entry in fs::read_dir(&hostile).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            HOSTILE.iter().any(|(known, _)| *known == name),
            "{name} is not in the table"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("heads.safetensors");
    for (name, said) in HOSTILE {
        let error = convert_heads(hostile.join(name), &out, None)
            .expect_err(name)
            .to_string();
        assert!(error.contains(said), "{name}: {error}");
        let whole = error.contains(&hostile.join(name).display().to_string());
        assert!(
            whole && error.len() > hostile.as_os_str().len() + 40,
            "{name}: {error}"
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{name}");
    }
    assert!(!Path::new("/tmp/owned").exists());
    assert_modest("PyTorch files");
}

/// Lengths that a broken download can leave, and every byte turned into another: converted or
/// refused, never a panic, never much memory, never half a file.
#[test]
fn no_damage_makes_a_pytorch_file_dangerous() {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (
        folder.path().join("heads.pt"),
        folder.path().join("heads.safetensors"),
    );
    let good = fs::read(fixture("heads/good/f16.pt")).unwrap();
    for len in (0..good.len()).step_by(7) {
        fs::write(&path, &good[..len]).unwrap();
        convert_heads(&path, &out, None).expect_err("a truncated file");
        assert!(!out.exists());
    }
    let find = |part: &[u8]| good.windows(part.len()).position(|w| w == part).unwrap();
    let elements = find(b"archive/data/0")..find(b"archive/data/1");
    let (mut converted, mut refused) = (0, 0);
    for at in 0..good.len() {
        // The elements are not the reader's business, so a few of them do.
        if elements.contains(&at) && at % 16 > 0 {
            continue;
        }
        let mut bytes = good.clone();
        bytes[at] = [0, good[at] ^ 1, good[at] ^ 0x80, 0xff][at % 4];
        fs::write(&path, &bytes).unwrap();
        match convert_heads(&path, &out, None) {
            Ok(_) => {
                converted += 1;
                fs::remove_file(&out).unwrap();
            }
            Err(_) => {
                refused += 1;
                assert!(!out.exists());
            }
        }
    }
    assert!(
        converted > 0 && refused > good.len() / 4,
        "{converted} {refused}"
    );
    assert_modest("PyTorch files");
}

/// Runs `apb` in a folder.
fn apb(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_apb"))
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap()
}

#[test]
fn the_command_converts_and_reports() {
    let folder = tempfile::tempdir().unwrap();
    let input = fixture("heads/good/model.pt");
    let input = input.to_str().unwrap();
    let output = apb(
        folder.path(),
        &["convert-heads", input, "h.safetensors", "--json"],
    );
    assert!(output.status.success(), "{output:?}");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = serde_json::json!({
        "out": "h.safetensors", "tensors": 4, "layers": 2, "width": 6, "ignored": 2
    });
    assert_eq!(found, expected);
    let output = apb(folder.path(), &["convert-heads", input, "h.safetensors"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        text,
        "h.safetensors: 4 tensors, 2 layers, width 6, 2 key/value heads\n  passed over 2: \
         module.model.embed_tokens.weight, module.steps\n"
    );
}

#[test]
fn the_command_refuses_with_code_2_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for (name, said) in HOSTILE {
        let input = fixture("heads/hostile").join(name);
        let output = apb(
            folder.path(),
            &["convert-heads", input.to_str().unwrap(), "h.safetensors"],
        );
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{name}: {text}");
        assert!(
            text.contains(said) && !text.contains("panicked"),
            "{name}: {text}"
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{name}");
    }
    let input = fixture("heads/good/f32.pt");
    let output = apb(
        folder.path(),
        &["convert-heads", input.to_str().unwrap(), "."],
    );
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("./heads.safetensors"), "{text}");
}

/// The heads that ship are whole, small, for the shapes their card names, and for any weights of them.
#[test]
fn the_checkpoint_that_ships_is_what_its_card_says() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .join("checkpoints/smollm2-135m-instruct");
    let model = DecoderConfig::from_json(
        r#"{
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
            "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100000,
            "tie_word_embeddings": true
        }"#,
    )
    .unwrap();
    let info = header(&folder, &model);
    assert_eq!((info.layers, info.width), (30, 160));
    assert_eq!(info.dtypes, [FloatDType::BF16]);
    assert!(!info.metadata.contains_key(HEADS_MODEL));
    let named = info.base_model.unwrap();
    assert_eq!(named, "HuggingFaceTB/SmolLM2-135M-Instruct");
    let bytes = fs::metadata(folder.join("heads.safetensors"))
        .unwrap()
        .len();
    assert!(bytes <= 10_000_000, "{bytes}");
    let card = fs::read_to_string(folder.join("README.md")).unwrap();
    let metrics: serde_json::Value = serde_json::from_str(&info.metadata["metrics"]).unwrap();
    for compressor in ["retaining", "query-aware", "random"] {
        let recall = metrics["held_out"][compressor]["recall"].as_f64().unwrap();
        assert!(card.contains(&format!("{recall:.3}")), "{recall}");
    }
}
