//! Measurements as a chart.

use std::path::Path;

use burn_apb::apb::Part;
use burn_apb::plan::Prediction;

use super::row::Row;
use crate::charts::{LinePoint, LineSeries, Lines, StackedBar, StackedBars, lines, stacked_bars};
use crate::error::CliError;
use crate::output::Output;

/// Seconds of the slowest rank by length; of one length, the parts of all ranks.
pub fn write(rows: &[Row], path: &Path, output: &Output) -> Result<(), CliError> {
    let one = rows.iter().all(|row| row.tokens == rows[0].tokens);
    let svg = if one { parts(rows) } else { by_length(rows) };
    output.write_file(path, svg.map_err(CliError::failed)?.as_bytes())
}

fn parts(rows: &[Row]) -> Result<String, crate::charts::ChartError> {
    let of = |row: &Row, part: &Part| {
        let seconds = row.times.parts.get(part).copied().unwrap_or_default();
        seconds / row.prefill_seconds.len().max(1) as f64
    };
    stacked_bars(&StackedBars {
        title: format!("Prefill of {} tokens, all ranks", rows[0].tokens),
        x_label: "seconds of all ranks".into(),
        parts: Part::ALL.map(|part| part.name().to_owned()).to_vec(),
        bars: rows
            .iter()
            .map(|row| StackedBar {
                name: row.name().to_owned(),
                seconds: Part::ALL.iter().map(|part| of(row, part)).collect(),
            })
            .collect(),
    })
}

fn by_length(rows: &[Row]) -> Result<String, crate::charts::ChartError> {
    let mut series: Vec<LineSeries> = Vec::new();
    for row in rows {
        let name = row.name();
        let known = series.iter().position(|series| series.name == name);
        let index = known.unwrap_or_else(|| {
            series.push(LineSeries {
                name: name.to_owned(),
                ..LineSeries::default()
            });
            series.len() - 1
        });
        let point = |seconds| LinePoint {
            tokens: row.tokens,
            seconds,
        };
        series[index].measured.push(point(row.critical()));
        let predicted = row.predicted.as_ref().map(Prediction::seconds);
        series[index].predicted.extend(predicted.map(point));
    }
    lines(&Lines {
        title: "Prefill: the slowest rank".into(),
        x_label: "tokens of the document".into(),
        y_label: "seconds".into(),
        series,
        predicted_name: "predicted".into(),
    })
}
