//! A file of samples is read or refused; every sample that is counted can be read again.
#![no_main]

use std::io::Write;

use burn_apb::training::data::SampleFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("room for it");
    let strict = SampleFile::open(file.path(), true);
    let Ok(samples) = SampleFile::open(file.path(), false) else {
        assert!(strict.is_err(), "accepted only when strict");
        return;
    };
    assert_eq!(strict.is_ok(), samples.report().skipped == 0);
    for index in 0..samples.len() {
        let sample = samples.get(index).expect("a sample that was counted");
        assert!(!sample.document.trim().is_empty() && !sample.question.trim().is_empty());
        assert!((1..=samples.report().lines).contains(&samples.line(index)));
    }
});
