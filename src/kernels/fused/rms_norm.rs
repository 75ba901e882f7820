//! Root mean square normalisation, alone and behind a residual connection.

use cubecl::prelude::*;

/// The most units of the cube that serves a row, where the device allows as many; a power of two.
pub const MOST_UNITS: u32 = 256;

/// `1 / sqrt(mean + eps)` of a row of `width` elements, from each unit's sum of squares; the sums are added in pairs.
#[cube]
fn inverse_root(
    squares: f32,
    sums: &mut Shared<[f32]>,
    width: usize,
    eps: f32,
    #[comptime] units: usize,
) -> f32 {
    let unit = UNIT_POS as usize;
    sums[unit] = squares;
    sync_cube();
    #[unroll]
    for step in 1..comptime!(units.trailing_zeros() as usize + 1) {
        let half = comptime!(units >> step);
        if unit < half {
            let other = sums[unit + half];
            sums[unit] += other;
        }
        sync_cube();
    }
    (sums[0] / f32::cast_from(width) + eps).inverse_sqrt()
}

/// `x / sqrt(mean(x^2) + eps) * gamma`, a row a cube.
///
/// # Shapes
///
/// - `x`, `out`: `[rows, width]`, contiguous
/// - `gamma`: `[width]`
///
/// `vectors` counts those of a row. Cubes: `rows`, of `units` units.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub fn rms_norm<E: Float, G: Float, N: Size>(
    x: &[Vector<E, N>],
    gamma: &[Vector<G, N>],
    out: &mut [Vector<E, N>],
    rows: usize,
    vectors: usize,
    eps: f32,
    #[comptime] units: usize,
    #[define(E, G)] _dtypes: [ElemType; 2],
) {
    let row = CUBE_POS;
    let start = row * vectors;
    let mut squares = Vector::<f32, N>::new(0.0f32);
    if row < rows {
        let mut at = UNIT_POS as usize;
        while at < vectors {
            let value = Vector::<f32, N>::cast_from(x[start + at]);
            squares += value * value;
            at += units;
        }
    }
    let mut sums = Shared::<[f32]>::new_slice(units);
    let scale = inverse_root(
        squares.vector_sum(),
        &mut sums,
        vectors * N::value(),
        eps,
        units,
    );
    if row < rows {
        let mut at = UNIT_POS as usize;
        while at < vectors {
            let value = Vector::<f32, N>::cast_from(x[start + at]);
            let gamma = Vector::<f32, N>::cast_from(gamma[at]);
            out[start + at] = Vector::cast_from(value * Vector::new(scale) * gamma);
            at += units;
        }
    }
}

/// [`rms_norm`] of `sum`, which is `x + residual`, rounded to their type.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub fn add_rms_norm<E: Float, G: Float, N: Size>(
    x: &[Vector<E, N>],
    residual: &[Vector<E, N>],
    gamma: &[Vector<G, N>],
    sum: &mut [Vector<E, N>],
    out: &mut [Vector<E, N>],
    rows: usize,
    vectors: usize,
    eps: f32,
    #[comptime] units: usize,
    #[define(E, G)] _dtypes: [ElemType; 2],
) {
    let row = CUBE_POS;
    let start = row * vectors;
    let mut squares = Vector::<f32, N>::new(0.0f32);
    if row < rows {
        let mut at = UNIT_POS as usize;
        while at < vectors {
            let added = Vector::<f32, N>::cast_from(x[start + at])
                + Vector::<f32, N>::cast_from(residual[start + at]);
            let stored = Vector::<E, N>::cast_from(added);
            sum[start + at] = stored;
            let value = Vector::<f32, N>::cast_from(stored);
            squares += value * value;
            at += units;
        }
    }
    let mut sums = Shared::<[f32]>::new_slice(units);
    let scale = inverse_root(
        squares.vector_sum(),
        &mut sums,
        vectors * N::value(),
        eps,
        units,
    );
    if row < rows {
        let mut at = UNIT_POS as usize;
        while at < vectors {
            // What this unit wrote itself.
            let value = Vector::<f32, N>::cast_from(sum[start + at]);
            let gamma = Vector::<f32, N>::cast_from(gamma[at]);
            out[start + at] = Vector::cast_from(value * Vector::new(scale) * gamma);
            at += units;
        }
    }
}
