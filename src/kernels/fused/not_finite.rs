//! Whether some element is infinite or not a number.

use cubecl::prelude::*;

/// Writes 1 to `out` where some element is not finite, and nothing elsewhere: 0 times an element is 0, or else not a number. Units
/// that find one write the same.
///
/// # Shapes
///
/// - `x`: `[heads, vectors]`, a head beginning `head_stride` vectors behind the one before; `total` counts all vectors
/// - `out`: `[1]`, 0 before
///
/// `step` counts the units of all cubes.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn not_finite<E: Float, N: Size>(
    x: &[Vector<E, N>],
    out: &mut [i32],
    total: usize,
    vectors: usize,
    head_stride: usize,
    step: usize,
    #[define(E)] _dtype: ElemType,
) {
    let mut at = ABSOLUTE_POS;
    let mut sums = Vector::<f32, N>::new(0.0f32);
    while at < total {
        let value = Vector::<f32, N>::cast_from(x[at / vectors * head_stride + at % vectors]);
        sums += value * Vector::new(0.0f32);
        at += step;
    }
    if sums.vector_sum() != 0.0f32 {
        out[0] = 1i32;
    }
}
