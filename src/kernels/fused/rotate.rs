//! Rotary position embedding and the layout that attention reads, in one pass.

use cubecl::prelude::*;

/// Rotates `N` elements of a head's first half with those of its second half, and writes both where
/// the head's rows lie.
///
/// # Shapes
///
/// - `x`: `[batch, seq, heads * head_dim]`, the last dimension contiguous
/// - `cos`, `sin`: `[seq, head_dim / 2]`, contiguous
/// - `out`: `[batch, heads, seq, head_dim]`, contiguous
///
/// `pairs` and `half` count vectors: all pairs of them, and those of half a head.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub fn rotate<E: Float, N: Size>(
    x: &Tensor<Vector<E, N>>,
    cos: &[Vector<f32, N>],
    sin: &[Vector<f32, N>],
    out: &mut [Vector<E, N>],
    pairs: usize,
    heads: usize,
    half: usize,
    #[define(E)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    let width = N::value();
    let seq = x.shape(1);
    if at < pairs {
        let column = at % half;
        let head = at / half % heads;
        let row = at / half / heads % seq;
        let batch = at / half / heads / seq;
        let from = (batch * x.stride(0) + row * x.stride(1)) / width + head * 2 * half + column;
        let first = Vector::<f32, N>::cast_from(x[from]);
        let second = Vector::<f32, N>::cast_from(x[from + half]);
        let (cos, sin) = (cos[row * half + column], sin[row * half + column]);
        let to = ((batch * heads + head) * seq + row) * 2 * half + column;
        out[to] = Vector::cast_from(first * cos - second * sin);
        out[to + half] = Vector::cast_from(second * cos + first * sin);
    }
}
