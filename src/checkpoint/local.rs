//! What a folder given as a model is: a model's files, a part of a hub cache, broken links, Git LFS
//! pointers.

use std::fs;
use std::path::{Path, PathBuf};

use super::index::{INDEX_FILE, Index, MAX_INDEX_LEN, SINGLE_FILE};
use super::lfs::Pointer;
use super::listing::{first, name_of, names, plural};
use super::small::read_limited;
use crate::quoted::{QuotePath, Quoted};

/// How many names an error shows at most.
const SHOWN: usize = 12;

/// The longest `refs/main` that is read, in bytes; it holds the hash of a commit.
const MAX_REF_LEN: u64 = 4096;

/// How the folder of a model in a hub cache begins.
const MODEL_PREFIX: &str = "models--";

/// Files beside the weights that a model may be read from.
const TEXTS: [&str; 11] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];

/// Why a folder cannot be taken as a model's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// A hub cache in which no model can be chosen.
    #[error("{}: expected a model's folder, found {found}; {advice}", path.quoted())]
    Cache {
        /// The folder.
        path: PathBuf,
        /// Whose cache it is.
        found: String,
        /// What to give, or how to fetch the model.
        advice: String,
    },
    /// Links without the files that they lead to.
    #[error("{}: expected a model's files, found broken links: {links}; fetch the model again, for example with `apb fetch`, or copy the files and not the links", path.quoted())]
    BrokenLinks {
        /// The folder, or the link.
        path: PathBuf,
        /// Each link with its target.
        links: String,
    },
    /// Git LFS pointers in place of files.
    #[error("{}: expected a model's files, found Git LFS pointers in place of {files}; run `git lfs pull` in the folder, or fetch the model with `apb fetch`", path.quoted())]
    Pointers {
        /// The folder.
        path: PathBuf,
        /// Each pointer with the size of its file.
        files: String,
    },
}

/// The model's folder that a part of a hub cache stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The folder with the model's files.
    pub path: PathBuf,
    /// Its commit.
    pub commit: String,
    /// What was chosen, in words for the user.
    pub note: String,
}

/// Looks at a folder that is given as a model.
///
/// `None` for a folder, or a file, to take as it is, with or without a model in it. The cache folder of one
/// model (`models--org--name`, or `snapshots` in it) stands for the snapshot that `refs/main` names,
/// if that is complete.
///
/// # Errors
///
/// The folder is a cache of several models, or of one without such a snapshot; its configuration or
/// tokenizer are broken links or Git LFS pointers.
pub fn describe_folder(path: &Path) -> Result<Option<Snapshot>, LocalError> {
    if is_link(&path.join("config.json")) || path.join("config.json").exists() {
        refuse_placeholders(path, |name| TEXTS.contains(&name))?;
        return Ok(None);
    }
    if !path.is_dir() {
        if let Some(target) = target_of_broken(path) {
            return Err(LocalError::BrokenLinks {
                path: path.into(),
                links: link(&name_of(path), &target),
            });
        }
        return refuse_pointer(path).map(|()| None);
    }
    // `.` and `..` have no name of their own.
    let full = path.canonicalize().unwrap_or_else(|_| path.into());
    let cache = |found: String, advice: &str| LocalError::Cache {
        path: path.into(),
        found,
        advice: advice.into(),
    };
    for (prefix, found) in [("datasets--", "a data set"), ("spaces--", "a space")] {
        if name_of(&full).starts_with(prefix) {
            return Err(cache(format!("the hub cache of {found}"), "give a model"));
        }
    }
    if is_model_cache(&full) {
        return model_cache(path, path).map(Some);
    }
    let inside = ["snapshots", "blobs", "refs"].contains(&&*name_of(&full));
    if let Some(parent) = full
        .parent()
        .filter(|parent| inside && is_model_cache(parent))
    {
        // The parent as the user would write it, where there is one to write.
        let written = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty() && path.file_name().is_some());
        return model_cache(path, written.unwrap_or(parent)).map(Some);
    }
    for root in [path.to_path_buf(), path.join("hub")] {
        let models: Vec<String> = sub_folders(&root)
            .iter()
            .filter_map(|name| id_of(name))
            .collect();
        if !models.is_empty() {
            let (count, models) = (plural(models.len(), "model"), first(&models, SHOWN));
            return Err(cache(
                format!("a hub cache with {count}: {models}"),
                "give a model's name, such as `org/name`, or a folder in its `snapshots`",
            ));
        }
    }
    // A folder without config.json is refused by its opener, unless its files are placeholders.
    refuse_placeholders(path, |_| true)?;
    Ok(None)
}

