//! A view of bytes to rows one behind the other.

use cubecl::prelude::*;

use super::bytes::byte;

/// Writes the bytes `[rows, row_bytes]` of a view with strides in words, a unit a word. Burn's copies are of a
/// tensor's own type, and not every runtime has bytes.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn compact(
    bytes: &[u32],
    out: &mut [u32],
    total: usize,
    row_bytes: usize,
    row_stride: usize,
    stride: usize,
) {
    let at = ABSOLUTE_POS * 4;
    if at < total {
        let mut word = 0u32;
        #[unroll]
        for i in 0..4usize {
            if at + i < total {
                let from = (at + i) / row_bytes * row_stride + (at + i) % row_bytes * stride;
                word |= byte(bytes, from) << comptime!(8 * i as u32);
            }
        }
        out[ABSOLUTE_POS] = word;
    }
}
