//! Quantised GGUF files: written from folders and from other GGUF files, read back by this crate and by candle.

#![cfg(feature = "gguf")]

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use burn_apb::ModelText;
use burn_apb::checkpoint::gguf::{GgufHeader, Value};
use burn_apb::checkpoint::{
    Checkpoint, ModelSource, Quantization, QuantizeError, QuantizeReport, StoredType, quantize,
};
use burn_apb::kernels::BlockFormat;
use burn_apb::model::{CausalLm, DecoderConfig};
use burn_apb::text::chat_template::ChatTemplates;
use burn_apb::text::generation_config::GenerationConfig;
use burn_apb::{LanguageModel, load_decoder};
use candle_core::quantized::gguf_file;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value as Json, json};

#[path = "common/data.rs"]
mod data;

/// Folders of small models: a Llama, one with Llama 3's rotary scaling, a Qwen2 with biases, a Qwen3.
const MODELS: [&str; 4] = ["llama-gqa", "llama3-tied", "qwen2-bias", "qwen3-qknorm"];

const TEXTS: [&str; 5] = [
    "",
    "The board decided to buy a boiler.\n\n  It's 1234 euros, isn't it?",
    "<|im_start|>user\nWhat?<|im_end|>\n<|endoftext|>",
    "\u{5149}\u{5b66} caf\u{e9} \u{1f308}\u{200d} [PAD300]",
    " leading and trailing  ",
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/models")
        .join(name)
}

/// A small model with the tokenizer of one of them, in a folder that goes away.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(model: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for (from, name) in [
            (model, "config.json"),
            (model, "model.safetensors"),
            ("llama-gqa", "generation_config.json"),
            ("llama-gqa", "tokenizer.json"),
            ("llama-gqa", "tokenizer_config.json"),
        ] {
            fs::copy(fixture(from).join(name), folder.file(name)).unwrap();
        }
        folder
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Changes one of the JSON files.
    fn edit(&self, name: &str, edit: impl FnOnce(&mut Json)) {
        let mut json = serde_json::from_slice(&fs::read(self.file(name)).unwrap()).unwrap();
        edit(&mut json);
        fs::write(self.file(name), json.to_string()).unwrap();
    }

    /// Writes weights of the configuration's shape, or what `change` makes of them.
    fn weights(&self, change: impl Fn(&str, &mut Vec<f32>)) {
        let text = fs::read_to_string(self.file("config.json")).unwrap();
        let config = DecoderConfig::from_json(&text).unwrap();
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (
            config.num_attention_heads * config.head_dim,
            config.num_key_value_heads * config.head_dim,
        );
        let mut shapes = vec![
            (
                "model.embed_tokens.weight".to_owned(),
                vec![config.vocab_size, hidden],
            ),
            ("model.norm.weight".to_owned(), vec![hidden]),
        ];
        if !config.tie_word_embeddings {
            shapes.push(("lm_head.weight".into(), vec![config.vocab_size, hidden]));
        }
        for layer in 0..config.num_hidden_layers {
            for (name, shape) in [
                ("input_layernorm", vec![hidden]),
                ("post_attention_layernorm", vec![hidden]),
                ("self_attn.q_proj", vec![q, hidden]),
                ("self_attn.k_proj", vec![kv, hidden]),
                ("self_attn.v_proj", vec![kv, hidden]),
                ("self_attn.o_proj", vec![hidden, q]),
                ("mlp.gate_proj", vec![inner, hidden]),
                ("mlp.up_proj", vec![inner, hidden]),
                ("mlp.down_proj", vec![hidden, inner]),
            ] {
                shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
            }
            for (name, len) in [("q_proj", q), ("k_proj", kv), ("v_proj", kv)] {
                if config.qkv_bias {
                    let name = format!("model.layers.{layer}.self_attn.{name}.bias");
                    shapes.push((name, vec![len]));
                }
            }
        }
        let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = shapes
            .into_iter()
            .enumerate()
            .map(|(seed, (name, shape))| {
                let mut values: Vec<f32> = (0..shape.iter().product())
                    .map(|i: usize| ((i * 2_654_435 + seed * 97) % 4093) as f32 / 20_465.0 - 0.1)
                    .collect();
                change(&name, &mut values);
                let bytes = values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect();
                (name, shape, bytes)
            })
            .collect();
        let views = tensors.iter().map(|(name, shape, bytes)| {
            (
                name.as_str(),
                TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap(),
            )
        });
        let file = safetensors::serialize(views, None::<HashMap<String, String>>).unwrap();
        fs::write(self.file("model.safetensors"), file).unwrap();
    }

    fn quantize(&self, to: Quantization) -> Result<(PathBuf, QuantizeReport), QuantizeError> {
        let out = self.file(&format!("{to}.gguf"));
        let _ = fs::remove_file(&out);
        let report = quantize(self.0.path(), &out, to, &mut |_| {})?;
        Ok((out, report))
    }

    /// The words in which a quantisation is refused; nothing is left behind.
    #[track_caller]
    fn refused(&self) -> String {
        let before = fs::read_dir(self.0.path()).unwrap().count();
        let error = self.quantize(Quantization::Q4K).unwrap_err();
        assert_eq!(
            fs::read_dir(self.0.path()).unwrap().count(),
            before,
            "{error}"
        );
        error.to_string()
    }
}

