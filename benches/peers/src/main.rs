//! Prefill and decode of a Llama folder by candle, on the CPU.
//!
//! `peers MODEL TEXT TOKENS,.. DECODE RUNS f32|bf16` prints one JSON line for each number of tokens: medians
//! over the runs, for the better of a prefill at once and one in chunks of 512. Set
//! `RAYON_NUM_THREADS` for the number of threads.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama, LlamaConfig};

/// Tokens a forward pass takes at most; 0 takes all at once.
const CHUNKS: [usize; 2] = [0, 512];
/// Tokens of the prefill before the first that counts.
const WARM_UP: usize = 256;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Run {
    prefill_seconds: f64,
    decode_tokens_per_second: f64,
    generated: Vec<u32>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, text, tokens, decode, runs, dtype] = arguments.as_slice() else {
        return Err("usage: peers MODEL TEXT TOKENS,.. DECODE RUNS f32|bf16".into());
    };
    let dtype = match dtype.as_str() {
        "f32" => DType::F32,
        "bf16" => DType::BF16,
        other => return Err(format!("{other}: expected f32 or bf16").into()),
    };
    let (decode, runs): (usize, usize) = (decode.parse()?, runs.parse()?);
    let folder = Path::new(model);
    let config: LlamaConfig = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
    let config = config.into_config(false);
    // SAFETY: the file stays as it is while this runs.
    let weights = unsafe {
        VarBuilder::from_mmaped_safetensors(
            &[folder.join("model.safetensors")],
            dtype,
            &Device::Cpu,
        )?
    };
    let llama = Llama::load(weights, &config)?;
    let tokenizer = tokenizers::Tokenizer::from_file(folder.join("tokenizer.json"))
        .map_err(|error| error.to_string())?;
    let ids = tokenizer
        .encode(std::fs::read_to_string(text)?, false)
        .map_err(|error| error.to_string())?
        .get_ids()
        .to_vec();

    run(&llama, &config, dtype, &ids[..WARM_UP], 0, 1)?;
    for count in tokens.split(',') {
        let ids = ids.get(..count.parse()?).ok_or("the text is too short")?;
        let mut best: Option<(usize, f64, f64, Vec<u32>)> = None;
        for chunk in CHUNKS {
            let done = (0..runs)
                .map(|_| run(&llama, &config, dtype, ids, chunk, decode))
                .collect::<Result<Vec<Run>>>()?;
            let prefill = median(done.iter().map(|run| run.prefill_seconds).collect());
            let speed = median(
                done.iter()
                    .map(|run| run.decode_tokens_per_second)
                    .collect(),
            );
            if best.as_ref().is_none_or(|best| prefill < best.1) {
                let generated = done.into_iter().next().map(|run| run.generated);
                best = Some((chunk, prefill, speed, generated.unwrap_or_default()));
            }
        }
        if let Some((chunk, prefill, speed, generated)) = best {
            let line = serde_json::json!({
                "peer": "candle", "tokens": ids.len(), "prefill_seconds": prefill,
                "decode_tokens_per_second": speed, "chunk": chunk,
                "generated": tokenizer.decode(&generated, false).map_err(|error| error.to_string())?,
            });
            println!("{line}");
        }
    }
    Ok(())
}

fn run(
    llama: &Llama,
    config: &Config,
    dtype: DType,
    ids: &[u32],
    chunk: usize,
    decode: usize,
) -> Result<Run> {
    let mut cache = Cache::new(true, dtype, config, &Device::Cpu)?;
    let chunk = if chunk == 0 { ids.len() } else { chunk };
    let start = Instant::now();
    let mut position = 0;
    let mut next = 0;
    for ids in ids.chunks(chunk) {
        next = step(llama, &mut cache, ids, position)?;
        position += ids.len();
    }
    let prefill_seconds = start.elapsed().as_secs_f64();

    let mut generated = vec![next];
    let start = Instant::now();
    for _ in 0..decode {
        next = step(llama, &mut cache, &[next], position)?;
        position += 1;
        generated.push(next);
    }
    Ok(Run {
        prefill_seconds,
        decode_tokens_per_second: decode as f64 / start.elapsed().as_secs_f64(),
        generated,
    })
}

/// The likeliest token after `ids`, which stand at `position`.
fn step(llama: &Llama, cache: &mut Cache, ids: &[u32], position: usize) -> Result<u32> {
    let input = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
    let logits = llama.forward(&input, position, cache)?;
    Ok(logits.squeeze(0)?.argmax(0)?.to_scalar::<u32>()?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}
