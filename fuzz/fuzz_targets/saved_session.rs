//! The file of a saved session is read or refused; what is read is restored over a model of its shape, or refused there.
#![no_main]

use std::sync::{Arc, LazyLock};

use burn::tensor::{Device, FloatDType};
use burn_apb::apb::SavedSession;
use burn_apb::model::{Architecture, CausalLm, DecoderConfig};
use libfuzzer_sys::fuzz_target;

/// The shape of the model that the seeds were saved with.
static MODEL: LazyLock<Arc<dyn CausalLm>> = LazyLock::new(|| {
    let config = DecoderConfig::new(Architecture::Llama, 512, 64, 160, 3, 4, 2, 16);
    Arc::new(config.init_random(FloatDType::F32, &Device::flex()))
});

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("rank-0-of-1.safetensors"), bytes).expect("room for it");
    let Ok(saved) = SavedSession::open(folder.path()) else {
        return;
    };
    assert!(saved.document().len() <= bytes.len());
    if let Ok(session) = saved.restore(MODEL.clone(), 4) {
        assert_eq!(session.document(), saved.document());
    }
});
