//! Memory of a process that prefills some ranks' rows.

use burn::tensor::{DType, FloatDType};
use serde::Serialize;

use super::rates::Program;
use crate::apb::{CompressorConfig, Method, PrefillPlan, ulysses_share};
use crate::model::{DecoderConfig, KvCache, KvDType};
use crate::ranks::Ranks;

/// What takes a process's memory beside the plan.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MemoryConfig {
    /// Bytes of the weights, as they are loaded.
    pub weights: u64,
    /// Dtype of activations.
    pub dtype: FloatDType,
    /// Dtype of the cache.
    pub kv_dtype: KvDType,
    /// Rows of a pass of full attention and of a tile of the MLP.
    pub chunk: usize,
    /// Tokens that follow the document: question and answer.
    pub following: usize,
    /// Bytes of the program itself, its libraries and its tokenizer.
    pub program: u64,
    /// Threads that compute; 0 on a GPU.
    pub threads: usize,
}

/// Predicted bytes of a process at its peak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct MemoryParts {
    /// The weights.
    pub weights: u64,
    /// Keys and values of the document and of what follows it.
    pub cache: u64,
    /// Rows between and within layers.
    pub activations: u64,
    /// What is sent, received and joined of other ranks' keys, values and heads.
    pub exchange: u64,
    /// Working memory of kernels.
    pub workspace: u64,
    /// The program, its libraries and its tokenizer.
    pub program: u64,
}

