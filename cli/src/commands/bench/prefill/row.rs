//! Measurements of one method and length, and how they are shown.

use std::io::{self, Write};

use burn_apb::apb::{Method, Part, PrefillPlan, Request};
use burn_apb::model::DecoderConfig;
use burn_apb::plan::{Planner, Prediction, Program, Rates, Work};
use serde_json::{Value, json};

use super::Prefill;
use super::times::Times;
use crate::commands::bench::subject::Subject;
use crate::commands::bench::{median, or_dash};
use crate::commands::prefill;
use crate::predict;

const MIB: f64 = 1_048_576.0;

/// Measurements of one method and length.
pub struct Row {
    pub tokens: usize,
    /// Rows of a pass.
    pub chunk: usize,
    /// How the document is prefilled.
    pub plan: PrefillPlan,
    pub prefill_seconds: Vec<f64>,
    timed_seconds: Vec<f64>,
    pub critical_seconds: Vec<f64>,
    pub times: Times,
    decode_rates: Vec<f64>,
    /// Weights, cache and one layer's activations.
    needed_bytes: usize,
    /// What this process is predicted to hold.
    predicted_bytes: u64,
    /// What its slowest rank is predicted to take, where rates were measured.
    pub predicted: Option<Prediction>,
    /// Floating-point operations of the slowest rank, and of one token's worth of all.
    critical_flops: f64,
    /// Largest so far.
    pub peak_bytes: Option<u64>,
    /// What each process reported, where there are several.
    processes: Vec<Value>,
}

/// One prefill, and what was decoded after it.
pub struct Measured {
    /// Of the prefill as a user runs it.
    pub seconds: f64,
    /// With times taken, and the anchor's rows computed by each rank.
    pub timed_seconds: f64,
    /// Of the slowest rank.
    pub critical_seconds: f64,
    /// Its parts.
    pub times: Times,
    /// Tokens a second, where some were decoded.
    pub decode_rate: Option<f64>,
    /// What each process reported, where there are several.
    pub processes: Vec<Value>,
    /// Of the prefill as a user runs it, and of decoding.
    pub peak_bytes: Option<u64>,
}

impl Measured {
    pub fn json(&self, row: &Row, warm_up: bool) -> Value {
        json!({
            "method": row.name(), "ranks": row.plan.ranks, "tokens": row.tokens,
            "warm_up": warm_up, "prefill_seconds": self.seconds, "timed_seconds": self.timed_seconds,
            "critical_seconds": self.critical_seconds, "parts": self.times.parts_json(1.0),
            "rank_seconds": self.times.ranks_json(1.0), "decode_tokens_per_second": self.decode_rate,
            "peak_bytes": row.peak_bytes,
        })
    }
}

impl Row {
    /// Nothing measured yet; `program`: bytes of the process before weights are loaded.
    pub fn new(
        request: &Request,
        subject: &Subject,
        args: &Prefill,
        program: u64,
        rates: Option<Rates>,
    ) -> Self {
        let (plan, config) = (&request.plan, &subject.config);
        let chunk = request.session.chunk_on(&subject.device);
        let tile = chunk.min(plan.tokens);
        let cached = plan.tokens.saturating_add(args.decode());
        let memory = subject.memory_config(request, args, program);
        let driven = match args.only_rank {
            Some(rank) => rank..rank.saturating_add(1),
            None => 0..plan.ranks,
        };
        let critical_flops = driven.clone().map(|rank| flops(plan, config, rank));
        Self {
            tokens: plan.tokens,
            chunk,
            plan: plan.clone(),
            prefill_seconds: Vec::new(),
            timed_seconds: Vec::new(),
            critical_seconds: Vec::new(),
            times: Times::default(),
            decode_rates: Vec::new(),
            needed_bytes: subject.memory.needed_bytes(config, tile, tile, cached),
            predicted_bytes: (memory.predict(plan, config, driven.clone(), Program::ThisCrate))
                .total(),
            predicted: rates.map(|rates| {
                let planner = Planner::new(config.clone(), predict::here(rates));
                planner.with_memory(memory).predict_ranks(plan, driven)
            }),
            critical_flops: critical_flops.fold(0.0, f64::max),
            peak_bytes: None,
            processes: Vec::new(),
        }
    }

    /// Counts a run.
    pub fn add(&mut self, measured: Measured) {
        self.prefill_seconds.push(measured.seconds);
        self.timed_seconds.push(measured.timed_seconds);
        self.critical_seconds.push(measured.critical_seconds);
        self.times.add(&measured.times);
        self.decode_rates.extend(measured.decode_rate);
        if let Some(first) = measured.processes.first() {
            self.needed_bytes = first["needed_bytes"].as_u64().unwrap_or(0) as usize;
            self.processes = measured.processes;
        }
    }

