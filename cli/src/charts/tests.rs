//! Each chart with usual, single and odd data: well-formed XML, every label, no panic.

use super::axis::Unit;
use super::*;

/// A name that XML must escape, with characters that it does not allow.
const HOSTILE: &str = "<b>\"R&D\"</b> 'x' ]]> \u{0}\u{1b}\n\u{FFFF}";

const METHODS: [&str; 8] = [
    "full",
    "ring",
    "Ulysses",
    "Star",
    "APB",
    "APB, 25 % retained",
    "APB with trained heads",
    "APB, 8-bit cache",
];

/// The texts of a chart, which must be well-formed, on white, in letters of 12 pixels or more.
fn texts(svg: &str) -> Vec<String> {
    let document = roxmltree::Document::parse(svg).unwrap();
    let root = document.root_element();
    assert_eq!(root.tag_name().name(), "svg");
    let white = root.first_element_child().unwrap();
    assert_eq!(white.attribute("fill"), Some("#FFFFFF"));
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
    let texts = document
        .descendants()
        .filter(|node| node.has_tag_name("text"));
    texts
        .map(|node| {
            let size: f64 = node.attribute("font-size").unwrap().parse().unwrap();
            assert!(size >= 12.0);
            node.text().unwrap_or_default().trim().to_owned()
        })
        .collect()
}

/// Asserts that a chart is the same when drawn again and that it holds these texts.
fn holds<T>(draw: fn(&T) -> Result<String, ChartError>, chart: &T, expected: &[&str]) {
    let svg = draw(chart).unwrap();
    assert_eq!(svg, draw(chart).unwrap());
    let texts = texts(&svg);
    for text in expected {
        assert!(
            texts.iter().any(|found| found == text),
            "no {text:?} in {texts:?}"
        );
    }
}

/// Asserts that a chart is refused with this message.
fn refused<T>(draw: fn(&T) -> Result<String, ChartError>, chart: &T, message: &str) {
    assert_eq!(draw(chart).unwrap_err().to_string(), message);
}

/// Numbers from 0 to 1 that look measured.
fn score(i: usize, j: usize) -> f64 {
    ((i * 37 + j * 61 + i * j * 13) % 101) as f64 / 100.0
}

fn stack(methods: usize) -> StackedBars {
    let bar = |(i, &name): (usize, &&str)| StackedBar {
        name: name.into(),
        seconds: (0..6)
            .map(|part| 9.0 * score(i, part) / (i + 1) as f64)
            .collect(),
    };
    StackedBars {
        title: "Prefill of 128K tokens: where the time goes".into(),
        x_label: "seconds".into(),
        parts: [
            "attention",
            "feed-forward",
            "projections",
            "passing blocks",
            "compressor",
            "waiting for other ranks",
        ]
        .map(String::from)
        .to_vec(),
        bars: METHODS[..methods].iter().enumerate().map(bar).collect(),
    }
}

fn line_chart(methods: usize) -> Lines {
    let point = |i: usize, k: u32, factor: f64| {
        let tokens = 1usize << k;
        let n = tokens as f64 / 131_072.0;
        let seconds = factor * (3.0 * n + 40.0 * n * n / (i + 1) as f64);
        LinePoint { tokens, seconds }
    };
    let series = |(i, &name): (usize, &&str)| LineSeries {
        name: name.into(),
        measured: (12..=17).map(|k| point(i, k, 1.0)).collect(),
        predicted: (12..=19).map(|k| point(i, k, 0.9)).collect(),
    };
    Lines {
        title: "Time to the first token".into(),
        x_label: "tokens".into(),
        y_label: "time".into(),
        series: METHODS[..methods].iter().enumerate().map(series).collect(),
        predicted_name: "predicted by the cost model".into(),
    }
}

fn one_line(tokens: usize, seconds: f64) -> Lines {
    Lines {
        series: vec![LineSeries {
            name: "full".into(),
            measured: vec![LinePoint { tokens, seconds }],
            predicted: Vec::new(),
        }],
        ..Default::default()
    }
}

fn one_stack(seconds: f64) -> StackedBars {
    StackedBars {
        parts: vec!["attention".into()],
        bars: vec![StackedBar {
            name: "full".into(),
            seconds: vec![seconds],
        }],
        ..Default::default()
    }
}

