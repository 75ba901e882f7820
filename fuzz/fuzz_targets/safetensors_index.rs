//! A shard index is read or refused; what is read names files in its own folder only.
#![no_main]

use std::path::{Component, Path};

use burn_apb::checkpoint::index::Index;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(index) = Index::parse(bytes) else {
        return;
    };
    for shard in index.shards() {
        let parts: Vec<Component> = Path::new(shard).components().collect();
        assert!(
            matches!(parts.as_slice(), [Component::Normal(_)]),
            "{shard}"
        );
    }
});
