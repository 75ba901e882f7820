//! Attention on NVIDIA tensor cores.
pub mod arguments;
pub mod block;
pub mod hidden;
pub mod merge;
pub mod mma;
pub mod output;
pub mod plan;
pub mod softmax;
pub mod table;
pub mod tiles;
pub mod visible;
pub mod wgmma;
pub mod wgmma_code;