/// Refuses a file that is a Git LFS pointer.
///
/// # Errors
///
/// [`LocalError::Pointers`]. A file that cannot be read is accepted; opening it reports why.
pub fn refuse_pointer(file: &Path) -> Result<(), LocalError> {
    match Pointer::read(file) {
        Ok(Some(pointer)) => Err(LocalError::Pointers {
            path: file.into(),
            files: with_size(&name_of(file), pointer),
        }),
        _ => Ok(()),
    }
}

/// Refuses a folder, or a file, whose weights are broken links or Git LFS pointers.
///
/// # Errors
///
/// [`LocalError::BrokenLinks`] and [`LocalError::Pointers`] if one of the files that the weights
/// would be read from is one; all of the folder are named.
pub fn refuse_weight_placeholders(folder: &Path) -> Result<(), LocalError> {
    if !folder.is_dir() {
        return refuse_pointer(folder);
    }
    let single = folder.join(SINGLE_FILE);
    let used = if single.exists() || is_link(&single) {
        vec![SINGLE_FILE.to_string()]
    } else {
        let shards = shards(&folder.join(INDEX_FILE)).unwrap_or_default();
        std::iter::once(INDEX_FILE.to_string())
            .chain(shards)
            .collect()
    };
    refuse_placeholders(folder, |name| used.iter().any(|used| used == name))
}

/// What a model's folder lacks: files of its configuration and weights; empty for a whole one.
///
/// A tokenizer is not required. A Git LFS pointer counts as missing.
pub(crate) fn missing(folder: &Path) -> Vec<String> {
    let lacks = |name: &str| {
        let path = folder.join(name);
        !path.is_file() || Pointer::read(&path).is_ok_and(|pointer| pointer.is_some())
    };
    let weights = if folder.join(SINGLE_FILE).exists() {
        vec![SINGLE_FILE.to_string()]
    } else {
        match shards(&folder.join(INDEX_FILE)) {
            Some(shards) => shards,
            None => vec![SINGLE_FILE.to_string()],
        }
    };
    std::iter::once("config.json".to_string())
        .chain(weights)
        .filter(|name| lacks(name))
        .collect()
}

/// The shards that an index names; `None` without an index that can be read.
fn shards(index: &Path) -> Option<Vec<String>> {
    let index = Index::parse(&read_limited(index, MAX_INDEX_LEN).ok()?).ok()?;
    Some(index.shards().into_iter().map(String::from).collect())
}

/// Refuses a folder of which a file that `used` names is a broken link or a Git LFS pointer.
fn refuse_placeholders(folder: &Path, used: impl Fn(&str) -> bool) -> Result<(), LocalError> {
    let (mut links, mut pointers) = (Vec::new(), Vec::new());
    let (mut broken, mut pointed) = (false, false);
    for name in names(folder) {
        let path = folder.join(&name);
        if let Some(target) = target_of_broken(&path) {
            broken |= used(&name);
            links.push(link(&name, &target));
        } else if let Ok(Some(pointer)) = Pointer::read(&path) {
            pointed |= used(&name);
            pointers.push(with_size(&name, pointer));
        }
    }
    if broken {
        return Err(LocalError::BrokenLinks {
            path: folder.into(),
            links: first(&links, SHOWN),
        });
    }
    if pointed {
        return Err(LocalError::Pointers {
            path: folder.into(),
            files: first(&pointers, SHOWN),
        });
    }
    Ok(())
}

