//! The gate of a SwiGLU block.

use cubecl::prelude::*;

/// `silu(gate) * up`; `gate`, `up` and `out` are of one shape and contiguous, `vectors` counts theirs.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn silu_mul<E: Float, N: Size>(
    gate: &[Vector<E, N>],
    up: &[Vector<E, N>],
    out: &mut [Vector<E, N>],
    vectors: usize,
    #[define(E)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < vectors {
        let gate = Vector::<f32, N>::cast_from(gate[at]);
        let up = Vector::<f32, N>::cast_from(up[at]);
        let silu = gate / (Vector::new(1.0f32) + (-gate).exp());
        out[at] = Vector::cast_from(silu * up);
    }
}