fn floats(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let bytes = checkpoint.read(name, FloatDType::F32).unwrap().into_bytes();
    let (values, _) = bytes.as_chunks();
    values
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

fn formats(path: &Path) -> BTreeMap<String, StoredType> {
    let checkpoint = Checkpoint::open(path).unwrap();
    let tensors = checkpoint.tensors();
    tensors
        .map(|info| (info.name.clone(), info.stored.clone()))
        .collect()
}

/// Configuration, tokens, templates and special tokens are those of the folder.
fn same_text(folder: &Path, file: &Path) {
    let (folder, file) = (
        ModelSource::open(folder).unwrap(),
        ModelSource::open(file).unwrap(),
    );
    let config = |source: &ModelSource| DecoderConfig::from_json(source.config()).unwrap();
    assert_eq!(config(&file), config(&folder));
    let (ours, theirs) = (file.tokenizer().unwrap(), folder.tokenizer().unwrap());
    for text in TEXTS {
        for special in [false, true] {
            let ids = |tokenizer: &burn_apb::text::tokenizer::Tokenizer| {
                tokenizer.encode(text, special).unwrap()
            };
            assert_eq!(ids(&ours.tokenizer), ids(&theirs.tokenizer), "{text:?}");
        }
    }
    for name in ["bos_token", "eos_token", "pad_token"] {
        let (ours, theirs) = (&ours.special_tokens, &theirs.special_tokens);
        assert_eq!(ours.get(name), theirs.get(name), "{name}");
    }
    let templates = |source: &ModelSource| {
        let templates = ChatTemplates::read(&source.chat_templates()).unwrap();
        let names = templates
            .names()
            .map(|name| (name.to_owned(), templates.source(name).unwrap().to_owned()));
        names.collect::<Vec<_>>()
    };
    assert_eq!(templates(&file), templates(&folder));
    let generation = |source: &ModelSource| {
        let rows = config(source).vocab_size;
        let json = source.generation_config().unwrap();
        GenerationConfig::parse(json.as_bytes(), rows).unwrap()
    };
    assert_eq!(
        generation(&file).eos_token_ids,
        generation(&folder).eos_token_ids
    );
    ModelText::load(&file).unwrap();
}

/// What is left of some rows after the final norm.
fn hidden(path: &Path) -> Vec<f32> {
    let device = Device::flex();
    let source = ModelSource::open(path).unwrap();
    let config = DecoderConfig::from_json(source.config()).unwrap();
    let (decoder, report) =
        load_decoder(&source, &config, FloatDType::F32, &device, &mut |_| {}).unwrap();
    assert!(report.warnings.is_empty());
    let ids: Vec<i32> = (0..40).map(|i| i * 37 % 259).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, 40]), &device);
    let hidden = decoder
        .forward_embedded(decoder.embed(ids).unwrap())
        .unwrap();
    hidden.into_data().try_to_vec().unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(&a, &b)| f64::from(a) * f64::from(b))
            .sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Every family: text alike, every tensor there and close, and what is computed close too.