/// A link's name and its target.
fn link(name: &str, target: &Path) -> String {
    let target = target.to_string_lossy();
    format!("{} -> {}", Quoted(name), Quoted(&target))
}

/// A pointer's name and the size of its file.
fn with_size(name: &str, pointer: Pointer) -> String {
    let name = Quoted(name);
    match pointer.size {
        Some(size) => format!("{name} ({size} bytes)"),
        None => name.to_string(),
    }
}

/// The snapshot that `refs/main` names in the cache folder of a model; `given` is what errors name.
fn model_cache(given: &Path, cache: &Path) -> Result<Snapshot, LocalError> {
    let full = cache.canonicalize().unwrap_or_else(|_| cache.into());
    let id = id_of(&name_of(&full)).unwrap_or_else(|| "an unnamed model".into());
    let id = Quoted(&id);
    let snapshots = cache.join("snapshots");
    let named = read_limited(&cache.join("refs").join("main"), MAX_REF_LEN).ok();
    let named = named.and_then(|bytes| String::from_utf8(bytes).ok());
    let named = named.map(|text| text.trim().to_string());
    let reason = match named.filter(|commit| is_commit(commit)) {
        None => "without a commit in refs/main".to_string(),
        Some(commit) => {
            let path = snapshots.join(&commit);
            let lacks = missing(&path);
            if lacks.is_empty() {
                let note = format!(
                    "{}: the hub cache of `{id}`; its snapshot {} (refs/main) is used",
                    given.quoted(),
                    short(&commit)
                );
                return Ok(Snapshot { path, commit, note });
            }
            format!(
                "whose snapshot {} (refs/main) lacks {}",
                short(&commit),
                first(&lacks, SHOWN)
            )
        }
    };
    let whole: Vec<String> = sub_folders(&snapshots)
        .iter()
        .map(|name| snapshots.join(name))
        .filter(|path| missing(path).is_empty())
        .take(SHOWN)
        .map(|path| path.quoted().to_string())
        .collect();
    let advice = if whole.is_empty() {
        format!("no other snapshot there is complete: run `apb fetch {id}`")
    } else {
        format!("give {}, or run `apb fetch {id}`", whole.join(" or "))
    };
    Err(LocalError::Cache {
        path: given.into(),
        found: format!("the hub cache of `{id}`, {reason}"),
        advice,
    })
}

/// Whether a folder is the cache of one model.
fn is_model_cache(folder: &Path) -> bool {
    let snapshots = folder.join("snapshots").is_dir();
    let rest = folder.join("refs").is_dir() || folder.join("blobs").is_dir();
    (snapshots && rest) || id_of(&name_of(folder)).is_some()
}

/// `org/name` of a folder `models--org--name`.
fn id_of(folder: &str) -> Option<String> {
    let id = folder.strip_prefix(MODEL_PREFIX)?.replacen("--", "/", 1);
    (!id.is_empty()).then_some(id)
}

/// Whether the text can be a commit's hash: 7 to 64 hexadecimal digits, so it is a file name, too.
pub(crate) fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The beginning of a commit's hash, as people write it.
pub(crate) fn short(commit: &str) -> &str {
    commit.get(..7).unwrap_or(commit)
}

fn is_link(path: &Path) -> bool {
    path.symlink_metadata()
        .is_ok_and(|found| found.is_symlink())
}

/// The target of a broken link.
fn target_of_broken(path: &Path) -> Option<PathBuf> {
    if !is_link(path) || path.exists() {
        return None;
    }
    fs::read_link(path).ok()
}

fn sub_folders(folder: &Path) -> Vec<String> {
    let mut names = names(folder);
    names.retain(|name| folder.join(name).is_dir());
    names
}

#[cfg(test)]
mod tests;
