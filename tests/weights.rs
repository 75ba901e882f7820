//! Checkpoints into modules: what is compared, what is shared, what is refused.

use std::collections::HashMap;
use std::path::Path;

use burn::module::Module;
use burn::nn::{
    Embedding, EmbeddingConfig, Linear, LinearConfig, LinearLayout, RmsNorm, RmsNormConfig,
};
use burn::tensor::{DType, Device, FloatDType, Tensor};
use burn_apb::checkpoint::ModelSource;
use burn_apb::checkpoint::{
    Checkpoint, LoadOptions, LoadReport, LoadWarning, StoredType, WeightsError, load, module_path,
};
use burn_apb::load_decoder;
use burn_apb::model::{Decoder, DecoderConfig};
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
    load(module, checkpoint, dtype, module_path, &mut |_| {}).map(|(module, _)| module)
}

#[test]
fn fills_every_parameter_and_reports_progress() {
    let tensors = tensors(false);
    let (_folder, checkpoint) = folder(&tensors);
    let mut reports: Vec<(String, u64, u64)> = Vec::new();
    let (loaded, report) = load(
        model(false),
        &checkpoint,
        FloatDType::F32,
        module_path,
        &mut |p| {
            reports.push((p.item.to_string(), p.done, p.total));
        },
    )
    .unwrap();
    assert_eq!(report, LoadReport::default());

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
        let data = checkpoint.read(name, FloatDType::F32).unwrap();
        data.as_bytes().as_ptr()
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
    let shared = checkpoint.read("a", FloatDType::F32).unwrap().into_bytes();
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
    let halves = checkpoint.read("a", FloatDType::F16).unwrap().into_bytes();
    assert_eq!(halves.len(), 2 * ELEMENTS);
    assert!(
        resident() <= 1 << 20,
        "{} bytes of the file stayed",
        resident()
    );
    // And what was released reads the same again.
    let again = checkpoint.read("a", FloatDType::F32).unwrap().into_bytes();
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

/// Tensors that published checkpoints hold and the decoder does not use.
fn extras() -> Tensors {
    let tensor = |name: &str, n: usize, value: f32| (name.to_string(), vec![n], vec![value; n]);
    vec![
        tensor("model.layers.0.self_attn.rotary_emb.inv_freq", 4, 1.0),
        tensor("model.layers.0.mlp.up_proj.bias", INNER, -0.0),
        tensor("model.layers.2.input_layernorm.weight", HIDDEN, 1.0),
        tensor("mtp.fc.weight", 8, 0.5),
        tensor("v_head.summary.bias", 1, 0.25),
        tensor("model.layers.1.attn.masked_bias", 1, -1e4),
    ]
}

#[test]
fn tensors_without_a_use_are_one_warning_or_an_error_when_strict() {
    let mut all = tensors(true);
    all.extend(extras());
    let (_folder, checkpoint) = folder(&all);
    let load = |options| load(model(true), &checkpoint, options, module_path, &mut |_| {});
    let (_, report) = load(LoadOptions::new(FloatDType::F32)).unwrap();
    let mut expected: Vec<String> = extras().into_iter().map(|(name, ..)| name).collect();
    let mut found = report.unused.clone();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    let [LoadWarning::Tensors { unused, .. }] = &report.warnings[..] else {
        panic!("{:?}", report.warnings)
    };
    assert_eq!(unused.len(), 6);
    let text = report.warnings[0].to_string();
    assert!(
        text.contains("6 tensors are not used") && text.contains("and 1 more"),
        "{text}"
    );

    let Err(WeightsError::Mismatch(mismatch)) =
        load(LoadOptions::new(FloatDType::F32).with_strict(true))
    else {
        panic!("extras were accepted");
    };
    assert_eq!(mismatch.unexpected.len(), 6);
    assert!(mismatch.missing.is_empty() && mismatch.shapes.is_empty());
}

/// They would change the answer, so they are named apart. transformers leaves them out too.
#[test]
fn biases_with_values_have_a_warning_of_their_own() {
    let mut all = tensors(true);
    let name = "model.layers.1.mlp.down_proj.bias".to_string();
    all.push((name.clone(), vec![HIDDEN], vec![0.5; HIDDEN]));
    let (_folder, checkpoint) = folder(&all);
    let (_, report) = load(
        model(true),
        &checkpoint,
        FloatDType::F32,
        module_path,
        &mut |_| {},
    )
    .unwrap();
    assert!(
        matches!(&report.warnings[..], [LoadWarning::Biases { names, .. }] if *names == [name.clone()]),
        "{:?}",
        report.warnings
    );
    assert_eq!(report.unused, [name]);
}

/// The head of a module without one belongs to the embedding.
#[test]
fn a_tied_head_is_compared_and_can_stand_for_the_embedding() {
    let mut only_head = tensors(true);
    let values_of_head = only_head[0].2.clone();
    only_head[0].0 = "lm_head.weight".into();
    let (_folder, checkpoint) = folder(&only_head);
    let (loaded, report) = load(
        model(true),
        &checkpoint,
        FloatDType::F32,
        module_path,
        &mut |_| {},
    )
    .unwrap();
    assert_eq!(values(loaded.embed_tokens.weight.val()), values_of_head);
    assert_eq!(report, LoadReport::default());

    let mut wrong = tensors(true);
    let rows = VOCAB * (HIDDEN + 1);
    wrong.push((
        "lm_head.weight".into(),
        vec![VOCAB, HIDDEN + 1],
        vec![0.5; rows],
    ));
    let (_folder, checkpoint) = folder(&wrong);
    let Err(WeightsError::Mismatch(mismatch)) =
        load_silently(model(true), &checkpoint, FloatDType::F32)
    else {
        panic!("a head of another shape was accepted");
    };
    assert_eq!(mismatch.shapes[0].tensor, "lm_head.weight");

    let (_folder, checkpoint) = folder(&tensors(true));
    let Err(WeightsError::Mismatch(mismatch)) =
        load_silently(model(false), &checkpoint, FloatDType::F32)
    else {
        panic!("a model without a head was accepted");
    };
    assert!(mismatch.to_string().contains("tie_word_embeddings"));
}

/// A copy of a small model with its tensors edited.
fn edited_model(name: &str, edit: impl Fn(&mut Tensors)) -> tempfile::TempDir {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/models")
        .join(name);
    let bytes = std::fs::read(source.join("model.safetensors")).unwrap();
    let stored = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Tensors = stored
        .iter()
        .map(|(name, view)| {
            assert_eq!(view.dtype(), Dtype::F32);
            let values = view.data().as_chunks::<4>().0.iter();
            let values = values.map(|b| f32::from_le_bytes(*b)).collect();
            (name.to_string(), view.shape().to_vec(), values)
        })
        .collect();
    edit(&mut tensors);
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("model.safetensors"), &tensors);
    std::fs::copy(
        source.join("config.json"),
        folder.path().join("config.json"),
    )
    .unwrap();
    folder
}

