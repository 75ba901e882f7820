//! What a rank computes and receives in one layer.

use std::ops::{Add, Range};

use serde::Serialize;

use super::rates::Program;
use crate::apb::{CompressorConfig, Method, PrefillPlan, ulysses_share};
use crate::model::DecoderConfig;

/// Width of a published retaining head, `R` (Locret, arXiv 2410.01805).
pub const RETAINING_WIDTH: usize = 1024;

/// The work of a rank in one layer.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Work {
    /// Rows that go through the layer: the rank's own, and those of its anchor.
    pub rows: f64,
    /// Rows that are scored for passing.
    pub scored_rows: f64,
    /// Floating-point operations of the query, key and value projections.
    pub projections: f64,
    /// Of the compressor's scores.
    pub scores: f64,
    /// Of attention.
    pub attention: f64,
    /// Of the output projection and the MLP.
    pub mlp: f64,
    /// Bytes of keys, values and attention outputs that come from other ranks.
    pub exchange_bytes: f64,
    /// Collectives that bring them.
    pub exchanges: f64,
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            scored_rows: self.scored_rows + other.scored_rows,
            projections: self.projections + other.projections,
            scores: self.scores + other.scores,
            attention: self.attention + other.attention,
            mlp: self.mlp + other.mlp,
            exchange_bytes: self.exchange_bytes + other.exchange_bytes,
            exchanges: self.exchanges + other.exchanges,
        }
    }
}

/// Pairs of a row and a key at or before it, for `n` rows.
fn causal(n: f64) -> f64 {
    n * (n + 1.0) / 2.0
}

/// Pairs of a range's rows and all keys at or before each.
fn causal_from_start(range: &Range<usize>) -> f64 {
    let rows = range.len() as f64;
    rows * range.start as f64 + causal(rows)
}

impl Work {
    /// The work of rank `rank` under `plan`, with a device of its own; `value_bytes`: bytes of a key's or value's
    /// element on the way.
    pub fn of(
        plan: &PrefillPlan,
        config: &DecoderConfig,
        rank: usize,
        value_bytes: f64,
        program: Program,
    ) -> Self {
        let layer = Layer {
            config,
            value_bytes,
            program,
        };
        let owned = plan.owned_len(rank) as f64;
        let ranks = plan.ranks.max(1) as f64;
        match plan.method {
            Method::Full => layer.rows(owned) + layer.attention(causal(owned)),
            Method::Ring => {
                let pairs = plan.owned(rank).iter().map(causal_from_start).sum();
                let received = plan.tokens as f64 - owned;
                layer.rows(owned)
                    + layer.attention(pairs)
                    + layer.receive_kv(received, plan.ranks.saturating_sub(1))
            }
            Method::Ulysses => {
                let pairs = causal(plan.tokens as f64) / ranks;
                let received = plan.tokens as f64 - owned;
                layer.rows(owned)
                    + layer.attention(pairs)
                    + layer.receive_heads(received, owned, plan.ranks)
            }
            Method::Star | Method::Apb => {
                let anchor = match rank {
                    0 => layer.anchor_of_the_first(plan),
                    _ => plan.anchor as f64,
                };
                let seen = match rank {
                    0 => 0.0,
                    _ => anchor + plan.passing as f64 * rank as f64,
                };
                let pairs = causal(anchor) + owned * seen + causal(owned);
                let work = layer.rows(owned + anchor) + layer.attention(pairs);
                match plan.passing {
                    0 => work,
                    passing => {
                        let received = passing as f64 * plan.ranks.saturating_sub(1) as f64;
                        let passes = rank < plan.ranks.saturating_sub(1);
                        let scored = if passes { owned } else { 0.0 };
                        work + layer.receive_kv(received, 1)
                            + layer.scores(plan, owned + anchor, scored)
                    }
                }
            }
        }
    }

    /// What is left of the last layer where a prefill ends with its keys and values.
    pub(super) fn keys_and_values(self) -> Self {
        Self {
            rows: self.rows,
            projections: self.projections,
            ..Self::default()
        }
    }
}

/// Work in a layer of a decoder.
struct Layer<'a> {
    config: &'a DecoderConfig,
    value_bytes: f64,
    program: Program,
}

impl Layer<'_> {
    /// Elements of a row's queries, and of its keys.
    fn widths(&self) -> (f64, f64) {
        let c = self.config;
        let width = |heads: usize| heads as f64 * c.head_dim as f64;
        (width(c.num_attention_heads), width(c.num_key_value_heads))
    }

    /// Linear layers.
    fn rows(&self, rows: f64) -> Work {
        let (q, kv) = self.widths();
        let hidden = self.config.hidden_size as f64;
        let intermediate = self.config.intermediate_size as f64;
        Work {
            rows,
            projections: 2.0 * rows * hidden * (q + 2.0 * kv),
            mlp: 2.0 * rows * hidden * (q + 3.0 * intermediate),
            ..Work::default()
        }
    }

    /// Scores and weighted values: a multiplication and an addition each.
    fn attention(&self, pairs: f64) -> Work {
        Work {
            attention: 4.0 * self.widths().0 * pairs,
            ..Work::default()
        }
    }

    /// Keys and values of `rows` rows, in so many collectives.
    fn receive_kv(&self, rows: f64, exchanges: usize) -> Work {
        Work {
            exchange_bytes: rows * 2.0 * self.widths().1 * self.value_bytes,
            exchanges: exchanges as f64,
            ..Work::default()
        }
    }

    /// Ulysses: other ranks' rows of a share of the heads, and this rank's rows of the others' heads back.
    fn receive_heads(&self, received: f64, owned: f64, ranks: usize) -> Work {
        let c = self.config;
        let (heads, kv_heads) = ulysses_share(c.num_attention_heads, c.num_key_value_heads, ranks);
        let head = c.head_dim as f64;
        let share = (heads as f64 + 2.0 * kv_heads as f64) * head;
        let others = c.num_attention_heads.saturating_sub(heads) as f64 * head;
        Work {
            exchange_bytes: (received * share + owned * others) * self.value_bytes,
            exchanges: 2.0,
            ..Work::default()
        }
    }

    /// Rows of the anchor on rank 0, which attends to none: query-aware scores of this crate read its query there, too.
    fn anchor_of_the_first(&self, plan: &PrefillPlan) -> f64 {
        let reads = plan.passing > 0 && plan.compressor == CompressorConfig::QueryAware;
        match self.program {
            Program::ThisCrate if reads => plan.anchor as f64,
            _ => 0.0,
        }
    }

    /// The compressor's scores of `scored` rows; the published program scores all `rows` of every rank.
    fn scores(&self, plan: &PrefillPlan, rows: f64, scored: f64) -> Work {
        let (q, kv) = self.widths();
        let scores = match &plan.compressor {
            CompressorConfig::Retaining { .. } => {
                let rows = match self.program {
                    Program::Published => rows,
                    Program::ThisCrate => scored,
                };
                let heads = self.config.num_key_value_heads as f64;
                2.0 * rows * RETAINING_WIDTH as f64 * (q + 2.0 * kv + heads)
            }
            // Keys times the mean of the query's rows.
            CompressorConfig::QueryAware => 2.0 * scored * kv,
            _ => 0.0,
        };
        Work {
            scored_rows: scored,
            scores,
            ..Work::default()
        }
    }
}
