//! How the rows of a layer attend: one file for each strategy, one interface for all.
//!
//! | strategy | local rows attend to | exchange of a layer |
//! |---|---|---|
//! | `full` | all before them | none |
//! | `ring` | all before them, block by block, merged | `H - 1` steps of a block's keys and values |
//! | `ulysses` | all before them, for a share of the heads | two all-to-alls |
//! | `star` | the first block, and their own | none |
//! | `apb` | the anchor, what earlier ranks passed on, and their own | one all-gather of `l_p` rows |

mod apb;
mod blocks;
mod clock;
mod full;
mod ring;
mod star;
mod ulysses;

use burn::tensor::Tensor;

use super::compressor::Compressor;
use super::config::Method;
use super::error::SessionError;
use super::layout::RankRows;
use super::passing::Selection;
use super::plan::PrefillPlan;
use crate::model::Projections;
use crate::ranks::RankGroup;
pub(crate) use clock::RankClock;

/// What one rank attends with in one layer.
pub(crate) struct RankHeads<'a> {
    /// Its rows.
    pub rows: &'a RankRows,
    /// Queries of its `[anchor | local]` rows `[batch, heads, rows, head_dim]`.
    pub query: Tensor<4>,
    /// Keys of its local rows `[batch, kv_heads, rows, head_dim]`; full attention: of all rows so far.
    pub key: Tensor<4>,
    /// Values of the same rows.
    pub value: Tensor<4>,
}

/// Keys and values `[batch, kv_heads, l_a, head_dim]` of the anchor's rows.
#[derive(Clone)]
pub(crate) struct AnchorHeads {
    pub key: Tensor<4>,
    pub value: Tensor<4>,
}

/// One layer's attention over all ranks that this process drives.
///
/// Every layer goes through [`observe`](Self::observe), once a rank, then [`start`](Self::start) and
/// [`attend`](Self::attend), once.
pub(crate) trait Strategy: Send {
    /// Hears the projections of a rank's rows, ranks in order; returns what it selects from them.
    fn observe(
        &mut self,
        _layer: usize,
        _rows: &RankRows,
        _projections: &Projections,
    ) -> Result<Option<Selection>, SessionError> {
        Ok(None)
    }

    /// Starts the exchange of what was observed, where there is one.
    fn start(&mut self, _group: &mut RankGroup) -> Result<(), SessionError> {
        Ok(())
    }

    /// Finishes the exchange and attends: the joined heads `[batch, rows, heads * head_dim]` of each
    /// rank's `[anchor | local]` rows.
    fn attend(
        &mut self,
        ranks: &[RankHeads<'_>],
        anchor: Option<AnchorHeads>,
        group: &mut RankGroup,
    ) -> Result<Vec<Tensor<3>>, SessionError>;

    /// The clock of each rank's attention, where ranks attend one after another.
    fn clock(&mut self) -> Option<&mut RankClock> {
        None
    }
}

/// The strategy of a plan.
pub(crate) fn strategy<'a>(
    plan: &'a PrefillPlan,
    compressor: Option<&'a dyn Compressor>,
) -> Result<Box<dyn Strategy + 'a>, SessionError> {
    Ok(match plan.method {
        Method::Full => Box::new(full::Full::default()),
        Method::Ring => Box::new(ring::Ring::new(plan)),
        Method::Ulysses => Box::new(ulysses::Ulysses::new(plan)),
        Method::Star => Box::new(star::Star::default()),
        Method::Apb => {
            let compressor = compressor.ok_or(SessionError::NoCompressor)?;
            Box::new(apb::Apb::new(plan, compressor))
        }
    })
}
