//! The crate as an application uses it, on a small model.

mod document;
mod examples;
mod module;
mod session;
