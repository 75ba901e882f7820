//! Weights that stay quantised, and caches in a dtype of their own.

use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use burn_apb::apb::{
    AnswerOptions, CompressorConfig, Document, Method, PrefillConfig, Session, SessionConfig,
    answer_with, compressor,
};
use burn_apb::checkpoint::{LoadOptions, ModelSource};
use burn_apb::kernels::{self, BlockFormat};
use burn_apb::model::{
    CausalLm, Decoder, DecoderConfig, KvCache, KvDType, Projection, QuantizedLinear,
    QuantizedLinearConfig, TokenEmbedding,
};
use burn_apb::{LanguageModel, load_decoder};

#[path = "../common/data.rs"]
mod data;

const DOCUMENT: &str = "My Design in this Book is not to explain the Properties of Light by Hypotheses, but to \
    propose and prove them by Reason and Experiments.";

/// SmolLM2, whose package holds it in Q4_1 and Q8_0.
fn smollm2(options: LoadOptions) -> Option<LanguageModel> {
    let path = data::find("target/test-data", "smollm2-135m.gguf", None)?;
    let device = Device::flex();
    Some(LanguageModel::load_with(path, options, &device, &mut |_| {}).expect("a model"))
}

fn ids(text: &str, model: &LanguageModel) -> Vec<u32> {
    let ids = model.text.tokenizer.encode(text, false);
    ids.expect("tokens")
}

/// Log-probabilities `[tokens, vocab]`: `passes` rows at a time.
fn log_probabilities(decoder: &Decoder, ids: &[u32], passes: usize, dtype: KvDType) -> Tensor<2> {
    let device = decoder.device();
    let rope = decoder.rope(ids.len());
    let mut cache = KvCache::new(decoder.shape(), 1, ids.len(), dtype, &device).expect("a cache");
    let mut rows = Vec::new();
    for ids in ids.chunks(passes) {
        let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let data = TensorData::new(ids.clone(), [1, ids.len()]);
        let tokens = Tensor::<2, Int>::from_data(data, (&device, DType::I32));
        let hidden = decoder
            .forward_cached(tokens, &rope, &mut cache)
            .expect("hidden rows");
        let logits = decoder.logits(hidden).expect("logits");
        rows.push(log_softmax(logits.squeeze_dim::<2>(0), 1));
    }
    Tensor::cat(rows, 0)
}

/// Whether many rows are multiplied in bf16, with weights that are rounded to it.
fn in_tiles() -> bool {
    matches!(kernels::simd_name(), Ok("AMX" | "AVX-512 BF16"))
}

/// The mean over rows of the Kullback-Leibler divergence of `q` from `p`.
fn divergence(p: &Tensor<2>, q: &Tensor<2>) -> f32 {
    let terms = p.clone().exp() * (p.clone() - q.clone());
    terms.sum_dim(1).mean().into_scalar()
}

