//! Attention on Flex: how a problem is cut into pieces for the threads, and joined again.

use core::ops::Range;

use burn::tensor::{DType, Shape};
use burn_flex::{Flex, FlexTensor, Layout};
use rayon::prelude::*;

use super::dots::Dots;
use super::panels::Panels;
use super::piece::{DOT_LANES, Piece, Problem};
use super::simd::{Elem, Level};
use super::tiles::{self, InTiles};
use super::view::{Output, Shared, View, row_major};
use crate::kernels::Regions;
use crate::kernels::extension::AttentionPrimitives;

/// Lanes of a piece of work: enough to reuse a tile of keys and values, few enough that queries and
/// accumulators stay in the second level cache.
const PIECE_LANES: usize = 384;
/// Pieces for each thread, so that uneven ones even out.
const PIECES_PER_THREAD: usize = 4;
/// Keys below which splitting them over threads costs more than it gains.
const SPLIT_KEYS: usize = 256;
/// Multiply-adds below which waking other threads costs more than it gains.
const PARALLEL_WORK: usize = 1 << 19;

/// [`attention`](crate::kernels::attention()) on Flex.
pub(super) fn attention(
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    regions: Regions,
    level: Level,
) -> AttentionPrimitives<Flex> {
    match (q.dtype(), k.dtype()) {
        // Rows of a cache in a shorter dtype are widened as they are read.
        (DType::F32, DType::BF16) => attention_as::<f32, half::bf16>(q, k, v, regions, level),
        (DType::F32, DType::F16) => attention_as::<f32, half::f16>(q, k, v, regions, level),
        (DType::F16, _) => attention_as::<half::f16, half::f16>(q, k, v, regions, level),
        (DType::BF16, _) => attention_as::<half::bf16, half::bf16>(q, k, v, regions, level),
        _ => attention_as::<f32, f32>(q, k, v, regions, level),
    }
}

fn attention_as<E: Elem, K: Elem>(
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    regions: Regions,
    level: Level,
) -> AttentionPrimitives<Flex> {
    let (q, k, v) = (View::new(&q), View::new(&k), View::new(&v));
    solve_with::<E, K>(q, k, v, regions, level, &|piece, run| run(piece))
}

/// Solves a problem by running its pieces through `each`, which calls what it is given with the piece, or with parts of
/// it.
pub(super) fn solve_with<E: Elem, K: Elem>(
    q: View<E, 4>,
    k: View<K, 4>,
    v: View<K, 4>,
    regions: Regions,
    level: Level,
    each: &Each<'_, E, K>,
) -> AttentionPrimitives<Flex> {
    let [batch, heads, seq_q, head_dim] = q.shape;
    let kv_heads = k.shape[1];
    let mut out = Output::<E>::new(batch * heads * seq_q * head_dim);
    let mut lse = Output::<f32>::new(batch * heads * seq_q);
    let problem = Problem {
        q,
        k,
        v,
        regions,
        group: heads / kv_heads,
        out: out.ptr(),
        lse: lse.ptr(),
    };
    solve(&problem, level, each);

    let strides = [seq_q * heads * head_dim, head_dim, heads * head_dim, 1];
    let layout = Layout::new(
        Shape::new(q.shape),
        strides.map(|stride| stride as isize).to_vec(),
        0,
    );
    // SAFETY: `solve` wrote every row of every head.
    unsafe {
        AttentionPrimitives {
            out: out.finish(layout),
            lse: lse.finish(row_major([batch, heads, seq_q])),
        }
    }
}

