//! A value that the compiler does not see through.

use cubecl::prelude::*;

/// The value itself, hidden from the compiler: what is computed from it is not moved.
///
/// Otherwise everything that does not change from tile to tile is computed before the loop and held in
/// registers, of which the accumulators leave none.
#[cube]
pub fn opaque(value: u32) -> u32 {
    let same: u32;
    gpu_asm!("mov.u32 {same}, {value};", same = out(_) same, value = in(_) value * 1u32, options(nomem));
    same
}