#[test]
fn a_model_in_codes_computes_as_its_floats_do() {
    let Some(codes) = smollm2(LoadOptions::new(FloatDType::F32)) else {
        return;
    };
    let floats = smollm2(LoadOptions::new(FloatDType::F32).with_dequantize(true)).expect("there");
    assert!(matches!(
        codes.decoder.embed_tokens,
        TokenEmbedding::Quantized(_)
    ));
    assert!(matches!(
        floats.decoder.embed_tokens,
        TokenEmbedding::Float(_)
    ));
    let up = &codes.decoder.layers[0].mlp.up_proj;
    assert!(matches!(up, Projection::Quantized(layer) if layer.format() == BlockFormat::Q4_1));
    assert!(codes.decoder.weight_bytes() * 5 < floats.decoder.weight_bytes());

    let ids = ids(DOCUMENT, &codes);
    let expected = log_probabilities(&floats.decoder, &ids, ids.len(), KvDType::F32);
    // Many rows: the very elements that the codes stand for.
    let many = log_probabilities(&codes.decoder, &ids, ids.len(), KvDType::F32);
    let error: f32 = (many.clone() - expected.clone()).abs().max().into_scalar();
    let most = if in_tiles() { 0.5 } else { 1e-3 };
    assert!(error < most, "{error}");
    let apart = divergence(&expected, &many);
    assert!(apart < 2e-4, "{apart}");
    // Few rows, which are rounded to eight bits; then keys and values too, to bf16 and to eight bits.
    for (passes, dtype, most) in [
        (8, KvDType::F32, 1e-2),
        (1, KvDType::F32, 1e-2),
        (1, KvDType::BF16, 1e-2),
        (1, KvDType::Q8_0, 1e-2),
        (40, KvDType::Q8_0, 1e-2),
    ] {
        let few = log_probabilities(&codes.decoder, &ids, passes, dtype);
        let found = divergence(&expected, &few);
        assert!(found.abs() < most, "{passes} {dtype:?}: {found}");
    }
    assert_eq!(codes.decoder.kv_dtype(), FloatDType::BF16);
    assert_eq!(floats.decoder.kv_dtype(), FloatDType::F32);

    // The sixth is a near tie between two tokens.
    let options = AnswerOptions {
        max_tokens: 4,
        prefill: PrefillConfig::default(),
        ..AnswerOptions::default()
    };
    let answer = |model| {
        answer_with(
            model,
            DOCUMENT,
            "What is the book's design?",
            &options,
            &mut (),
        )
    };
    let (found, expected) = (
        answer(&codes).expect("an answer"),
        answer(&floats).expect("an answer"),
    );
    assert_eq!(found.text, expected.text);
}

/// A layer of any codes with scales of 1/4.
fn layer(format: BlockFormat, device: &Device) -> QuantizedLinear {
    let (d_input, d_output) = (512, 6);
    let row = format.row_bytes(d_input).expect("whole blocks");
    let mut bytes: Vec<u8> = (0..d_output * row)
        .map(|i| ((i * 7919) >> 4) as u8)
        .collect();
    let scale = half::f16::from_f32(0.25).to_le_bytes();
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        block[..2].copy_from_slice(&scale);
    }
    assert_eq!(format.first_not_finite(&bytes), None);
    let data = TensorData::new(bytes, [d_output, row]);
    let blocks = Tensor::from_data(data, (device, DType::U8));
    let bias = Tensor::from_data([0.5f32; 6], device);
    QuantizedLinear::from_blocks(blocks, Some(bias), format).expect("whole blocks")
}

#[test]
fn a_record_keeps_the_codes_and_their_format() {
    let (device, folder) = (Device::flex(), tempfile::tempdir().expect("a folder"));
    let path = folder.path().join("layer.bpk");
    let saved = layer(BlockFormat::Q4_0, &device);
    saved.clone().save_file(&path).expect("saved");
    let empty = |format| {
        QuantizedLinearConfig::new(512, 6, format)
            .with_bias(true)
            .init(&device)
            .expect("a layer")
    };
    let read = empty(BlockFormat::Q4_0).try_load_file(&path).expect("read");
    let blocks = |layer: &QuantizedLinear| layer.blocks.val().into_data();
    assert_eq!(blocks(&read), blocks(&saved));
    let x = Tensor::<2>::ones([2, 512], &device);
    let outputs = [&read, &saved].map(|layer| layer.forward(x.clone()).expect("rows").into_data());
    assert_eq!(outputs[0], outputs[1]);
    // As long a row, and yet other numbers.
    assert_eq!(
        BlockFormat::Iq4Nl.block_bytes(),
        BlockFormat::Q4_0.block_bytes()
    );
    assert!(empty(BlockFormat::Iq4Nl).try_load_file(&path).is_err());
    let refused = QuantizedLinearConfig::new(500, 6, BlockFormat::Q4K).init(&device);
    let text = refused.expect_err("no whole blocks").to_string();
    assert!(text.contains("256") && text.contains("[6, 500]"), "{text}");
}

