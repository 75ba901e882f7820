//! Checkpoints into modules: what is compared, what is shared, what is refused.

use std::collections::HashMap;
use std::path::Path;

use burn::module::Module;
use burn::nn::{
    Embedding, EmbeddingConfig, Linear, LinearConfig, LinearLayout, RmsNorm, RmsNormConfig,
};
use burn::tensor::{DType, Device, FloatDType, Tensor};
use burn_apb::model::weights::{Checkpoint, StoredType, WeightsError, load, module_path};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

const HIDDEN: usize = 8;
const INNER: usize = 12;
const VOCAB: usize = 16;

#[derive(Module, Debug)]
struct Mlp {
    up_proj: Linear,
    down_proj: Linear,
}

#[derive(Module, Debug)]
struct Block {
    input_layernorm: RmsNorm,
    mlp: Mlp,
}

/// The shape of this crate's decoder in small: nested modules, a `Vec`, an optional head, and
/// projections stored as `[d_output, d_input]`.
#[derive(Module, Debug)]
struct Model {
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: RmsNorm,
    lm_head: Option<Linear>,
}

fn linear(input: usize, output: usize, device: &Device) -> Linear {
    LinearConfig::new(input, output)
        .with_bias(false)
        .with_layout(LinearLayout::Col)
        .init(device)
}

fn model(tied: bool) -> Model {
    let device = Device::flex();
    let block = |_| Block {
        input_layernorm: RmsNormConfig::new(HIDDEN).init(&device),
        mlp: Mlp {
            up_proj: linear(HIDDEN, INNER, &device),
            down_proj: linear(INNER, HIDDEN, &device),
        },
    };
    Model {
        embed_tokens: EmbeddingConfig::new(VOCAB, HIDDEN).init(&device),
        layers: (0..2).map(block).collect(),
        norm: RmsNormConfig::new(HIDDEN).init(&device),
        lm_head: (!tied).then(|| linear(HIDDEN, VOCAB, &device)),
    }
}

type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

/// The tensors of `model`, each with values of its own.
fn tensors(tied: bool) -> Tensors {
    let mut shapes = vec![("model.embed_tokens.weight".to_string(), vec![VOCAB, HIDDEN])];
    for i in 0..2 {
        shapes.push((
            format!("model.layers.{i}.input_layernorm.weight"),
            vec![HIDDEN],
        ));
        shapes.push((
            format!("model.layers.{i}.mlp.up_proj.weight"),
            vec![INNER, HIDDEN],
        ));
        shapes.push((
            format!("model.layers.{i}.mlp.down_proj.weight"),
            vec![HIDDEN, INNER],
        ));
    }
    shapes.push(("model.norm.weight".into(), vec![HIDDEN]));
    if !tied {
        shapes.push(("lm_head.weight".into(), vec![VOCAB, HIDDEN]));
    }
    let values =
        |seed: usize, n: usize| (0..n).map(|i| (i * 31 + seed * 17) as f32 / 64.0).collect();
    shapes
        .into_iter()
        .enumerate()
        .map(|(i, (name, shape))| (name, shape.clone(), values(i, shape.iter().product())))
        .collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, v)| v.iter().flat_map(|x| x.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), data)| {
        (
            name.clone(),
            TensorView::new(Dtype::F32, shape.clone(), data).unwrap(),
        )
    });
    serialize_to_file(views, None::<HashMap<String, String>>, path).unwrap();
}

fn folder(tensors: &Tensors) -> (tempfile::TempDir, Checkpoint) {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("model.safetensors"), tensors);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    (folder, checkpoint)
}

fn values(tensor: Tensor<2>) -> Vec<f32> {
    tensor
        .cast(FloatDType::F32)
        .into_data()
        .try_to_vec()
        .unwrap()
}

fn stored(tensors: &Tensors, name: &str) -> Vec<f32> {
    tensors.iter().find(|(n, ..)| n == name).unwrap().2.clone()
}

fn load_silently(
    module: Model,
    checkpoint: &Checkpoint,
    dtype: FloatDType,
) -> Result<Model, WeightsError> {
    load(module, checkpoint, dtype, module_path, &mut |_| {})
}

