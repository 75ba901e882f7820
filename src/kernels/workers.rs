//! Where to call kernels from.

use burn::backend::DispatchDevice;
use burn::tensor::Device;

/// Runs `work`, say a forward pass on `device`, on one of the threads that the CPU kernels share
/// their work with.
///
/// A kernel called from any other thread hands its work over and sleeps until it is done, which costs
/// more than a small layer takes. Inside `work` a kernel starts at once, and the other threads stay
/// awake from one kernel to the next. On other devices `work` stays on the caller's thread, to which
/// their queue of work belongs.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_apb::kernels::{on_workers, silu_mul};
///
/// let device = Device::flex();
/// let gate = Tensor::<1>::from_floats([0.0, 2.0], &device);
/// let up = Tensor::<1>::from_floats([1.0, 1.0], &device);
/// let out = on_workers(&device, || silu_mul(gate, up))?;
/// assert_eq!(out.dims(), [2]);
/// # Ok::<(), burn_apb::kernels::KernelError>(())
/// ```
pub fn on_workers<T: Send>(device: &Device, work: impl FnOnce() -> T + Send) -> T {
    match device.as_dispatch() {
        DispatchDevice::Flex(_) => rayon::scope(|_| work()),
        // More variants exist when the build turns on more backends.
        #[allow(unreachable_patterns)]
        _ => work(),
    }
}
