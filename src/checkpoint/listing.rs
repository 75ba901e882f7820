//! What a folder holds, for the messages about what it should.

use std::path::Path;

use super::SINGLE_FILE;
use super::error::plural;
use super::index::INDEX_FILE;

/// What a folder holds, for a message; with a hint where it is another known format.
pub(crate) fn listing(folder: &Path) -> String {
    listing_with(folder, other_format)
}

/// [`listing`] of a folder without weights: also says which safetensors file is not one of them, and
/// why.
pub(super) fn listing_without_weights(folder: &Path) -> String {
    listing_with(folder, |names| {
        let safetensors = || names.iter().filter(|name| name.ends_with(".safetensors"));
        let starting = |start: &str| safetensors().find(|name| name.starts_with(start));
        if safetensors().any(|name| name.contains("-of-")) {
            format!(" (shards without their index: fetch {INDEX_FILE} too)")
        } else if let Some(name) = starting("consolidated") {
            format!(
                " ({name} names its tensors for another program: fetch {SINGLE_FILE} or the shards \
                 of the same model)"
            )
        } else if let Some(name) = starting("adapter_model") {
            format!(
                " ({name} is an adapter: merge it into its base model with peft's \
                 `merge_and_unload` and save the result)"
            )
        } else if let Some(name) = safetensors().next() {
            format!(" (if {name} holds the whole model, rename it to {SINGLE_FILE})")
        } else {
            other_format(names)
        }
    })
}

/// What to do with a folder of another known format.
fn other_format(names: &[String]) -> String {
    if let Some(gguf) = names.iter().find(|n| n.ends_with(".gguf")) {
        format!(" (give {gguf} itself as the model)")
    } else if names
        .iter()
        .any(|n| [".bin", ".pth", ".pt"].iter().any(|end| n.ends_with(end)))
    {
        " (PyTorch files are not read: save the model as safetensors with transformers' `save_pretrained`)".into()
    } else {
        String::new()
    }
}

/// What a folder holds, for a message; with what `hint` says about its sorted file names.
pub(crate) fn listing_with(folder: &Path, hint: impl FnOnce(&[String]) -> String) -> String {
    const SHOWN: usize = 12;
    let Ok(entries) = std::fs::read_dir(folder) else {
        return "a folder that cannot be listed".into();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    if names.is_empty() {
        return "an empty folder".into();
    }
    let hint = hint(&names);
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    let more = if more > 0 {
        format!(
            " and {} more",
            plural(more, "entry").replace("entrys", "entries")
        )
    } else {
        String::new()
    };
    format!("{}{more}{hint}", names.join(", "))
}
