//! One file a command.

pub mod bench;
pub mod chat;
pub mod completions;
pub mod convert;
pub mod convert_heads;
pub mod demo;
pub mod doctor;
pub mod fetch;
pub mod generate;
pub mod launch;
pub mod session;
pub mod together;
pub mod trace;
pub mod train_heads;
