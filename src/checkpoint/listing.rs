//! Lists in messages: names of tensors and files, and what a folder holds.

use std::borrow::Cow;
use std::path::Path;

use super::index::{INDEX_FILE, SINGLE_FILE};
use crate::quoted::Quoted;

/// `1 shard`, `2 shards`.
pub(crate) fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// The first `count` names and how many more there are, on one line: `a, b and 3 more`.
pub(crate) fn first(names: &[String], count: usize) -> String {
    let shown = names.iter().take(count);
    let shown: Vec<String> = shown.map(|name| Quoted(name).to_string()).collect();
    match names.len().saturating_sub(count) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// The last component of a path; empty where there is none.
pub(super) fn name_of(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// The names in a folder, sorted; none if it cannot be listed.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// What a folder holds; with a hint where it is another known format.
pub(crate) fn listing(folder: &Path) -> String {
    listing_with(folder, other_format)
}

/// [`listing`] of a folder without weights: also names the safetensors file that is not one of them,
/// and why.
pub(super) fn listing_without_weights(folder: &Path) -> String {
    listing_with(folder, |names| {
        let safetensors = || names.iter().filter(|name| name.ends_with(".safetensors"));
        let starting = |start: &str| safetensors().find(|name| name.starts_with(start));
        if safetensors().any(|name| name.contains("-of-")) {
            format!(" (shards without their index: fetch {INDEX_FILE} too)")
        } else if let Some(name) = starting("consolidated") {
            format!(
                " ({} names its tensors for another program: fetch {SINGLE_FILE} or the shards \
                 of the same model)",
                Quoted(name)
            )
        } else if let Some(name) = starting("adapter_model") {
            format!(
                " ({} is an adapter: merge it into its base model with peft's \
                 `merge_and_unload` and save the result)",
                Quoted(name)
            )
        } else if let Some(name) = safetensors().next() {
            let name = Quoted(name);
            format!(" (if {name} holds the whole model, rename it to {SINGLE_FILE})")
        } else {
            other_format(names)
        }
    })
}

/// What to do with a folder of another known format.
fn other_format(names: &[String]) -> String {
    let ends = |ends: &[&str]| {
        let matches = |name: &&String| ends.iter().any(|end| name.ends_with(end));
        names.iter().find(matches)
    };
    if let Some(gguf) = ends(&[".gguf"]) {
        format!(" (give {} itself as the model)", Quoted(gguf))
    } else if ends(&[".bin", ".pth", ".pt"]).is_some() {
        " (PyTorch files are not read: save the model as safetensors with transformers' `save_pretrained`)".into()
    } else {
        String::new()
    }
}

/// What a folder holds, with a hint by its sorted file names.
pub(crate) fn listing_with(folder: &Path, hint: impl FnOnce(&[String]) -> String) -> String {
    const SHOWN: usize = 12;
    match names(folder) {
        names if !names.is_empty() => format!("{}{}", first(&names, SHOWN), hint(&names)),
        _ if folder.read_dir().is_ok() => "an empty folder".into(),
        _ => "a folder that cannot be listed".into(),
    }
}
