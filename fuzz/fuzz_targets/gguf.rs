//! A GGUF file is read or refused; what is read has a config and a tokenizer, or says why not.
#![no_main]

use burn_apb::checkpoint::gguf::{Gguf, GgufHeader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = GgufHeader::parse(bytes) {
        for tensor in &header.tensors {
            assert!(
                tensor.start <= tensor.end && tensor.end <= bytes.len(),
                "{tensor:?}"
            );
        }
    }
    if let Ok(gguf) = Gguf::parse(bytes) {
        let _ = (
            gguf.config(),
            gguf.tokenizer(),
            gguf.tokenizer_config(),
            gguf.generation_config(),
        );
    }
});
