//! Attention of a block over `[passing | anchor | local]` keys, which Star and APB share.

use burn::tensor::Tensor;

use super::{AnchorHeads, RankHeads};
use crate::apb::error::SessionError;
use crate::apb::passing::unpack;
use crate::kernels::{AttentionOutput, KernelError, Regions, attention};
use crate::model::Attention;

/// The joined heads `[batch, rows, heads * head_dim]` of a rank's `[anchor | local]` rows.
///
/// Local rows see all passing keys, all of the anchor and their own up to themselves; anchor rows see
/// the anchor alone, up to themselves. On rank 0, which computes the anchor's rows only for the
/// compressor, the two know nothing of each other. `passing` are packed blocks of earlier ranks, in
/// their order.
pub(super) fn attend_block(
    rank: &RankHeads<'_>,
    anchor: Option<&AnchorHeads>,
    passing: &[Tensor<4>],
) -> Result<Tensor<3>, SessionError> {
    match anchor.filter(|_| rank.rows.sees_anchor) {
        Some(anchor) => Ok(join(over_regions(rank, anchor, passing)?)),
        None => Ok(apart(rank, anchor)?),
    }
}

/// One attention over all keys; anchor rows, where this rank has them, skip the passing keys.
fn over_regions(
    rank: &RankHeads<'_>,
    anchor: &AnchorHeads,
    passing: &[Tensor<4>],
) -> Result<AttentionOutput, KernelError> {
    let (mut keys, mut values): (Vec<_>, Vec<_>) = passing.iter().cloned().map(unpack).unzip();
    let regions = Regions {
        passing: keys.iter().map(|block| block.dims()[2]).sum(),
        anchor: anchor.key.dims()[2],
        causal: true,
    };
    keys.extend([anchor.key.clone(), rank.key.clone()]);
    values.extend([anchor.value.clone(), rank.value.clone()]);
    attention(
        rank.query.clone(),
        Tensor::cat(keys, 2),
        Tensor::cat(values, 2),
        regions,
    )
}

/// Anchor rows over the anchor, local rows over themselves.
fn apart(rank: &RankHeads<'_>, anchor: Option<&AnchorHeads>) -> Result<Tensor<3>, KernelError> {
    let [batch, heads, rows, head_dim] = rank.query.dims();
    let split = rank.rows.anchor;
    let query = |range| {
        rank.query
            .clone()
            .slice([0..batch, 0..heads, range, 0..head_dim])
    };
    let local = attention(
        query(split..rows),
        rank.key.clone(),
        rank.value.clone(),
        Regions::causal(),
    )?;
    match anchor.filter(|_| split > 0) {
        None => Ok(join(local)),
        Some(anchor) => {
            let (key, value) = (anchor.key.clone(), anchor.value.clone());
            let anchor = attention(query(0..split), key, value, Regions::causal())?;
            Ok(Tensor::cat(vec![join(anchor), join(local)], 1))
        }
    }
}

fn join(attended: AttentionOutput) -> Tensor<3> {
    Attention::join_heads(attended.out)
}