#[test]
fn a_folder_becomes_a_file_that_reads_as_the_folder() {
    for model in MODELS {
        let folder = Folder::new(model);
        let exact = Checkpoint::open(folder.0.path()).unwrap();
        for (to, tensor_bound, hidden_bound) in [
            (Quantization::Q8_0, 5e-5, 0.999),
            (Quantization::Q4K, 8e-3, 0.9),
        ] {
            let (out, report) = folder.quantize(to).unwrap();
            assert_eq!(report.bytes, fs::metadata(&out).unwrap().len());
            assert!(report.warnings.is_empty(), "{:?}", report.warnings);
            same_text(folder.0.path(), &out);
            let file = Checkpoint::open(&out).unwrap();
            assert_eq!(file.tensors().len(), exact.tensors().len());
            // Llama 3's rotary factors are a tensor of the file.
            let factors = usize::from(model == "llama3-tied");
            assert_eq!(report.tensors, exact.tensors().len() + factors);
            for info in exact.tensors() {
                let (x, back) = (floats(&exact, &info.name), floats(&file, &info.name));
                assert_eq!(file.info(&info.name).unwrap().shape, info.shape);
                if info.shape.len() == 1 {
                    assert_eq!(x, back, "{model}: {}", info.name);
                    continue;
                }
                let square = |x: f32| f64::from(x) * f64::from(x);
                let error: f64 = x.iter().zip(&back).map(|(x, back)| square(x - back)).sum();
                let error = error / x.iter().map(|&x| square(x)).sum::<f64>();
                assert!(
                    error > 0.0 && error < tensor_bound,
                    "{model}, {to}: {}: {error:e}",
                    info.name
                );
            }
            let likeness = cosine(&hidden(folder.0.path()), &hidden(&out));
            assert!(likeness > hidden_bound, "{model}, {to}: {likeness}");
        }
    }
}

/// Rows of 256 elements and of its multiples: the mixture of llama.cpp's Q4_K_M, in the formats that candle reads too.
#[test]
fn matrices_have_the_formats_of_the_mixture() {
    let folder = Folder::new("qwen2-bias");
    folder.edit("config.json", |config| {
        config["hidden_size"] = json!(256);
        config["intermediate_size"] = json!(512);
        config["num_attention_heads"] = json!(4);
        config["head_dim"] = json!(64);
        config["num_hidden_layers"] = json!(8);
    });
    folder.weights(|_, _| {});
    let (out, report) = folder.quantize(Quantization::Q4K).unwrap();
    let found = formats(&out);
    let quantized = StoredType::Quantized;
    assert_eq!(found["lm_head.weight"], quantized(BlockFormat::Q6K));
    assert_eq!(
        found["model.embed_tokens.weight"],
        quantized(BlockFormat::Q4K)
    );
    assert_eq!(
        found["model.norm.weight"],
        StoredType::Float(FloatDType::F32)
    );
    for (layer, more) in [true, false, false, true, false, false, true, true]
        .into_iter()
        .enumerate()
    {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let expected = if more {
            BlockFormat::Q6K
        } else {
            BlockFormat::Q4K
        };
        for part in ["self_attn.v_proj", "mlp.down_proj"] {
            assert_eq!(found[&name(part)], quantized(expected), "{}", name(part));
        }
        for part in [
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.o_proj",
            "mlp.gate_proj",
            "mlp.up_proj",
        ] {
            assert_eq!(
                found[&name(part)],
                quantized(BlockFormat::Q4K),
                "{}",
                name(part)
            );
        }
    }
    assert_eq!(report.types, [("Q4_K", 49), ("F32", 41), ("Q6_K", 9)]);
    same_text(folder.0.path(), &out);

    // candle finds the same numbers in the file.
    let mut file = File::open(&out).unwrap();
    let content = gguf_file::Content::read(&mut file).unwrap();
    assert_eq!(content.tensor_infos.len(), report.tensors);
    let checkpoint = Checkpoint::open(&out).unwrap();
    for (theirs, ours) in [
        (
            "blk.0.attn_v.weight",
            "model.layers.0.self_attn.v_proj.weight",
        ),
        (
            "blk.1.attn_v.weight",
            "model.layers.1.self_attn.v_proj.weight",
        ),
        ("blk.7.attn_q.bias", "model.layers.7.self_attn.q_proj.bias"),
    ] {
        let device = candle_core::Device::Cpu;
        let tensor = content.tensor(&mut file, theirs, &device).unwrap();
        let tensor = tensor.dequantize(&device).unwrap().flatten_all().unwrap();
        assert_eq!(
            tensor.to_vec1::<f32>().unwrap(),
            floats(&checkpoint, ours),
            "{theirs}"
        );
    }
}

