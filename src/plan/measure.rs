//! Rates of this machine, from prefills of a model.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::rates::{Program, Rates};
use super::work::Work;
use crate::apb::{
    AnswerError, CancelToken, Document, Method, Observer, Part, PrefillConfig, PrefillPlan,
    Request, SessionConfig,
};
use crate::model::{CausalLm, DecoderConfig};
use crate::ranks::RankGroup;

/// Ranks of the prefill under APB.
const RANKS: usize = 4;
/// Tokens of the first prefill, of the shortest that counts, and of the longest.
const FIRST: usize = 256;
const SHORTEST: usize = 512;
const LONGEST: usize = 4096;
/// Tokens of a prefill whose time is mostly that of reading weights and starting work.
const FEW: usize = 16;
/// Seconds that a prefill that counts should take.
const SECONDS: f64 = 3.0;
/// Tokens of the query in the anchor.
const QUERY: usize = 32;

/// Prefills random tokens with full attention and under APB, a few seconds each, and divides the work of each part by
/// its time.
///
/// `config` is the model's; `session` gives the chunk and the dtype of the cache. Nothing travels between devices here,
/// so that [`Rates::exchange`] is none.
///
/// # Errors
///
/// [`AnswerError`] when a prefill fails or `cancel` is cancelled.
pub fn measure(
    model: &Arc<dyn CausalLm>,
    config: &DecoderConfig,
    session: SessionConfig,
    cancel: &CancelToken,
) -> Result<Rates, AnswerError> {
    let machine = Machine {
        model,
        config,
        session,
        cancel,
    };
    // Threads start, pages come in, a GPU compiles.
    machine.prefill(Method::Full, FIRST)?;
    let first = machine.prefill(Method::Full, FIRST)?;
    let tokens = (FIRST as f64 * SECONDS / first.seconds.max(1e-3)) as usize;
    let tokens = tokens.clamp(SHORTEST, LONGEST);
    let full = machine.prefill(Method::Full, tokens)?;
    let apb = machine.prefill(Method::Apb, tokens)?;
    let layers = config.num_hidden_layers as f64;
    let whole = (layers - 1.0).max(1.0);

    let projections = full.work.projections * layers / full.part(Part::Projections);
    let selection = apb.part(Part::Selection) - apb.work.scores * whole / projections;
    let scored = (apb.work.scored_rows * whole).max(1.0);
    let other = full.seconds - full.parts.values().sum::<f64>();
    let rates = Rates {
        projections,
        scores: projections,
        attention: full.work.attention * whole / full.part(Part::Attention),
        mlp: full.work.mlp * whole / full.part(Part::Mlp),
        exchange: None,
        exchange_seconds: 0.0,
        row_seconds: other.max(0.0) / (tokens as f64 * layers),
        layer_seconds: 0.0,
        selection_row_seconds: selection.max(0.0) / scored,
        program: Program::ThisCrate,
    };
    // What a few rows take beyond their share.
    let few = machine.prefill(Method::Full, FEW)?;
    let share = rates.seconds(&few.work, config.num_hidden_layers).total();
    Ok(Rates {
        layer_seconds: (few.seconds - share).max(0.0) / layers,
        ..rates
    })
}

struct Machine<'a> {
    model: &'a Arc<dyn CausalLm>,
    config: &'a DecoderConfig,
    session: SessionConfig,
    cancel: &'a CancelToken,
}

/// A prefill's work in a layer, summed over its ranks, and its times.
struct Measured {
    work: Work,
    seconds: f64,
    parts: BTreeMap<Part, f64>,
}

impl Measured {
    /// Seconds of a part; more than none, as they divide.
    fn part(&self, part: Part) -> f64 {
        self.parts.get(&part).copied().unwrap_or(0.0).max(1e-9)
    }
}

impl Machine<'_> {
    fn prefill(&self, method: Method, tokens: usize) -> Result<Measured, AnswerError> {
        let document = Document::new(self.tokens(tokens)).with_anchor_query(self.tokens(QUERY));
        let ranks = match method {
            Method::Full => 1,
            _ => RANKS,
        };
        let plan = PrefillConfig::new(method, ranks).plan(&document, self.model.shape())?;
        let work = self.work(&plan);
        let mut request = Request::from_tokens(document, plan, vec![0], 1, self.session.chunk);
        request.session.kv_dtype = self.session.kv_dtype;
        request.session.own_anchors = true;
        let mut times = Times {
            cancel: self.cancel.clone(),
            parts: BTreeMap::new(),
        };
        let group = RankGroup::local(ranks);
        let (_, seconds) = request.prefill(self.model.clone(), group, &mut times)?;
        Ok(Measured {
            work,
            seconds,
            parts: times.parts,
        })
    }

    fn work(&self, plan: &PrefillPlan) -> Work {
        (0..plan.ranks)
            .map(|rank| Work::of(plan, self.config, rank, 0.0, Program::ThisCrate))
            .fold(Work::default(), |sum, work| sum + work)
    }

    /// Tokens without a pattern.
    fn tokens(&self, count: usize) -> Vec<u32> {
        let vocab = self.model.vocab_size().max(1) as u64;
        // Multiplicative hashing by 2^64 over the golden ratio (Knuth, The Art of Computer Programming, 6.4).
        (0..count as u64)
            .map(|i| ((i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) % vocab) as u32)
            .collect()
    }
}

struct Times {
    cancel: CancelToken,
    parts: BTreeMap<Part, f64>,
}

impl Observer for Times {
    fn cancel_token(&self) -> CancelToken {
        self.cancel.clone()
    }

    fn wants_times(&self) -> bool {
        true
    }

    fn part(&mut self, part: Part, _: Option<usize>, time: Duration) {
        *self.parts.entry(part).or_default() += time.as_secs_f64();
    }
}
