//! Keys and values in blocks of Q8_0: how they are written, and attention over them, which has a part of them at a time
//! in floats.

use burn::tensor::DType;
use burn_flex::{Flex, FlexTensor};
use half::{bf16, f16};

use super::attention::{merge_partial, solve_with};
use super::piece::{DOT_LANES, Piece, Problem};
use super::rows::in_chunks;
use super::scratch::Scratch;
use super::simd::{Elem, Job, Level, Simd, by_dtype};
use super::view::{Output, Shared, View, contiguous, row_major};
use crate::kernels::Regions;
use crate::kernels::extension::AttentionPrimitives;
use crate::kernels::quantized::{Blocks, Q8, q8_0};

/// Keys that stand in floats at a time, and their values: together they stay in the second level cache.
const PART_KEYS: usize = 512;

/// [`quantize_rows`](crate::kernels::quantize_rows()) on Flex.
pub(super) fn quantize(x: FlexTensor, level: Level) -> FlexTensor {
    by_dtype!(x.dtype(), quantize_as(x, level))
}

fn quantize_as<E: Elem>(x: FlexTensor, level: Level) -> FlexTensor {
    let x = contiguous(x);
    let [batch, heads, rows, width] = x.layout().shape().dims();
    let blocks = batch * heads * rows * width / Q8::LEN;
    let start = x.layout().start_offset();
    let x = &x.storage::<E>()[start..start + blocks * Q8::LEN];
    let mut out = Output::<u8>::new(blocks * Q8::BYTES);
    let to = out.ptr();
    in_chunks(blocks, Q8::LEN, |from, end| {
        level.run(Quantize {
            x: &x[from * Q8::LEN..end * Q8::LEN],
            out: to.at(from * Q8::BYTES),
        });
    });
    let row = width / Q8::LEN * Q8::BYTES;
    // SAFETY: every block was written.
    unsafe { out.finish(row_major([batch, heads, rows, row])) }
}

/// Whole blocks of elements.
struct Quantize<'a, E> {
    x: &'a [E],
    out: *mut u8,
}

impl<E: Elem> Job for Quantize<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for (i, x) in self.x.as_chunks::<{ Q8::LEN }>().0.iter().enumerate() {
            let mut wide = [0f32; Q8::LEN];
            for j in (0..Q8::LEN).step_by(S::LANES) {
                let v = E::load::<S>(x.as_ptr().add(j));
                S::store(wide.as_mut_ptr().add(j), v);
            }
            let mut block = [0; Q8::BYTES];
            q8_0(&wide, &mut block);
            self.out
                .add(i * Q8::BYTES)
                .cast::<[u8; Q8::BYTES]>()
                .write(block);
        }
    }
}

/// [`quantized_attention`](crate::kernels::quantized_attention()) on Flex.
pub(super) fn attention(
    q: FlexTensor,
    k: &FlexTensor,
    v: &FlexTensor,
    regions: Regions,
    level: Level,
) -> AttentionPrimitives<Flex> {
    let [_, heads, seq_q, _] = q.layout().shape().dims::<4>();
    let kv_heads = k.layout().shape()[1];
    let few = seq_q * (heads / kv_heads) <= DOT_LANES;
    match q.dtype() {
        DType::F16 => attention_as::<f16, f16>(&q, k, v, regions, level),
        DType::BF16 => attention_as::<bf16, bf16>(&q, k, v, regions, level),
        // Tiles multiply bf16 only.
        _ if level.has_tiles() && !few => attention_as::<f32, bf16>(&q, k, v, regions, level),
        _ => attention_as::<f32, f32>(&q, k, v, regions, level),
    }
}

fn attention_as<E: Elem, K: Elem>(
    q: &FlexTensor,
    k: &FlexTensor,
    v: &FlexTensor,
    regions: Regions,
    level: Level,
) -> AttentionPrimitives<Flex> {
    let head_dim = q.layout().shape()[3];
    let (k, v) = (in_rows(k), in_rows(v));
    let blocks = [View::<u8, 4>::new(&k), View::<u8, 4>::new(&v)];
    // Where the floats will be is known to each thread; their sizes are the same for all.
    let floats = |blocks: &View<u8, 4>| View {
        ptr: core::ptr::null(),
        shape: [blocks.shape[0], blocks.shape[1], blocks.shape[2], head_dim],
        strides: [0, 0, head_dim as isize, 1],
    };
    let [k, v] = blocks.each_ref().map(floats);
    solve_with::<E, K>(View::new(q), k, v, regions, level, &|piece, run| {
        in_parts(piece, &blocks, level, run);
    })
}

