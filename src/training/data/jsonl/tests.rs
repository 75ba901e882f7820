use super::*;
use proptest::prelude::*;
use std::io::Write;

fn file(content: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    file
}

fn sample(number: usize) -> TextSample {
    TextSample {
        document: format!("Document {number} \u{e9}\n\"x\""),
        question: "What?".into(),
        answer: format!("{number}"),
    }
}

fn line(number: usize) -> String {
    serde_json::to_string(&sample(number)).unwrap()
}

#[test]
fn samples_are_read_from_their_places() {
    let text = format!(
        "\u{feff}{}\r\n\n  \n{}\nnot json\n{}",
        line(0),
        line(1),
        line(2)
    );
    let file = file(text.as_bytes());
    let samples = SampleFile::open(file.path(), false).unwrap();
    assert_eq!((samples.len(), samples.is_empty()), (3, false));
    assert_eq!([0, 1, 2, 3].map(|index| samples.line(index)), [1, 4, 6, 0]);
    for index in 0..3 {
        assert_eq!(samples.get(index).unwrap(), sample(index));
    }
    let report = samples.report();
    assert_eq!((report.lines, report.samples, report.skipped), (6, 3, 1));
    let shown = report.to_string();
    assert!(
        shown.starts_with("3 samples in 6 lines, 1 skipped\nline 5: not JSON: "),
        "{shown}"
    );
    let error = samples.get(3).unwrap_err();
    assert!(
        matches!(
            error,
            DataError::NoSuchSample {
                index: 3,
                samples: 3
            }
        ),
        "{error}"
    );
    let error = SampleFile::open(file.path(), true).unwrap_err();
    assert!(
        matches!(&error, DataError::Refused { problem, .. } if problem.line == 5),
        "{error}"
    );
}

#[test]
fn an_array_is_read_like_lines() {
    let text = format!("[\n{},\n {{\"a\":\n 1}},\n{}\n]\n", line(0), line(1));
    let file = file(text.as_bytes());
    let samples = SampleFile::open(file.path(), false).unwrap();
    assert_eq!([samples.line(0), samples.line(1)], [2, 5]);
    assert_eq!(
        [samples.get(0).unwrap(), samples.get(1).unwrap()],
        [sample(0), sample(1)]
    );
    assert_eq!(samples.report().lines, 6);
    let [problem] = samples.report().problems.as_slice() else {
        panic!()
    };
    assert_eq!(problem.line, 3);
    assert!(problem.to_string().ends_with("found a"), "{problem}");

    let cut = &text.as_bytes()[..text.len() - 6];
    let error = SampleFile::open(self::file(cut).path(), true).unwrap_err();
    assert!(matches!(error, DataError::Refused { .. }), "{error}");
    let samples = SampleFile::open(self::file(cut).path(), false).unwrap();
    assert_eq!(samples.report().problems[1].what, ProblemKind::Unfinished);
}

#[test]
fn files_without_samples_are_refused() {
    for content in ["", "\n \n", "\u{feff}"] {
        for strict in [true, false] {
            let error = SampleFile::open(file(content.as_bytes()).path(), strict).unwrap_err();
            assert!(
                matches!(
                    error,
                    DataError::Empty {
                        skipped: 0,
                        first: None,
                        ..
                    }
                ),
                "{error}"
            );
        }
    }
    let error = SampleFile::open(file(b"\nx\n[]").path(), false).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("2 could not be used, the first is line 2"),
        "{error}"
    );
    let folder = tempfile::tempdir().unwrap();
    let error = SampleFile::open(folder.path(), false).unwrap_err();
    assert!(matches!(error, DataError::NotAFile { .. }), "{error}");
    let error = SampleFile::open(folder.path().join("none"), false).unwrap_err();
    assert!(matches!(error, DataError::Read { .. }), "{error}");
}

#[test]
fn problems_are_counted_and_the_first_are_named() {
    let text = format!("{}\n{}", "x\n".repeat(50), line(0));
    let file = file(text.as_bytes());
    let samples = SampleFile::open(file.path(), false).unwrap();
    let report = samples.report();
    assert_eq!((report.skipped, report.problems.len()), (50, MAX_PROBLEMS));
    assert!(
        report
            .to_string()
            .ends_with("line 20: not JSON: expected value at column 1\nand 30 more")
    );
}

#[test]
fn long_lines_are_passed_over() {
    let text = format!("{}\n{}\n{}", line(0), "x".repeat(1000), line(1));
    let file = file(text.as_bytes());
    let samples = SampleFile::open_with_limit(file.path(), false, 999).unwrap();
    assert_eq!(samples.len(), 2);
    assert_eq!(
        samples.report().problems[0].what,
        ProblemKind::TooLong { limit: 999 }
    );
}

#[test]
fn a_file_that_has_changed_is_told() {
    let mut file = file(format!("{}\n", line(0)).as_bytes());
    let samples = SampleFile::open(file.path(), true).unwrap();
    file.as_file_mut().set_len(10).unwrap();
    let error = samples.get(0).unwrap_err();
    assert!(
        matches!(error, DataError::Changed { line: 1, .. }),
        "{error}"
    );
}

const BEGINNINGS: &[&[u8]] = &[b"", b"[{", b"{\"messages\": [{\"content\": "];

proptest! {
    #[test]
    fn arbitrary_bytes_are_read_or_refused(
        start in prop::sample::select(BEGINNINGS),
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(&b"[]{},:\"\\\n"[..])], 0..200),
        strict: bool,
    ) {
        let file = file(&[start, &bytes].concat());
        if let Ok(samples) = SampleFile::open(file.path(), strict) {
            for index in 0..samples.len() {
                samples.get(index).unwrap();
            }
        }
    }

    #[test]
    fn every_sample_is_found_between_junk(
        lines in prop::collection::vec(prop_oneof![Just(None), "[^\n]{0,40}".prop_map(Some)], 1..30),
        crlf: bool,
    ) {
        let mut expected = Vec::new();
        let mut text = String::from("junk\n");
        for (index, junk) in lines.iter().enumerate() {
            match junk {
                Some(junk) => text.push_str(junk),
                None => {
                    expected.push(index + 2);
                    text.push_str(&line(index));
                }
            }
            text.push_str(if crlf { "\r\n" } else { "\n" });
        }
        let opened = SampleFile::open(file(text.as_bytes()).path(), false);
        let found: Vec<usize> = opened.iter().flat_map(|s| (0..s.len()).map(|i| s.line(i))).collect();
        prop_assert_eq!(found, expected);
    }
}
