//! Scores of rows against the mean of a query, and that mean.

use cubecl::prelude::*;

/// The mean over rows, a unit a column.
///
/// # Shapes
///
/// - `x`: `[heads, rows, width]`, contiguous
/// - `out`: `[heads, width]`, contiguous; `columns` counts its elements
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn mean_rows<E: Float>(
    x: &[E],
    out: &mut [f32],
    columns: usize,
    rows: usize,
    width: usize,
    #[define(E)] _dtype: ElemType,
) {
    let column = ABSOLUTE_POS;
    if column < columns {
        let start = column / width * rows * width + column % width;
        let mut sum = f32::new(0.0);
        for row in 0..rows {
            sum += f32::cast_from(x[start + row * width]);
        }
        out[column] = sum / f32::cast_from(rows);
    }
}

/// `keys query * scale`, a unit a row.
///
/// # Shapes
///
/// - `keys`: `[heads, rows, vectors]`, a head beginning `head_stride` vectors behind the one before
/// - `query`: `[heads, vectors]`, contiguous
/// - `out`: `[heads, rows]`, contiguous; `all_rows` counts its elements
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub fn query_scores<E: Float, N: Size>(
    keys: &[Vector<E, N>],
    query: &[Vector<f32, N>],
    out: &mut [f32],
    all_rows: usize,
    rows: usize,
    vectors: usize,
    head_stride: usize,
    scale: f32,
    #[define(E)] _dtype: ElemType,
) {
    let row = ABSOLUTE_POS;
    if row < all_rows {
        let head = row / rows;
        let start = head * head_stride + row % rows * vectors;
        let mut sums = Vector::<f32, N>::new(0.0f32);
        for at in 0..vectors {
            let key = Vector::<f32, N>::cast_from(keys[start + at]);
            sums += key * query[head * vectors + at];
        }
        out[row] = sums.vector_sum() * scale;
    }
}
