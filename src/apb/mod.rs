//! The method: how a long document is prefilled, and how questions about it are answered exactly.

mod config;

pub use config::{Method, MethodError};
