//! A shard index is read or refused; what is read names files in its own folder and below only.
#![no_main]

use std::path::{Component, Path};

use burn_apb::checkpoint::index::Index;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(index) = Index::parse(bytes) else {
        return;
    };
    for shard in index.shards() {
        let mut parts = Path::new(shard).components().peekable();
        assert!(parts.peek().is_some(), "{shard}");
        assert!(
            parts.all(|part| matches!(part, Component::Normal(_))),
            "{shard}"
        );
    }
});
