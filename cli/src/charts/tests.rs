//! Each chart with usual, single and odd data: well-formed XML, every label, no panic.

use super::*;

/// A name that XML must escape, with characters that it does not allow.
const HOSTILE: &str = "<b>\"R&D\"</b> 'x' ]]> \u{0}\u{1b}\n\u{FFFF}";

const TASKS: [&str; 13] = [
    "niah_single_1",
    "niah_single_2",
    "niah_single_3",
    "niah_multikey_1",
    "niah_multikey_2",
    "niah_multikey_3",
    "niah_multivalue",
    "niah_multiquery",
    "vt",
    "cwe",
    "fwe",
    "qa_1",
    "qa_2",
];

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

fn heat(methods: usize) -> HeatMap {
    let depths = vec![0.0, 11.1, 25.0, 50.0, 75.0, 100.0];
    let row = |method: usize, depth: usize| -> Vec<Option<f64>> {
        (0..6)
            .map(|length| Some(1.0 - score(method, length + depth) * length as f64 / 5.0))
            .map(|cell| cell.filter(|_| (method, depth) != (1, 5)))
            .collect()
    };
    HeatMap {
        title: "Needle in a haystack: share of needles found".into(),
        score_name: "share found".into(),
        lengths: vec![4096, 8192, 16384, 32768, 100_000, 131_072],
        panels: METHODS[..methods]
            .iter()
            .enumerate()
            .map(|(method, name)| HeatPanel {
                name: (*name).into(),
                scores: (0..depths.len()).map(|depth| row(method, depth)).collect(),
            })
            .collect(),
        depths,
    }
}

