//! Between tensors and panels: queries in, keys and values as f32, sums out.

use burn::tensor::DType;

use super::piece::Piece;
use super::simd::{Elem, Simd};
use super::view::View;

/// Queries to panels `[head_dim, lanes]`, scaled; lanes beyond the last are zero.
#[inline(always)]
pub(super) unsafe fn pack_queries<S: Simd, E: Elem, K: Elem>(
    piece: &Piece<'_, E, K>,
    vectors: usize,
    width: usize,
    queries: *mut f32,
    rows: *mut f32,
) {
    let head_dim = piece.problem.head_dim();
    let view = &piece.problem.q;
    let scale = core::f32::consts::LOG2_E / (head_dim as f32).sqrt();
    let per_panel = width / S::LANES;
    for vector in 0..vectors {
        for lane in 0..S::LANES {
            let row = rows.add(lane * head_dim);
            let index = vector * S::LANES + lane;
            if index >= piece.lanes() {
                for i in 0..head_dim {
                    row.add(i).write(0.0);
                }
                continue;
            }
            let (q_row, head) = piece.lane(index);
            let src = view.at([piece.batch, head, q_row, 0]);
            let step = view.strides[3];
            for i in 0..head_dim {
                let x = *src.wrapping_offset((i as isize).wrapping_mul(step));
                row.add(i).write(x.widen() * scale);
            }
        }
        let dst =
            queries.add(vector / per_panel * head_dim * width + vector % per_panel * S::LANES);
        transpose_rows::<S>(rows, head_dim, dst, width);
    }
}

/// `LANES` rows of `head_dim` to `head_dim` rows of `LANES`.
#[inline(always)]
unsafe fn transpose_rows<S: Simd>(
    rows: *const f32,
    head_dim: usize,
    dst: *mut f32,
    dst_stride: usize,
) {
    let mut i = 0;
    while head_dim - i >= S::LANES {
        S::transpose(rows.add(i), head_dim, dst.add(i * dst_stride), dst_stride);
        i += S::LANES;
    }
    for i in i..head_dim {
        for lane in 0..S::LANES {
            dst.add(i * dst_stride + lane)
                .write(*rows.add(lane * head_dim + i));
        }
    }
}

/// Whether rows of a view can be used where they lie.
pub(super) fn in_place<E: Elem>(view: &View<E, 4>) -> bool {
    E::dtype() == DType::F32 && view.strides[3] == 1
}

/// Rows of a view in f32, and their stride: where they lie, or else copied.
#[inline(always)]
pub(super) unsafe fn rows_in_f32<S: Simd, E: Elem>(
    view: &View<E, 4>,
    at: [usize; 4],
    rows: usize,
    copy: *mut f32,
) -> (*const f32, isize) {
    let src = view.at(at);
    if in_place(view) {
        return (src.cast(), view.strides[2]);
    }
    let head_dim = view.shape[3];
    widen::<S, E>(view, src, rows, head_dim, copy);
    (copy, head_dim as isize)
}

/// Copies rows of a view to f32, one after the other.
#[inline(always)]
unsafe fn widen<S: Simd, E: Elem>(
    view: &View<E, 4>,
    src: *const E,
    rows: usize,
    head_dim: usize,
    dst: *mut f32,
) {
    for row in 0..rows {
        let src = src.wrapping_offset((row as isize).wrapping_mul(view.strides[2]));
        let dst = dst.add(row * head_dim);
        let mut i = 0;
        if view.strides[3] == 1 {
            while head_dim - i >= S::LANES {
                S::store(dst.add(i), E::load::<S>(src.wrapping_add(i)));
                i += S::LANES;
            }
        }
        for i in i..head_dim {
            let x = *src.wrapping_offset((i as isize).wrapping_mul(view.strides[3]));
            dst.add(i).write(x.widen());
        }
    }
}

/// Transposes the sums back and hands every lane over.
#[inline(always)]
pub(super) unsafe fn hand_over<S: Simd, E: Elem, K: Elem>(
    piece: &Piece<'_, E, K>,
    vectors: usize,
    width: usize,
    [sums, shift, total, rows]: [*mut f32; 4],
) {
    let head_dim = piece.problem.head_dim();
    let per_panel = width / S::LANES;
    for vector in 0..vectors {
        let src = sums.add(vector / per_panel * head_dim * width + vector % per_panel * S::LANES);
        let mut i = 0;
        while head_dim - i >= S::LANES {
            S::transpose::<f32>(src.add(i * width), width, rows.add(i), head_dim);
            i += S::LANES;
        }
        for i in i..head_dim {
            for lane in 0..S::LANES {
                rows.add(lane * head_dim + i)
                    .write(*src.add(i * width + lane));
            }
        }
        for lane in 0..S::LANES {
            let index = vector * S::LANES + lane;
            if index < piece.lanes() {
                let row = rows.add(lane * head_dim);
                piece.finish(index, row, *shift.add(index), *total.add(index));
            }
        }
    }
}