#[test]
fn fills_every_parameter_and_reports_progress() {
    let tensors = tensors(false);
    let (_folder, checkpoint) = folder(&tensors);
    let mut reports: Vec<(String, u64, u64)> = Vec::new();
    let loaded = load(
        model(false),
        &checkpoint,
        FloatDType::F32,
        module_path,
        &mut |p| {
            reports.push((p.item.to_string(), p.done, p.total));
        },
    )
    .unwrap();

    assert_eq!(
        values(loaded.embed_tokens.weight.val()),
        stored(&tensors, "model.embed_tokens.weight")
    );
    // A projection stored as [d_output, d_input] is used as [d_input, d_output].
    let up = loaded.layers[1].mlp.up_proj.weight.val();
    assert_eq!(up.dims(), [HIDDEN, INNER]);
    assert_eq!(
        values(up.transpose()),
        stored(&tensors, "model.layers.1.mlp.up_proj.weight")
    );
    assert_eq!(
        values(loaded.norm.gamma.val().unsqueeze()),
        stored(&tensors, "model.norm.weight")
    );
    assert_eq!(
        values(loaded.lm_head.unwrap().weight.val().transpose()),
        stored(&tensors, "lm_head.weight")
    );

    let bytes: usize = tensors.iter().map(|(_, _, v)| 4 * v.len()).sum();
    assert_eq!(reports.len(), tensors.len());
    assert_eq!(reports.last().unwrap().1, bytes as u64);
    assert!(reports.iter().all(|(_, _, total)| *total == bytes as u64));
    assert!(
        reports
            .iter()
            .any(|(item, ..)| item == "layers.0.mlp.down_proj.weight")
    );
}

#[test]
fn shares_the_mapped_file_where_the_types_are_equal() {
    let tensors = tensors(false);
    let (_folder, checkpoint) = folder(&tensors);
    let address = |name: &str| {
        let tensor = checkpoint.tensor(name, FloatDType::F32).unwrap();
        tensor.into_bytes().unwrap().as_ptr()
    };
    let expected = (
        address("model.embed_tokens.weight"),
        address("model.layers.0.mlp.up_proj.weight"),
    );
    let loaded = load_silently(model(false), &checkpoint, FloatDType::F32).unwrap();

    // `into_value` leaves one owner, so `into_data` hands out the very buffer the tensor uses.
    let embedding = loaded.embed_tokens.weight.into_value().into_data();
    assert_eq!(embedding.bytes().as_ptr(), expected.0);
    let up = loaded
        .layers
        .into_iter()
        .next()
        .unwrap()
        .mlp
        .up_proj
        .weight
        .into_value();
    assert_eq!(up.transpose().into_data().bytes().as_ptr(), expected.1);
}

#[test]
fn converts_to_the_type_asked_for() {
    let tensors = tensors(true);
    let (_folder, checkpoint) = folder(&tensors);
    for dtype in [FloatDType::F16, FloatDType::BF16] {
        let loaded = load_silently(model(true), &checkpoint, dtype).unwrap();
        let weight = loaded.embed_tokens.weight.val();
        assert_eq!(weight.dtype(), DType::from(dtype));
        let exact = stored(&tensors, "model.embed_tokens.weight");
        for (found, exact) in values(weight).into_iter().zip(exact) {
            assert!(
                (found - exact).abs() <= exact.abs() / 256.0,
                "{found} for {exact}"
            );
        }
    }
    let asked = load_silently(model(true), &checkpoint, FloatDType::F64);
    assert!(matches!(
        asked,
        Err(WeightsError::AskedType {
            found: FloatDType::F64
        })
    ));
}

