//! A `config.json` is read or refused; what is read can be computed with.
#![no_main]

use burn_apb::model::DecoderConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(config) = DecoderConfig::from_json(text) {
        assert_eq!(config.num_attention_heads % config.num_key_value_heads, 0);
        let rope = config.rope.init(config.head_dim, 1 << 17);
        assert_eq!(rope.inverse_frequencies.len(), config.head_dim / 2);
        assert!(
            rope.inverse_frequencies.iter().all(|f| f.is_finite()),
            "{rope:?}"
        );
        assert!(config.num_parameters() > 0);
    }
});
