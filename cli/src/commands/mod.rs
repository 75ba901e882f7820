//! One file a command.

pub mod bench;
pub mod chat;
pub mod completions;
pub mod convert;
pub mod convert_heads;
pub mod demo;
pub mod doctor;
pub mod eval;
pub mod fetch;
pub mod generate;
pub mod launch;
pub mod plan;
pub mod prefill;
pub mod session;
pub mod trace;
pub mod train_heads;
