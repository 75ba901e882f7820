//! Whether some element is infinite or not a number.

use cubecl::prelude::*;

/// The exponent's bits of f32; all ones mean infinite or not a number. Compared as bits, since a shader's compiler may
/// assume that no such number exists.
const EXPONENT: u32 = 0x7F80_0000;

/// Writes 1 to `out` where some element is not finite, and nothing elsewhere. Units that find one write the same.
///
/// # Shapes
///
/// - `x`: `[heads, elements]`, a head beginning `head_stride` elements behind the one before; `total` counts all elements
/// - `out`: `[1]`, 0 before
///
/// `step` counts the units that have work.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn not_finite<E: Float>(
    x: &[E],
    out: &mut [i32],
    total: usize,
    elements: usize,
    head_stride: usize,
    step: usize,
    #[define(E)] _dtype: ElemType,
) {
    let mut at = ABSOLUTE_POS;
    let mut found = false;
    while at < total {
        let value = f32::cast_from(x[at / elements * head_stride + at % elements]);
        found = found || u32::reinterpret(value) & EXPONENT == EXPONENT;
        at += step;
    }
    if found {
        out[0] = 1i32;
    }
}
