//! Tensors of the device as addresses, which NCCL reads and writes.

use std::fmt;

use burn::backend::Cuda;
use burn::tensor::{DType, Device, Shape, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::cuda::CudaRuntime;
use cubecl::server::Handle;
use cubecl_runtime::runtime::Runtime;

use super::bytes;
use super::communicator::{Kept, Span};

type Server = <CudaRuntime as Runtime>::Server;

/// The memory of one GPU.
pub(super) struct Gpu {
    device: Device,
    client: Client,
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu")
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

impl Gpu {
    /// The memory of GPU `index`.
    pub(super) fn new(index: usize) -> Result<Self, String> {
        let device = Device::cuda(index);
        let first = Tensor::<1>::empty([1], (&device, DType::F32));
        let client = primitive(first)?.client;
        Ok(Self { device, client })
    }

    /// The device.
    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// The elements of a tensor `[n0, n1, n2, n3]` of this device, in the order of its dimensions. They may still be
    /// computed.
    pub(super) fn read(&self, tensor: Tensor<4>, kept: &mut Kept) -> Result<Span, String> {
        let bytes = bytes(tensor.dims(), tensor.dtype());
        let tensor = into_contiguous(primitive(tensor)?);
        let span = self.span(tensor.handle.clone(), bytes, kept);
        kept.push(Box::new(tensor));
        span
    }

    /// A new tensor `[n0, n1, n2, n3]`, and its memory.
    pub(super) fn write(
        &self,
        shape: [usize; 4],
        dtype: DType,
        kept: &mut Kept,
    ) -> Result<(Tensor<4>, Span), String> {
        // Of one dimension, so that no rows are padded.
        let elements: usize = shape.iter().product();
        let tensor = Tensor::<1>::empty([elements], (&self.device, dtype));
        let beneath = primitive(tensor.clone())?;
        let span = self.span(beneath.handle.clone(), elements * dtype.size(), kept)?;
        Ok((tensor.reshape(Shape::new(shape)), span))
    }

    /// Waits until the device has run all that was launched.
    pub(super) fn sync(&self) -> Result<(), String> {
        cubecl::future::block_on(self.client.sync()).map_err(|error| error.to_string())
    }

    /// The memory of a handle, which stays valid as long as what is pushed to `kept`.
    fn span(&self, handle: Handle, bytes: usize, kept: &mut Kept) -> Result<Span, String> {
        let resource = self.client.get_resource::<Server>(handle);
        let resource = resource.map_err(|error| error.to_string())?;
        let (address, room) = (resource.resource().ptr, resource.resource().size);
        if room < bytes as u64 {
            return Err(format!(
                "{bytes} bytes were expected on the device, {room} found"
            ));
        }
        kept.push(Box::new(resource));
        Ok(Span { address, bytes })
    }
}

/// The tensor beneath fusion, once the kernels that compute it are launched.
fn primitive<const D: usize>(tensor: Tensor<D>) -> Result<CubeTensor, String> {
    let fused = tensor.try_into_primitive::<Cuda>();
    let fused = fused.map_err(|error| format!("a tensor is on no GPU: {error:?}"))?;
    let client = fused.client.clone();
    Ok(client.resolve_tensor_float::<CubeBackend>(fused))
}
