//! Predictions of time and memory for this machine, and refusals of what would not fit it.

use std::sync::Arc;

use burn::tensor::FloatDType;
use burn_apb::apb::{Method, PrefillPlan, Request, RingLayout, Session, SessionConfig};
use burn_apb::checkpoint::{LoadOptions, ModelSource};
use burn_apb::model::{Decoder, DecoderConfig, KvCache, KvDType};
use burn_apb::plan::{Hardware, MemoryConfig, MemoryParts, Program, Rates, Work, measure};
use burn_apb::ranks::Ranks;

use crate::args::Compute;
use crate::error::{AtPath, CliError};
use crate::output::Output;
use crate::{interrupt, memory};

/// A GiB, for people.
pub const GIB: f64 = (1u64 << 30) as f64;

/// This machine, with rates that were measured on it.
pub fn here(rates: Rates) -> Hardware {
    Hardware {
        name: "measured".into(),
        source: "measured on this machine".into(),
        memory_bytes: memory::available_bytes(),
        usable: 1.0,
        rates,
    }
}

/// Measures this machine's rates with a model.
pub fn rates(
    decoder: Arc<Decoder>,
    config: &DecoderConfig,
    session: SessionConfig,
    output: &Output,
) -> Result<Rates, CliError> {
    output.note("note: measures this machine's rates, some seconds");
    interrupt::listen();
    let model: Arc<dyn burn_apb::model::CausalLm> = decoder;
    Ok(measure(&model, config, session, interrupt::token())?)
}

/// A method's name, with the layout of a contiguous ring.
pub fn name(method: Method, layout: RingLayout) -> &'static str {
    match (method, layout) {
        (Method::Ring, RingLayout::Contiguous) => "ring-contiguous",
        (method, _) => method.name(),
    }
}

/// Threads that compute on the CPU; 0 on a GPU.
pub fn threads(gpu: bool) -> usize {
    match gpu {
        true => 0,
        false => std::thread::available_parallelism().map_or(1, usize::from),
    }
}

/// The cache's dtype where none is asked for.
pub fn usual_kv_dtype(quantized: bool, dtype: FloatDType, gpu: bool) -> KvDType {
    match (quantized, dtype) {
        (true, FloatDType::F32) if !gpu => KvDType::BF16,
        _ => KvDType::of(dtype),
    }
}

/// Whether a model's weights are in memory already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    ToLoad,
    Loaded,
}

/// Refuses a request whose memory this machine does not have.
pub fn check_fits(
    source: &ModelSource,
    weights: Weights,
    options: LoadOptions,
    request: &Request,
    ranks: impl Into<Ranks>,
    compute: &Compute,
) -> Result<(), CliError> {
    let config = DecoderConfig::from_json(source.config());
    let config = config.map_err(CliError::usage).at(source.path())?;
    let mut memory = memory_of(source, options, request, compute)?;
    if weights == Weights::Loaded {
        memory.weights = 0;
    }
    check_answer(&config, AskedMemory::of(memory, request), ranks, compute)
}

/// What a request takes memory with. What follows the document counts up to the longest answer, although memory is taken as
/// the answer grows.
fn memory_of(
    source: &ModelSource,
    options: LoadOptions,
    request: &Request,
    compute: &Compute,
) -> Result<MemoryConfig, CliError> {
    let checkpoint = source.checkpoint()?;
    let weights = checkpoint.loaded_bytes(options);
    let floats = checkpoint.loaded_bytes(options.with_dequantize(true));
    let gpu = compute.is_gpu();
    let usual = || usual_kv_dtype(weights != floats, options.dtype, gpu);
    Ok(MemoryConfig {
        weights,
        dtype: options.dtype,
        kv_dtype: request.session.kv_dtype.unwrap_or_else(usual),
        chunk: request.session.chunk_on(&compute.device()?),
        following: (request.session.limit).saturating_sub(request.plan.tokens),
        program: 0,
        threads: threads(gpu),
    })
}

/// What a document, a question and the longest answer take memory with.
pub struct AskedMemory<'a> {
    pub memory: MemoryConfig,
    pub plan: &'a PrefillPlan,
    /// Most tokens of the answer, which `memory` counts among those that follow the document.
    pub answer: usize,
}

impl<'a> AskedMemory<'a> {
    fn of(memory: MemoryConfig, request: &'a Request) -> Self {
        Self {
            memory,
            plan: &request.plan,
            answer: request.max_tokens,
        }
    }
}

