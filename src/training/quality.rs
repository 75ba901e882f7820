//! The quality of a selection of rows by their scores.

use burn::tensor::Tensor;

use super::error::TrainError;
use super::labels::Labels;

/// The quality of the rows with the highest scores of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// Share of the rows with the highest labels that are among those with the highest scores, as
    /// many of one as of the other; mean over KV heads.
    pub recall: f64,
    /// Share of the attention paid to scored rows that goes to those with the highest scores; mean
    /// over KV heads.
    pub mass: f64,
}

/// The number of rows that are kept of `rows`.
fn keep_count(rows: usize, share: f64) -> usize {
    ((rows as f64 * share).ceil() as usize).clamp(1, rows.max(1))
}

impl Quality {
    /// Compares scores with labels, `[batch, kv_heads, tokens]`, keeping `share` of the tokens.
    ///
    /// # Errors
    ///
    /// [`TrainError::Device`] when the values cannot be read from the device.
    pub(super) fn new(scores: Tensor<3>, labels: &Labels, share: f64) -> Result<Self, TrainError> {
        let [batch, kv_heads, tokens] = scores.dims();
        let scores = to_vec(scores)?;
        let wanted = to_vec(labels.logits.clone())?;
        let mass = to_vec(labels.mass.clone())?;
        let count = keep_count(tokens, share);
        let heads = (batch * kv_heads) as f64;
        let (mut recall, mut share_of_mass) = (0.0, 0.0);
        let rows = scores.chunks(tokens).zip(wanted.chunks(tokens));
        for ((scores, wanted), mass) in rows.zip(mass.chunks(tokens)) {
            let chosen = highest(scores, count);
            let mut is_best = vec![false; tokens];
            for row in highest(wanted, count) {
                is_best[row] = true;
            }
            let hits = chosen.iter().filter(|row| is_best[**row]).count();
            recall += hits as f64 / count as f64;
            let all: f64 = mass.iter().map(|weight| f64::from(*weight)).sum();
            let kept: f64 = chosen.iter().map(|row| f64::from(mass[*row])).sum();
            share_of_mass += if all > 0.0 { kept / all } else { 0.0 };
        }
        Ok(Self {
            recall: recall / heads,
            mass: share_of_mass / heads,
        })
    }

    /// The mean of several; zero of none.
    pub(super) fn mean<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let (mut recall, mut mass, mut count) = (0.0, 0.0, 0.0);
        for one in all {
            recall += one.recall;
            mass += one.mass;
            count += 1.0;
        }
        let count = f64::max(count, 1.0);
        Self {
            recall: recall / count,
            mass: mass / count,
        }
    }
}

/// The values of a tensor, on the host.
pub(super) fn to_vec<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, TrainError> {
    let data = tensor.try_into_data().map_err(TrainError::device)?;
    data.convert::<f32>()
        .try_into_vec()
        .map_err(TrainError::device)
}

/// The `count` highest of `values`, ties to the lower index, as in the selection of rows.
fn highest(values: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]).then(a.cmp(b)));
    order.truncate(count);
    order
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn row(values: [f32; 5]) -> Tensor<3> {
        Tensor::<1>::from_floats(values, &Device::flex()).reshape([1, 1, 5])
    }

    #[test]
    fn the_best_scores_keep_everything_and_the_worst_nothing() {
        let labels = Labels {
            logits: row([5.0, 1.0, 4.0, 0.0, 2.0]),
            mass: row([0.5, 0.0, 0.25, 0.0, 0.05]),
        };
        let of = |scores| Quality::new(row(scores), &labels, 0.4).expect("read");
        let best = of([2.0, 0.0, 1.0, 0.0, 0.0]);
        assert_eq!(best.recall, 1.0);
        assert!((best.mass - 0.75 / 0.8).abs() < 1e-6);
        assert_eq!(of([0.0, 2.0, 0.0, 1.0, 0.0]).recall, 0.0);
        assert_eq!(of([2.0, 1.0, 0.0, 0.0, 0.0]).recall, 0.5);
    }

    #[test]
    fn at_least_one_row_is_kept_and_at_most_all() {
        assert_eq!(keep_count(1000, 0.1), 100);
        assert_eq!(keep_count(5, 0.01), 1);
        assert_eq!(keep_count(3, 1.0), 3);
        assert_eq!(keep_count(0, 0.5), 1);
    }
}