/// From a GGUF file: metadata as they are, blocks of the wanted format too, others made anew.
#[test]
fn a_gguf_file_is_quantised_again() {
    let folder = Folder::new("llama-gqa");
    let (eight, _) = folder.quantize(Quantization::Q8_0).unwrap();
    let header = |path: &Path| GgufHeader::parse(&fs::read(path).unwrap()).unwrap();
    let again = folder.file("again.gguf");
    quantize(&eight, &again, Quantization::Q8_0, &mut |_| {}).unwrap();
    assert_eq!(fs::read(&again).unwrap(), fs::read(&eight).unwrap());

    let four = folder.file("four.gguf");
    let mut last = (0, 1);
    let report = quantize(&eight, &four, Quantization::Q4K, &mut |p| {
        last = (p.done, p.total)
    })
    .unwrap();
    assert_eq!(last.0, last.1);
    assert_eq!(report.tensors, header(&eight).tensors.len());
    let (mut before, mut after) = (header(&eight).metadata, header(&four).metadata);
    let file_type = |metadata: &mut BTreeMap<String, Value>| metadata.remove("general.file_type");
    assert_eq!(file_type(&mut before), Some(Value::Unsigned(7)));
    assert_eq!(file_type(&mut after), Some(Value::Unsigned(15)));
    assert_eq!(before, after);
    same_text(folder.0.path(), &four);
    // 64 columns are no multiple of 256.
    let found = formats(&four);
    let embedding = &found["model.embed_tokens.weight"];
    assert_eq!(*embedding, StoredType::Quantized(BlockFormat::Q5_0));
    // From the floats or from eight bits of them makes little difference.
    let likeness = cosine(&hidden(&eight), &hidden(&four));
    assert!(likeness > 0.9, "{likeness}");
    // The file's own row order is kept: what the reader gives is close to the folder's.
    let exact = floats(
        &Checkpoint::open(folder.0.path()).unwrap(),
        "model.layers.1.self_attn.q_proj.weight",
    );
    let back = floats(
        &Checkpoint::open(&four).unwrap(),
        "model.layers.1.self_attn.q_proj.weight",
    );
    assert!(cosine(&exact, &back) > 0.99);
}

/// Rotary factors, which are no tensor of the model, are copied.
#[test]
fn a_tied_model_with_rotary_factors_keeps_them() {
    let folder = Folder::new("llama3-tied");
    let (eight, _) = folder.quantize(Quantization::Q8_0).unwrap();
    let four = folder.file("four.gguf");
    quantize(&eight, &four, Quantization::Q4K, &mut |_| {}).unwrap();
    same_text(folder.0.path(), &four);
    // The embedding is the output: six bits, or eight where rows are no multiple of 256.
    let embedding = &formats(&four)["model.embed_tokens.weight"];
    assert_eq!(*embedding, StoredType::Quantized(BlockFormat::Q8_0));
}