fn decoder(folder: &tempfile::TempDir, dtype: FloatDType) -> Result<(Decoder, LoadReport), String> {
    let source = ModelSource::open(folder.path()).unwrap();
    let config = DecoderConfig::from_json(source.config()).unwrap();
    load_decoder(&source, &config, dtype, &Device::flex(), &mut |_| {}).map_err(|e| e.to_string())
}

/// As transformers 5: a stored head is used where it differs from the embedding, whatever the config
/// says; where it is equal, or the only one of the two, they are one.
#[test]
fn a_stored_head_decides_with_a_warning() {
    let embedding = |tensors: &Tensors| {
        let found = tensors
            .iter()
            .find(|(n, ..)| n.ends_with("embed_tokens.weight"));
        found.unwrap().clone()
    };
    let with_head = |change: f32| {
        edited_model("llama3-tied", move |tensors| {
            let (_, shape, mut values) = embedding(tensors);
            values[3] += change;
            tensors.push(("lm_head.weight".into(), shape, values));
        })
    };
    let (same, report) = decoder(&with_head(0.0), FloatDType::F32).unwrap();
    assert!(same.lm_head.is_none());
    assert_eq!(report, LoadReport::default());

    let (other, report) = decoder(&with_head(0.5), FloatDType::F32).unwrap();
    let head = other.lm_head.unwrap();
    let head = values(head.float().unwrap().weight.val().transpose());
    let rows = values(other.embed_tokens.float().unwrap().weight.val());
    assert_eq!(head[3], rows[3] + 0.5);
    assert_eq!(head[4..], rows[4..]);
    assert!(
        matches!(&report.warnings[..], [LoadWarning::HeadNotTied { name, .. }] if name == "lm_head.weight"),
        "{:?}",
        report.warnings
    );
    assert!(!report.warnings[0].to_string().contains('\n'));

    // A difference that the type asked for does not have is none.
    let (rounded, report) = decoder(&with_head(1e-9), FloatDType::BF16).unwrap();
    assert!(rounded.lm_head.is_none() && report.warnings.is_empty());

    let only_head = edited_model("llama3-tied", |tensors| {
        let at = tensors
            .iter()
            .position(|(n, ..)| n.ends_with("embed_tokens.weight"));
        tensors[at.unwrap()].0 = "lm_head.weight".into();
    });
    let (tied, report) = decoder(&only_head, FloatDType::F32).unwrap();
    assert!(tied.lm_head.is_none() && report.warnings.is_empty());
    assert_eq!(
        values(tied.embed_tokens.float().unwrap().weight.val()),
        rows
    );

    let neither = edited_model("llama3-tied", |tensors| {
        tensors.retain(|(n, ..)| !n.ends_with("embed_tokens.weight"));
    });
    let error = decoder(&neither, FloatDType::F32).unwrap_err();
    assert!(error.contains("embed_tokens.weight"), "{error}");
    let headless = edited_model("llama-gqa", |tensors| {
        tensors.retain(|(n, ..)| n != "lm_head.weight");
    });
    let error = decoder(&headless, FloatDType::F32).unwrap_err();
    assert!(error.contains("`tie_word_embeddings` to true"), "{error}");
}

