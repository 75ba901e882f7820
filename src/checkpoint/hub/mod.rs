//! Models by name: from the Hugging Face hub, or from a package that carries one.
//!
//! | file | holds |
//! |---|---|
//! | `spec`, `aliases` | names of models: [`Spec`], [`ALIASES`] |
//! | `settings` | hub, cache and token by the environment, as Python's `huggingface_hub` finds them |
//! | `client`, `list` | a model of a hub: [`Hub`], [`resolve`]; its commit and files |
//! | `http`, `address` | requests: redirects, the token, time limits, headers |
//! | `names` | names that a hub gives, checked before they become paths |
//! | `store` | the cache on disk |
//! | `download` | one file: fetched, resumed, checked |
//! | `content` | whether bytes can be the file that their name says |
//! | `fetch`, `manifest` | names with two sources, and where models are kept: [`fetch`] |
//! | `package` | a model out of a Python package |
//! | `answer` | one answer by itself, for fuzzing |

mod address;
mod aliases;
mod answer;
mod client;
mod content;
mod download;
mod error;
mod fetch;
mod http;
mod list;
mod manifest;
mod names;
#[cfg(feature = "gguf")]
mod package;
mod settings;
mod spec;
mod store;
#[cfg(test)]
mod tests;

pub use aliases::{ALIASES, Alias, Package};
#[doc(hidden)]
pub use answer::{Answer, Head, fuzz_answer};
pub use client::{Hub, Resolved, resolve};
pub use error::HubError;
pub use fetch::{FetchFrom, cache_dir, fetch, fetch_with};
pub use manifest::{FetchReport, Origin};
pub use spec::Spec;