#[test]
fn rotary_scalings_are_written_as_llama_cpp_spells_them() {
    let scalings = [
        (json!({"rope_type": "linear", "factor": 2.5}), None),
        (
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}),
            None,
        ),
        (
            json!({"rope_type": "yarn", "factor": 4.0, "beta_fast": 16.0, "beta_slow": 2.0}),
            None,
        ),
        (
            json!({"rope_type": "yarn", "factor": 4.0, "truncate": false}),
            Some("truncate"),
        ),
        (
            json!({"rope_type": "dynamic", "factor": 2.0}),
            Some("dynamic"),
        ),
    ];
    for (scaling, refused) in scalings {
        let folder = Folder::new("qwen2-bias");
        folder.edit("config.json", |config| {
            config["rope_scaling"] = scaling.clone()
        });
        match refused {
            None => {
                let (out, _) = folder.quantize(Quantization::Q8_0).unwrap();
                same_text(folder.0.path(), &out);
            }
            Some(word) => assert!(folder.refused().contains(word), "{scaling}"),
        }
    }
    // Another factor on sines and cosines than YaRN's own.
    let folder = Folder::new("llama-gqa");
    folder.edit("config.json", |config| {
        config["rope_scaling"] =
            json!({"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.25});
    });
    let (out, _) = folder.quantize(Quantization::Q8_0).unwrap();
    let config = DecoderConfig::from_json(ModelSource::open(&out).unwrap().config()).unwrap();
    let rope = config.rope(4096);
    assert!(
        (rope.attention_factor - 1.25).abs() < 1e-6,
        "{}",
        rope.attention_factor
    );
}

/// Heads that do not make up the width are no Qwen2 in llama.cpp, but a Llama with biases.
#[test]
fn a_qwen2_with_other_heads_is_a_llama_there() {
    let folder = Folder::new("qwen2-bias");
    folder.edit("config.json", |config| config["head_dim"] = json!(32));
    folder.weights(|_, _| {});
    let (out, _) = folder.quantize(Quantization::Q8_0).unwrap();
    let header = GgufHeader::parse(&fs::read(&out).unwrap()).unwrap();
    assert_eq!(
        header.metadata["general.architecture"],
        Value::Text("llama".into())
    );
    same_text(folder.0.path(), &out);
    assert!(cosine(&hidden(folder.0.path()), &hidden(&out)) > 0.999);
}

#[test]
fn a_quantised_model_answers() {
    let folder = Folder::new("llama-gqa");
    let answer = |path: &Path| {
        let model = LanguageModel::load(path, &Device::flex()).unwrap();
        let document = "The board decided to buy a boiler. ".repeat(20);
        let mut session = model.prefill(&document).run().unwrap();
        session.ask("What?").run().unwrap().completion.tokens.len()
    };
    for &to in Quantization::ALL {
        let (out, _) = folder.quantize(to).unwrap();
        assert!(answer(&out) > 0, "{to}");
    }
}

#[test]
fn weights_that_are_no_numbers_are_refused_by_place() {
    for (wrong, said) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        for (name, at, place) in [
            (
                "model.layers.1.mlp.up_proj.weight",
                64 * 7 + 5,
                ["blk.1.ffn_up.weight", "row 7", "column 5"],
            ),
            // Of a Llama's query projection the row of the folder is named, not that of the file.
            (
                "model.layers.0.self_attn.q_proj.weight",
                64 * 9,
                ["blk.0.attn_q.weight", "row 9", "column 0"],
            ),
            (
                "model.norm.weight",
                3,
                ["output_norm.weight", "row 0", "column 3"],
            ),
        ] {
            let folder = Folder::new("llama-gqa");
            folder.weights(|tensor, values| {
                if tensor == name {
                    values[at] = wrong;
                }
            });
            let error = folder.refused();
            for part in place.into_iter().chain([said, "model.safetensors"]) {
                assert!(error.contains(part), "no {part} in: {error}");
            }
        }
    }
    // Finite, and beyond every scale.
    let folder = Folder::new("llama-gqa");
    folder.weights(|tensor, values| {
        if tensor == "model.layers.2.mlp.down_proj.weight" {
            values[160 * 4] = 3e38;
        }
    });
    let error = folder.refused();
    assert!(
        error.contains("blk.2.ffn_down.weight") && error.contains("row 4"),
        "{error}"
    );
}

