//! Models by name: from the Hugging Face hub, or from a package that carries one.
//!
//! | file | holds |
//! |---|---|
//! | `spec` | what a name means: [`Spec`] |
//! | `settings` | hub, cache and token by the environment, as Python's `huggingface_hub` finds them |
//! | `client` | a model of a hub: [`Hub`], [`resolve`] |
//! | `http` | requests: redirects, the token, time limits, what headers say |
//! | `names` | names that a hub gives, checked before they become paths |
//! | `store` | the cache on disk |
//! | `download` | one file: fetched, resumed, checked |
//! | `fetch` | names with two sources, and where models are kept: [`fetch`] |
//! | `package` | a model out of a Python package |

mod client;
mod download;
mod error;
mod fetch;
mod http;
mod names;
#[cfg(feature = "gguf")]
mod package;
mod settings;
mod spec;
mod store;
#[cfg(test)]
mod tests;

pub use client::{Hub, Resolved, resolve};
pub use error::HubError;
pub use fetch::{
    ALIASES, Alias, FetchFrom, FetchReport, Origin, Package, cache_dir, fetch, fetch_with,
};
pub use spec::Spec;
