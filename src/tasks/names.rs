//! The name that is most similar to a wrong one.

use super::error::TaskError;

/// The error for a name that no task has. `names` is not empty.
pub(super) fn unknown(name: &str, names: Vec<&'static str>) -> TaskError {
    let wanted = name.to_lowercase();
    let nearest = names
        .iter()
        .min_by_key(|known| strsim::levenshtein(&wanted, known));
    TaskError::UnknownTask {
        name: name.into(),
        nearest: nearest.copied().unwrap_or_default(),
        names,
    }
}