#[test]
fn what_cannot_be_written_is_refused_by_name() {
    let tokenizer = |edit: &dyn Fn(&mut Json)| {
        let folder = Folder::new("llama-gqa");
        folder.edit("tokenizer.json", edit);
        folder.refused()
    };
    let error = tokenizer(&|json| json["pre_tokenizer"] = json!({"type": "Whitespace"}));
    assert!(error.contains("byte_fallback"), "{error}");
    let error = tokenizer(&|json| {
        let split = json!({"type": "Split", "pattern": {"Regex": "[aeiou]+"}, "behavior": "Isolated", "invert": false});
        let bytes = json["pre_tokenizer"].clone();
        json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [split, bytes]});
    });
    assert!(error.contains("[aeiou]+"), "{error}");
    let error = tokenizer(&|json| json["normalizer"] = json!({"type": "Lowercase"}));
    assert!(error.contains("Lowercase"), "{error}");
    let error = tokenizer(&|json| json["pre_tokenizer"]["add_prefix_space"] = json!(true));
    assert!(error.contains("add_prefix_space"), "{error}");

    let folder = Folder::new("llama-gqa");
    folder.edit("config.json", |config| config["vocab_size"] = json!(258));
    folder.weights(|_, _| {});
    let error = folder.refused();
    assert!(error.contains("259 tokens and 258 rows"), "{error}");

    let folder = Folder::new("llama-gqa");
    fs::remove_file(folder.file("tokenizer.json")).unwrap();
    assert!(folder.refused().contains("tokenizer.json"));

    // Shapes that are not the configuration's: everything at once, as when weights are loaded.
    let folder = Folder::new("llama-gqa");
    folder.edit("config.json", |config| {
        config["intermediate_size"] = json!(96)
    });
    let error = folder.refused();
    assert!(
        error.contains("mlp.up_proj") && error.contains("160"),
        "{error}"
    );
}

#[test]
fn nothing_that_is_there_is_replaced() {
    let folder = Folder::new("llama-gqa");
    let out = folder.file("there.gguf");
    fs::write(&out, "precious").unwrap();
    let error = quantize(folder.0.path(), &out, Quantization::Q8_0, &mut |_| {}).unwrap_err();
    assert!(matches!(error, QuantizeError::InTheWay { .. }), "{error}");
    assert_eq!(fs::read(&out).unwrap(), b"precious");
    let error = quantize(
        folder.0.path(),
        folder.0.path(),
        Quantization::Q8_0,
        &mut |_| {},
    );
    assert!(matches!(error, Err(QuantizeError::InTheWay { .. })));
    // A damaged file: found before anything is written.
    let (eight, _) = folder.quantize(Quantization::Q8_0).unwrap();
    let bytes = fs::read(&eight).unwrap();
    let short = folder.file("short.gguf");
    for len in [0, 3, 24, bytes.len() / 2, bytes.len() - 64] {
        fs::write(&short, &bytes[..len]).unwrap();
        let error = quantize(
            &short,
            folder.file("new.gguf"),
            Quantization::Q4K,
            &mut |_| {},
        );
        assert!(error.is_err(), "{len}");
    }
    // A scale that is no number.
    let header = GgufHeader::parse(&bytes).unwrap();
    let tensor = header
        .tensors
        .iter()
        .find(|t| t.name == "blk.1.ffn_up.weight")
        .unwrap();
    let mut wrong = bytes.clone();
    wrong[tensor.start + 3 * 68 + 34..][..2].copy_from_slice(&f16_nan());
    fs::write(&short, &wrong).unwrap();
    for &to in Quantization::ALL {
        let error = quantize(&short, folder.file("new.gguf"), to, &mut |_| {}).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("blk.1.ffn_up.weight") && error.contains("row 3"),
            "{error}"
        );
        assert!(error.contains("column 32"), "{error}");
    }
    assert!(!folder.file("new.gguf").exists());
}

fn f16_nan() -> [u8; 2] {
    half::f16::NAN.to_le_bytes()
}

