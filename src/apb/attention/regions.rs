//! Attention of a block over `[passing | anchor | local]` keys, which Star and APB share.

use burn::tensor::{DType, Tensor};

use super::{AnchorHeads, RankHeads};
use crate::apb::error::SessionError;
use crate::apb::passing::unpack;
use crate::kernels::{AttentionOutput, KernelError, Regions, attention, merge};
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
    let mut blocks: Vec<_> = passing.iter().cloned().map(unpack).collect();
    let regions = Regions {
        passing: blocks.iter().map(|(key, _)| key.dims()[2]).sum(),
        anchor: anchor.key.dims()[2],
        causal: true,
    };
    let dtype = key.dtype();
    blocks.extend([(anchor.key.clone(), anchor.value.clone()), (key, value)]);
    let (keys, values) = joined(blocks, dtype)?;
    attention(query, keys, values, regions)
}

/// Keys and values of all blocks, one after another. Rows of a cache may be of another dtype than those that were just
/// projected.
fn joined(
    blocks: Vec<(Tensor<4>, Tensor<4>)>,
    dtype: DType,
) -> Result<(Tensor<4>, Tensor<4>), KernelError> {
    let (mut keys, mut values): (Vec<_>, Vec<_>) = blocks.into_iter().unzip();
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
    Ok((Tensor::cat(keys, 2), Tensor::cat(values, 2)))
}

/// A rank's attention while passing blocks travel.
pub(super) enum Begun {
    /// Done: this rank's rows attend to no other keys.
    Joined(Box<Tensor<3>>),
    /// That of all rows over anchor and local keys, and the dtype of these.
    Own(Box<AttentionOutput>, DType),
}

/// The part of [`attend_block`] that needs no passing block.
pub(super) fn begin_block(
    rank: &RankHeads<'_>,
    anchor: Option<&AnchorHeads>,
) -> Result<Begun, SessionError> {
    Ok(match anchor.filter(|_| rank.rows.sees_anchor) {
        Some(anchor) => {
            let (key, value) = rank.floats()?;
            let dtype = key.dtype();
            let own = over_regions(rank.query.clone(), &[], anchor, (key, value))?;
            Begun::Own(Box::new(own), dtype)
        }
        None => Begun::Joined(Box::new(apart(rank, anchor)?)),
    })
}

/// The rest of [`attend_block`]: local rows attend to the passing keys, and the two parts are merged.
pub(super) fn finish_block(
    rank: &RankHeads<'_>,
    begun: Begun,
    passing: &[Tensor<4>],
) -> Result<Tensor<3>, KernelError> {
    let (own, keys) = match begun {
        Begun::Joined(joined) => return Ok(*joined),
        Begun::Own(own, _) if passing.is_empty() => return Ok(join_heads(own.out)),
        Begun::Own(own, keys) => (own, keys),
    };
    let dtype = own.out.dtype();
    let [batch, heads, rows, head_dim] = own.out.dims();
    let split = rank.rows.anchor;
    let out = |range| {
        let of = [0..batch, 0..heads, range, 0..head_dim];
        own.out.clone().slice(of)
    };
    let query = rank.query.clone();
    let query = query.slice([0..batch, 0..heads, split..rows, 0..head_dim]);
    let blocks = passing.iter().cloned().map(unpack).collect();
    let (keys, values) = joined(blocks, keys)?;
    let passed = attention(query, keys, values, Regions::full())?;
    // Sums stay f32 until both are in.
    let local = AttentionOutput {
        out: out(split..rows).cast(DType::F32),
        lse: own.lse.clone().slice([0..batch, 0..heads, split..rows]),
    };
    let local = join_heads(merge([local, passed])?.out.cast(dtype));
    Ok(match split {
        0 => local,
        _ => Tensor::cat(vec![join_heads(out(0..split)), local], 1),
    })
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
