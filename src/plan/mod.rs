//! Time and memory of a prefill, predicted from a model's configuration alone.
//!
//! | to | use |
//! |---|---|
//! | predict a method, compare all, get one recommended | [`Planner`] |
//! | name a device, or its rates | [`Hardware`], [`Rates`] |
//! | measure this machine's rates | [`measure()`] |
//! | see what a rank computes and receives | [`Work`] |
//! | predict a process's memory | [`MemoryConfig`] |
//!
//! The time of a layer on a rank is the sum of its parts, each its [`Work`] over the device's rate, and the prefill
//! takes as long as the rank that takes longest. With the rates of the paper's devices the times of its table
//! (arXiv 2502.12085, Llama-3.1-8B on eight A800) come out within a tenth, those of one device within 15 %.

mod error;
mod measure;
mod memory;
mod predict;
mod rates;
mod recommend;
#[cfg(test)]
mod tests;
mod work;

pub use error::PlanningError;
pub use measure::measure;
pub use memory::{MemoryConfig, MemoryParts};
pub use predict::{Planner, Prediction};
pub use rates::{Hardware, PartSeconds, Program, Rates};
pub use recommend::Recommendation;
pub use work::{RETAINING_WIDTH, Work};
