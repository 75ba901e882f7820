//! A file of retaining heads, safetensors or PyTorch, is read or refused; what is read has finite weights of the model's shape.
#![no_main]

use burn::tensor::{Device, FloatDType};
use burn_apb::apb::heads::HeadsFile;
use burn_apb::model::{Architecture, DecoderConfig};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // A zip archive is what PyTorch writes.
    let name = match bytes.starts_with(b"PK") {
        true => "pytorch_model.bin",
        false => "heads.safetensors",
    };
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("room for it");
    let model = DecoderConfig::new(Architecture::Llama, 512, 64, 160, 3, 4, 2, 16);
    let Ok(file) = HeadsFile::open(&path, &model) else {
        return;
    };
    if let Ok(heads) = file.load(FloatDType::F32, &Device::flex()) {
        assert_eq!(heads.layers.len(), 3);
    }
});
