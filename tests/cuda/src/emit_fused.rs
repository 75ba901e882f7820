//! The CUDA C++ of the kernels around attention.

use crate::compiler::{Source, Target};
use crate::emit::{Emitted, buffer, settings};
use burn_apb::kernels::fused::few_rows::{self, few_rows::FewRows};
use burn_apb::kernels::fused::not_finite::not_finite::NotFinite;
use burn_apb::kernels::fused::query_scores::{mean_rows::MeanRows, query_scores::QueryScores};
use burn_apb::kernels::fused::rms_norm::{add_rms_norm::AddRmsNorm, rms_norm::RmsNorm};
use burn_apb::kernels::fused::select_rows::{pool_scores::PoolScores, select_rows::SelectRows};
use burn_apb::kernels::fused::silu_mul::silu_mul::SiluMul;
use burn_apb::kernels::fused::silu_scores::{LANES, ROWS, silu_scores::SiluScores};
use burn_apb::kernels::tensor_core::table::Dtype;
use cubecl::prelude::*;
use cubecl_core::ir::{ElemType, FloatKind};

/// Units of the kernels that give each element one.
const UNITS: u32 = 256;
/// Units of the cube that serves a head.
const SELECT_UNITS: u32 = 256;
/// Elements of a vector of the norms and the gate, as the crate launches them.
const VECTOR: usize = 4;
/// Elements of a vector of weights, as the crate launches them on CUDA.
const WEIGHTS: usize = 8;
/// Outputs of the scores' kernel.
const OUTPUTS: usize = 8;

fn pool_scores(target: &Target) -> Result<Source, String> {
    target.compile(PoolScores::new(
        settings(CubeDim::new_1d(UNITS)),
        target.device.clone(),
        target.layouts.clone(),
        buffer(),
        buffer(),
        buffer(),
        (),
        (),
        (),
        (),
        (),
        (),
    ))
}

fn select_rows(target: &Target) -> Result<Source, String> {
    target.compile(SelectRows::new(
        settings(CubeDim::new_1d(SELECT_UNITS)),
        target.device.clone(),
        target.layouts.clone(),
        buffer(),
        buffer(),
        (),
        (),
        (),
        SELECT_UNITS as usize,
    ))
}

fn few_rows(rows: usize, biased: bool, target: &Target) -> Result<Source, String> {
    target.compile(FewRows::new(
        settings(CubeDim::new_2d(few_rows::LANES, few_rows::GROUPS)),
        target.device.clone(),
        target.layouts.clone(),
        buffer(),
        buffer(),
        buffer(),
        buffer(),
        (),
        (),
        (),
        WEIGHTS,
        rows,
        biased,
        [bf16(), bf16(), bf16()],
    ))
}

fn rms_norm(target: &Target) -> Result<Source, String> {
    let (element, gamma) = (bf16(), bf16());
    target.compile(RmsNorm::new(
        settings(CubeDim::new_1d(UNITS)),
        target.device.clone(),
        target.layouts.clone(),
        buffer(),
        buffer(),
        buffer(),
        (),
        (),
        (),
        VECTOR,
        UNITS as usize,
        [element, gamma],
    ))
}

fn add_rms_norm(target: &Target) -> Result<Source, String> {
    let (element, gamma) = (bf16(), bf16());
    target.compile(AddRmsNorm::new(
        settings(CubeDim::new_1d(UNITS)),
        target.device.clone(),
        target.layouts.clone(),
        buffer(),
        buffer(),
        buffer(),
        buffer(),
        buffer(),
        (),
        (),
        (),
        VECTOR,
        UNITS as usize,
        [element, gamma],
    ))
}

fn silu_mul(target: &Target) -> Result<Source, String> {
    target.compile(SiluMul::new(
        settings(CubeDim::new_1d(UNITS)),
        target.device.clone(),
        target.layouts.clone(),
        buffer(),
        buffer(),
        buffer(),
        (),
        VECTOR,
        bf16(),
    ))
}

