//! The CUDA C++ of the kernels around attention.

use crate::compiler::{Source, Target};
use crate::emit::{Emitted, buffer, settings};
use burn_apb::kernels::fused::add_shares;
use burn_apb::kernels::fused::few_rows::few_rows::FewRows;
use burn_apb::kernels::fused::not_finite::not_finite::NotFinite;
use burn_apb::kernels::fused::query_scores::{mean_rows::MeanRows, query_scores::QueryScores};
use burn_apb::kernels::fused::rms_norm::{add_rms_norm::AddRmsNorm, rms_norm::RmsNorm};
use burn_apb::kernels::fused::select_rows::{pool_scores::PoolScores, select_rows::SelectRows};
use burn_apb::kernels::fused::silu_mul::silu_mul::SiluMul;
use burn_apb::kernels::fused::silu_scores::{self, silu_scores::SiluScores};
use burn_apb::kernels::tensor_core::table::Dtype;
use cubecl::prelude::*;
use cubecl_core::ir::{ElemType, FloatKind};

/// Units of the kernels that give each element one.
const UNITS: u32 = 256;
/// Units of the cube that serves a head.
const SELECT_UNITS: u32 = 256;
/// Elements of a vector of the norms, the gate and the scores of a query, as the crate launches them.
const VECTOR: usize = 4;
/// Elements of a vector of weights, as the crate launches them on CUDA.
const WEIGHTS: usize = 8;
/// Outputs of the scores' kernel.
const OUTPUTS: usize = 8;
/// Units of a product with few rows.
const FEW: [u32; 2] = [add_shares::LANES, add_shares::GROUPS];
/// Units of the scores' kernel.
const SCORES: [u32; 2] = [silu_scores::LANES, silu_scores::ROWS];
const BF16: ElemType = ElemType::Float(FloatKind::BF16);
const F16: ElemType = ElemType::Float(FloatKind::F16);

/// A kernel, and how it is compiled.
struct Kernel {
    name: &'static str,
    dtype: Dtype,
    /// Units of a cube along x and y.
    units: [u32; 2],
    compile: fn(&Target, KernelSettings) -> Result<Source, String>,
}

/// One [`Kernel`] a line: its name, element type and units; then its type with the names of its buffers, those of its
/// scalars, and all else that it is compiled for.
macro_rules! kernels {
    (@buffer $name:ident) => {
        buffer()
    };
    (@scalar $name:ident) => {
        ()
    };
    ($($name:literal $dtype:ident $units:expr =>
        $kernel:ident($($buffer:ident)*; $($scalar:ident)*; $($other:expr),*),)*) => {
        &[$(Kernel {
            name: $name,
            dtype: Dtype::$dtype,
            units: $units,
            compile: |target, settings| {
                target.compile($kernel::new(
                    settings,
                    target.device.clone(),
                    target.layouts.clone(),
                    $(kernels!(@buffer $buffer),)*
                    $(kernels!(@scalar $scalar),)*
                    $($other,)*
                ))
            },
        }),*]
    };
}

const KERNELS: &[Kernel] = kernels! {
    "add_rms_norm" Bf16 [UNITS, 1] =>
        AddRmsNorm(x residual gamma sum out; rows vectors eps; VECTOR, UNITS as usize, [BF16; 2]),
    "few_rows_1" Bf16 FEW =>
        FewRows(x weight bias out; vectors outputs pitch; WEIGHTS, 1, false, [BF16; 3]),
    "few_rows_3" Bf16 FEW =>
        FewRows(x weight bias out; vectors outputs pitch; WEIGHTS, 3, true, [BF16; 3]),
    "mean_rows" Bf16 [UNITS, 1] => MeanRows(x out; columns rows width; BF16),
    "not_finite" Bf16 [UNITS, 1] => NotFinite(x out; total elements head_stride step; BF16),
    "pool_scores" Bf16 [UNITS, 1] =>
        PoolScores(scores before ordered; total rows context start selectable reach;),
    "query_scores" Bf16 [UNITS, 1] =>
        QueryScores(keys query out; all_rows rows vectors head_stride scale; VECTOR, BF16),
    "rms_norm" Bf16 [UNITS, 1] =>
        RmsNorm(x gamma out; rows vectors eps; VECTOR, UNITS as usize, [BF16; 2]),
    "silu_mul" Bf16 [UNITS, 1] => SiluMul(gate up out; vectors; VECTOR, BF16),
    "select_rows" Bf16 [SELECT_UNITS, 1] =>
        SelectRows(ordered out; selectable count start; SELECT_UNITS as usize),
    "silu_scores_bf16" Bf16 SCORES =>
        SiluScores(hidden weight out; all_rows rows width; OUTPUTS, [BF16; 2]),
    "silu_scores_f16" F16 SCORES =>
        SiluScores(hidden weight out; all_rows rows width; OUTPUTS, [F16; 2]),
};

/// Compiles those of them whose name contains `filter`.
///
/// # Errors
///
/// CubeCL's message.
pub fn emit(filter: &str) -> Result<Vec<Emitted>, String> {
    let target = Target::new(80);
    let chosen = KERNELS.iter().filter(|kernel| kernel.name.contains(filter));
    chosen
        .map(|kernel| {
            let [x, y] = kernel.units;
            let source = (kernel.compile)(&target, settings(CubeDim::new_2d(x, y)))?;
            Ok(Emitted {
                name: kernel.name.into(),
                architecture: "sm_80",
                dtype: kernel.dtype.ptx(),
                head_dim: 0,
                rows: 0,
                keys: 0,
                block: kernel.units,
                shared_bytes: source.shared_bytes,
                parts: false,
                code: source.code,
            })
        })
        .collect()
}