fn bar_chart(groups: usize, series: usize) -> Bars {
    let bar = |i: usize, j: usize| {
        let value = 0.3 + 0.7 * score(i, j);
        Some(Bar {
            value,
            interval: Some((value - 0.05, (value + 0.04).min(1.0))),
        })
    };
    Bars {
        title: "RULER at 128K tokens".into(),
        x_label: "task".into(),
        y_label: "score".into(),
        unit: Unit::Percent,
        groups: TASKS[..groups].iter().map(|&name| name.into()).collect(),
        series: METHODS[..series]
            .iter()
            .enumerate()
            .map(|(j, &name)| BarSeries {
                name: name.into(),
                bars: (0..groups).map(|i| bar(i, j)).collect(),
            })
            .collect(),
        reference: Some(Reference {
            name: "full attention, average".into(),
            value: 0.82,
        }),
    }
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

fn scatter(points: usize) -> ScatterFront {
    let point = |i: usize| {
        let seconds = 2.0 * 1.25f64.powi((i * 5 % 17) as i32);
        FrontPoint {
            label: format!("APB {}/{}", 1 << (i % 6), 256 << (i % 4)),
            seconds,
            divergence: 0.4 * (1.0 + 9.0 * score(i, 3)) / (seconds * seconds),
        }
    };
    let mut points: Vec<FrontPoint> = (0..points).map(point).collect();
    points.push(FrontPoint {
        label: "full".into(),
        seconds: 80.0,
        divergence: 0.0,
    });
    ScatterFront {
        title: "Cost and divergence of settings at 128K tokens".into(),
        x_label: "time to the first token".into(),
        y_label: "KL divergence (nats)".into(),
        x_scale: Scale::Log,
        y_scale: Scale::Log,
        points,
        threshold: Some(Reference {
            name: "bound of the 8-bit cache".into(),
            value: 0.01,
        }),
    }
}

fn one_cell(score: Option<f64>) -> HeatMap {
    HeatMap {
        lengths: vec![4096],
        depths: vec![50.0],
        panels: vec![HeatPanel {
            name: "full".into(),
            scores: vec![vec![score]],
        }],
        ..Default::default()
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

fn one_bar(value: f64, interval: Option<(f64, f64)>) -> Bars {
    Bars {
        groups: vec!["vt".into()],
        series: vec![BarSeries {
            name: "full".into(),
            bars: vec![Some(Bar { value, interval })],
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

fn one_point(seconds: f64, divergence: f64) -> ScatterFront {
    ScatterFront {
        points: vec![FrontPoint {
            label: "APB".into(),
            seconds,
            divergence,
        }],
        x_scale: Scale::Log,
        y_scale: Scale::Log,
        ..Default::default()
    }
}

#[test]
fn heat_maps() {
    let chart = heat(8);
    let labels = [
        "4K",
        "128K",
        "100000",
        "tokens",
        "0%",
        "11.1%",
        "100%",
        "depth",
        "0.75",
        "share found",
        "–",
    ];
    holds(heat_map, &chart, &labels);
    holds(
        heat_map,
        &chart,
        &["full", "ring", "Ulysses", "Star", "APB, 8-bit cache"],
    );
    holds(
        heat_map,
        &one_cell(Some(0.94)),
        &["0.94", "full", "4K", "50%"],
    );
    holds(heat_map, &one_cell(None), &["–"]);
    refused(heat_map, &HeatMap::default(), "the chart has no lengths");
    for wrong in [-0.1, 1.5, f64::NAN, f64::INFINITY] {
        let message = format!("value 0 of \"full\" is {wrong}, expected a number from 0 to 1");
        refused(heat_map, &one_cell(Some(wrong)), &message);
    }
    let mut ragged = one_cell(None);
    ragged.lengths.push(8192);
    refused(heat_map, &ragged, "expected 2 values of \"full\", found 1");
    ragged.depths[0] = f64::NAN;
    refused(
        heat_map,
        &ragged,
        "value 0 of \"depths\" is NaN, expected a number up to 1e15",
    );
}

#[test]
fn grouped_bars() {
    let labels = [
        "niah_single_1",
        "niah_",
        "multivalue",
        "qa_2",
        "task",
        "score",
        "0%",
        "20%",
        "100%",
    ];
    holds(bars, &bar_chart(13, 8), &labels);
    holds(
        bars,
        &bar_chart(13, 8),
        &["full", "APB, 25 % retained", "full attention, average"],
    );
    holds(bars, &one_bar(0.0, None), &["vt", "full", "0", "1.0"]);
    holds(bars, &one_bar(-3.0, Some((-4.0, 1.0))), &["-4", "0", "1"]);
    let mut missing = bar_chart(2, 1);
    missing.series[0].bars = vec![None; 2];
    holds(bars, &missing, &["niah_single_1", "full"]);
    refused(bars, &Bars::default(), "the chart has no groups");
    let nan = one_bar(1.0, Some((f64::NAN, 2.0)));
    refused(
        bars,
        &nan,
        "value 0 of \"full\" is NaN, expected a number up to 1e15",
    );
    let mut ragged = bar_chart(3, 2);
    ragged.series[1].bars.pop();
    refused(bars, &ragged, "expected 3 values of \"ring\", found 2");
    let mut many = bar_chart(1, 8);
    many.series.push(many.series[0].clone());
    refused(bars, &many, "a chart holds at most 8 series, found 9");
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

#[test]
fn fronts() {
    let labels = [
        "2 s",
        "100 s",
        "1",
        "0.001",
        "0",
        "APB 1/256",
        "full",
        "Pareto front",
        "not on the front",
        "bound of the 8-bit cache",
    ];
    holds(scatter_front, &scatter(14), &labels);
    holds(
        scatter_front,
        &one_point(3.0, 0.02),
        &["APB", "2 s", "5 s", "0.01", "0.02", "0.05"],
    );
    holds(scatter_front, &one_point(0.0, 0.0), &["APB", "0", "1 s"]);
    holds(scatter_front, &one_point(1e-300, 5e-324), &["APB"]);
    let mut linear = scatter(20);
    (linear.x_scale, linear.y_scale) = (Scale::Linear, Scale::Linear);
    holds(scatter_front, &linear, &["0 s", "full"]);
    let mut same = scatter(30);
    same.points
        .iter_mut()
        .for_each(|point| (point.seconds, point.divergence) = (1.0, 1.0));
    holds(scatter_front, &same, &["full", "not on the front"]);
    refused(
        scatter_front,
        &ScatterFront::default(),
        "the chart has no points",
    );
    for wrong in [-1.0, f64::NAN, f64::INFINITY] {
        let message = format!("value 0 of \"APB\" is {wrong}, expected a number from 0 to 1e15");
        refused(scatter_front, &one_point(1.0, wrong), &message);
        refused(scatter_front, &one_point(wrong, 1.0), &message);
    }
}

#[test]
fn labels_of_a_front_do_not_overlap() {
    let svg = scatter_front(&scatter(14)).unwrap();
    let document = roxmltree::Document::parse(&svg).unwrap();
    let number =
        |node: &roxmltree::Node, name: &str| node.attribute(name).unwrap().parse::<i32>().unwrap();
    let labels: Vec<(i32, i32)> = document
        .descendants()
        .filter(|node| node.has_tag_name("text"))
        .filter(|node| node.text().is_some_and(|text| text.contains("APB ")))
        .map(|node| (number(&node, "x"), number(&node, "y")))
        .collect();
    assert_eq!(labels.len(), 14);
    for (i, (x, y)) in labels.iter().enumerate() {
        for (u, v) in &labels[..i] {
            assert!(
                (x - u).abs() > 70 || (y - v).abs() >= 17,
                "({x}, {y}) and ({u}, {v})"
            );
        }
    }
}

#[test]
fn names_from_outside_are_escaped() {
    let mut charts = Vec::new();
    let mut chart = one_bar(1.0, None);
    (chart.title, chart.groups[0], chart.series[0].name) =
        (HOSTILE.into(), HOSTILE.into(), HOSTILE.into());
    charts.push(bars(&chart));
    let mut chart = one_cell(None);
    (chart.title, chart.score_name, chart.panels[0].name) =
        (HOSTILE.into(), HOSTILE.into(), HOSTILE.into());
    charts.push(heat_map(&chart));
    let mut chart = one_stack(1.0);
    (chart.x_label, chart.parts[0], chart.bars[0].name) =
        (HOSTILE.into(), HOSTILE.into(), HOSTILE.into());
    charts.push(stacked_bars(&chart));
    let mut chart = one_line(4096, 1.0);
    (chart.y_label, chart.series[0].name) = (HOSTILE.into(), HOSTILE.into());
    charts.push(lines(&chart));
    let mut chart = one_point(1.0, 1.0);
    (chart.title, chart.points[0].label) = (HOSTILE.into(), HOSTILE.into());
    charts.push(scatter_front(&chart));
    for svg in charts {
        let texts = texts(&svg.unwrap()).join(" ");
        assert!(texts.contains("<b>\"R&D\"</b>"), "{texts}");
    }
}

#[test]
fn long_and_empty_names_are_broken_into_lines() {
    for name in [
        "",
        " ",
        "長い名前の方法".repeat(40).as_str(),
        "word ".repeat(60).as_str(),
    ] {
        let mut chart = one_bar(1.0, None);
        (chart.title, chart.groups[0], chart.series[0].name) =
            (name.into(), name.into(), name.into());
        texts(&bars(&chart).unwrap());
    }
    assert_eq!(paint::wrap("niah_multikey_2", 10), ["niah_", "multikey_2"]);
    assert_eq!(paint::wrap("abcdef", 4), ["abcd", "ef"]);
    assert_eq!(paint::wrap(&"ab ".repeat(9), 2), ["ab", "ab", "ab", "a…"]);
}

#[test]
fn values_are_written_with_their_units() {
    let write = |unit: Unit, value: f64, step: f64| unit.write(value, step);
    assert_eq!(write(Unit::Seconds, 0.05, 0.05), "50 ms");
    assert_eq!(write(Unit::Seconds, 2.5, 0.5), "2.5 s");
    assert_eq!(write(Unit::Seconds, 3e-5, 1e-5), "30 µs");
    assert_eq!(write(Unit::Percent, 0.6000000000000001, 0.2), "60%");
    assert_eq!(write(Unit::Number, 1e-6, 1e-6), "1e-6");
    assert_eq!(write(Unit::Number, 0.05, 0.05), "0.05");
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
            let mut chart = one_bar(-a, Some((-a, b)));
            chart.reference = Some(Reference {
                name: "b".into(),
                value: b,
            });
            check_if_drawn(bars(&chart));
            check_if_drawn(stacked_bars(&one_stack(b)));
            let mut chart = one_line(1 + (a as usize >> 2), b);
            chart.series[0].predicted = one_line(3, a).series[0].measured.clone();
            check_if_drawn(lines(&chart));
            let mut chart = one_point(a, b);
            chart.points.extend(one_point(b, a).points);
            check_if_drawn(scatter_front(&chart));
            (chart.x_scale, chart.y_scale) = (Scale::Linear, Scale::Linear);
            check_if_drawn(scatter_front(&chart));
        }
    }
}

/// Asserts that a chart is well-formed, if it was not refused for a value.
fn check_if_drawn(chart: Result<String, ChartError>) {
    match chart {
        Ok(svg) => drop(texts(&svg)),
        Err(error) => assert!(matches!(error, ChartError::Value { .. }), "{error}"),
    }
}
