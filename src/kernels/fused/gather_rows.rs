//! Chosen keys and values into one packed block.

use cubecl::prelude::*;

/// Copies the rows of keys, then of values, that `rows` names. A unit copies one element.
///
/// # Shapes
///
/// - `keys`, `values`: `[batch, kv_heads, seq_kv, head_dim]`, any strides
/// - `rows`: `[batch, kv_heads, count]`, contiguous; clamped to the last key
/// - `out`: `[2 * batch, kv_heads, count, head_dim]`, contiguous
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn gather_rows<E: Float>(
    keys: &Tensor<E>,
    values: &Tensor<E>,
    rows: &[i32],
    out: &mut [E],
    count: usize,
    #[define(E)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    let (kv_heads, head_dim) = (keys.shape(1), keys.shape(3));
    let named = keys.shape(0) * kv_heads * count;
    if at < 2 * named * head_dim {
        let packed = at / head_dim;
        let index = packed % named;
        let column = at % head_dim;
        let head = index / count;
        let last = keys.shape(2) - 1;
        let row = min(usize::cast_from(max(rows[index], 0i32)), last);
        if packed < named {
            out[at] = keys[head / kv_heads * keys.stride(0)
                + head % kv_heads * keys.stride(1)
                + row * keys.stride(2)
                + column * keys.stride(3)];
        } else {
            out[at] = values[head / kv_heads * values.stride(0)
                + head % kv_heads * values.stride(1)
                + row * values.stride(2)
                + column * values.stride(3)];
        }
    }
}