    /// The method, with the layout of a contiguous ring.
    pub fn name(&self) -> &'static str {
        predict::name(self.plan.method, self.plan.ring_layout)
    }

    pub fn seconds(&self) -> f64 {
        median(&self.prefill_seconds).unwrap_or(f64::NAN)
    }

    /// Of the slowest rank.
    pub fn critical(&self) -> f64 {
        median(&self.critical_seconds).unwrap_or(f64::NAN)
    }

    fn memory_ratio(&self) -> Option<f64> {
        self.peak_bytes
            .map(|peak| peak as f64 / self.needed_bytes as f64)
    }

    /// GFLOP/s of the slowest rank.
    fn gflops(&self) -> f64 {
        self.critical_flops / self.critical() / 1e9
    }

    pub fn json(&self, peak: f64) -> Value {
        let runs = self.prefill_seconds.len() as f64;
        let predicted = self.predicted.as_ref();
        json!({
            "method": self.name(), "ranks": self.plan.ranks, "tokens": self.tokens,
            "anchor": self.plan.anchor, "passing": self.plan.passing, "parts": self.times.parts_json(runs),
            "rank_seconds": self.times.ranks_json(runs), "critical_seconds": self.critical(),
            "predicted_critical_seconds": predicted.map(Prediction::seconds),
            "prefill_seconds": self.seconds(), "prefill_seconds_all": self.prefill_seconds,
            "timed_seconds": median(&self.timed_seconds),
            "prefill_tokens_per_second": self.tokens as f64 / self.seconds(),
            "prefill_gflops": (self.plan.method == Method::Full).then(|| self.gflops()),
            "critical_gflops": self.gflops(), "share_of_product": self.gflops() / peak,
            "decode_tokens_per_second": median(&self.decode_rates),
            "decode_tokens_per_second_all": self.decode_rates,
            "peak_bytes": self.peak_bytes, "needed_bytes": self.needed_bytes,
            "predicted_bytes": self.predicted_bytes,
            "peak_over_needed": self.memory_ratio(), "processes": self.processes,
        })
    }
}

/// Floating-point operations of a rank: products of linear layers, scores and attention.
fn flops(plan: &PrefillPlan, config: &DecoderConfig, rank: usize) -> f64 {
    let work = Work::of(plan, config, rank, 0.0, Program::ThisCrate);
    let layers = config.num_hidden_layers as f64;
    work.projections * layers + (work.attention + work.mlp + work.scores) * (layers - 1.0).max(0.0)
}

/// The tables.
pub fn print(w: &mut dyn Write, rows: &[Row], peak: f64) -> io::Result<()> {
    let predicted = rows.iter().any(|row| row.predicted.is_some());
    write!(
        w,
        "{:>8} {:<15} {:>10} {:>8} {:>11}",
        "tokens", "method", "prefill s", "tok/s", "critical s"
    )?;
    if predicted {
        write!(w, " {:>11}", "predicted s")?;
    }
    writeln!(
        w,
        " {:>9} {:>12} {:>10} {:>13}",
        "of peak", "decode tok/s", "peak MiB", "predicted MiB"
    )?;
    for row in rows {
        write!(
            w,
            "{:>8} {:<15} {:>10.3} {:>8.0} {:>11.3}",
            row.tokens,
            row.name(),
            row.seconds(),
            row.tokens as f64 / row.seconds(),
            row.critical(),
        )?;
        if predicted {
            let seconds = row.predicted.as_ref().map(Prediction::seconds);
            write!(w, " {:>11}", or_dash(seconds, 3))?;
        }
        writeln!(
            w,
            " {:>7.0} % {:>12} {:>10} {:>13.0}",
            100.0 * row.gflops() / peak,
            or_dash(median(&row.decode_rates), 1),
            or_dash(row.peak_bytes.map(|b| b as f64 / MIB), 0),
            row.predicted_bytes as f64 / MIB,
        )?;
    }
    writeln!(
        w,
        "\nprefill: as a user runs it; critical: the slowest rank with its own anchor, as on a device of its own\n\
         of peak: the critical rank's share of {peak:.0} GFLOP/s, those of a matrix product here\n\n\
         seconds of all ranks, mean of the runs"
    )?;
    write!(w, "{:>8} {:<15}", "tokens", "method")?;
    for part in Part::ALL {
        write!(w, " {:>12}", part.name())?;
    }
    writeln!(w, " {:>8} {:>8}", "timed", "untimed")?;
    for row in rows {
        write!(w, "{:>8} {:<15}", row.tokens, row.name())?;
        for part in Part::ALL {
            let seconds = row.times.parts.get(&part).copied().unwrap_or_default();
            write!(w, " {:>12.3}", seconds / row.prefill_seconds.len() as f64)?;
        }
        writeln!(
            w,
            " {:>8} {:>8.3}  {}",
            or_dash(median(&row.timed_seconds), 3),
            row.seconds(),
            prefill::describe(&row.plan)
        )?;
    }
    Ok(())
}
