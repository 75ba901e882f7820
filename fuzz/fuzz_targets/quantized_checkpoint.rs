//! A quantised safetensors checkpoint is read or refused. Its `config.json` is the `config` of the file's metadata.
#![no_main]

use burn::tensor::FloatDType;
use burn_apb::checkpoint::ModelSource;
use burn_apb::checkpoint::safetensors::Header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = Header::parse(bytes) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = header.metadata.get("config").map_or("{}", String::as_str);
    std::fs::write(folder.path().join("config.json"), config).expect("room for it");
    std::fs::write(folder.path().join("model.safetensors"), bytes).expect("room for it");
    let Ok(source) = ModelSource::open(folder.path()) else {
        return;
    };
    let Ok(checkpoint) = source.checkpoint() else {
        return;
    };
    for info in checkpoint.tensors() {
        // No more elements than two a byte.
        assert!(info.elements() <= 2 * bytes.len(), "{info:?}");
        if let Ok(data) = checkpoint.read(&info.name, FloatDType::F32) {
            assert_eq!(data.as_bytes().len(), 4 * info.elements());
        }
    }
});
