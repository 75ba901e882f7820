//! What a plane's share of a block's rows sees.

use cubecl::prelude::*;

pub use crate::kernels::cube::block::*;

use super::opaque::opaque;
use crate::kernels::cube::arguments::Arguments;

#[cube]
impl Block {
    /// The end of the keys that any of `count` packed rows from `local`, counted in the block, sees.
    pub fn rows_end(&self, arguments: &Arguments, local: u32, #[comptime] count: usize) -> u32 {
        let row = opaque(self.row + local);
        let last = (min(row + count as u32, self.rows) - 1u32) / arguments.group;
        let end = min(arguments.visible.end(last), self.end);
        select(row < self.rows, end, 0u32)
    }
}