#[test]
fn gradients_pass_through_codes_to_the_input() {
    let plain = Device::flex();
    let layer = layer(BlockFormat::Q4_0, &plain);
    let weight = layer.dequantize(FloatDType::F32).expect("floats");
    let device = plain.clone().autodiff();
    let x = Tensor::<2>::ones([3, 512], &device).require_grad();
    let layer = layer.train();
    let y = layer.forward(x.clone()).expect("rows");
    let gradients = y.sum().backward();
    let found = x.grad(&gradients).expect("a gradient");
    let expected = weight.sum_dim(0).repeat_dim(0, 3);
    let error: f32 = (found - expected).abs().max().into_scalar();
    assert!(error < 1e-4, "{error}");
}

/// Of caches, the exact one first.
const DTYPES: [KvDType; 4] = [KvDType::F32, KvDType::BF16, KvDType::F16, KvDType::Q8_0];

/// The root of the mean squared error beside that of what is expected.
fn error(found: &Tensor<3>, expected: &Tensor<3>) -> f32 {
    let square = |rows: Tensor<3>| rows.square().mean().into_scalar::<f32>();
    (square(found.clone() - expected.clone()) / square(expected.clone())).sqrt()
}

/// What rounding keys and values may do to hidden rows.
fn most(dtype: KvDType) -> f32 {
    match dtype {
        KvDType::F16 => 0.02,
        KvDType::BF16 => 0.04,
        KvDType::Q8_0 => 0.06,
        _ => 1e-4,
    }
}

/// A decoder whose heads have 32 elements: one block.
fn decoder_of_32() -> (Arc<dyn CausalLm>, DecoderConfig) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/qwen3-qknorm");
    let source = ModelSource::open(folder).expect("a folder");
    let config = DecoderConfig::from_json(source.config()).expect("a configuration");
    let device = Device::flex();
    let loaded = load_decoder(&source, &config, FloatDType::F32, &device, &mut |_| {});
    (Arc::new(loaded.expect("a decoder").0), config)
}

#[test]
fn every_method_computes_over_a_cache_of_another_dtype() {
    let (decoder, shape) = decoder_of_32();
    let document = Document::new((0..90).map(|i| i * 7 % 64).collect::<Vec<u32>>());
    let document = document.with_anchor_query([1, 2, 3]);
    for method in Method::ALL {
        let config = match method {
            Method::Full => PrefillConfig::default(),
            Method::Ulysses => PrefillConfig::new(method, 2),
            _ => PrefillConfig::new(method, 3).with_compressor(CompressorConfig::QueryAware),
        };
        let plan = config.plan(&document, &shape).expect("a plan");
        let scorer = compressor::load(&plan, &shape, FloatDType::F32, &Device::flex());
        let scorer = scorer.expect("a compressor");
        let mut hidden = Vec::new();
        for dtype in DTYPES {
            let settings = SessionConfig::new(120).with_kv_dtype(dtype);
            let mut session = Session::new(decoder.clone(), settings);
            let prefilled = session.prefill_with(&document, &plan, scorer.as_deref(), &mut ());
            prefilled.expect("prefilled");
            hidden.push(session.extend(&[1, 2, 3]).expect("rows"));
        }
        for (rows, dtype) in hidden.iter().zip(DTYPES).skip(1) {
            let error = error(rows, &hidden[0]);
            assert!(
                error > 0.0 && error < most(dtype),
                "{method} {dtype}: {error}"
            );
        }
    }
}

