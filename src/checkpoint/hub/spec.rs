//! The name of a model on the hub.

use std::fmt;

use super::aliases;
use super::error::HubError;

/// A model on the hub: `org/name`, or `org/name@revision` for a branch, tag or commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// `org/name`.
    pub id: String,
    /// Branch, tag or commit; `main` where none was named.
    pub revision: String,
}

impl Spec {
    /// Reads `org/name` or `org/name@revision`.
    ///
    /// # Errors
    ///
    /// [`HubError::Spec`] for anything else; in particular nothing that would lead out of the
    /// cache's folder is accepted.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let wrong = || HubError::Spec {
            found: text.to_string(),
            known: aliases::names(),
        };
        let (id, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (org, name) = id.split_once('/').ok_or_else(wrong)?;
        let word = |part: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty()
                && part.len() <= 96
                && !part.starts_with('.')
                && !part.contains("..")
                && part.chars().all(plain)
        };
        // A branch such as `refs/pr/1` has slashes.
        if !word(org) || !word(name) || !revision.split('/').all(word) {
            return Err(wrong());
        }
        Ok(Self {
            id: id.to_string(),
            revision: revision.to_string(),
        })
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision.as_str() {
            "main" => f.write_str(&self.id),
            revision => write!(f, "{}@{revision}", self.id),
        }
    }
}
