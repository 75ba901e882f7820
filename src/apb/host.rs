//! From a device to the host.

use burn::tensor::{DType, Tensor};

use super::error::SessionError;

/// A tensor's elements in f32 and row-major order.
pub(super) fn values<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, SessionError> {
    let failed = |reason: String| SessionError::Device { reason };
    tensor
        .cast(DType::F32)
        .try_into_data()
        .map_err(|e| failed(e.to_string()))?
        .try_to_vec::<f32>()
        .map_err(|e| failed(e.to_string()))
}