#[test]
fn a_cache_of_another_dtype_answers_and_is_saved_in_it() {
    let (decoder, config) = decoder_of_32();
    let document = Document::new((0..60).map(|i| i * 7 % 64).collect::<Vec<u32>>());
    let plan = PrefillConfig::default()
        .plan(&document, &config)
        .expect("a plan");
    let folder = tempfile::tempdir().expect("a folder");
    let mut lengths = Vec::new();
    let mut hidden = Vec::new();
    for dtype in DTYPES {
        let settings = SessionConfig::new(80).with_kv_dtype(dtype);
        let mut session = Session::new(decoder.clone(), settings);
        session
            .prefill_with(&document, &plan, None, &mut ())
            .expect("prefilled");
        assert_eq!(session.kv_dtype(), dtype);
        let path = folder.path().join(format!("{dtype:?}"));
        session
            .save(&path, "model", Default::default())
            .expect("saved");
        let files = std::fs::read_dir(&path).expect("a folder");
        let bytes = files.map(|file| file.expect("a file").metadata().expect("known").len());
        lengths.push(bytes.sum::<u64>());
        let rows = session.extend(&[1, 2, 3]).expect("rows");
        let opened = burn_apb::apb::SavedSession::open(&path).expect("opened");
        let mut again = opened.restore(decoder.clone(), 20).expect("restored");
        assert_eq!(again.kv_dtype(), dtype);
        let of_restored = again.extend(&[1, 2, 3]).expect("rows");
        assert_eq!(rows.to_data(), of_restored.into_data(), "{dtype:?}");
        session.rewind();
        let mut fork = session.fork().expect("forked");
        let of_fork = fork.extend(&[1, 2, 3]).expect("rows");
        // In two parts, which are merged.
        let error = error(&of_fork, &rows);
        let most = if dtype == KvDType::F32 { 1e-4 } else { 1e-2 };
        assert!(error < most, "{dtype}: {error}");
        hidden.push(rows);
    }
    assert!(
        lengths[1] * 3 < lengths[0] * 2
            && lengths[1].abs_diff(lengths[2]) < 64
            && lengths[3] * 4 < lengths[1] * 3,
        "{lengths:?}"
    );
    for (rows, dtype) in hidden.iter().zip(DTYPES).skip(1) {
        let error = error(rows, &hidden[0]);
        assert!(error > 0.0 && error < most(dtype), "{dtype}: {error}");
    }
}

/// What is done to the bytes of a file.
type Damage<'a> = dyn Fn(&mut Vec<u8>) + 'a;

#[test]
fn blocks_of_a_saved_session_are_checked() {
    let (decoder, config) = decoder_of_32();
    let document = Document::new((0..40).map(|i| i * 7 % 64).collect::<Vec<u32>>());
    let plan = PrefillConfig::default().plan(&document, &config);
    let settings = SessionConfig::new(60).with_kv_dtype(KvDType::Q8_0);
    let mut session = Session::new(decoder.clone(), settings);
    let prefilled = session.prefill_with(&document, &plan.expect("a plan"), None, &mut ());
    prefilled.expect("prefilled");
    let folder = tempfile::tempdir().expect("a folder");
    let saved = session.save(folder.path(), "model", Default::default());
    saved.expect("saved");
    let file = folder.path().join("rank-0-of-1.safetensors");
    let whole = std::fs::read(&file).expect("read");
    let header = u64::from_le_bytes(*whole.first_chunk().expect("a length")) as usize;

    let refused = |damage: &Damage<'_>, decoder: &Arc<dyn CausalLm>| {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        std::fs::write(&file, bytes).expect("written");
        let restored = burn_apb::apb::SavedSession::open(folder.path())
            .and_then(|saved| saved.restore(decoder.clone(), 10));
        restored.err().map(|error| error.to_string())
    };
    assert_eq!(refused(&|_| (), &decoder), None);
    let infinite = |bytes: &mut Vec<u8>| {
        bytes[8 + header..][..2].copy_from_slice(&[0, 0x7c]);
    };
    let signed = |bytes: &mut Vec<u8>| {
        let at = bytes.windows(4).position(|four| four == b"\"U8\"");
        bytes[at.expect("a type") + 1] = b'I';
    };
    let changed = |bytes: &mut Vec<u8>| {
        *bytes.last_mut().expect("a byte") ^= 1;
    };
    let cases: [(&Damage<'_>, &str); 3] = [
        (
            &infinite,
            "layers.0.key: the scale of block 0 is not finite",
        ),
        (&signed, "layers.0.key: expected U8, found I8"),
        (&changed, "not those that were written"),
    ];
    for (damage, expected) in cases {
        let found = refused(damage, &decoder);
        let found = found.expect("refused");
        assert!(found.contains(expected), "{found}");
    }
    // Heads of 16 elements are no whole blocks.
    let other = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama-gqa");
    let other = LanguageModel::load(other, &Device::flex()).expect("a model");
    let other: Arc<dyn CausalLm> = other.decoder;
    let found = refused(&|_| (), &other).expect("refused");
    assert!(found.contains("multiple of 32"), "{found}");
}
