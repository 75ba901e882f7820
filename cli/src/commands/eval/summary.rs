//! Means of scores with intervals, as table, JSON and chart.

use std::io::{self, Write};

use burn_apb::eval::statistics::{
    Estimate, Interval, average_over_tasks, mean, paired_difference, wilson_interval,
};
use serde_json::{Value, json};

use super::flags::Flags;
use crate::charts::{
    Bar, BarSeries, Bars, ChartError, HeatMap, HeatPanel, MAX_SERIES, Unit, bars, heat_map,
};
use crate::error::CliError;
use crate::escape;
use crate::output::Output;

/// Samples of a task at a length and depth, and the scores of each method.
struct Cell {
    task: String,
    tokens: Option<u64>,
    depth: Option<f64>,
    /// Whether its samples are those of another cell, by a kind of theirs.
    kind: bool,
    methods: Vec<Score>,
}

/// A method's scores.
#[derive(Default)]
struct Score {
    /// By sample.
    scores: Vec<f64>,
    estimate: Option<Estimate>,
    /// From the first method's, sample by sample.
    difference: Option<Estimate>,
}

/// The average over the tasks of a length.
struct Average {
    tokens: Option<u64>,
    methods: Vec<Score>,
}

/// Results by task, length, depth and method.
pub struct Summary {
    name: &'static str,
    methods: Vec<String>,
    cells: Vec<Cell>,
    averages: Vec<Average>,
}

impl Summary {
    /// Of rows that hold every sample for every method.
    pub fn new(name: &'static str, rows: &[Value], methods: &[String]) -> Self {
        let mut cells: Vec<Cell> = Vec::new();
        for row in rows {
            let task = row["task"].as_str().unwrap_or_default();
            let (tokens, depth) = (row["tokens"].as_u64(), row["depth"].as_f64());
            let method = methods.iter().position(|name| row["method"] == **name);
            let (Some(method), Some(score)) = (method, row["score"].as_f64()) else {
                continue;
            };
            let labels = row["labels"].as_array().into_iter().flatten();
            let kinds = labels
                .filter_map(Value::as_str)
                .map(|label| format!("{task}, {label}"));
            for (place, name) in [task.to_owned()].into_iter().chain(kinds).enumerate() {
                let like =
                    |cell: &Cell| cell.task == name && cell.tokens == tokens && cell.depth == depth;
                let known = cells.iter().position(like);
                let cell = known.unwrap_or_else(|| {
                    cells.push(Cell {
                        task: name,
                        tokens,
                        depth,
                        kind: place > 0,
                        methods: methods.iter().map(|_| Score::default()).collect(),
                    });
                    cells.len() - 1
                });
                cells[cell].methods[method].scores.push(score);
            }
        }
        for cell in &mut cells {
            let first = cell.methods.first().map(|first| first.scores.clone());
            for score in &mut cell.methods {
                score.estimate = estimate(&score.scores);
                let first = first.as_deref().unwrap_or_default();
                score.difference = paired_difference(&score.scores, first).ok();
            }
        }
        let averages = averages(&cells, methods.len());
        Self {
            name,
            methods: methods.to_vec(),
            cells,
            averages,
        }
    }

    /// Prints the results and draws the chart that was asked for.
    pub fn show(&self, flags: &Flags, output: &Output) -> Result<(), CliError> {
        if let Some(path) = &flags.chart {
            let svg = self.chart().map_err(CliError::failed)?;
            output.write_file(path, svg.as_bytes())?;
        }
        let cells = self.cells.iter().flat_map(|cell| {
            self.methods
                .iter()
                .zip(&cell.methods)
                .map(|(method, score)| {
                    let mut value = score.json(method);
                    value["task"] = cell.task.clone().into();
                    value["tokens"] = cell.tokens.into();
                    value["depth"] = cell.depth.into();
                    value
                })
        });
        let averages = self.averages.iter().flat_map(|average| {
            self.methods
                .iter()
                .zip(&average.methods)
                .map(|(method, score)| {
                    let mut value = score.json(method);
                    value["tokens"] = average.tokens.into();
                    value
                })
        });
        let json = json!({
            "eval": self.name, "model": crate::json::path(&flags.model.model), "methods": self.methods,
            "cells": cells.collect::<Vec<_>>(), "averages": averages.collect::<Vec<_>>(),
            "out": flags.out.as_deref().map(crate::json::path),
        });
        output.result(&json, |w| self.print(w))
    }