/// Refuses what the memory does not hold, with the longest answer that it does.
pub fn check_answer(
    config: &DecoderConfig,
    asked: AskedMemory<'_>,
    ranks: impl Into<Ranks>,
    compute: &Compute,
) -> Result<(), CliError> {
    let ranks: Ranks = ranks.into();
    let AskedMemory {
        memory,
        plan,
        answer: longest,
    } = asked;
    let Some(available) = available_bytes(compute) else {
        return Ok(());
    };
    let needed = |answer: usize| {
        let spared = longest - answer;
        let memory = MemoryConfig {
            following: memory.following.saturating_sub(spared),
            ..memory
        };
        memory.predict(plan, config, ranks.clone(), Program::ThisCrate)
    };
    let fits = |answer: usize| needed(answer).total() <= available;
    if fits(longest) {
        return Ok(());
    }
    if !fits(0) {
        return Err(too_large(&needed(longest), available, compute));
    }
    // The longest answer that fits lies in `low..high`.
    let (mut low, mut high) = (0, longest);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match fits(middle) {
            true => low = middle,
            false => high = middle,
        }
    }
    Err(CliError::memory(format!(
        "an answer of {} tokens takes {} with the document, and {} has {} free; the largest that fits is --max-tokens {low}",
        longest,
        gibibytes(needed(longest).total()),
        compute.device_name(),
        gibibytes(available),
    )))
}

/// Bytes in GiB.
fn gibibytes(bytes: u64) -> String {
    match bytes {
        u64::MAX => "more than can be counted".into(),
        bytes => format!("{:.2} GiB", bytes as f64 / GIB),
    }
}

/// Refuses a question whose rows, and those of its answer, the memory does not hold; `needed`: tokens of document,
/// question and answer.
pub fn check_growth(
    session: &Session,
    config: &DecoderConfig,
    needed: usize,
    compute: &Compute,
) -> Result<(), CliError> {
    let Some(available) = available_bytes(compute) else {
        return Ok(());
    };
    let bytes = |tokens: usize| KvCache::bytes(config, 1, tokens, session.kv_dtype()) as u64;
    let following = needed.saturating_sub(session.document().len());
    // While a layer grows, its rows exist twice.
    let layers = config.num_hidden_layers.max(1) as u64;
    let more = bytes(following).saturating_add(bytes(needed) / layers);
    match more <= available {
        true => Ok(()),
        false => Err(CliError::memory(format!(
            "question and answer of {following} tokens take {}, and {} has {} free; ask with a smaller --max-tokens",
            gibibytes(more),
            compute.device_name(),
            gibibytes(available)
        ))),
    }
}

/// Refuses a prefill of `ranks` in this process whose memory this machine does not have.
pub fn check_memory(
    config: &DecoderConfig,
    memory: MemoryConfig,
    plan: &PrefillPlan,
    ranks: impl Into<Ranks>,
    compute: &Compute,
) -> Result<(), CliError> {
    let Some(available) = available_bytes(compute) else {
        return Ok(());
    };
    let needed = memory.predict(plan, config, ranks, Program::ThisCrate);
    match needed.total() <= available {
        true => Ok(()),
        false => Err(too_large(&needed, available, compute)),
    }
}

/// Bytes that a rank receives at most in a prefill.
pub fn received_bytes(memory: MemoryConfig, plan: &PrefillPlan, config: &DecoderConfig) -> f64 {
    let value = memory.exchanged_bytes();
    let bytes = |rank| Work::of(plan, config, rank, value, Program::ThisCrate).exchange_bytes;
    let most = (0..plan.ranks).map(bytes).fold(0.0, f64::max);
    // The last layer ends with its keys and values.
    most * config.num_hidden_layers.saturating_sub(1) as f64
}

/// Bytes that the device can still give, where that is known.
fn available_bytes(compute: &Compute) -> Option<u64> {
    match compute.is_gpu() {
        true => compute.free_bytes(),
        false => memory::available_bytes(),
    }
}

fn too_large(needed: &MemoryParts, available: u64, compute: &Compute) -> CliError {
    let gib = |bytes: u64| bytes as f64 / GIB;
    let smaller = match needed.weights > available {
        true => "use a smaller or a quantised model",
        false => {
            "use a shorter document, --kv-dtype bf16 or q8_0, a smaller --chunk or more processes; `apb plan` says what fits"
        }
    };
    CliError::memory(format!(
        "this takes {:.2} GiB ({:.2} of weights, {:.2} of keys and values, {:.2} of activations), and {} has {:.2} GiB \
         free; {smaller}",
        gib(needed.total()),
        gib(needed.weights),
        gib(needed.cache),
        gib(needed.activations.saturating_add(needed.exchange)),
        compute.device_name(),
        gib(available)
    ))
}