fn mean_rows(target: &Target) -> Result<Source, String> {
    target.compile(MeanRows::new(
        settings(CubeDim::new_1d(UNITS)),
        target.device.clone(),
        target.layouts.clone(),
        buffer(),
        buffer(),
        (),
        (),
        (),
        bf16(),
    ))
}

fn query_scores(target: &Target) -> Result<Source, String> {
    target.compile(QueryScores::new(
        settings(CubeDim::new_1d(UNITS)),
        target.device.clone(),
        target.layouts.clone(),
        buffer(),
        buffer(),
        buffer(),
        (),
        (),
        (),
        (),
        (),
        VECTOR,
        bf16(),
    ))
}

fn not_finite(target: &Target) -> Result<Source, String> {
    target.compile(NotFinite::new(
        settings(CubeDim::new_1d(UNITS)),
        target.device.clone(),
        target.layouts.clone(),
        buffer(),
        buffer(),
        (),
        (),
        (),
        (),
        bf16(),
    ))
}

fn bf16() -> ElemType {
    ElemType::Float(FloatKind::BF16)
}

fn silu_scores(dtype: Dtype, target: &Target) -> Result<Source, String> {
    let element = ElemType::Float(match dtype {
        Dtype::Bf16 => FloatKind::BF16,
        Dtype::F16 => FloatKind::F16,
    });
    target.compile(SiluScores::new(
        settings(CubeDim::new_2d(LANES, ROWS)),
        target.device.clone(),
        target.layouts.clone(),
        buffer(),
        buffer(),
        buffer(),
        (),
        (),
        (),
        OUTPUTS,
        [element, element],
    ))
}

/// Compiles those of them whose name contains `filter`.
///
/// # Errors
///
/// CubeCL's message.
pub fn emit(filter: &str) -> Result<Vec<Emitted>, String> {
    let target = Target::new(80);
    let score_bf16 = |target: &Target| silu_scores(Dtype::Bf16, target);
    let score_f16 = |target: &Target| silu_scores(Dtype::F16, target);
    type Compile<'a> = &'a dyn Fn(&Target) -> Result<Source, String>;
    let one_row = |target: &Target| few_rows(1, false, target);
    let three_rows = |target: &Target| few_rows(3, true, target);
    let few = [few_rows::LANES, few_rows::GROUPS];
    let kernels: [(&str, Dtype, [u32; 2], Compile<'_>); 12] = [
        ("add_rms_norm", Dtype::Bf16, [UNITS, 1], &add_rms_norm),
        ("few_rows_1", Dtype::Bf16, few, &one_row),
        ("few_rows_3", Dtype::Bf16, few, &three_rows),
        ("mean_rows", Dtype::Bf16, [UNITS, 1], &mean_rows),
        ("not_finite", Dtype::Bf16, [UNITS, 1], &not_finite),
        ("pool_scores", Dtype::Bf16, [UNITS, 1], &pool_scores),
        ("query_scores", Dtype::Bf16, [UNITS, 1], &query_scores),
        ("rms_norm", Dtype::Bf16, [UNITS, 1], &rms_norm),
        ("silu_mul", Dtype::Bf16, [UNITS, 1], &silu_mul),
        ("select_rows", Dtype::Bf16, [SELECT_UNITS, 1], &select_rows),
        ("silu_scores_bf16", Dtype::Bf16, [LANES, ROWS], &score_bf16),
        ("silu_scores_f16", Dtype::F16, [LANES, ROWS], &score_f16),
    ];
    let chosen = kernels
        .into_iter()
        .filter(|(name, ..)| name.contains(filter));
    chosen
        .map(|(name, dtype, block, compile)| {
            let source = compile(&target)?;
            Ok(Emitted {
                name: name.into(),
                architecture: "sm_80",
                dtype: dtype.ptx(),
                head_dim: 0,
                rows: 0,
                keys: 0,
                block,
                shared_bytes: source.shared_bytes,
                parts: false,
                code: source.code,
            })
        })
        .collect()
}
