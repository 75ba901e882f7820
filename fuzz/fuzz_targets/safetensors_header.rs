//! A safetensors header is read or refused, never more leniently than by the safetensors crate.
#![no_main]

use burn_apb::checkpoint::safetensors::Header;
use libfuzzer_sys::fuzz_target;
use safetensors::SafeTensors;

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = Header::parse(bytes) else {
        return;
    };
    assert!(
        SafeTensors::read_metadata(bytes).is_ok(),
        "accepted what safetensors refuses"
    );
    for tensor in &header.tensors {
        assert!(
            tensor.start <= tensor.end && tensor.end <= bytes.len(),
            "{tensor:?}"
        );
    }
});
