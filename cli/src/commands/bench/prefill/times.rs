//! Times of a prefill's parts, by rank.

use std::collections::BTreeMap;
use std::time::Duration;

use burn_apb::apb::{CancelToken, Observer, Part};
use serde_json::{Value, json};

use crate::interrupt;

/// Adds up the parts of prefills.
#[derive(Default)]
pub struct Times {
    /// Over all ranks.
    pub parts: BTreeMap<Part, f64>,
    /// Over all parts, by rank.
    ranks: BTreeMap<usize, f64>,
    /// What no rank has for itself, but for the exchange.
    shared: f64,
    /// The exchange: between ranks of one process nothing travels, and its time says nothing about a network.
    exchange: f64,
}

impl Times {
    /// Where every rank has a device of its own: the slowest one's seconds. `exchange`: seconds of what it receives;
    /// none: as measured between processes.
    pub fn critical(&self, exchange: Option<f64>) -> f64 {
        let slowest = self.ranks.values().copied().fold(0.0, f64::max);
        self.shared + slowest + exchange.unwrap_or(self.exchange)
    }

    pub fn add(&mut self, other: &Self) {
        for (part, seconds) in &other.parts {
            *self.parts.entry(*part).or_default() += seconds;
        }
        for (rank, seconds) in &other.ranks {
            *self.ranks.entry(*rank).or_default() += seconds;
        }
        self.shared += other.shared;
        self.exchange += other.exchange;
    }

    pub fn parts_json(&self, runs: f64) -> Value {
        let seconds = |(part, seconds): (&Part, &f64)| (part.name().into(), json!(seconds / runs));
        Value::Object(self.parts.iter().map(seconds).collect())
    }

    pub fn ranks_json(&self, runs: f64) -> Value {
        json!(self.ranks.values().map(|s| s / runs).collect::<Vec<_>>())
    }
}

impl Observer for Times {
    fn cancel_token(&self) -> CancelToken {
        interrupt::token().clone()
    }

    fn wants_times(&self) -> bool {
        true
    }

    fn part(&mut self, part: Part, rank: Option<usize>, time: Duration) {
        let seconds = time.as_secs_f64();
        *self.parts.entry(part).or_default() += seconds;
        match (part, rank) {
            (Part::Exchange, _) => self.exchange += seconds,
            (_, Some(rank)) => *self.ranks.entry(rank).or_default() += seconds,
            (_, None) => self.shared += seconds,
        }
    }
}

/// Takes no times, and ends with Ctrl-C.
pub struct Untimed;

impl Observer for Untimed {
    fn cancel_token(&self) -> CancelToken {
        interrupt::token().clone()
    }
}
