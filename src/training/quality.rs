//! How good a selection of rows would be, were it made by some scores.

use burn::tensor::Tensor;

use super::features::TrainError;
use super::labels::Labels;

/// What the highest scores of a layer would have kept.
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
pub fn kept(rows: usize, share: f64) -> usize {
    ((rows as f64 * share).ceil() as usize).clamp(1, rows.max(1))
}

impl Quality {
    /// Compares scores with labels, `[batch, kv_heads, tokens]`, keeping `share` of the tokens.
    ///
    /// # Errors
    ///
    /// [`TrainError::Device`] when the values cannot be read from the device.
    pub fn new(scores: Tensor<3>, labels: &Labels, share: f64) -> Result<Self, TrainError> {
        let tokens = scores.dims()[2];
        let scores = read(scores)?;
        let wanted = read(labels.logits.clone())?;
        let mass = read(labels.mass.clone())?;
        let count = kept(tokens, share);
        let (mut recall, mut share_of_mass, mut heads) = (0.0, 0.0, 0.0);
        let rows = |values: &[f32]| {
            values
                .chunks(tokens)
                .map(<[f32]>::to_vec)
                .collect::<Vec<_>>()
        };
        for ((scores, wanted), mass) in rows(&scores).iter().zip(rows(&wanted)).zip(rows(&mass)) {
            let chosen = highest(scores, count);
            let best = highest(&wanted, count);
            let mut is_best = vec![false; tokens];
            for row in best {
                is_best[row] = true;
            }
            let hits = chosen.iter().filter(|row| is_best[**row]).count();
            recall += hits as f64 / count as f64;
            let all: f64 = mass.iter().map(|paid| f64::from(*paid)).sum();
            let kept: f64 = chosen.iter().map(|row| f64::from(mass[*row])).sum();
            share_of_mass += if all > 0.0 { kept / all } else { 0.0 };
            heads += 1.0;
        }
        Ok(Self {
            recall: recall / heads,
            mass: share_of_mass / heads,
        })
    }

    /// The mean of several.
    pub fn mean<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut sum = Self {
            recall: 0.0,
            mass: 0.0,
        };
        let mut count = 0.0;
        for one in all {
            sum.recall += one.recall;
            sum.mass += one.mass;
            count += 1.0;
        }
        Self {
            recall: sum.recall / f64::max(count, 1.0),
            mass: sum.mass / f64::max(count, 1.0),
        }
    }
}

/// The values of a tensor, on the host.
pub(super) fn read<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, TrainError> {
    let data = tensor
        .try_into_data()
        .map_err(|error| TrainError::Device(error.to_string()))?;
    data.convert::<f32>()
        .try_into_vec()
        .map_err(|error| TrainError::Device(error.to_string()))
}

/// The `count` highest of `values`, ties to the lower index, as the selection of rows has them.
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
        assert_eq!(kept(1000, 0.1), 100);
        assert_eq!(kept(5, 0.01), 1);
        assert_eq!(kept(3, 1.0), 3);
        assert_eq!(kept(0, 0.5), 1);
    }
}
