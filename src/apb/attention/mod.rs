//! The attention of each method: one file each, behind one interface.
//!
//! | method | local rows attend to | exchange of a layer |
//! |---|---|---|
//! | `full` | all before them | none |
//! | `ring` | all before them, block by block, merged | `H - 1` shifts of a block's keys and values |
//! | `ulysses` | all before them, for a share of the heads | two all-to-alls |
//! | `star` | the first block, and their own | none |
//! | `apb` | the anchor, the passing blocks of earlier ranks, and their own | one all-gather of `l_p` rows |
//!
//! | file | holds |
//! |---|---|
//! | `module` | [`ApbAttention`], the method as a Burn module |
//! | `pass` | [`PrefillPass`]: one pass over the layers, for all ranks that this process drives |
//! | `full`, `ring`, `ulysses`, `star`, `apb` | the methods |
//! | `regions` | attention over `[passing \| anchor \| local]` keys, of Star and APB |
//! | `query` | [`QueryPass`]: rows that follow the document, merged over processes |
//! | `clock` | times of a layer's parts |

mod apb;
mod clock;
mod full;
mod module;
mod pass;
mod query;
mod regions;
mod ring;
mod star;
mod ulysses;

use burn::tensor::{FloatDType, Tensor};

use super::compressor::Compressor;
use super::config::Method;
use super::error::SessionError;
use super::layout::{Layout, RankRows};
use super::passing::Selection;
use super::plan::PrefillPlan;
use crate::kernels::KernelError;
use crate::model::{CachedRows, Projections};
use crate::ranks::{RankGroup, Ranks};

use clock::LayerClock;
pub use module::{ApbAttention, ApbAttentionConfig};
pub use pass::PrefillPass;
pub use query::QueryPass;
pub(crate) use ulysses::ulysses_share;

/// What one rank attends with in one layer.
struct RankHeads<'a> {
    /// Its rows.
    rows: &'a RankRows,
    /// Queries of its `[anchor | local]` rows `[batch, heads, rows, head_dim]`.
    query: Tensor<4>,
    /// Keys and values of its local rows; full attention: of all rows so far.
    cached: CachedRows,
}

impl RankHeads<'_> {
    /// Keys and values `[batch, kv_heads, rows, head_dim]` in floats, for methods that join or send them: codes of eight
    /// bits as bf16, which is as short as floats of a cache are.
    fn floats(&self) -> Result<(Tensor<4>, Tensor<4>), KernelError> {
        self.cached.clone().floats(FloatDType::BF16)
    }
}

/// Keys and values `[batch, kv_heads, l_a, head_dim]` of the anchor's rows.
#[derive(Debug, Clone)]
pub struct AnchorHeads {
    /// Keys after RoPE.
    pub key: Tensor<4>,
    /// Values.
    pub value: Tensor<4>,
}

/// A method's attention in one layer, over all ranks that this process drives.
///
/// Every layer calls [`select`](Self::select), once a rank, then [`exchange`](Self::exchange) and
/// [`attend`](Self::attend), once.
trait MethodAttention: Send {
    /// Scores a rank's rows and selects those to pass on; ranks in order.
    fn select(
        &mut self,
        _layer: usize,
        _rows: &RankRows,
        _projections: &Projections,
        _compressor: Option<&dyn Compressor>,
    ) -> Result<Option<Selection>, SessionError> {
        Ok(None)
    }

    /// Starts the exchange of what was selected, where there is one.
    fn exchange(&mut self, _group: &mut RankGroup) -> Result<(), SessionError> {
        Ok(())
    }

    /// Finishes the exchange and attends: the joined heads `[batch, rows, heads * head_dim]` of each
    /// rank's `[anchor | local]` rows.
    fn attend(
        &mut self,
        ranks: &[RankHeads<'_>],
        anchor: Option<AnchorHeads>,
        group: &mut RankGroup,
        clock: &mut LayerClock,
    ) -> Result<Vec<Tensor<3>>, SessionError>;
}

/// The attention of a plan's method.
fn method(plan: &PrefillPlan) -> Box<dyn MethodAttention + '_> {
    match plan.method {
        Method::Full => Box::new(full::Full),
        Method::Ring => Box::new(ring::Ring::new(plan)),
        Method::Ulysses => Box::new(ulysses::Ulysses::new(plan)),
        Method::Star => Box::new(star::Star),
        Method::Apb => Box::new(apb::Apb::new(plan)),
    }
}

/// The passes over the layers that `ranks`, those of one process, prefill a document in; `chunk`: rows
/// of one pass of full attention.
pub fn passes(
    plan: &PrefillPlan,
    ranks: impl Into<Ranks>,
    compressor: Option<&dyn Compressor>,
    chunk: usize,
) -> Vec<Layout> {
    match plan.method {
        Method::Full => full::passes(plan.tokens, chunk),
        _ => {
            let everywhere = compressor.is_some_and(Compressor::reads_anchor_everywhere);
            vec![Layout::new(plan, ranks, everywhere && plan.passing > 0)]
        }
    }
}
