//! The loss of retaining heads (Locret, <https://arxiv.org/abs/2410.01805>, section 3.3).

use burn::tensor::Tensor;

use crate::kernels::KernelError;

/// Distance from which SmoothL1 is linear.
const BETA: f64 = 1.0;

/// The two parts of one layer's share of the loss.
#[derive(Debug, Clone)]
pub struct LayerLoss {
    /// SmoothL1 between scores and labels, mean over batch, heads and tokens. Shape `[1]`.
    pub regression: Tensor<1>,
    /// Mean squared difference between the scores of neighbouring tokens. Shape `[1]`.
    pub smoothing: Tensor<1>,
}

impl LayerLoss {
    /// Compares scores with labels, both `[batch, kv_heads, tokens]`, f32.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when they differ in shape.
    pub fn new(scores: Tensor<3>, labels: Tensor<3>) -> Result<Self, KernelError> {
        let [batch, heads, tokens] = scores.dims();
        if labels.dims() != scores.dims() {
            let expected = format!("as the scores, {:?}", scores.dims());
            return Err(KernelError::shape(
                "loss",
                "labels",
                expected,
                &labels.dims(),
            ));
        }
        let distance = (scores.clone() - labels).abs();
        // d * d / 2 below beta and d - 1/2 above it, without a branch: with c = min(d, beta),
        // c * (d - c / 2).
        let close = distance.clone().clamp_max(BETA);
        let regression = (close.clone() * (distance - close / 2.0) / BETA).mean();
        let smoothing = if tokens < 2 {
            regression.clone().detach().zeros_like()
        } else {
            let first = scores.clone().slice([0..batch, 0..heads, 0..tokens - 1]);
            let second = scores.slice([0..batch, 0..heads, 1..tokens]);
            (first - second).powi_scalar(2).mean()
        };
        Ok(Self {
            regression,
            smoothing,
        })
    }

    /// The layer's share of the whole: `regression / layers + alpha * smoothing`.
    pub fn total(&self, layers: usize, alpha: f64) -> Tensor<1> {
        self.regression.clone() / layers as f64 + self.smoothing.clone() * alpha
    }
}
