//! Training: how retaining heads are made.

pub mod data;
