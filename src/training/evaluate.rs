//! The quality of any compressor on held-out samples.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::error::TrainError;
use super::features::Backbone;
use super::labels::Labels;
use super::quality::Quality;
use super::sample::{HELD_OUT, Sample};
use crate::apb::compressor::{Compressor, ScoreInput, checked_scores};

/// The quality of a compressor's selection.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Mean over samples, of each layer.
    pub layers: Vec<Quality>,
    /// Mean over samples and layers.
    pub all: Quality,
}

/// Scores the rows of samples with each compressor, and compares the rows it selects with the
/// attention of the answers. A sample's rows before the scored ones, which include the question, are
/// the anchor, as they are for a rank. The backbone runs once a sample for all compressors.
///
/// `progress` is called with the number of samples done and of all; `Break` stops.
///
/// # Errors
///
/// [`TrainError`]: a sample that cannot be used, or without the question in front that a compressor
/// needs; [`TrainError::Stopped`].
pub fn evaluate(
    backbone: &Backbone,
    compressors: &[&dyn Compressor],
    samples: &[Arc<Sample>],
    keep: f64,
    mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Vec<Evaluation>, TrainError> {
    backbone.check(HELD_OUT, samples.iter().map(AsRef::as_ref))?;
    let mut found: Vec<Vec<Vec<Quality>>> =
        vec![vec![Vec::new(); backbone.layers()]; compressors.len()];
    for (done, sample) in samples.iter().enumerate() {
        backbone.walk(&sample.ids, |layer, projections| {
            let labels = Labels::new(projections, &sample.scored, &sample.answer);
            let rows = projections.rows(sample.scored.clone())?;
            let anchor = projections.rows(0..sample.scored.start)?;
            for (compressor, found) in compressors.iter().zip(&mut found) {
                let anchor = match sample.scored.start {
                    0 => None,
                    _ => Some(compressor.read_anchor(layer, &anchor, sample.query.clone())?),
                };
                let input = ScoreInput {
                    layer,
                    // Any but the first, which has no anchor; another for each sample.
                    rank: done + 1,
                    projections: &rows,
                    anchor: anchor.as_ref(),
                };
                let scores = checked_scores(*compressor, input)?;
                found[layer].push(Quality::new(scores, &labels, keep)?);
            }
            Ok::<(), TrainError>(())
        })?;
        if progress(done + 1, samples.len()).is_break() {
            return Err(TrainError::Stopped);
        }
    }
    Ok(found
        .into_iter()
        .map(|layers| {
            let layers: Vec<Quality> = layers.iter().map(Quality::mean).collect();
            Evaluation {
                all: Quality::mean(&layers),
                layers,
            }
        })
        .collect())
}
