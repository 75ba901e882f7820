//! Attention of a block over `[passing | anchor | local]` keys, which Star and APB share.

use burn::tensor::Tensor;

use super::{AnchorHeads, RankHeads};
use crate::apb::error::SessionError;
use crate::apb::passing::unpack;
use crate::kernels::{AttentionOutput, KernelError, Regions, attention};
use crate::model::join_heads;

/// The joined heads `[batch, rows, heads * head_dim]` of a rank's `[anchor | local]` rows.
///
/// Local rows attend to all passing keys, all of the anchor and their own up to themselves; anchor rows
/// to the anchor alone, up to themselves. On rank 0, which computes the anchor's rows only for the
/// compressor, local rows do not attend to the anchor. `passing` are packed blocks of earlier ranks, in
/// their order.
pub(super) fn attend_block(
    rank: &RankHeads<'_>,
    anchor: Option<&AnchorHeads>,
    passing: &[Tensor<4>],
) -> Result<Tensor<3>, SessionError> {
    match anchor.filter(|_| rank.rows.sees_anchor) {
        Some(anchor) => {
            let attended = over_regions(rank.query.clone(), passing, anchor, rank.floats()?)?;
            Ok(join_heads(attended.out))
        }
        None => Ok(apart(rank, anchor)?),
    }
}

/// One attention over all keys; anchor rows, where this rank has them, skip the passing keys.
pub(super) fn over_regions(
    query: Tensor<4>,
    passing: &[Tensor<4>],
    anchor: &AnchorHeads,
    (key, value): (Tensor<4>, Tensor<4>),
) -> Result<AttentionOutput, KernelError> {
    let (mut keys, mut values): (Vec<_>, Vec<_>) = passing.iter().cloned().map(unpack).unzip();
    let regions = Regions {
        passing: keys.iter().map(|block| block.dims()[2]).sum(),
        anchor: anchor.key.dims()[2],
        causal: true,
    };
    // Rows of a cache may be of another dtype than those that were just projected.
    let dtype = key.dtype();
    keys.extend([anchor.key.clone(), key]);
    values.extend([anchor.value.clone(), value]);
    for block in keys.iter_mut().chain(&mut values) {
        *block = block.clone().cast(dtype);
    }
    let [batch, kv_heads, _, head_dim] = keys[0].dims();
    for block in keys.iter().chain(&values) {
        let [b, h, rows, d] = block.dims();
        if [b, h, d] != [batch, kv_heads, head_dim] {
            let expected = format!("[{batch}, {kv_heads}, rows, {head_dim}] as the others");
            let found = [b, h, rows, d];
            return Err(KernelError::shape(
                "attend",
                "keys and values",
                expected,
                &found,
            ));
        }
    }
    attention(query, Tensor::cat(keys, 2), Tensor::cat(values, 2), regions)
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
    let local = rank.cached.clone();
    let local = local.attend(query(split..rows), Regions::causal())?;
    match anchor.filter(|_| split > 0) {
        None => Ok(join_heads(local.out)),
        Some(anchor) => {
            let (key, value) = (anchor.key.clone(), anchor.value.clone());
            let anchor = attention(query(0..split), key, value, Regions::causal())?;
            Ok(Tensor::cat(
                vec![join_heads(anchor.out), join_heads(local.out)],
                1,
            ))
        }
    }
}
