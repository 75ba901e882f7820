//! What the attention kernels written in CubeCL share.
//!
//! | file | holds |
//! |---|---|
//! | [`visible`] | [`Regions`](super::Regions) as four numbers; what a run of rows sees |
//! | [`lengths`] | blocks, splits and scalars of a launch |
//! | [`arguments`], [`block`] | the scalars of a launch; one block's rows and keys |
//! | [`merge`] | parts of split keys into one output |
//! | `tensors` | a launch's tensors: views, buffers, results |
//!
//! Both walk over the same blocks. A block computes *packed* rows, `query row * group + query head of
//! the group`, of one key/value head: the heads of a group share every tile of keys and values. It
//! starts at the first key that any of its rows sees and ends at the last; tiles outside are never
//! loaded, so anchor rows skip the passing keys, and causal rows what comes after them.

pub mod arguments;
pub mod block;
pub mod lengths;
pub mod merge;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub(crate) mod tensors;
pub mod visible;

/// Score of a hidden key: finite, so that no difference is NaN and no shading language's missing
/// infinity matters, and so far below [`FLOOR`] that its weight is 0 whatever the maximum.
pub const HIDDEN: f32 = -3.0e38;
/// Where a running maximum starts.
pub const FLOOR: f32 = -1.0e30;
/// The bits of -inf. WGSL has no literal for it and may assume that no computation gives it, so that
/// kernels write normalisers as bits.
pub const NEGATIVE_INFINITY: u32 = f32::NEG_INFINITY.to_bits();
