//! Products by cuBLASLt on a CUDA device, where the library is found.
//!
//! What Burn tunes its products over has no `wgmma`, takes most of a minute to tune for each shape, and on an H100 chose
//! a kernel that cannot be launched. cuBLASLt is opened at run time: the toolkit's, or that of PyPI's `nvidia-cublas`.
//! `APB_PRODUCTS=burn` leaves it closed, for comparisons. Where it is not found, refuses a shape, or gives a wrong
//! product at the start, Burn's own serve; and while this stream records a graph. A product on one thread ends the
//! recording of a graph on another.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, Once, OnceLock, PoisonError};

use burn::tensor::DType;
use burn_cubecl::CubeDevice;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::cuda::CudaRuntime;
use cubecl_runtime::runtime::Runtime;

use crate::cuda::products::{self, Element, Matrices, Problem, Products};

/// The server that says where a tensor lies.
type Server = <CudaRuntime as Runtime>::Server;

/// The environment variable that leaves products to Burn: `burn`.
const VARIABLE: &str = "APB_PRODUCTS";

/// The version of the library that was opened, as `13.1.0`, or why none was. A device may still do without it, which is
/// said as a warning.
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
    if !one_dtype || rows * d_input * d_output == 0 || weight.meta.is_tiled() {
        return None;
    }
    // An event of the context would end a recording of CUDA's graphs.
    if x.client.is_capturing() {
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
    let ran = with_products(device.index, &out.client, |products| {
        // SAFETY: the problem is made of the tensors' shapes and strides, and what is held above keeps their memory until
        // the product is in order.
        unsafe { products.run(&problem, &matrices) }
    })?;
    ran.inspect_err(|error| warn_once(error, &problem)).ok()?;
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

/// A device's handle, or how often it could not be had.
#[derive(Default)]
enum Handle {
    #[default]
    Untried,
    Ready(Box<Products>),
    /// Memory may be free the next time.
    Failed(u32),
}

/// Tries after which a device does without the library.
const TRIES: u32 = 3;

/// Runs `call` with the device's handle; `None` where it has none that gives right products.
fn with_products<T>(
    device: usize,
    client: &Client,
    call: impl FnOnce(&mut Products) -> T,
) -> Option<T> {
    let handle = handle(device);
    let mut handle = handle.lock().unwrap_or_else(PoisonError::into_inner);
    let tries = match &*handle {
        Handle::Ready(_) => 0,
        Handle::Untried => 1,
        Handle::Failed(tries) if *tries >= TRIES => return None,
        Handle::Failed(tries) => tries + 1,
    };
    if tries > 0 {
        let new = || {
            let mut products = Products::new(device)?;
            products.test().map(|()| products)
        };
        let made = new().or_else(|error| {
            // What CubeCL keeps for later may be what is missing.
            client.memory_cleanup().map_err(|_| error)?;
            new()
        });
        *handle = match made {
            Ok(products) => Handle::Ready(Box::new(products)),
            Err(error) => {
                tracing::warn!(%error, device, tries, "cuBLASLt is not used; products are Burn's");
                Handle::Failed(tries)
            }
        };
    }
    match &mut *handle {
        Handle::Ready(products) => Some(call(products)),
        _ => None,
    }
}

/// The device's handle; products of other devices do not wait for it.
fn handle(device: usize) -> Arc<Mutex<Handle>> {
    static DEVICES: LazyLock<Mutex<HashMap<usize, Arc<Mutex<Handle>>>>> =
        LazyLock::new(Mutex::default);
    let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    devices.entry(device).or_default().clone()
}

/// Says the first time that a product failed which had been planned.
fn warn_once(error: &str, problem: &Problem) {
    static FIRST: Once = Once::new();
    FIRST.call_once(|| {
        tracing::warn!(
            error,
            ?problem,
            "a product of cuBLASLt failed; Burn's serve in its place"
        )
    });
    tracing::debug!(error, ?problem, "no product");
}