/// Converting leaves the converted only: the file's own pages go as soon as they are used.
#[cfg(target_os = "linux")]
#[test]
fn what_was_converted_does_not_stay_in_memory_twice() {
    const ELEMENTS: usize = 8 << 20;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(
        &path,
        &vec![("a".into(), vec![ELEMENTS], vec![1.5; ELEMENTS])],
    );
    let checkpoint = Checkpoint::open(&path).unwrap();
    // Bytes of this file that are in this process's memory, by the kernel's account.
    let resident = || -> usize {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps
            .lines()
            .skip_while(|line| !line.ends_with(path.to_str().unwrap()));
        let rss = lines.find(|line| line.starts_with("Rss:")).unwrap();
        1024 * rss
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<usize>()
            .unwrap()
    };
    let shared = checkpoint
        .tensor("a", FloatDType::F32)
        .unwrap()
        .into_bytes()
        .unwrap();
    assert_eq!(
        shared.iter().filter(|&&byte| byte != 0).count(),
        2 * ELEMENTS
    );
    assert!(
        resident() >= 4 * ELEMENTS,
        "the probe does not see the file: {}",
        resident()
    );
    drop(shared);
    let halves = checkpoint
        .tensor("a", FloatDType::F16)
        .unwrap()
        .into_bytes()
        .unwrap();
    assert_eq!(halves.len(), 2 * ELEMENTS);
    assert!(
        resident() <= 1 << 20,
        "{} bytes of the file stayed",
        resident()
    );
    // And what was released reads the same again.
    let again = checkpoint
        .tensor("a", FloatDType::F32)
        .unwrap()
        .into_bytes()
        .unwrap();
    assert_eq!(
        again.iter().filter(|&&byte| byte != 0).count(),
        2 * ELEMENTS
    );
}

/// Used without being changed: the mapped file must not be written through.
#[test]
fn the_file_stays_as_it_is_when_parameters_change() {
    let tensors = tensors(true);
    let (folder, checkpoint) = folder(&tensors);
    let before = std::fs::read(folder.path().join("model.safetensors")).unwrap();
    let loaded = load_silently(model(true), &checkpoint, FloatDType::F32).unwrap();
    let doubled = loaded.embed_tokens.weight.into_value().mul_scalar(2.0);
    assert_eq!(
        values(doubled)[1],
        stored(&tensors, "model.embed_tokens.weight")[1] * 2.0
    );
    assert_eq!(
        std::fs::read(folder.path().join("model.safetensors")).unwrap(),
        before
    );
}

#[test]
fn lists_everything_that_does_not_fit_at_once() {
    let mut tensors = tensors(false);
    tensors.retain(|(name, ..)| name != "model.norm.weight");
    for (name, shape, _) in &mut tensors {
        if name == "model.layers.0.mlp.up_proj.weight" {
            shape.reverse();
        }
        if name == "model.layers.1.mlp.down_proj.weight" {
            *name = "model.layers.1.mlp.down_projection.weight".into();
        }
    }
    let (_folder, checkpoint) = folder(&tensors);
    let Err(WeightsError::Mismatch(mismatch)) =
        load_silently(model(false), &checkpoint, FloatDType::F32)
    else {
        panic!("a checkpoint that does not fit was loaded");
    };
    let missing: Vec<&str> = mismatch
        .missing
        .iter()
        .map(|m| m.parameter.as_str())
        .collect();
    assert_eq!(missing, ["layers.1.mlp.down_proj.weight", "norm.gamma"]);
    assert_eq!(
        mismatch.missing[0].nearest.as_deref(),
        Some("model.layers.1.mlp.down_projection.weight")
    );
    assert_eq!(mismatch.unexpected.len(), 1);
    assert_eq!(
        mismatch.unexpected[0].nearest.as_deref(),
        Some("layers.1.mlp.down_proj.weight")
    );
    assert_eq!(mismatch.shapes.len(), 1);
    assert_eq!(mismatch.shapes[0].expected, [INNER, HIDDEN]);
    assert_eq!(mismatch.shapes[0].found, [HIDDEN, INNER]);
    let text = mismatch.to_string();
    for part in [
        "2 tensors missing",
        "1 tensor unexpected",
        "norm.gamma",
        "down_projection",
        "config.json",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn a_tensor_of_another_type_is_refused_before_anything_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = tensors(true);
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, v)| v.iter().flat_map(|x| x.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), data)| {
        let dtype = if name == "model.norm.weight" {
            Dtype::I32
        } else {
            Dtype::F32
        };
        (
            name.clone(),
            TensorView::new(dtype, shape.clone(), data).unwrap(),
        )
    });
    let path = folder.path().join("model.safetensors");
    serialize_to_file(views, None::<HashMap<String, String>>, &path).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let mut read = false;
    let loaded = load(
        model(true),
        &checkpoint,
        FloatDType::F32,
        module_path,
        &mut |_| read = true,
    );
    let Err(WeightsError::Mismatch(mismatch)) = loaded else {
        panic!("integers were loaded as weights");
    };
    assert_eq!(mismatch.types[0].tensor, "model.norm.weight");
    assert_eq!(mismatch.types[0].found, "I32");
    assert!(!read);
}

