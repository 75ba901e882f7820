//! The crate as an application uses it, on a small model.

mod codes;
mod document;
mod examples;
mod misuse;
mod module;
mod quantized;
mod ranks;
mod session;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use burn_apb::apb::heads::HEADS_MODEL;

/// The small model's heads, in a file that names `model`.
fn heads_for(model: &str, folder: &Path) -> PathBuf {
    let small = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama-gqa");
    let bytes = std::fs::read(small.join("heads.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let metadata = HashMap::from([(HEADS_MODEL.to_string(), model.to_string())]);
    let bytes = safetensors::serialize(tensors.tensors(), Some(metadata)).unwrap();
    let file = folder.join("named.safetensors");
    std::fs::write(&file, bytes).unwrap();
    file
}
