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
    /// cache's folder, or into that of another model, is accepted.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let (id, revision) = text.split_once('@').unwrap_or((text, "main"));
        let spec = Self {
            id: id.to_string(),
            revision: revision.to_string(),
        };
        match spec.is_plain() {
            true => Ok(spec),
            false => Err(refused(text)),
        }
    }

    /// The rules of [`Self::parse`], for fields that were written by hand; asked before they become paths.
    pub(super) fn check(&self) -> Result<(), HubError> {
        match self.is_plain() {
            true => Ok(()),
            false => Err(refused(&format!("{}@{}", self.id, self.revision))),
        }
    }

    fn is_plain(&self) -> bool {
        let Some((org, name)) = self.id.split_once('/') else {
            return false;
        };
        // Two hyphens stand for the slash in the name of the cache's folder, which must be that of one model only. The
        // hub has no such names.
        let part = |part: &str| {
            is_word(part) && !part.contains("--") && !part.starts_with('-') && !part.ends_with('-')
        };
        // A branch such as `refs/pr/1` has slashes.
        part(org) && part(name) && self.revision.split('/').all(is_word)
    }
}

/// Whether the text may be a component of a path.
fn is_word(part: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !part.is_empty()
        && part.len() <= 96
        && !part.starts_with('.')
        && !part.contains("..")
        && part.chars().all(plain)
}

fn refused(found: &str) -> HubError {
    HubError::Spec {
        found: found.to_string(),
        known: aliases::names(),
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
