//! Tensors on a backend without kernels are refused by name, in place of a slow loop.

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};
    use burn_apb::kernels::{KernelError, Regions, attention, linear};

    #[test]
    fn a_backend_without_kernels_is_refused() {
        let device = Device::ndarray();
        let rows = Tensor::<4>::zeros([1, 2, 4, 8], &device);
        let error = attention(rows.clone(), rows.clone(), rows, Regions::causal()).unwrap_err();
        assert!(matches!(error, KernelError::Backend { .. }), "{error}");
        let rows = Tensor::<3>::zeros([1, 4, 8], &device);
        let error = linear(rows, Tensor::zeros([8, 8], &device), None).unwrap_err();
        assert!(matches!(error, KernelError::Backend { .. }), "{error}");
    }
}
