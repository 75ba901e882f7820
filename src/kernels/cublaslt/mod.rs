//! Products by cuBLASLt on a CUDA device, where the library is found.
//!
//! | file | holds |
//! |---|---|
//! | `order` | a stream of our own, in order with all that CubeCL runs on the device |
//! | `products` | the library's handle, its plans, and the product of two matrices in memory |
//!
//! What Burn tunes its products over has no `wgmma`, takes most of a minute to tune for each shape, and on an H100 chose
//! a kernel that cannot be launched. cuBLASLt is opened at run time: the toolkit's, or that of PyPI's `nvidia-cublas`.
//! `APB_PRODUCTS=burn` leaves it closed, for comparisons. Where it is not found, refuses a shape, or gives a wrong
//! product at the start, Burn's own serve.

mod order;
mod products;

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};

use burn::backend::DispatchDevice;
use burn::tensor::DType;
use burn_cubecl::CubeDevice;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::cuda::CudaRuntime;
use cubecl_runtime::runtime::Runtime;

use self::products::{Element, Matrices, Problem, Products};

/// The server that says where a tensor lies.
type Server = <CudaRuntime as Runtime>::Server;

/// The environment variable that leaves products to Burn: `burn`.
const VARIABLE: &str = "APB_PRODUCTS";

/// The library's version, as `13.1.0`, or why it is not used.
pub fn version() -> Result<String, String> {
    static VERSION: OnceLock<Result<String, String>> = OnceLock::new();
    let version = VERSION.get_or_init(|| match std::env::var(VARIABLE).as_deref() {
        Ok("burn") => Err(format!("{VARIABLE} is `burn`")),
        Ok("") | Err(_) => products::version(),
        Ok(word) => {
            tracing::warn!("{VARIABLE} is `{word}`; it may be burn");
            products::version()
        }
    });
    version.clone()
}

/// Whether products on the device are given to the library; false with autodiff.
pub fn serves(device: &DispatchDevice) -> bool {
    matches!(device, DispatchDevice::Cube(CubeDevice::Cuda(_))) && version().is_ok()
}

/// `x weight + bias`, summed in f32 and rounded once, for the shapes of [`linear`](crate::kernels::linear()).
///
/// `None` where Burn's product has to serve: nothing to compute, two dtypes, a weight that is stored in neither order, or
/// the library refused.
pub fn linear(
    x: &CubeTensor,
    weight: &CubeTensor,
    bias: Option<&CubeTensor>,
) -> Option<CubeTensor> {
    let CubeDevice::Cuda(device) = &x.device else {
        return None;
    };
    let element = element(x.dtype)?;
    let mut shape = x.meta.shape().clone();
    let rank = shape.num_dims();
    let [d_input, d_output] = weight.meta.shape().dims();
    let rows: usize = shape.iter().take(rank - 1).product();
    let one_dtype = weight.dtype == x.dtype && bias.is_none_or(|bias| bias.dtype == x.dtype);
    if !one_dtype || rows * d_input * d_output == 0 {
        return None;
    }
    let strides = weight.meta.strides();
    let (transposed, pitch) = match (strides[0], strides[1]) {
        (1, pitch) if pitch >= d_input => (true, pitch),
        (pitch, 1) if pitch >= d_output => (false, pitch),
        _ => return None,
    };
    let x = into_contiguous(x.clone());
    let bias = bias.map(|bias| into_contiguous(bias.clone()));
    shape[rank - 1] = d_output;
    let out = empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), shape, x.dtype);

    // Each stays where it is until what reads or writes it is in order.
    let at = |tensor: &CubeTensor| {
        let resource = tensor.client.get_resource::<Server>(tensor.handle.clone());
        resource
            .inspect_err(|error| tracing::debug!(%error, "no address"))
            .ok()
    };
    let (x, weight, out_at) = (at(&x)?, at(weight)?, at(&out)?);
    let bias = match &bias {
        Some(bias) => Some(at(bias)?),
        None => None,
    };
    let matrices = Matrices {
        x: x.resource().ptr,
        weight: weight.resource().ptr,
        bias: bias.as_ref().map(|bias| bias.resource().ptr),
        out: out_at.resource().ptr,
    };
    let problem = Problem {
        rows,
        d_input,
        d_output,
        element,
        transposed,
        pitch,
        bias: bias.is_some(),
        aligned: matrices.alignment(),
    };
    let ran = with_products(device.index, |products| products.run(&problem, &matrices))?;
    ran.inspect_err(|error| tracing::debug!(%error, ?problem, "no product"))
        .ok()?;
    Some(out)
}

fn element(dtype: DType) -> Option<Element> {
    match dtype {
        DType::F32 => Some(Element::F32),
        DType::F16 => Some(Element::F16),
        DType::BF16 => Some(Element::Bf16),
        _ => None,
    }
}

/// Runs `call` with the device's handle; `None` where it has none that gives right products.
fn with_products<T>(device: usize, call: impl FnOnce(&mut Products) -> T) -> Option<T> {
    static DEVICES: LazyLock<Mutex<HashMap<usize, Option<Products>>>> =
        LazyLock::new(Mutex::default);
    let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    let products = devices.entry(device).or_insert_with(|| {
        let products =
            Products::new(device).and_then(|mut products| products.test().map(|()| products));
        products
            .inspect_err(
                |error| tracing::warn!(%error, device, "cuBLASLt is not used; products are Burn's"),
            )
            .ok()
    });
    products.as_mut().map(call)
}