/// What is done with a piece, and how one is run.
type Each<'a, E, K> = dyn Fn(Piece<'_, E, K>, &(dyn Fn(Piece<'_, E, K>) + Sync)) + Sync + 'a;

fn solve<E: Elem, K: Elem>(problem: &Problem<E, K>, level: Level, each: &Each<'_, E, K>) {
    let [batch, heads, seq_q, head_dim] = problem.q.shape;
    let [_, kv_heads, seq_kv, _] = problem.k.shape;
    if batch * heads * seq_q == 0 {
        return;
    }
    let group = problem.group;
    let adjacent = problem.k.strides[3] == 1 && problem.v.strides[3] == 1;
    let dots = seq_q * group <= DOT_LANES && adjacent && head_dim.is_multiple_of(level.lanes());

    let work = [batch, heads, seq_q, seq_kv, head_dim]
        .into_iter()
        .fold(1usize, usize::saturating_mul);
    let threads = match work < PARALLEL_WORK {
        true => 1,
        false => rayon::current_num_threads(),
    };
    let wanted = if threads == 1 {
        1
    } else {
        threads * PIECES_PER_THREAD
    };

    // Rows are cut first: smaller tiles where there would be too few, down to one panel.
    let heads_alone = batch * kv_heads;
    // Tiles take keys and values in bf16 only: f32 would be rounded.
    let in_tiles = level.has_tiles() && K::dtype() == DType::BF16 && E::dtype() != DType::F16;
    // Rows that fill panels without a rest.
    let width = match in_tiles {
        true => tiles::PAIR,
        false => level.panel_lanes(),
    };
    let panel_rows = width / greatest_common_divisor(width, group);
    let tile = (PIECE_LANES / group).max(1);
    let tile = match dots {
        true => seq_q,
        false => tile
            .min(seq_q.div_ceil(wanted.div_ceil(heads_alone)))
            .next_multiple_of(panel_rows)
            .min(seq_q),
    };
    let tiles = seq_q.div_ceil(tile);
    // Then keys, where the rows are still too few.
    let splits = wanted
        .div_ceil(heads_alone * tiles)
        .min(seq_kv.div_ceil(SPLIT_KEYS))
        .max(1);

    let lanes = tile * group;
    let partial_len = lanes * (head_dim + 2);
    let partials = match splits {
        1 => 0,
        _ => heads_alone * tiles * splits * partial_len,
    };
    let mut partials = Output::<f32>::new(partials);
    let partials = partials.ptr();

    let place = |unit: usize| {
        let (head, tile_index) = (unit % heads_alone, unit / heads_alone);
        // Under a causal limit the last rows see most keys: they start first.
        let start = (tiles - 1 - tile_index) * tile;
        (
            head / kv_heads,
            head % kv_heads,
            start..seq_q.min(start + tile),
        )
    };
    let run = |piece: Piece<'_, E, K>| {
        if dots {
            return level.run(Dots(piece));
        }
        let piece = &piece;
        if !(in_tiles && level.multiply_tiles(InTiles(piece))) {
            level.run(Panels(piece));
        }
    };
    let piece = |index: usize| {
        let (unit, split) = (index / splits, index % splits);
        let (batch, kv_head, rows) = place(unit);
        let seen = problem.visible_to_any(rows.clone());
        let share = seen.len().div_ceil(splits);
        let start = (seen.start + split * share).min(seen.end);
        let piece = Piece {
            problem,
            batch,
            kv_head,
            rows,
            keys: start..seen.end.min(start + share),
            partial: (splits > 1).then(|| Shared(partials.at(index * partial_len))),
        };
        each(piece, &run);
    };
    let join = |unit: usize| {
        if splits > 1 {
            let (batch, kv_head, rows) = place(unit);
            let base = partials.at(unit * splits * partial_len);
            // SAFETY: all pieces of the unit have left their sums there.
            unsafe { merge(problem, batch, kv_head, rows, base, partial_len, splits) }
        }
    };
    let units = heads_alone * tiles;
    if threads == 1 || units * splits == 1 {
        (0..units * splits).for_each(piece);
        (0..units).for_each(join);
    } else {
        (0..units * splits)
            .into_par_iter()
            .with_max_len(1)
            .for_each(piece);
        (0..units).for_each(join);
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

/// Merges what the pieces of a unit found over their keys.
///
/// # Safety
///
/// `base` holds `splits` areas of `partial_len` floats as [`Piece::finish`] leaves them.
unsafe fn merge<E: Elem, K: Elem>(
    problem: &Problem<E, K>,
    batch: usize,
    kv_head: usize,
    rows: Range<usize>,
    base: *mut f32,
    partial_len: usize,
    splits: usize,
) {
    let head_dim = problem.head_dim();
    let mut lane = 0;
    for row in rows {
        for head in kv_head * problem.group..(kv_head + 1) * problem.group {
            let part = |split: usize| base.add(split * partial_len + lane * (head_dim + 2));
            // The first part collects the others.
            let sums = part(0);
            for split in 1..splits {
                merge_partial(sums, part(split), head_dim);
            }
            let (shift, total) = (*sums.add(head_dim), *sums.add(head_dim + 1));
            problem.write(batch, head, row, sums, shift, total);
            lane += 1;
        }
    }
}

/// Adds to a lane's sums, shift and total those over other keys.
///
/// # Safety
///
/// Both have `head_dim + 2` floats as [`Piece::finish`] leaves them.
pub(super) unsafe fn merge_partial(sums: *mut f32, other: *const f32, head_dim: usize) {
    let sums = core::slice::from_raw_parts_mut(sums, head_dim + 2);
    let other = core::slice::from_raw_parts(other, head_dim + 2);
    let top = sums[head_dim].max(other[head_dim]);
    let weights = [sums[head_dim], other[head_dim]].map(|shift| (shift - top).exp2());
    for (sum, x) in sums[..head_dim].iter_mut().zip(other) {
        *sum = *sum * weights[0] + x * weights[1];
    }
    sums[head_dim] = top;
    sums[head_dim + 1] = sums[head_dim + 1] * weights[0] + other[head_dim + 1] * weights[1];
}
