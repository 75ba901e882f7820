//! Kernels against vectors computed in float64, and against their references in plain tensors, on every
//! device that this build has and this machine offers.

mod gradients;
mod keys;
#[path = "../common/noise.rs"]
mod noise;
mod places;
mod properties;
mod quantized;
mod query;
mod refusals;
mod selection;
mod tensors;
mod vectors;

/// Absolute tolerance of f32 results against float64.
const TOLERANCE: f32 = 1e-5;
