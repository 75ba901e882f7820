//! CubeCL's CUDA C++ compiler, for a device that need not be present.

use std::sync::Arc;

use cubecl::prelude::*;
use cubecl_core::cmma::MatrixLayout;
use cubecl_core::ir::features::{Features, Plane};
use cubecl_core::ir::{
    ContiguousElements, DeviceIdentity, DeviceProperties, ElemType, FloatKind, HardwareProperties,
    MemoryDeviceProperties, MmaProperties, TargetProperties,
};
use cubecl_core::profile::TimingMethod;
use cubecl_cpp::cuda::arch::CudaArchitecture;
use cubecl_cpp::cuda::mma::manual::contiguous_elements_cuda;
use cubecl_cpp::cuda::supported_mma_combinations;
use cubecl_cpp::register_supported_types;
use cubecl_cpp::shared::{CompilationOptions, CppCompiler, register_mma_features};
use cubecl_cpp::target::Cuda;
use cubecl_runtime::compiler::Compiler;
use cubecl_runtime::kernel::CubeKernel;

/// A device to compile for, as its runtime would describe it.
pub struct Target {
    /// Properties of the device.
    pub device: Arc<DeviceProperties>,
    /// Register layouts of its matrix instructions.
    pub layouts: Arc<TargetProperties>,
    options: CompilationOptions,
}

/// A compiled kernel.
pub struct Source {
    /// CUDA C++.
    pub code: String,
    /// Dynamic shared memory, in bytes.
    pub shared_bytes: usize,
}

impl Target {
    /// A device of a compute capability, times ten.
    pub fn new(version: u32) -> Self {
        let hardware = HardwareProperties {
            load_width: 128,
            vector_register_count: None,
            plane_size_min: 32,
            plane_size_max: 32,
            max_bindings: 1024,
            max_shared_memory_size: if version == 90 { 232_448 } else { 166_912 },
            max_cube_count: (i32::MAX as u32, 65_535, 65_535),
            max_units_per_cube: 1024,
            max_cube_dim: (1024, 1024, 64),
            num_streaming_multiprocessors: Some(if version == 90 { 132 } else { 108 }),
            num_tensor_cores: Some(4),
            min_tensor_cores_dim: Some(8),
            num_cpu_cores: None,
            last_level_cache_size: None,
            max_vector_size: VectorSize::MAX,
            cube_mma_reserved_shared_memory: 0,
        };
        let mut device = DeviceProperties::new(
            Features::default(),
            MemoryDeviceProperties::new(40 << 30, 512),
            hardware,
            TimingMethod::Device,
            DeviceIdentity {
                name: "none".into(),
                fingerprint: format!("ptx_sm{version}"),
                physical: None,
            },
        );
        register_supported_types(&mut device);
        for feature in [Plane::Ops, Plane::Sync, Plane::NonUniformControlFlow] {
            device.features.plane.insert(feature);
        }
        device.features.copy_async = true;
        device.features.alignment = true;
        device.features.memory_reinterpret = true;
        for kind in [FloatKind::F16, FloatKind::BF16] {
            let element = ElemType::Float(kind);
            device.features.matmul.ldmatrix.insert(element);
        }
        let architecture = CudaArchitecture {
            version,
            tensor_cores: true,
        };
        register_mma_features(supported_mma_combinations(&architecture), &mut device);
        let layouts = TargetProperties {
            mma: MmaProperties {
                register_size_bits: 32,
                const_plane_size: 32,
                register_layout_a: MatrixLayout::RowMajor,
                register_layout_b: MatrixLayout::ColMajor,
                register_layout_acc: MatrixLayout::RowMajor,
                register_duplication_a: 1,
                register_duplication_b: 1,
                register_duplication_acc: 1,
                contiguous_elements: ContiguousElements::new(contiguous_elements_cuda),
            },
        };
        let mut options = CompilationOptions::default();
        options.supports_features.fast_math = true;
        options.supports_features.grid_constants = true;
        options.supports_features.dp4a = true;
        options.supports_features.clusters = version >= 90;
        options.supports_features.elect_sync = version >= 90;
        Self {
            device: Arc::new(device),
            layouts: Arc::new(layouts),
            options,
        }
    }

    /// Compiles a kernel.
    pub fn compile(&self, kernel: impl CubeKernel) -> Result<Source, String> {
        let compiled = CppCompiler::<Cuda>::default()
            .compile(kernel.define(), &self.options)
            .map_err(|error| error.to_string())?;
        Ok(Source {
            code: compiled.source,
            shared_bytes: compiled.shared_memory_size,
        })
    }
}
