//! What a compressor's scores lead to: scoring, choosing and gathering rows.

use core::cmp::Ordering;

use burn::tensor::{Bytes, DType, Shape};
use burn_flex::{FlexTensor, Layout};
use rayon::prelude::*;

use super::rows::{in_chunks, silu};
use super::simd::{Elem, Job, Level, Simd, by_dtype};
use super::view::{Output, View, contiguous, row_major, to_f32};
use crate::kernels::RowChoice;

/// [`silu_scores`](crate::kernels::silu_scores()) on Flex.
pub(super) fn silu_scores(hidden: FlexTensor, weight: &FlexTensor, level: Level) -> FlexTensor {
    by_dtype!(hidden.dtype(), silu_scores_as(hidden, weight, level))
}

fn silu_scores_as<E: Elem>(hidden: FlexTensor, weight: &FlexTensor, level: Level) -> FlexTensor {
    let hidden = contiguous(hidden);
    let hidden = View::<E, 3>::new(&hidden);
    let [batch, rows, width] = hidden.shape;
    let outputs = weight.layout().shape()[1];
    let weight = to_f32(&weight.transpose(0, 1));

    let mut out = Output::<f32>::new(batch * outputs * rows);
    let to = out.ptr();
    for b in 0..batch {
        in_chunks(rows, width, |from, end| {
            for row in from..end {
                level.run(Score {
                    hidden: hidden.at([b, row, 0]),
                    weight: &weight,
                    width,
                    outputs,
                    out: to.at(b * outputs * rows + row),
                    out_stride: rows,
                });
            }
        });
    }
    // SAFETY: every row wrote all of its outputs.
    unsafe { out.finish(row_major([batch, outputs, rows])) }
}

/// One row, whose `silu` is held in registers a vector at a time.
struct Score<'a, E> {
    hidden: *const E,
    /// `[outputs, width]`.
    weight: &'a [f32],
    width: usize,
    outputs: usize,
    out: *mut f32,
    out_stride: usize,
}

/// Outputs that share one `silu`: what the registers hold beside it.
const OUTPUTS: usize = 8;

impl<E: Elem> Job for Score<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut first = 0;
        while first < self.outputs {
            let count = OUTPUTS.min(self.outputs - first);
            let mut sums = [S::zero(); OUTPUTS];
            let weight = self.weight.as_ptr().add(first * self.width);
            let mut i = 0;
            while self.width - i >= S::LANES {
                let x = silu::<S>(E::load::<S>(self.hidden.add(i)));
                for output in 0..count {
                    let w = S::load(weight.add(output * self.width + i));
                    sums[output] = S::fma(x, w, sums[output]);
                }
                i += S::LANES;
            }
            // The rest through a vector padded with zeros, whose silu is zero.
            let mut rest = [0f32; 16];
            for (lane, i) in (i..self.width).enumerate() {
                rest[lane] = (*self.hidden.add(i)).widen();
            }
            S::store(rest.as_mut_ptr(), silu::<S>(S::load(rest.as_ptr())));
            for output in 0..count {
                let mut sum = S::sum(sums[output]);
                for (lane, i) in (i..self.width).enumerate() {
                    sum += rest[lane] * *weight.add(output * self.width + i);
                }
                self.out.add((first + output) * self.out_stride).write(sum);
            }
            first += count;
        }
    }
}

/// [`select_rows`](crate::kernels::select_rows()) on Flex.
pub(super) fn select_rows(
    scores: FlexTensor,
    before: FlexTensor,
    choice: &RowChoice,
) -> FlexTensor {
    let (scores, before) = (contiguous(scores), contiguous(before));
    let (scores, before) = (View::<f32, 3>::new(&scores), View::<f32, 3>::new(&before));
    let [batch, kv_heads, rows] = scores.shape;
    let context = before.shape[2];
    let kept: Vec<Vec<i32>> = (0..batch * kv_heads)
        .into_par_iter()
        .map(|index| {
            let (b, head) = (index / kv_heads, index % kv_heads);
            // SAFETY: both views are contiguous, so that a head's rows lie side by side.
            let (before, scores) = unsafe {
                (
                    core::slice::from_raw_parts(before.at([b, head, 0]), context),
                    core::slice::from_raw_parts(scores.at([b, head, 0]), rows),
                )
            };
            highest(&max_pool(before, scores, choice.window), choice)
        })
        .collect();
    FlexTensor::new(
        Bytes::from_elems(kept.concat()),
        Layout::contiguous(Shape::new([batch, kv_heads, choice.kept()])),
        DType::I32,
    )
}

/// The largest of each score and its neighbours; NaN is no score, and -0 is 0.
fn max_pool(before: &[f32], scores: &[f32], window: usize) -> Vec<f32> {
    let reach = window / 2;
    let context = before.len().min(reach);
    let mut all = before[before.len() - context..].to_vec();
    all.extend_from_slice(scores);
    (context..all.len())
        .map(|at| {
            let window = &all[at.saturating_sub(reach)..all.len().min(at + reach + 1)];
            window.iter().copied().fold(f32::NEG_INFINITY, f32::max) + 0.0
        })
        .collect()
}

/// Indices of the highest values, ascending; ties to the lower index.
fn highest(values: &[f32], choice: &RowChoice) -> Vec<i32> {
    let mut rows: Vec<usize> = choice.selectable.clone().collect();
    let better =
        |a: &usize, b: &usize| -> Ordering { values[*b].total_cmp(&values[*a]).then(a.cmp(b)) };
    if choice.count < rows.len() {
        if choice.count > 0 {
            rows.select_nth_unstable_by(choice.count - 1, better);
        }
        rows.truncate(choice.count);
    }
    rows.sort_unstable();
    rows.into_iter().map(|row| row as i32).collect()
}

/// [`gather_rows`](crate::kernels::gather_rows()) on Flex.
pub(super) fn gather_rows(keys: &FlexTensor, values: &FlexTensor, rows: FlexTensor) -> FlexTensor {
    by_dtype!(keys.dtype(), gather_rows_as(keys, values, rows))
}

fn gather_rows_as<E: Elem>(keys: &FlexTensor, values: &FlexTensor, rows: FlexTensor) -> FlexTensor {
    let views = [View::<E, 4>::new(keys), View::<E, 4>::new(values)];
    let [batch, kv_heads, seq_kv, head_dim] = views[0].shape;
    let rows = contiguous(rows);
    let start = rows.layout().start_offset();
    let count = rows.layout().shape()[2];
    let rows = &rows.storage::<i32>()[start..start + batch * kv_heads * count];
    let last = seq_kv.saturating_sub(1);
    let mut out = Output::<E>::new(2 * rows.len() * head_dim);
    let to = out.ptr();
    in_chunks(2 * rows.len(), head_dim, |from, end| {
        for at in from..end {
            let index = at % rows.len();
            let (b, head) = (index / count / kv_heads, index / count % kv_heads);
            let row = usize::try_from(rows[index]).unwrap_or(0).min(last);
            let view = &views[at / rows.len()];
            let (src, step) = (view.at([b, head, row, 0]), view.strides[3]);
            let dst = to.at(at * head_dim);
            // SAFETY: the row lies within its view, and no other thread writes this row of the output.
            unsafe {
                if step == 1 {
                    core::ptr::copy_nonoverlapping(src, dst, head_dim);
                } else {
                    for i in 0..head_dim {
                        dst.add(i).write(*src.wrapping_offset(i as isize * step));
                    }
                }
            }
        }
    });
    // SAFETY: every row was written.
    unsafe { out.finish(row_major([2 * batch, kv_heads, count, head_dim])) }
}