/// A tokenizer of SentencePiece pieces gets scores that give its merges, or is refused.
#[test]
fn pieces_get_scores_from_their_merges() {
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let tokens = ["<unk>", "<s>", "</s>"]
        .map(str::to_owned)
        .into_iter()
        .chain(bytes);
    let pieces = ["\u{2581}", "a", "b", "c", "ab", "\u{2581}ab", "abc", "bc"];
    let tokens = tokens.chain(pieces.map(str::to_owned));
    let vocab: serde_json::Map<String, Json> = tokens
        .enumerate()
        .map(|(id, token)| (token, json!(id)))
        .collect();
    let special = |id: usize, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let tokenizer = |merges: Json| {
        json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "\u{2581}"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"},
            ]},
            "pre_tokenizer": null,
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ]},
            "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                "vocab": vocab, "merges": merges},
        })
    };
    let folder = Folder::new("llama-gqa");
    let texts = json!({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
        "unk_token": "<unk>", "add_bos_token": true});
    fs::write(folder.file("tokenizer_config.json"), texts.to_string()).unwrap();
    let merges = json!([
        ["a", "b"],
        ["\u{2581}", "ab"],
        ["a", "bc"],
        ["ab", "c"],
        ["b", "c"]
    ]);
    fs::write(folder.file("tokenizer.json"), tokenizer(merges).to_string()).unwrap();
    let (out, report) = folder.quantize(Quantization::Q8_0).unwrap();
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    let (file, source) = (
        ModelSource::open(&out).unwrap(),
        ModelSource::open(folder.0.path()).unwrap(),
    );
    let (ours, theirs) = (file.tokenizer().unwrap(), source.tokenizer().unwrap());
    for text in ["abc ab", " bcab", "</s>ab</s>", "\u{5149}abcabc"] {
        let ids = |of: &burn_apb::text::tokenizer::LoadedTokenizer| {
            of.tokenizer.encode(text, true).unwrap()
        };
        assert_eq!(ids(&ours), ids(&theirs), "{text:?}");
        assert_eq!(ids(&ours)[0], 1);
    }
    assert_eq!(ours.special_tokens.get("unk_token"), Some("<unk>"));
    // `abc` by one of its two ways only, or by both but apart: no scores give that.
    for merges in [
        json!([["a", "b"], ["\u{2581}", "ab"], ["ab", "c"], ["b", "c"]]),
        json!([
            ["a", "b"],
            ["ab", "c"],
            ["\u{2581}", "ab"],
            ["a", "bc"],
            ["b", "c"]
        ]),
    ] {
        fs::write(
            folder.file("tokenizer.json"),
            tokenizer(merges.clone()).to_string(),
        )
        .unwrap();
        let error = folder.refused();
        assert!(
            error.contains("merges") && error.contains("tokenizer"),
            "{error}"
        );
    }
}

/// Real tokenizers: names of pre-tokenizers, thousands of merges, hundreds of added tokens.
#[test]
fn real_tokenizers_are_written_and_read_back() {
    for (name, pre) in [
        ("llama3.1", "llama-bpe"),
        ("qwen2.5", "qwen2"),
        ("qwen3", "qwen2"),
    ] {
        let folder = format!("target/test-data/tokenizers/{name}");
        let Some(tokenizer) = data::find(&folder, "tokenizer.json", None) else {
            return;
        };
        let folder = Folder::new("llama3-tied");
        let beside = tokenizer.parent().unwrap();
        for entry in fs::read_dir(beside).unwrap() {
            let entry = entry.unwrap();
            fs::copy(
                entry.path(),
                folder.file(&entry.file_name().to_string_lossy()),
            )
            .unwrap();
        }
        // A narrow model with a row for each token.
        folder.edit("config.json", |config| {
            config["vocab_size"] = json!(152_064);
            config["hidden_size"] = json!(32);
            config["intermediate_size"] = json!(32);
            config["num_hidden_layers"] = json!(1);
            config["num_attention_heads"] = json!(2);
            config["num_key_value_heads"] = json!(1);
        });
        // Of another tokenizer.
        fs::remove_file(folder.file("generation_config.json")).unwrap();
        fs::remove_file(folder.file("tokenizer_config.json")).unwrap();
        folder.weights(|_, _| {});
        let (out, _) = folder.quantize(Quantization::Q8_0).unwrap();
        let header = GgufHeader::parse(&fs::read(&out).unwrap()).unwrap();
        assert_eq!(
            header.metadata["tokenizer.ggml.pre"],
            Value::Text(pre.into())
        );
        let (file, source) = (
            ModelSource::open(&out).unwrap(),
            ModelSource::open(folder.0.path()).unwrap(),
        );
        let (ours, theirs) = (
            file.tokenizer().unwrap().tokenizer,
            source.tokenizer().unwrap().tokenizer,
        );
        let text = include_str!("../examples/data/opticks.txt");
        for text in TEXTS.into_iter().chain([text]) {
            for special in [false, true] {
                assert!(
                    ours.encode(text, special).unwrap() == theirs.encode(text, special).unwrap(),
                    "{name}"
                );
            }
        }
    }
}