    fn print(&self, w: &mut dyn Write) -> io::Result<()> {
        let has_depth = self.cells.iter().any(|cell| cell.depth.is_some());
        let task_width = self
            .cells
            .iter()
            .map(|cell| escape::line(&cell.task).len())
            .max();
        let task_width = task_width.unwrap_or(0).max("average".len());
        write!(w, "{:<task_width$} {:>8}", "task", "tokens")?;
        if has_depth {
            write!(w, " {:>6}", "depth")?;
        }
        write!(w, " {:>7}", "samples")?;
        for method in &self.methods {
            write!(w, "  {method:>WIDTH$}")?;
        }
        writeln!(w)?;
        for cell in &self.cells {
            let task = escape::line(&cell.task);
            write!(w, "{task:<task_width$} {:>8}", tokens(cell.tokens))?;
            if has_depth {
                let depth = cell.depth.map(|depth| format!("{:.0}%", depth * 100.0));
                write!(w, " {:>6}", depth.unwrap_or_default())?;
            }
            print_scores(w, &cell.methods)?;
        }
        for average in &self.averages {
            write!(
                w,
                "{:<task_width$} {:>8}",
                "average",
                tokens(average.tokens)
            )?;
            if has_depth {
                write!(w, " {:>6}", "")?;
            }
            print_scores(w, &average.methods)?;
        }
        writeln!(w, "\nscores in percent, with 95 % intervals")?;
        if let [first, others @ ..] = &self.methods[..]
            && !others.is_empty()
        {
            writeln!(
                w,
                "\ndifferences from {first}, in points, on the same samples"
            )?;
            for average in &self.averages {
                for (method, score) in self.methods.iter().zip(&average.methods).skip(1) {
                    if let Some(difference) = &score.difference {
                        writeln!(
                            w,
                            "{:>8} tokens {method:<16} {}{}",
                            tokens(average.tokens),
                            written(difference),
                            match difference.excludes_zero() {
                                true => "",
                                false => ", not significant",
                            }
                        )?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A heat map of needles; bars of tasks where there is one length, else of the averages by length.
    fn chart(&self) -> Result<String, ChartError> {
        if self.cells.iter().any(|cell| cell.depth.is_some()) {
            return self.heat_map();
        }
        let shown = self.methods.len().min(MAX_SERIES);
        let one = self.averages.len() == 1;
        let groups: Vec<(String, &Vec<Score>)> = match one {
            true => {
                let tasks = self
                    .cells
                    .iter()
                    .map(|cell| (cell.task.clone(), &cell.methods));
                let average = self.averages.iter();
                tasks
                    .chain(average.map(|average| ("average".into(), &average.methods)))
                    .collect()
            }
            false => (self.averages.iter())
                .map(|average| {
                    (
                        format!("{} tokens", tokens(average.tokens)),
                        &average.methods,
                    )
                })
                .collect(),
        };
        let bar = |score: &Score| {
            score.estimate.map(|estimate| Bar {
                value: estimate.value,
                interval: Some((estimate.interval.low, estimate.interval.high)),
            })
        };
        let series = self.methods.iter().take(shown).enumerate();
        bars(&Bars {
            title: match (
                one,
                self.averages.first().and_then(|average| average.tokens),
            ) {
                (true, Some(tokens)) => format!("{}: {tokens} tokens", self.name),
                (true, None) => self.name.to_owned(),
                (false, _) => format!("{}: average over tasks", self.name),
            },
            x_label: if one { "task" } else { "length" }.into(),
            y_label: "score, with 95 % intervals".into(),
            unit: Unit::Percent,
            groups: groups.iter().map(|(name, _)| name.clone()).collect(),
            series: series
                .map(|(place, name)| BarSeries {
                    name: name.clone(),
                    bars: groups
                        .iter()
                        .map(|(_, scores)| bar(&scores[place]))
                        .collect(),
                })
                .collect(),
            reference: None,
        })
    }

    fn heat_map(&self) -> Result<String, ChartError> {
        let mut lengths: Vec<u64> = self.cells.iter().filter_map(|cell| cell.tokens).collect();
        lengths.sort_unstable();
        lengths.dedup();
        let mut depths: Vec<f64> = self.cells.iter().filter_map(|cell| cell.depth).collect();
        depths.sort_unstable_by(f64::total_cmp);
        depths.dedup();
        let score = |method: usize, depth: f64, tokens: u64| {
            let of = |cell: &&Cell| cell.depth == Some(depth) && cell.tokens == Some(tokens);
            let cell = self.cells.iter().find(of)?;
            cell.methods[method].estimate.map(|estimate| estimate.value)
        };
        let methods = self.methods.iter().enumerate();
        heat_map(&HeatMap {
            title: "Needles found, by length and depth".into(),
            score_name: "share of needles found".into(),
            lengths: lengths
                .iter()
                .filter_map(|&n| usize::try_from(n).ok())
                .collect(),
            depths: depths.iter().map(|depth| depth * 100.0).collect(),
            panels: methods
                .map(|(place, name)| HeatPanel {
                    name: name.clone(),
                    scores: (depths.iter())
                        .map(|&depth| lengths.iter().map(|&n| score(place, depth, n)).collect())
                        .collect(),
                })
                .collect(),
        })
    }
}

/// The mean of scores: Wilson's interval where each is right or wrong, else that of the bootstrap.
fn estimate(scores: &[f64]) -> Option<Estimate> {
    let value = mean(scores).ok()?;
    let right = scores.iter().filter(|score| **score == 1.0).count();
    let wrong = scores.iter().filter(|score| **score == 0.0).count();
    let interval: Interval = match right + wrong == scores.len() {
        true => wilson_interval(right, scores.len()).ok()?,
        false => value.interval,
    };
    Some(Estimate { interval, ..value })
}

/// Averages over the tasks, and depths, of each length.
fn averages(cells: &[Cell], methods: usize) -> Vec<Average> {
    let mut lengths: Vec<Option<u64>> = Vec::new();
    for cell in cells {
        if !lengths.contains(&cell.tokens) {
            lengths.push(cell.tokens);
        }
    }
    let average = |tokens: Option<u64>| {
        let of = cells
            .iter()
            .filter(|cell| cell.tokens == tokens && !cell.kind);
        let of: Vec<&Cell> = of.collect();
        let score = |method: usize| {
            let scores: Vec<&[f64]> = of
                .iter()
                .map(|cell| &cell.methods[method].scores[..])
                .collect();
            let differences: Vec<Vec<f64>> = (of.iter())
                .map(|cell| {
                    let pairs = cell.methods[method]
                        .scores
                        .iter()
                        .zip(&cell.methods[0].scores);
                    pairs.map(|(score, first)| score - first).collect()
                })
                .collect();
            Score {
                scores: scores.concat(),
                estimate: average_over_tasks(&scores).ok(),
                difference: average_over_tasks(&differences).ok(),
            }
        };
        Average {
            tokens,
            methods: (0..methods).map(score).collect(),
        }
    };
    lengths.into_iter().map(average).collect()
}

impl Score {
    fn json(&self, method: &str) -> Value {
        let ends = |estimate: &Estimate| json!({ "value": estimate.value, "low": estimate.interval.low, "high": estimate.interval.high });
        json!({
            "method": method, "samples": self.scores.len(),
            "score": self.estimate.as_ref().map(ends), "difference": self.difference.as_ref().map(ends),
        })
    }
}

/// Width of a method's column.
const WIDTH: usize = 22;

fn print_scores(w: &mut dyn Write, scores: &[Score]) -> io::Result<()> {
    let samples = scores.iter().map(|score| score.scores.len()).max();
    write!(w, " {:>7}", samples.unwrap_or(0))?;
    for score in scores {
        let text = score.estimate.as_ref().map_or_else(|| "-".into(), written);
        write!(w, "  {text:>WIDTH$}")?;
    }
    writeln!(w)
}

/// In percent.
fn written(estimate: &Estimate) -> String {
    let [value, low, high] = [
        estimate.value,
        estimate.interval.low,
        estimate.interval.high,
    ]
    .map(|x| {
        let percent = x * 100.0;
        // No minus before a zero.
        if percent.abs() < 0.05 { 0.0 } else { percent }
    });
    format!("{value:.1} ({low:.1} to {high:.1})")
}

fn tokens(tokens: Option<u64>) -> String {
    tokens.map_or_else(|| "-".into(), |tokens| tokens.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(task: &str, tokens: u64, index: u64, method: &str, score: f64) -> Value {
        json!({
            "task": task, "tokens": tokens, "depth": null, "index": index, "method": method, "score": score,
        })
    }

    /// Two tasks with 4 and 2 samples weigh the same; differences are of the same samples.
    #[test]
    fn averages_and_differences_are_those_of_hand() {
        let mut rows = Vec::new();
        for (index, (full, star)) in [(1.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.0, 0.0)]
            .iter()
            .enumerate()
        {
            rows.push(row("a", 1000, index as u64, "full", *full));
            rows.push(row("a", 1000, index as u64, "star", *star));
        }
        for (index, (full, star)) in [(0.5, 0.25), (1.0, 0.25)].iter().enumerate() {
            rows.push(row("b", 1000, index as u64, "full", *full));
            rows.push(row("b", 1000, index as u64, "star", *star));
        }
        let summary = Summary::new("test", &rows, &["full".into(), "star".into()]);
        let value =
            |cell: usize, method: usize| summary.cells[cell].methods[method].estimate.unwrap();
        assert_eq!([value(0, 0).value, value(0, 1).value], [0.75, 0.5]);
        assert_eq!([value(1, 0).value, value(1, 1).value], [0.75, 0.25]);
        // Right or wrong: Wilson's interval of 3 in 4.
        assert_eq!(value(0, 0).interval, wilson_interval(3, 4).unwrap());
        let average = &summary.averages[0];
        let found = average.methods[1].estimate.unwrap().value;
        assert!((found - 0.375).abs() < 1e-12, "{found}");
        let found = average.methods[1].difference.unwrap().value;
        assert!((found + 0.375).abs() < 1e-12, "{found}");
        assert_eq!(average.methods[0].difference.unwrap().value, 0.0);
        let mut text = Vec::new();
        summary.print(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("75.0"), "{text}");
        assert!(summary.chart().unwrap().contains("average"));
    }

    #[test]
    fn no_results_are_no_panic() {
        let summary = Summary::new("test", &[], &["full".into()]);
        summary.print(&mut Vec::new()).unwrap();
        assert!(summary.chart().is_err());
    }
}
