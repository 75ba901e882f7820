//! Where to call kernels from.

/// Runs `work`, say a forward pass, on one of the threads that the CPU kernels share their work with.
///
/// A kernel called from any other thread hands its work over and sleeps until it is done, which costs
/// more than a small layer takes. Inside `work` a kernel starts at once, and the other threads stay
/// awake from one kernel to the next.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_apb::kernels::{on_workers, silu_mul};
///
/// let gate = Tensor::<1>::from_floats([0.0, 2.0], &Device::flex());
/// let up = Tensor::<1>::from_floats([1.0, 1.0], &Device::flex());
/// let out = on_workers(|| silu_mul(gate, up))?;
/// assert_eq!(out.dims(), [2]);
/// # Ok::<(), burn_apb::kernels::KernelError>(())
/// ```
pub fn on_workers<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| work())
}
