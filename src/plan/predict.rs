//! Time and memory of a prefill, before it is run.

use std::ops::Range;

use burn::tensor::FloatDType;
use serde::Serialize;

use super::memory::{MemoryConfig, MemoryParts};
use super::rates::{Hardware, PartSeconds};
use super::work::Work;
use crate::apb::{DocumentLengths, PlanError, PrefillConfig, PrefillPlan};
use crate::model::{DecoderConfig, KvDType, MAX_CONTEXT};
use crate::ranks::Ranks;

/// Ranks at each end of a plan that are looked at.
const OUTER: usize = 64;

/// Predicts prefills of one model on ranks with a device each.
///
/// ```
/// use burn_apb::apb::{DocumentLengths, Method, PrefillConfig};
/// use burn_apb::model::{Architecture, DecoderConfig};
/// use burn_apb::plan::{Hardware, Planner};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Llama-3.1-8B.
/// let model = DecoderConfig::new(Architecture::Llama, 128_256, 4096, 14_336, 32, 32, 8, 128);
/// let planner = Planner::new(model, Hardware::known("a800")?);
/// let document = DocumentLengths::new(131_072).with_anchor_query(32);
/// let apb = planner.predict(&PrefillConfig::new(Method::Apb, 8), &document)?;
/// let full = planner.predict(&PrefillConfig::new(Method::Full, 1), &document)?;
/// assert!(full.seconds() > 9.0 * apb.seconds());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Planner {
    /// The model's shape.
    pub config: DecoderConfig,
    /// What each rank runs on.
    pub hardware: Hardware,
    /// What takes memory beside the plan.
    pub memory: MemoryConfig,
}

/// What a prefill will take, on the rank that takes longest and on the one that holds most.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// Method, ranks and lengths.
    pub plan: PrefillPlan,
    /// The rank that takes longest.
    pub critical_rank: usize,
    /// Seconds of its parts.
    pub parts: PartSeconds,
    /// Bytes that it receives from other ranks, in all layers.
    pub exchange_bytes: u64,
    /// Bytes of the rank that holds most.
    pub memory: MemoryParts,
    /// Whether that fits a rank's device; none where its memory is not known.
    pub fits: Option<bool>,
}

impl Prediction {
    /// Seconds of the prefill.
    pub fn seconds(&self) -> f64 {
        self.parts.total()
    }
}

impl Planner {
    /// Weights, activations and cache in bf16, on a GPU, with the chunks that this crate has there.
    pub fn new(config: DecoderConfig, hardware: Hardware) -> Self {
        let memory = MemoryConfig {
            weights: (config.num_parameters() as u64).saturating_mul(2),
            dtype: FloatDType::BF16,
            kv_dtype: KvDType::BF16,
            chunk: 8192,
            following: 1024,
            program: 0,
            threads: 0,
        };
        Self {
            config,
            hardware,
            memory,
        }
    }

    /// The same with other settings of memory.
    pub fn with_memory(mut self, memory: MemoryConfig) -> Self {
        self.memory = memory;
        self
    }

    /// What a prefill takes.
    ///
    /// # Errors
    ///
    /// [`PlanError`] where the settings do not fit the document, with the nearest that do.
    pub fn predict(
        &self,
        settings: &PrefillConfig,
        document: &DocumentLengths,
    ) -> Result<Prediction, PlanError> {
        let plan = settings.plan_lengths(document, &self.config)?;
        Ok(self.predict_plan(&plan))
    }

    /// What a prefill takes that is planned already.
    pub fn predict_plan(&self, plan: &PrefillPlan) -> Prediction {
        self.predict_ranks(plan, 0..plan.ranks)
    }

    /// The same of some of its ranks.
    pub fn predict_ranks(&self, plan: &PrefillPlan, ranks: Range<usize>) -> Prediction {
        let rates = &self.hardware.rates;
        let layers = self.config.num_hidden_layers;
        let value_bytes = self.memory.exchanged_bytes();
        let work = |rank| Work::of(plan, &self.config, rank, value_bytes, rates.program);
        let critical = outer(ranks.clone())
            .map(|rank| (rank, work(rank)))
            .map(|(rank, work)| (rank, work, rates.seconds(&work, layers)))
            .max_by(|a, b| a.2.total().total_cmp(&b.2.total()));
        let (critical_rank, work, parts) = critical.unwrap_or_default();
        let memory = outer(ranks)
            .map(|rank| self.memory_of(plan, rank..rank.saturating_add(1)))
            .max_by_key(MemoryParts::total)
            .unwrap_or_default();
        Prediction {
            plan: plan.clone(),
            critical_rank,
            parts,
            exchange_bytes: (work.exchange_bytes * rates.whole_layers(layers)) as u64,
            memory,
            fits: self.fits(&memory),
        }
    }

    /// Memory of a process that drives `ranks`.
    pub fn memory_of(&self, plan: &PrefillPlan, ranks: impl Into<Ranks>) -> MemoryParts {
        let program = self.hardware.rates.program;
        self.memory.predict(plan, &self.config, ranks, program)
    }

    fn fits(&self, memory: &MemoryParts) -> Option<bool> {
        let usable = self.hardware.usable_bytes()?;
        Some(memory.total() <= usable)
    }

    /// The longest document whose prefill fits the devices' memory, in tokens; none where their memory is not known
    /// or nothing fits.
    pub fn max_tokens(
        &self,
        settings: &PrefillConfig,
        document: &DocumentLengths,
    ) -> Option<usize> {
        self.hardware.memory_bytes?;
        let fits = |tokens: usize| {
            let document = DocumentLengths {
                tokens,
                ..*document
            };
            let predicted = self.predict(settings, &document);
            predicted.is_ok_and(|predicted| predicted.fits == Some(true))
        };
        // Some lengths are too short for the ranks: the search begins at the first power of two that fits.
        let exponents = 0..=MAX_CONTEXT.ilog2();
        let mut least = exponents.map(|e| 1 << e).find(|tokens| fits(*tokens))?;
        let mut most = MAX_CONTEXT;
        while least < most {
            let middle = least + (most - least).div_ceil(2);
            match fits(middle) {
                true => least = middle,
                false => most = middle - 1,
            }
        }
        Some(least)
    }
}

/// The ranks of a range, of a long one those near its ends: work and memory grow or fall with the rank.
fn outer(ranks: Range<usize>) -> impl Iterator<Item = usize> {
    let first = ranks.start..ranks.end.min(ranks.start.saturating_add(OUTER));
    let last = ranks.end.saturating_sub(OUTER).max(first.end)..ranks.end;
    first.chain(last)
}