/// The tensor itself where the bytes of a row lie together.
fn in_rows(blocks: &FlexTensor) -> FlexTensor {
    match blocks.layout().strides()[3] {
        1 => blocks.clone(),
        _ => blocks.to_contiguous(),
    }
}

/// Runs a piece part by part of its keys, each in floats before.
fn in_parts<E: Elem, K: Elem>(
    piece: Piece<'_, E, K>,
    [keys, values]: &[View<u8, 4>; 2],
    level: Level,
    run: &(dyn Fn(Piece<'_, E, K>) + Sync),
) {
    let problem = piece.problem;
    let (head_dim, lanes) = (problem.head_dim(), piece.lanes());
    let floats = (PART_KEYS * head_dim * size_of::<K>()).div_ceil(size_of::<f32>());
    let partial = lanes * (head_dim + 2);
    let scratch = Scratch::new([floats, floats, partial, partial]);
    let [k, v, merged, part] = scratch.areas;
    // SAFETY: the memory was written when it was taken.
    let sums = unsafe { core::slice::from_raw_parts_mut(merged, partial) };
    for lane in sums.chunks_exact_mut(head_dim + 2) {
        // No key seen so far.
        lane.fill(0.0);
        lane[head_dim] = f32::MIN;
    }
    let (merged, part) = (Shared(merged), Shared(part));
    let mut start = piece.keys.start;
    while start < piece.keys.end {
        let end = piece.keys.end.min(start + PART_KEYS);
        for (blocks, dst) in [(keys, k), (values, v)] {
            level.run(Unpack {
                blocks: blocks.at([piece.batch, piece.kv_head, start, 0]),
                stride: blocks.strides[2],
                rows: end - start,
                head_dim,
                dst: dst.cast::<K>(),
            });
        }
        // Key `start` is the first of the area.
        let from = |area: *mut f32, view: View<K, 4>| View {
            ptr: area.cast::<K>().wrapping_sub(start * head_dim).cast_const(),
            ..view
        };
        let problem = Problem {
            k: from(k, problem.k),
            v: from(v, problem.v),
            ..*problem
        };
        run(Piece {
            problem: &problem,
            keys: start..end,
            rows: piece.rows.clone(),
            partial: Some(part),
            ..piece
        });
        for lane in 0..lanes {
            let at = lane * (head_dim + 2);
            // SAFETY: both have the sums of all lanes.
            unsafe { merge_partial(merged.at(at), part.at(at), head_dim) };
        }
        start = end;
    }
    for lane in 0..lanes {
        let sums = merged.at(lane * (head_dim + 2));
        // SAFETY: within the area, and a lane is handed over once.
        unsafe { piece.finish(lane, sums, *sums.add(head_dim), *sums.add(head_dim + 1)) };
    }
}

/// Rows of blocks to floats.
struct Unpack<K> {
    blocks: *const u8,
    stride: isize,
    rows: usize,
    head_dim: usize,
    dst: *mut K,
}

impl<K: Elem> Job for Unpack<K> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for row in 0..self.rows {
            let mut block = self
                .blocks
                .wrapping_offset((row as isize).wrapping_mul(self.stride));
            let mut dst = self.dst.wrapping_add(row.wrapping_mul(self.head_dim));
            for _ in 0..self.head_dim / Q8::LEN {
                let scale = S::splat(S::widen_half(block.cast::<u16>().read_unaligned()));
                for i in (0..Q8::LEN).step_by(S::LANES) {
                    let codes = S::load_codes::<true>(block.wrapping_add(2 + i));
                    K::store::<S>(dst.wrapping_add(i), S::mul(codes, scale));
                }
                block = block.wrapping_add(Q8::BYTES);
                dst = dst.wrapping_add(Q8::LEN);
            }
        }
    }
}
