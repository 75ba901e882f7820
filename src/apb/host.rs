//! From a device to the host.

use burn::tensor::{DType, Int, Tensor};

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

/// A tensor's elements as indices, in row-major order; negative ones, which no index is, are an error.
pub(super) fn indices<const D: usize>(tensor: Tensor<D, Int>) -> Result<Vec<usize>, SessionError> {
    let failed = |reason: String| SessionError::Device { reason };
    let data = tensor.try_into_data().map_err(|e| failed(e.to_string()))?;
    data.iter::<i64>()
        .map(|index| {
            usize::try_from(index).map_err(|_| failed(format!("{index} came back as an index")))
        })
        .collect()
}
