//! Values that JSON has no form for.

use std::path::Path;

use serde_json::Value;

/// A path as JSON, which holds text alone: what is not UTF-8 in it is replaced.
pub fn path(path: &Path) -> Value {
    path.to_string_lossy().into_owned().into()
}
