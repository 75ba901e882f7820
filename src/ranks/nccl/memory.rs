//! Tensors as addresses on the device, which NCCL reads and writes.

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

use super::communicator::{Kept, Span};

type Server = <CudaRuntime as Runtime>::Server;

/// The memory of one GPU.
pub(super) struct Memory {
    device: Device,
    client: Client,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

impl Memory {
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

    /// The elements of a tensor `[n0, n1, n2, n3]`, in the order of its dimensions, on this device. They may
    /// still be computed until [`sync`](Self::sync).
    pub(super) fn read(&self, tensor: Tensor<4>, kept: &mut Kept) -> Result<Span, String> {
        let bytes = bytes(tensor.dims(), tensor.dtype());
        let tensor = into_contiguous(primitive(tensor.to_device(&self.device))?);
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

    /// Copies bytes to the device.
    pub(super) fn stage(&self, bytes: &[u8], kept: &mut Kept) -> Result<(Handle, Span), String> {
        let handle = self.client.create_from_slice(bytes);
        let span = self.span(handle.clone(), bytes.len(), kept)?;
        Ok((handle, span))
    }

    /// Copies bytes from the device.
    pub(super) fn fetch(&self, handle: Handle) -> Result<Vec<u8>, String> {
        let bytes = self.client.read_one(handle);
        Ok(bytes.map_err(|error| error.to_string())?.to_vec())
    }

    /// Waits until the device has run all that was launched: NCCL works on another stream, which does not
    /// wait for this one.
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

/// Bytes of a tensor.
pub(super) fn bytes(shape: [usize; 4], dtype: DType) -> usize {
    shape.iter().product::<usize>() * dtype.size()
}

/// The tensor beneath fusion, once the kernels that compute it are launched.
fn primitive<const D: usize>(tensor: Tensor<D>) -> Result<CubeTensor, String> {
    let fused = tensor.try_into_primitive::<Cuda>();
    let fused = fused.map_err(|error| format!("a tensor is on no GPU: {error:?}"))?;
    let client = fused.client.clone();
    Ok(client.resolve_tensor_float::<CubeBackend>(fused))
}
