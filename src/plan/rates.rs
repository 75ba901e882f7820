//! What devices compute a second.

use serde::{Deserialize, Serialize};

use super::error::PlanningError;
use super::work::Work;
use crate::apb::Part;

/// Which program a prediction is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Program {
    /// That of the paper (arXiv 2502.12085): all of a rank's rows at once through every layer, the last one included.
    Published,
    /// This crate: rows in chunks, and of the last layer only keys and values.
    ThisCrate,
}

/// Rates of a device, and of what connects it to the others.
///
/// The time of a layer is the sum of its parts, each its work over its rate: nothing overlaps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Floating-point operations a second of the query, key and value projections.
    pub projections: f64,
    /// Of the compressor's scores.
    pub scores: f64,
    /// Of attention.
    pub attention: f64,
    /// Of the output projection and the MLP.
    pub mlp: f64,
    /// Bytes a second between ranks; none where what travels is not counted.
    pub exchange: Option<f64>,
    /// Seconds that a collective takes beside its bytes.
    pub exchange_seconds: f64,
    /// Seconds a row and layer of all that is no product: norms, rotation, residuals.
    pub row_seconds: f64,
    /// Seconds a layer that do not depend on its rows: launches, and reading its weights.
    pub layer_seconds: f64,
    /// Seconds a row and layer of selecting rows to pass, beside their scores.
    pub selection_row_seconds: f64,
    /// The program that has these rates.
    pub program: Program,
}

/// Seconds of each part of a prefill, on one rank.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct PartSeconds {
    /// Query, key and value projections.
    pub projections: f64,
    /// Scores and selection of the rows to pass.
    pub selection: f64,
    /// What comes from other ranks.
    pub exchange: f64,
    /// Attention.
    pub attention: f64,
    /// Output projection and MLP.
    pub mlp: f64,
    /// Norms, rotation and residuals; what a layer takes whatever its rows are.
    pub other: f64,
}

impl PartSeconds {
    /// All parts.
    pub fn total(&self) -> f64 {
        self.projections + self.selection + self.exchange + self.attention + self.mlp + self.other
    }

    /// The parts with their names, those of [`Part`] first, in the order of a layer.
    pub fn named(&self) -> [(&'static str, f64); 6] {
        [
            (Part::Projections.name(), self.projections),
            (Part::Selection.name(), self.selection),
            (Part::Exchange.name(), self.exchange),
            (Part::Attention.name(), self.attention),
            (Part::Mlp.name(), self.mlp),
            ("other", self.other),
        ]
    }
}

impl Rates {
    /// Layers of `layers` that are computed to their end.
    pub(super) fn whole_layers(&self, layers: usize) -> f64 {
        match self.program {
            Program::Published => layers as f64,
            Program::ThisCrate => layers.saturating_sub(1) as f64,
        }
    }

    /// Seconds of a prefill of `layers` layers with `work` in each.
    pub fn seconds(&self, work: &Work, layers: usize) -> PartSeconds {
        let whole = self.whole_layers(layers);
        let rest = layers as f64 - whole;
        let last = work.keys_and_values();
        let over = |of: fn(&Work) -> f64, rate: f64| (of(work) * whole + of(&last) * rest) / rate;
        let received = match self.exchange {
            Some(rate) => work.exchange_bytes * whole / rate,
            None => 0.0,
        };
        PartSeconds {
            projections: over(|work| work.projections, self.projections),
            selection: work.scores * whole / self.scores
                + work.scored_rows * whole * self.selection_row_seconds,
            exchange: received + work.exchanges * whole * self.exchange_seconds,
            attention: work.attention * whole / self.attention,
            mlp: work.mlp * whole / self.mlp,
            other: (work.rows * self.row_seconds + self.layer_seconds) * layers as f64,
        }
    }
}

/// A device, its memory and its rates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hardware {
    /// The name used on the command line and in results.
    pub name: String,
    /// Where its rates come from.
    pub source: String,
    /// Bytes of its memory; none where it is not known.
    pub memory_bytes: Option<u64>,
    /// The part of it that a program can use: drivers, libraries and fragments take the rest.
    pub usable: f64,
    /// What it computes a second.
    pub rates: Rates,
}

/// Bytes of a GiB.
const GIB: u64 = 1 << 30;
/// The part of a GPU's memory that a program can use.
const USABLE_OF_A_GPU: f64 = 0.9;

/// An A800 with the published program (arXiv 2502.12085), fitted to its times of Llama-3.1-8B from 32K to 512K tokens.
const A800: Rates = Rates {
    projections: 232e12,
    scores: 150e12,
    attention: 212e12,
    mlp: 232e12,
    exchange: Some(95e9),
    exchange_seconds: 0.1e-3,
    row_seconds: 0.31e-6,
    layer_seconds: 0.0,
    selection_row_seconds: 0.0,
    program: Program::Published,
};

/// An H100 with this crate: `benches/results/2026-11-27-h100-prefill.jsonl`, 131,072 tokens; the exchange is NVLink's,
/// by the A800's share of its own.
const H100: Rates = Rates {
    projections: 510e12,
    scores: 300e12,
    attention: 575e12,
    mlp: 585e12,
    exchange: Some(213e9),
    exchange_seconds: 0.1e-3,
    row_seconds: 0.0,
    layer_seconds: 0.25e-3,
    selection_row_seconds: 37e-9,
    program: Program::ThisCrate,
};

impl Hardware {
    /// Names of the devices known by name.
    pub const KNOWN: [&'static str; 4] = ["a100", "a800", "h100", "h200"];

    /// A device by its name.
    ///
    /// # Errors
    ///
    /// [`PlanningError::UnknownHardware`], with the nearest name.
    pub fn known(name: &str) -> Result<Self, PlanningError> {
        let (gib, rates, source) = match name {
            "a100" => (
                80,
                Rates {
                    exchange: Some(142e9),
                    ..A800
                },
                "the a800's, with its own NVLink",
            ),
            "a800" => (80, A800, "fitted to the paper's table (arXiv 2502.12085)"),
            "h100" => (80, H100, "measured with this crate"),
            "h200" => (141, H100, "the h100's, with its own memory"),
            _ => {
                return Err(PlanningError::UnknownHardware {
                    name: name.into(),
                    nearest: nearest_name(name),
                });
            }
        };
        Ok(Self {
            name: name.into(),
            source: source.into(),
            memory_bytes: Some(gib * GIB),
            usable: USABLE_OF_A_GPU,
            rates,
        })
    }

    /// Bytes that a program can use.
    pub fn usable_bytes(&self) -> Option<u64> {
        self.memory_bytes
            .map(|bytes| (bytes as f64 * self.usable) as u64)
    }
}

/// The known name that is most like `name`.
fn nearest_name(name: &str) -> &'static str {
    let like = |known: &&str| strsim::normalized_levenshtein(known, &name.to_lowercase());
    (Hardware::KNOWN.into_iter())
        .max_by(|a, b| like(a).total_cmp(&like(b)))
        .unwrap_or(Hardware::KNOWN[0])
}