#[test]
fn time_breakdowns() {
    let labels = [
        "full",
        "APB with trained heads",
        "attention",
        "waiting for other ranks",
        "seconds",
        "0 s",
        "20 s",
        "18.7 s",
    ];
    holds(stacked_bars, &stack(8), &labels);
    holds(
        stacked_bars,
        &one_stack(0.125),
        &["full", "attention", "125 ms", "0 ms", "150 ms"],
    );
    holds(stacked_bars, &one_stack(0.0), &["full", "0 s"]);
    refused(
        stacked_bars,
        &StackedBars::default(),
        "the chart has no parts",
    );
    for wrong in [-1.0, f64::NAN, f64::INFINITY] {
        let message = format!("value 0 of \"full\" is {wrong}, expected a number from 0 to 1e15");
        refused(stacked_bars, &one_stack(wrong), &message);
    }
}

#[test]
fn times_over_lengths() {
    let labels = [
        "4K",
        "128K",
        "512K",
        "100 ms",
        "1 s",
        "100 s",
        "tokens",
        "time",
        "full",
        "APB, 8-bit cache",
    ];
    holds(lines, &line_chart(8), &labels);
    holds(lines, &line_chart(1), &["predicted by the cost", "model"]);
    holds(
        lines,
        &one_line(32768, 1.0),
        &["16K", "32K", "64K", "500 ms", "1 s", "2 s"],
    );
    holds(lines, &one_line(1, 1e-7), &["1", "2", "0.1 µs"]);
    holds(lines, &one_line(1 << 49, 1e14), &["full"]);
    refused(lines, &Lines::default(), "the chart has no series");
    let mut empty = one_line(1, 1.0);
    empty.series[0].measured.clear();
    refused(lines, &empty, "the chart has no points");
    for wrong in [0.0, -2.0, f64::NAN, f64::INFINITY] {
        let message =
            format!("value 0 of \"full\" is {wrong}, expected a number above 0, up to 1e15");
        refused(lines, &one_line(4096, wrong), &message);
    }
    refused(
        lines,
        &one_line(0, 1.0),
        "value 0 of \"full\" is 0, expected a number above 0, up to 1e15",
    );
}

/// Asserts that a chart is well-formed, if it was not refused for a value.
fn check_if_drawn(chart: Result<String, ChartError>) {
    match chart {
        Ok(svg) => drop(texts(&svg)),
        Err(error) => assert!(matches!(error, ChartError::Value { .. }), "{error}"),
    }
}

#[test]
fn names_from_outside_are_escaped() {
    let mut stack = one_stack(1.0);
    (stack.x_label, stack.parts[0], stack.bars[0].name) =
        (HOSTILE.into(), HOSTILE.into(), HOSTILE.into());
    let mut line = one_line(4096, 1.0);
    (line.y_label, line.series[0].name) = (HOSTILE.into(), HOSTILE.into());
    for svg in [stacked_bars(&stack), lines(&line)] {
        let texts = texts(&svg.unwrap()).join(" ");
        assert!(texts.contains("<b>\"R&D\"</b>"), "{texts}");
    }
}

#[test]
fn long_and_empty_names_are_broken_into_lines() {
    for name in [
        "",
        " ",
        "長い名前".repeat(40).as_str(),
        "word ".repeat(60).as_str(),
    ] {
        let mut chart = one_stack(1.0);
        (chart.title, chart.parts[0], chart.bars[0].name) = (name.into(), name.into(), name.into());
        texts(&stacked_bars(&chart).unwrap());
    }
    assert_eq!(paint::wrap("niah_multikey_2", 10), ["niah_", "multikey_2"]);
    assert_eq!(paint::wrap("abcdef", 4), ["abcd", "ef"]);
    assert_eq!(paint::wrap(&"ab ".repeat(9), 2), ["ab", "ab", "ab", "a…"]);
}

#[test]
fn values_are_written_with_their_units() {
    let write = |value: f64, step: f64| Unit::Seconds.write(value, step);
    assert_eq!(write(0.05, 0.05), "50 ms");
    assert_eq!(write(2.5, 0.5), "2.5 s");
    assert_eq!(write(3e-5, 1e-5), "30 µs");
    assert_eq!(axis::tokens(32768), "32K");
    assert_eq!(axis::tokens(1 << 20), "1M");
    assert_eq!(axis::tokens(100_000), "100000");
}

#[test]
fn any_magnitudes_are_drawn_or_refused() {
    let magnitudes = [
        0.0,
        5e-324,
        1e-300,
        1e-13,
        1e-5,
        0.3,
        1.0,
        7e5,
        1e15,
        1e16,
        f64::MAX,
    ];
    for a in magnitudes {
        for b in magnitudes {
            check_if_drawn(stacked_bars(&one_stack(b)));
            let mut chart = one_line(1 + (a as usize >> 2), b);
            chart.series[0].predicted = one_line(3, a).series[0].measured.clone();
            check_if_drawn(lines(&chart));
        }
    }
}
