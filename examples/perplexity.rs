//! The perplexity of a text under a model, to compare weights, dtypes and kernels by what they predict.
//!
//! ```sh
//! cargo run --release --example perplexity -- MODEL [--tokens 20000] [--window 1024] [--rows 512]
//!     [--dtype f32] [--kv-dtype bf16] [--dequantize] [--text FILE | --ids IDS.json]
//! ```
//!
//! As llama.cpp's perplexity tool does it: whole windows, each by itself and without a token before it. The last
//! `window - window / 2 - 1` tokens of each are scored, so that the first of these has half a window before it. The text is
//! `examples/data/opticks.txt`, or a list of ids, which `benches/peers/perplexity_llama_cpp.py` reads as well. A pass of
//! 512 rows takes the kernels of prefill, one of 8 those of decoding.

use std::error::Error;
use std::path::Path;

use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use burn_apb::LanguageModel;
use burn_apb::checkpoint::LoadOptions;
use burn_apb::kernels::simd_name;
use burn_apb::model::{CausalLm, Decoder, KvCache, KvDType};

/// The most rows whose logits exist at once.
const LOGIT_ROWS: usize = 128;

const USAGE: &str = "usage: perplexity MODEL [--tokens N] [--window N] [--rows N] [--dtype f32|f16|bf16] \
                     [--kv-dtype f32|f16|bf16|q8_0] [--dequantize] [--text FILE | --ids IDS.json]";

fn main() -> Result<(), Box<dyn Error>> {
    let (mut tokens, mut window, mut rows) = (20_000, 1_024, 512);
    let (mut dtype, mut kv_dtype, mut dequantize) = (FloatDType::F32, None, false);
    let (mut model, mut text, mut ids) = (None, None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(USAGE);
        match argument.as_str() {
            "--tokens" => tokens = number(&value()?)?,
            "--window" => window = number(&value()?)?,
            "--rows" => rows = number(&value()?)?,
            "--dtype" => dtype = float(&value()?)?,
            "--kv-dtype" => kv_dtype = Some(cached(&value()?)?),
            "--dequantize" => dequantize = true,
            "--text" => text = Some(std::fs::read_to_string(value()?)?),
            "--ids" => ids = Some(std::fs::read_to_string(value()?)?),
            other if other.starts_with("--") || model.is_some() => return Err(USAGE.into()),
            _ => model = Some(argument),
        }
    }
    let path = model.ok_or(USAGE)?;
    let options = LoadOptions::new(dtype).with_dequantize(dequantize);
    let model = LanguageModel::load_with(&path, options, &Device::flex(), &mut |_| {})?;
    let text = text.as_deref().unwrap_or(include_str!("data/opticks.txt"));
    let ids: Vec<u32> = match ids {
        Some(ids) => serde_json::from_str(&ids)?,
        None => model.text.tokenizer.encode(text, false)?,
    };
    let found = ids.len();
    let ids = ids.get(..tokens);
    let ids = ids.ok_or_else(|| format!("expected at least {tokens} tokens, found {found}"))?;
    let kv_dtype = kv_dtype.unwrap_or_else(|| KvDType::of(model.decoder.kv_dtype()));
    let (scored, perplexity) = perplexity(&model.decoder, ids, window, rows, kv_dtype)?;
    let name = KvDType::name;
    let line = serde_json::json!({
        "program": "apb", "model": Path::new(&path).file_name().map(|name| name.to_string_lossy()),
        "dtype": name(KvDType::of(dtype)), "kv_dtype": name(kv_dtype), "dequantized": dequantize, "window": window, "rows": rows,
        "simd": simd_name().unwrap_or_default(), "scored": scored, "perplexity": perplexity,
    });
    println!("{line}");
    Ok(())
}

fn number(value: &str) -> Result<usize, String> {
    let number = value.parse();
    number.map_err(|_| format!("expected a number, found {value}"))
}

fn float(name: &str) -> Result<FloatDType, String> {
    match name {
        "f32" => Ok(FloatDType::F32),
        "f16" => Ok(FloatDType::F16),
        "bf16" => Ok(FloatDType::BF16),
        _ => Err(format!("expected f32, f16 or bf16, found {name}")),
    }
}

fn cached(name: &str) -> Result<KvDType, String> {
    let found = KvDType::ALL.into_iter().find(|dtype| dtype.name() == name);
    found.ok_or_else(|| format!("expected f32, f16, bf16 or q8_0, found {name}"))
}

/// The number of tokens that are scored, and their perplexity; keys and values are kept in `kv_dtype`, and a pass is of
/// `rows` tokens.
pub fn perplexity(
    decoder: &Decoder,
    ids: &[u32],
    window: usize,
    rows: usize,
    kv_dtype: KvDType,
) -> Result<(usize, f64), Box<dyn Error>> {
    let windows = ids.len().checked_div(window).unwrap_or(0);
    if window < 3 || rows == 0 || windows == 0 {
        let found = format!("windows of {window}, {rows} rows, {} tokens", ids.len());
        return Err(format!("expected 3 a window, a row, a window of tokens; {found}").into());
    }
    if let Some(id) = ids.iter().find(|id| **id as usize >= decoder.vocab_size()) {
        return Err(format!("token {id} is beyond the model's vocabulary").into());
    }
    let (device, rope) = (decoder.device(), decoder.rope(window));
    let mut cache = KvCache::new(&decoder.config, 1, window, kv_dtype, &device)?;
    let (mut scored, mut loss) = (0, 0.0);
    for (number, window) in ids.chunks_exact(window).enumerate() {
        cache.truncate(0);
        for pass in window.chunks(rows) {
            let start = cache.len();
            let tokens = pass.iter().map(|id| id.cast_signed()).collect();
            let tokens = TensorData::new::<i32, _>(tokens, [1, pass.len()]);
            let tokens = Tensor::<2, Int>::from_data(tokens, (&device, DType::I32));
            let hidden = decoder.forward_cached(tokens, &rope, &mut cache)?;
            // Each of these rows predicts the token after it.
            let first = start.max(window.len() / 2);
            let end = cache.len().min(window.len() - 1);
            for from in (first..end).step_by(LOGIT_ROWS) {
                let targets = &window[from + 1..=end.min(from + LOGIT_ROWS)];
                let hidden = hidden.clone().narrow(1, from - start, targets.len());
                let logits = decoder.logits(hidden)?;
                let vocab = logits.dims()[2];
                let logits = logits.cast(DType::F32).into_data().try_to_vec::<f32>()?;
                let rows = logits.chunks_exact(vocab).zip(targets);
                loss += rows.map(|(row, id)| surprise(row, *id)).sum::<f64>();
                scored += targets.len();
            }
        }
        let so_far = (loss / scored as f64).exp();
        eprintln!("window {} of {windows}: {so_far:.4}", number + 1);
    }
    Ok((scored, (loss / scored as f64).exp()))
}

/// The negative logarithm of a token's probability.
fn surprise(logits: &[f32], id: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shares = logits.iter().map(|logit| f64::from((logit - most).exp()));
    shares.sum::<f64>().ln() - f64::from(logits[id as usize] - most)
}