#[test]
fn harmless_extras_are_two_and_no_more() {
    let mut extra = tensors(true);
    extra.push((
        "model.layers.0.self_attn.rotary_emb.inv_freq".into(),
        vec![4],
        vec![1.0; 4],
    ));
    extra.push((
        "lm_head.weight".into(),
        vec![VOCAB, HIDDEN],
        vec![0.5; VOCAB * HIDDEN],
    ));
    let (_folder, checkpoint) = folder(&extra);
    load_silently(model(true), &checkpoint, FloatDType::F32).unwrap();

    let mut wrong = tensors(true);
    wrong.push((
        "lm_head.weight".into(),
        vec![VOCAB, HIDDEN + 1],
        vec![0.5; VOCAB * (HIDDEN + 1)],
    ));
    wrong.push((
        "model.layers.0.mlp.router.weight".into(),
        vec![2],
        vec![0.5; 2],
    ));
    let (_folder, checkpoint) = folder(&wrong);
    let Err(WeightsError::Mismatch(mismatch)) =
        load_silently(model(true), &checkpoint, FloatDType::F32)
    else {
        panic!("extras were accepted");
    };
    assert_eq!(mismatch.shapes[0].tensor, "lm_head.weight");
    assert_eq!(
        mismatch.unexpected[0].tensor,
        "model.layers.0.mlp.router.weight"
    );
}

#[test]
fn a_used_module_is_refused_rather_than_misread() {
    let tensors = tensors(true);
    let (_folder, checkpoint) = folder(&tensors);
    let used = load_silently(model(true), &checkpoint, FloatDType::F32).unwrap();
    let Err(WeightsError::Mismatch(mismatch)) = load_silently(used, &checkpoint, FloatDType::F32)
    else {
        panic!("loaded twice");
    };
    assert!(
        mismatch
            .initialized
            .contains(&"layers.0.mlp.up_proj.weight".to_string())
    );
    assert!(mismatch.missing.is_empty() && mismatch.shapes.is_empty());
}

#[test]
fn shards_are_one_checkpoint_also_behind_links() {
    let tensors = tensors(false);
    let folder = tempfile::tempdir().unwrap();
    let blobs = tempfile::tempdir().unwrap();
    let (first, second) = tensors.split_at(3);
    let mut map = serde_json::Map::new();
    for (part, shard) in [
        (first, "model-00001-of-00002.safetensors"),
        (second, "model-00002-of-00002.safetensors"),
    ] {
        let blob = blobs.path().join(format!("{}.blob", part.len()));
        write(&blob, &part.to_vec());
        link(&blob, &folder.path().join(shard));
        map.extend(part.iter().map(|(name, ..)| (name.clone(), shard.into())));
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": map });
    std::fs::write(
        folder.path().join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();

    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.tensors().len(), tensors.len());
    assert_eq!(
        checkpoint.info("model.norm.weight").unwrap().stored,
        StoredType::Float(FloatDType::F32)
    );
    let loaded = load_silently(model(false), &checkpoint, FloatDType::F32).unwrap();
    assert_eq!(
        values(loaded.embed_tokens.weight.val()),
        stored(&tensors, "model.embed_tokens.weight")
    );
}

#[cfg(unix)]
fn link(from: &Path, to: &Path) {
    std::os::unix::fs::symlink(from, to).unwrap();
}

#[cfg(not(unix))]
fn link(from: &Path, to: &Path) {
    std::fs::copy(from, to).unwrap();
}
