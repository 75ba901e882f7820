//! The libraries that CUDA needs at run time, checked before use: the runtime panics where one is missing.

use std::path::PathBuf;

use crate::escape;

/// A requirement of CUDA.
pub struct Need {
    /// Its name.
    pub name: &'static str,
    /// Where it was found; none where it is missing.
    pub found: Option<String>,
    /// How to get it.
    pub advice: &'static str,
}

/// The driver, the compiler and the headers that it includes.
pub fn needs() -> [Need; 3] {
    let headers = headers();
    // SAFETY: each only tries to open a library by its usual names.
    let (driver, compiler) = unsafe {
        (
            cudarc::driver::sys::is_culib_present(),
            cudarc::nvrtc::sys::is_culib_present(),
        )
    };
    [
        Need {
            name: "libcuda",
            found: driver.then(|| "found".into()),
            advice: "install NVIDIA's driver",
        },
        Need {
            name: "libnvrtc",
            found: compiler.then(|| "found".into()),
            advice: "install the CUDA toolkit, or PyPI's nvidia-cuda-nvrtc, and put its lib folder on \
                     LD_LIBRARY_PATH",
        },
        Need {
            name: "headers",
            found: headers.map(|path| escape::path(&path)),
            advice: "install the CUDA toolkit, or PyPI's nvidia-cuda-runtime and nvidia-cuda-cccl, and \
                     set CUDA_PATH to the folder that holds include/cuda_fp16.h",
        },
    ]
}

/// What is missing, in a line; none where nothing is.
pub fn missing() -> Option<String> {
    let lines: Vec<String> = needs()
        .into_iter()
        .filter(|need| need.found.is_none())
        .map(|need| format!("no {}: {}", need.name, need.advice))
        .collect();
    (!lines.is_empty()).then(|| lines.join("; "))
}

/// Bytes of a GPU's memory that are free; none where the driver does not say.
pub fn free_bytes(index: usize) -> Option<u64> {
    // The primary context, which CubeCL uses, too.
    let context = cudarc::driver::CudaContext::new(index).ok()?;
    context.bind_to_thread().ok()?;
    let (free, _) = cudarc::driver::result::mem_get_info().ok()?;
    Some(free as u64)
}

/// The folder of the headers, where the runtime looks for them.
fn headers() -> Option<PathBuf> {
    let include = cubecl::cuda::install::cuda_path()?.join("include");
    include.join("cuda_fp16.h").is_file().then_some(include)
}
