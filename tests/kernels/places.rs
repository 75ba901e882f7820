//! The devices that tests run on.

use burn::tensor::{DType, Device, Tensor};
use burn_apb::kernels::{AttentionOutput, Regions, attention};

/// A device, and what can be asked of it.
#[derive(Debug, Clone)]
pub struct Place {
    /// For messages.
    pub name: &'static str,
    /// The device. Tests prepare values, and compute what they expect, on Flex.
    pub device: Device,
    /// The element types that it computes with.
    pub dtypes: Vec<DType>,
    /// Cases of a property: fewer where each shape is compiled first.
    pub cases: u32,
    /// Cases of a property of Burn's matrix product, for which a GPU chooses and compiles a kernel by the shape.
    pub products: u32,
}

impl Place {
    fn new(name: &'static str, device: Device, [cases, products]: [u32; 2]) -> Self {
        let mut dtypes = vec![DType::F32, DType::F16, DType::BF16];
        dtypes.retain(|dtype| device.supports_dtype(*dtype));
        Self {
            name,
            device,
            dtypes,
            cases,
            products,
        }
    }

    /// A tensor of Flex on this device.
    pub fn take<const D: usize>(&self, tensor: Tensor<D>) -> Tensor<D> {
        tensor.to_device(&self.device)
    }

    /// Attention of tensors of Flex on this device, its results on Flex.
    pub fn attend(
        &self,
        q: Tensor<4>,
        k: Tensor<4>,
        v: Tensor<4>,
        regions: Regions,
    ) -> AttentionOutput {
        give(attention(self.take(q), self.take(k), self.take(v), regions).unwrap())
    }
}

/// Results on Flex.
pub fn give(got: AttentionOutput) -> AttentionOutput {
    let flex = Device::flex();
    AttentionOutput {
        out: got.out.to_device(&flex),
        lse: got.lse.to_device(&flex),
    }
}

/// Flex, and a WebGPU adapter where this build has one. `APB_REQUIRE_WGPU=1` makes its absence a failure.
pub fn places() -> Vec<Place> {
    let mut places = vec![Place::new("flex", Device::flex(), [192, 192])];
    match wgpu() {
        Some(device) => places.push(Place::new("wgpu", device, [32, 6])),
        None if std::env::var_os("APB_REQUIRE_WGPU").is_some_and(|set| set == "1") => {
            panic!(
                "APB_REQUIRE_WGPU=1, and there is no WebGPU adapter, or no feature `wgpu`; Debian's \
                 mesa-vulkan-drivers and libvulkan1 bring one in software"
            )
        }
        None if cfg!(feature = "wgpu") => {
            eprintln!("no WebGPU adapter found: wgpu is skipped");
        }
        None => {}
    }
    places
}

#[cfg(feature = "wgpu")]
fn wgpu() -> Option<Device> {
    use burn::tensor::{DeviceKind, DeviceType};
    let found = Device::enumerate(DeviceType::Wgpu).into_iter().next();
    found.map(|_| Device::wgpu(DeviceKind::DefaultDevice))
}

#[cfg(not(feature = "wgpu"))]
fn wgpu() -> Option<Device> {
    None
}
