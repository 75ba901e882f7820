//! What `cubecl-cuda` names of `cubecl-llvm`, and no LLVM behind it.
//!
//! `cubecl-cuda` compiles both of its backends in and runs the one that its `cpp` feature selects:
//! CUDA C++ through NVRTC, which this crate's kernels need anyway, for they hold inline PTX. The other
//! needs LLVM at build time, which its build script downloads. Here its types are enough, and compiling
//! with it is an error.

use core::fmt;

use cubecl_core::ir::nvidia::SmArch;
use cubecl_core::prelude::KernelDefinition;
use cubecl_environment::backtrace::BackTrace;
use cubecl_runtime::compiler::{CompilationError, Compiler};
use cubecl_runtime::kernel::BufferIOAttr;

/// What the compiler would lower to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LlvmTarget {
    /// PTX, for NVIDIA's driver.
    #[default]
    Nvptx,
}

/// A compiler that refuses every kernel.
#[derive(Clone, Debug, Default)]
pub struct PlironCompiler {
    /// What it would lower to.
    pub target: LlvmTarget,
}

/// Options that nothing reads.
#[derive(Clone, Debug, Default)]
pub struct PlironOptions {
    /// Another target's.
    pub arch: Option<()>,
    /// Compute capability.
    pub sm_arch: Option<SmArch>,
    /// Version of PTX.
    pub ptx_version: Option<nvptx::ptx_version::PtxVersion>,
    /// Whether parameters are `__grid_constant__`.
    pub grid_constants: bool,
}

/// A kernel as PTX; never built.
#[derive(Clone, Debug)]
pub struct NvptxModule {
    /// The text, ending in 0.
    pub ptx: Vec<core::ffi::c_char>,
    /// The kernel's name.
    pub entrypoint: String,
    /// The text that it was lowered from.
    pub ir: String,
    /// Bytes of dynamic shared memory.
    pub shared_memory_size: usize,
    /// Which buffers are read and written.
    pub io: Vec<BufferIOAttr>,
}

/// What compiling gives; never built.
#[derive(Clone, Debug)]
pub enum PlironArtifact {
    /// Another target's.
    Unavailable,
    /// PTX.
    NvptxCode(NvptxModule),
}

impl fmt::Display for PlironArtifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable => f.write_str("nothing"),
            Self::NvptxCode(module) => f.write_str(&module.ir),
        }
    }
}

impl Compiler for PlironCompiler {
    type Representation = PlironArtifact;
    type CompilationOptions = PlironOptions;

    fn buffer_io(_: &PlironArtifact) -> Option<Vec<BufferIOAttr>> {
        None
    }

    fn compile(
        &mut self,
        _: KernelDefinition,
        _: &PlironOptions,
    ) -> Result<PlironArtifact, CompilationError> {
        Err(CompilationError::Generic {
            reason: "built without LLVM; the feature `cubecl/cuda-cpp` selects CUDA C++".into(),
            backtrace: BackTrace::capture(),
        })
    }

    fn extension(&self) -> &'static str {
        "ll"
    }

    fn lang_tag(&self) -> &'static str {
        "llvm"
    }
}

/// As in the crate that this stands in for.
pub mod nvptx {
    /// As in the crate that this stands in for.
    pub mod ptx_version {
        use core::fmt;

        /// A version of PTX; none is known here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct PtxVersion(u32);

        impl PtxVersion {
            /// The newest that a driver loads: unknown, for no PTX is emitted.
            pub fn for_driver(_: i32) -> Option<Self> {
                None
            }
        }

        impl fmt::Display for PtxVersion {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "ptx{}", self.0)
            }
        }
    }
}

/// As in the crate that this stands in for.
pub mod shared {
    /// As in the crate that this stands in for.
    pub mod lowered_features {
        /// Whose features are restricted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum GpuTarget {
            /// NVIDIA's.
            Nvptx,
        }

        /// Takes nothing away: what CUDA C++ supports stays advertised.
        pub fn restrict_features(_: &mut cubecl_core::ir::DeviceProperties, _: GpuTarget) {}
    }
}
