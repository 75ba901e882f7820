//! Prefill and decode of a model by candle, on the CPU.
//!
//! `burn-apb-peers MODEL IDS.json TOKENS,.. DECODE SETTING DTYPE` prints one JSON line for each number of
//! tokens. MODEL is a folder of a Llama or Qwen2, read as DTYPE (f32 or bf16), or a GGUF file of one, whose
//! matrices keep their types whatever DTYPE is. SETTING is `whole`, a prefill in one pass, or `chunks`, in
//! passes of 512 tokens. Set `RAYON_NUM_THREADS` for the number of threads.

mod memory;
mod model;

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use candle_core::DType;
use model::Model;

/// Tokens of a pass of `chunks`.
const CHUNK: usize = 512;
/// Tokens of the prefill before the first that counts.
const WARM_UP: usize = 256;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, ids, tokens, decode, setting, dtype] = arguments.as_slice() else {
        return Err(
            "usage: burn-apb-peers MODEL IDS.json TOKENS,.. DECODE whole|chunks DTYPE".into(),
        );
    };
    let path = Path::new(path);
    let dtype = match dtype.as_str() {
        "bf16" => DType::BF16,
        "f32" => DType::F32,
        other if path.is_dir() => return Err(format!("{other}: expected f32 or bf16").into()),
        _ => DType::F32,
    };
    let chunk = match setting.as_str() {
        "whole" => usize::MAX,
        "chunks" => CHUNK,
        other => return Err(format!("{other}: expected whole or chunks").into()),
    };
    let ids: Vec<u32> = serde_json::from_slice(&std::fs::read(ids)?)?;
    let decode = decode.parse()?;
    let base = memory::resident();
    let mut model = Model::load(path, dtype)?;

    run(&mut model, ids.get(..WARM_UP).unwrap_or(&ids), CHUNK, 1)?;
    for count in tokens.split(',') {
        let ids = ids.get(..count.parse()?).ok_or("too few ids")?;
        if model.positions().is_some_and(|most| most < ids.len()) {
            eprintln!("candle's model holds fewer than {count} positions");
            continue;
        }
        model.clear()?;
        memory::reset_peak();
        let done = run(&mut model, ids, chunk, decode)?;
        let line = serde_json::json!({
            "peer": "candle", "setting": setting, "tokens": ids.len(),
            "prefill_seconds": done.prefill_seconds,
            "decode_tokens_per_second": done.decode_tokens_per_second,
            "peak_bytes": memory::peak(), "base_bytes": base, "generated_ids": done.generated,
        });
        println!("{line}");
    }
    Ok(())
}

struct Run {
    prefill_seconds: f64,
    /// None where the model has no positions left for that.
    decode_tokens_per_second: Option<f64>,
    generated: Vec<u32>,
}

/// Prefills `ids` in passes of `chunk`, then decodes greedily.
fn run(model: &mut Model, ids: &[u32], chunk: usize, decode: usize) -> Result<Run> {
    model.clear()?;
    let start = Instant::now();
    let mut position = 0;
    let mut next = 0;
    for ids in ids.chunks(chunk.min(ids.len())) {
        next = model.likeliest(ids, position)?;
        position += ids.len();
    }
    let prefill_seconds = start.elapsed().as_secs_f64();

    let mut generated = vec![next];
    let room = model
        .positions()
        .is_none_or(|most| position + decode <= most);
    let steps = if room { decode } else { 0 };
    let start = Instant::now();
    for _ in 0..steps {
        next = model.likeliest(&[next], position)?;
        position += 1;
        generated.push(next);
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Run {
        prefill_seconds,
        decode_tokens_per_second: (steps > 0).then(|| steps as f64 / seconds),
        generated,
    })
}