/// Tensors of one stored type each, in a file.
fn typed(tensors: &[(String, Vec<usize>, Dtype, Vec<u8>)], path: &Path) {
    let views = tensors.iter().map(|(name, shape, dtype, data)| {
        (
            name.clone(),
            TensorView::new(*dtype, shape.clone(), data).unwrap(),
        )
    });
    serialize_to_file(views, None::<HashMap<String, String>>, path).unwrap();
}

#[test]
fn f64_is_converted_and_other_types_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let stored = |dtype: Dtype| -> Vec<_> {
        let element = |x: f32| match dtype {
            Dtype::F64 => (f64::from(x) + 1e-12).to_le_bytes().to_vec(),
            Dtype::F8_E4M3 | Dtype::I8 => vec![x as i8 as u8],
            _ => (x as i32).to_le_bytes().to_vec(),
        };
        let all = tensors(true).into_iter();
        all.map(|(name, shape, v)| {
            (
                name,
                shape,
                dtype,
                v.into_iter().flat_map(element).collect(),
            )
        })
        .collect()
    };
    typed(&stored(Dtype::F64), &path);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    for dtype in [FloatDType::F32, FloatDType::BF16] {
        let loaded = load_silently(model(true), &checkpoint, dtype).unwrap();
        let found = values(loaded.embed_tokens.weight.val());
        let exact = self::stored(&tensors(true), "model.embed_tokens.weight");
        for (found, exact) in found.into_iter().zip(exact) {
            let expected = match dtype {
                FloatDType::F32 => exact,
                _ => half::bf16::from_f32(exact).to_f32(),
            };
            // 1e-12 is lost beside everything but 0.
            assert!(found == expected || exact == 0.0, "{found} for {expected}");
        }
    }
    for (dtype, name) in [
        (Dtype::I32, "I32"),
        (Dtype::I8, "I8, a quantised"),
        (Dtype::F8_E4M3, "F8_E4M3, a quantised"),
    ] {
        typed(&stored(dtype), &path);
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let error = load_silently(model(true), &checkpoint, FloatDType::F32).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
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

/// A folder with shards that hold `parts`, and an index that says `map`.
fn sharded(parts: &[(&str, Tensors)], map: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, tensors) in parts {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        write(&path, tensors);
    }
    let map: serde_json::Map<String, serde_json::Value> = map
        .iter()
        .map(|(tensor, shard)| ((*tensor).to_string(), (*shard).into()))
        .collect();
    std::fs::write(
        folder.path().join("model.safetensors.index.json"),
        serde_json::json!({ "metadata": {}, "weight_map": map }).to_string(),
    )
    .unwrap();
    folder
}

/// As transformers, which reads what the shards hold and the index only for their names.
#[test]
fn shards_may_lie_below_and_differ_from_their_index() {
    let all = tensors(false);
    let (first, second) = all.split_at(3);
    let (x, y) = ("sub/x.safetensors", "sub/deep/y.safetensors");
    let mut below = first.to_vec();
    below.push(("mtp.fc.weight".into(), vec![2], vec![1.0; 2]));
    let mut beside = second.to_vec();
    // A second copy with other values in the shard that sorts first.
    let mut copy = first[0].clone();
    copy.2.fill(-7.0);
    beside.push(copy);
    let map: Vec<(&str, &str)> = first[1..]
        .iter()
        .map(|(name, ..)| (name.as_str(), x))
        .chain(second[1..].iter().map(|(name, ..)| (name.as_str(), y)))
        .chain([(first[0].0.as_str(), x), (second[0].0.as_str(), x)])
        .collect();
    let folder = sharded(&[(x, below), (y, beside)], &map);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let notes = checkpoint.shard_notes();
    assert_eq!(notes.unlisted, ["mtp.fc.weight"]);
    assert_eq!(notes.elsewhere, [second[0].0.clone()]);
    assert_eq!(notes.repeated, [first[0].0.clone()]);

    let load = |strict| {
        let options = LoadOptions::new(FloatDType::F32).with_strict(strict);
        load(model(false), &checkpoint, options, module_path, &mut |_| {})
    };
    let (loaded, report) = load(false).unwrap();
    let embedding = values(loaded.embed_tokens.weight.val());
    assert_eq!(embedding, stored(&all, "model.embed_tokens.weight"));
    assert_eq!(report.unused, ["mtp.fc.weight"]);
    assert_eq!(report.warnings.len(), 1);
    let text = report.warnings[0].to_string();
    for part in ["mtp.fc.weight", "not named by the index", "several shards"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(matches!(
        load(true),
        Err(WeightsError::ShardDisagrees { .. })
    ));
}

#[cfg(unix)]
fn link(from: &Path, to: &Path) {
    std::os::unix::fs::symlink(from, to).unwrap();
}

#[cfg(not(unix))]
fn link(from: &Path, to: &Path) {
    std::fs::copy(from, to).unwrap();
}