impl MemoryParts {
    /// All of it.
    pub fn total(&self) -> u64 {
        [
            self.weights,
            self.cache,
            self.activations,
            self.exchange,
            self.workspace,
            self.program,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

/// Bytes of a thread's panels and running sums; of the calling thread's packed matrix, and of what the allocator keeps
/// between tensors of other sizes, in part by the size of an element (measured).
const THREAD_BYTES: u64 = 1 << 20;
const KEPT_BYTES: u64 = 13 << 20;
const KEPT_BYTES_OF_ELEMENT: u64 = 19 << 18;
/// The part that a GPU's memory pools add, measured with this crate on one, and what its driver takes.
const POOL: f64 = 0.08;
const DRIVER_BYTES: u64 = 1 << 29;

/// Rows and widths of what a process holds.
struct Sizes<'a> {
    plan: &'a PrefillPlan,
    config: &'a DecoderConfig,
    driven: Ranks,
    /// Each rank's local rows, and the rows of the anchor that it computes.
    ranks: Vec<(usize, f64, f64)>,
    /// Rows of a tile at most.
    chunk: f64,
    /// Widths of hidden rows, queries, keys, the MLP.
    hidden: f64,
    query: f64,
    kv: f64,
    intermediate: f64,
    /// Bytes of a value of activations, of the cache, and of cached rows as floats.
    value: f64,
    cached: f64,
    program: Program,
}

impl MemoryConfig {
    /// Bytes of an element of keys or values where they are joined or sent: codes of eight bits are bf16 there.
    pub fn exchanged_bytes(&self) -> f64 {
        match self.kv_dtype {
            KvDType::F32 => 4.0,
            _ => 2.0,
        }
    }

    /// The peak of a process that drives `ranks` of `plan`.
    pub fn predict(
        &self,
        plan: &PrefillPlan,
        config: &DecoderConfig,
        ranks: impl Into<Ranks>,
        program: Program,
    ) -> MemoryParts {
        let ranks: Ranks = ranks.into();
        let owned = ranks.clone().map(|rank| plan.owned_len(rank));
        let owned = owned.fold(0, usize::saturating_add);
        let last = (plan.ranks.checked_sub(1)).is_some_and(|last| ranks.contains(last));
        let cached = owned.saturating_add(if last { self.following } else { 0 });
        let sizes = Sizes::new(self, plan, config, ranks, program);
        let (activations, exchange) = sizes.layer();
        let cache = KvCache::bytes(config, 1, cached, self.kv_dtype) as u64;
        let workspace = match self.threads {
            0 => {
                let held = (self.weights.saturating_add(cache)) as f64 + activations + exchange;
                DRIVER_BYTES.saturating_add((held * POOL) as u64)
            }
            threads => {
                let element = DType::from(self.dtype).size() as u64;
                let kept = KEPT_BYTES + KEPT_BYTES_OF_ELEMENT * element;
                kept.saturating_add(THREAD_BYTES.saturating_mul(threads as u64))
            }
        };
        MemoryParts {
            weights: self.weights,
            cache,
            activations: activations as u64,
            exchange: exchange as u64,
            workspace,
            program: self.program,
        }
    }
}

impl<'a> Sizes<'a> {
    fn new(
        memory: &MemoryConfig,
        plan: &'a PrefillPlan,
        config: &'a DecoderConfig,
        ranks: Ranks,
        program: Program,
    ) -> Self {
        let width = |heads: usize| heads as f64 * config.head_dim as f64;
        let value = DType::from(memory.dtype).size() as f64;
        let cached = memory.exchanged_bytes();
        let chunk = match program {
            Program::Published => f64::INFINITY,
            Program::ThisCrate => memory.chunk.max(1) as f64,
        };
        // One rank computes the anchor for all that this process drives; query-aware scores read it on rank 0, too.
        let needs = |rank: usize| match (plan.method, &plan.compressor) {
            (Method::Apb, CompressorConfig::QueryAware) => plan.passing > 0 || rank > 0,
            (Method::Apb, _) => rank > 0,
            (Method::Star, _) => rank > 0 && !ranks.contains(0),
            _ => false,
        };
        let mut anchor = Some(plan.anchor).filter(|rows| *rows > 0);
        let rows = ranks.clone().map(|rank| {
            let own = match plan.method {
                Method::Full => (plan.tokens as f64).min(chunk),
                _ => plan.owned_len(rank) as f64,
            };
            let computed = anchor.take_if(|_| needs(rank)).unwrap_or(0);
            (rank, own, computed as f64)
        });
        Self {
            plan,
            config,
            ranks: rows.collect(),
            driven: ranks,
            chunk,
            hidden: config.hidden_size as f64,
            query: width(config.num_attention_heads),
            kv: width(config.num_key_value_heads),
            intermediate: config.intermediate_size as f64,
            value,
            cached,
            program,
        }
    }

    fn all_rows(&self) -> f64 {
        self.ranks.iter().map(|(_, own, anchor)| own + anchor).sum()
    }

    /// Bytes at the peak of a layer: activations, and those of the exchange.
    fn layer(&self) -> (f64, f64) {
        let rows = self.all_rows();
        let rope = self.config.head_dim as f64 * 4.0;
        let held = rows * (self.hidden * self.value + rope);
        let (attention, exchange) = self.attending();
        [
            (self.projecting(), 0.0),
            (attention, exchange),
            (self.finishing(), 0.0),
        ]
        .into_iter()
        .max_by(|a, b| (a.0 + a.1).total_cmp(&(b.0 + b.1)))
        .map_or((held, 0.0), |(activations, exchange)| {
            (held + activations, exchange)
        })
    }

    /// While a rank's rows are projected: queries of the ranks before it are held.
    fn projecting(&self) -> f64 {
        let mut before = 0.0;
        let mut peak = 0.0_f64;
        for (_, own, anchor) in &self.ranks {
            let rows = own + anchor;
            // Flat projections, rotated queries and keys, and rows as the cache wants them.
            let here = rows * (2.0 * self.query + 3.0 * self.kv) * self.value
                + own * self.kv * (self.value + 2.0 * self.cached);
            peak = peak.max(before * self.query * self.value + here);
            before += rows;
        }
        peak
    }

    /// While ranks attend, and what of that comes from other ranks.
    fn attending(&self) -> (f64, f64) {
        let rows = self.all_rows();
        let sums = self.config.num_attention_heads as f64 * 4.0;
        let longest =
            |of: fn(&(usize, f64, f64)) -> f64| self.ranks.iter().map(of).fold(0.0_f64, f64::max);
        let one = longest(|(_, own, anchor)| own + anchor);
        let queries = rows * self.query * self.value;
        let outputs = queries + one * sums + one * self.query * self.value;
        let exchange = match self.plan.method {
            Method::Full => 0.0,
            Method::Star | Method::Apb => self.regions(one),
            Method::Ring => self.ring(rows, one),
            Method::Ulysses => self.ulysses(rows),
        };
        (queries + outputs, exchange)
    }

    /// Passing blocks of all ranks, and one rank's keys and values joined with them.
    fn regions(&self, longest: f64) -> f64 {
        let ranks = self.plan.ranks as f64;
        let passing = self.plan.passing as f64;
        let gathered = 2.0 * ranks * passing * 2.0 * self.kv * self.value;
        let joined = (self.ranks.iter())
            .filter(|(rank, ..)| *rank > 0)
            .map(|(rank, own, _)| passing * *rank as f64 + self.plan.anchor as f64 + own)
            .fold(0.0_f64, f64::max);
        let anchor = match self.plan.anchor {
            0 => 0.0,
            _ => 2.0 * longest * self.kv * self.value,
        };
        gathered + joined * 2.0 * self.kv * self.cached + anchor
    }

    /// All local keys and values packed, the blocks that arrive, and sums in f32.
    fn ring(&self, rows: f64, longest: f64) -> f64 {
        let arrives = |rank: &usize| {
            let before = rank.checked_sub(1);
            let before = before.unwrap_or(self.plan.ranks.saturating_sub(1));
            !self.driven.contains(before)
        };
        let arriving = self.driven.clone().filter(arrives).count() as f64;
        let blocks = (rows + arriving * longest) * 2.0 * self.kv * self.cached;
        let sums = (rows + longest) * self.query * 4.0;
        blocks + sums
    }

    /// What is sent, what is received, and one rank's share of all rows joined.
    fn ulysses(&self, rows: f64) -> f64 {
        let ranks = self.plan.ranks;
        let (heads, kv_heads) = ulysses_share(
            self.config.num_attention_heads,
            self.config.num_key_value_heads,
            ranks,
        );
        let head = self.config.head_dim as f64;
        let share = (heads as f64 + 2.0 * kv_heads as f64) * head;
        let tokens = self.plan.tokens as f64;
        let sent = rows * share * ranks as f64;
        let driven = self.ranks.len() as f64;
        let received = match self.ranks.len() < ranks {
            true => tokens * share * driven,
            false => 0.0,
        };
        let joined = tokens * (share + heads as f64 * head);
        let returned = rows * self.query;
        (sent + received + joined + returned) * self.value
    }

    /// While a rank's rows go through the second half of a layer: heads of the ranks behind it are held.
    fn finishing(&self) -> f64 {
        let gate = match self.program {
            Program::Published => 3.0,
            // The product of gate and up takes the gate's place.
            Program::ThisCrate => 2.0,
        };
        let mut behind = self.all_rows();
        let mut peak = 0.0_f64;
        for (_, own, anchor) in &self.ranks {
            let rows = own + anchor;
            let tiles = (rows / self.chunk).ceil().max(1.0);
            let tile = (rows / tiles).ceil();
            let in_tile =
                (rows - tile) * self.hidden + tile * (2.0 * self.hidden + gate * self.intermediate);
            let joined = match tiles > 1.0 {
                true => 2.0 * rows * self.hidden,
                false => 0.0,
            };
            let attended = behind * self.query;
            peak = peak.max((attended + in_tile.max(joined)) * self.value);
            behind -= rows;
        }
        peak
    }
}
