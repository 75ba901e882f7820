//! The CUDA C++ of every kernel of the table.

use cubecl::prelude::*;
use half::{bf16, f16};
use serde::Serialize;

use crate::compiler::{Source, Target};
use burn_apb::kernels::cube::arguments::{ArgumentsCompilationArg, StridesCompilationArg};
use burn_apb::kernels::cube::merge::{UNITS, merge_parts::MergeParts};
use burn_apb::kernels::cube::visible::VisibleCompilationArg;
use burn_apb::kernels::portable::attention::attention_portable::AttentionPortable;
use burn_apb::kernels::portable::table::{TABLE as TILES, Tile};
use burn_apb::kernels::tensor_core::mma::attention_mma::AttentionMma;
use burn_apb::kernels::tensor_core::table::{Dtype, Kernel, MmaTile, TABLE, WgmmaTile};
use burn_apb::kernels::tensor_core::wgmma::attention_wgmma::AttentionWgmma;

/// What a launch of an emitted kernel needs to know.
#[derive(Serialize)]
pub struct Emitted {
    /// The kernel, and its file without the extension.
    pub name: String,
    /// For NVRTC and ptxas.
    pub architecture: &'static str,
    /// Element type: `f32`, `bf16` or `f16`.
    pub dtype: &'static str,
    /// Columns of queries, keys and values.
    pub head_dim: usize,
    /// Packed rows a block.
    pub rows: usize,
    /// Keys a tile.
    pub keys: usize,
    /// Threads of a block along x and y.
    pub block: [u32; 2],
    /// Dynamic shared memory, in bytes.
    pub shared_bytes: usize,
    /// Whether the output is f32 parts.
    pub parts: bool,
    /// CUDA C++.
    #[serde(skip)]
    pub code: String,
}

fn strides() -> StridesCompilationArg {
    StridesCompilationArg {
        batch: (),
        head: (),
        row: (),
    }
}

fn arguments() -> ArgumentsCompilationArg {
    ArgumentsCompilationArg {
        q: strides(),
        k: strides(),
        v: strides(),
        out: strides(),
        visible: VisibleCompilationArg {
            seq_q: (),
            seq_kv: (),
            passing: (),
            anchor_rows: (),
            diagonal: (),
        },
        group: (),
        splits: (),
        split_stride: (),
        scale: (),
    }
}

/// A buffer that is no other's alias.
pub fn buffer() -> BufferCompilationArg {
    BufferCompilationArg { inplace: None }
}

/// How CubeCL's CUDA runtime launches the kernels.
pub fn settings(dim: CubeDim) -> KernelSettings {
    KernelSettings::new(*dim, ExecutionMode::Unchecked, AddressType::U32)
}

fn mma<E: Float, O: Float>(tile: MmaTile, target: &Target) -> Result<Source, String> {
    target.compile(AttentionMma::<E, O>::new(
        settings(Kernel::Mma(tile).cube_dim()),
        target.device.clone(),
        target.layouts.clone(),
        buffer(),
        buffer(),
        buffer(),
        buffer(),
        buffer(),
        arguments(),
        tile.output_width(),
        tile,
    ))
}

fn wgmma<E: Float>(tile: WgmmaTile, target: &Target) -> Result<Source, String> {
    target.compile(AttentionWgmma::<E>::new(
        settings(Kernel::Wgmma(tile).cube_dim()),
        target.device.clone(),
        target.layouts.clone(),
        buffer(),
        buffer(),
        buffer(),
        buffer(),
        buffer(),
        arguments(),
        tile.score_registers(),
        tile.output_registers(),
        tile.weight_registers(),
        tile.both_registers(),
        tile,
    ))
}

fn portable<E: Float, O: Float>(tile: Tile, target: &Target) -> Result<Source, String> {
    target.compile(AttentionPortable::<E, O>::new(
        settings(CubeDim::new_1d(tile.units() as u32)),
        target.device.clone(),
        target.layouts.clone(),
        buffer(),
        buffer(),
        buffer(),
        buffer(),
        buffer(),
        arguments(),
        tile,
    ))
}

/// The portable kernel's tiles, for the element types that they are emitted for: f32, which has no other
/// kernel, and bf16 of one tile. One problem a line of the table, except where another line cuts alike.
pub fn tiles() -> Vec<(Tile, &'static str)> {
    let mut tiles: Vec<(Tile, &str)> = Vec::new();
    let any = usize::MAX;
    let problems = [
        (64, 1),
        (128, 1),
        (256, 1),
        (128, 100),
        (64, any),
        (80, any),
        (128, any),
        (256, any),
    ];
    for (head_dim, packed_rows) in problems {
        let found = TILES
            .iter()
            .find_map(|line| line.tile(head_dim, packed_rows));
        tiles.extend(found.map(|tile| (tile, "f32")));
    }
    let half = TILES.iter().find_map(|line| line.tile(96, usize::MAX));
    tiles.extend(half.map(|tile| (tile, "bf16")));
    tiles
}

/// A tile's kernel, and its file without the extension.
pub fn tile_name(tile: Tile, dtype: &str) -> String {
    format!("{tile}_{dtype}")
}

fn portable_attention(tile: Tile, dtype: &'static str) -> Result<Emitted, String> {
    let target = Target::new(80);
    let source = match (dtype, tile.parts) {
        ("bf16", false) => portable::<bf16, bf16>(tile, &target),
        ("bf16", true) => portable::<bf16, f32>(tile, &target),
        _ => portable::<f32, f32>(tile, &target),
    }?;
    if source.shared_bytes > tile.shared_bytes() {
        let (found, stated) = (source.shared_bytes, tile.shared_bytes());
        return Err(format!(
            "{tile} takes {found} bytes of shared memory, the table states {stated}"
        ));
    }
    Ok(Emitted {
        name: tile_name(tile, dtype),
        architecture: "sm_80",
        dtype,
        head_dim: tile.head_dim,
        rows: tile.rows(),
        keys: tile.keys(),
        block: [tile.units() as u32, 1],
        shared_bytes: source.shared_bytes,
        parts: tile.parts,
        code: source.code,
    })
}

fn merge<E: Float>(head_dim: usize, target: &Target) -> Result<Source, String> {
    target.compile(MergeParts::<E>::new(
        settings(CubeDim::new_1d(UNITS)),
        target.device.clone(),
        target.layouts.clone(),
        buffer(),
        buffer(),
        buffer(),
        buffer(),
        strides(),
        (),
        (),
        (),
        (),
        head_dim,
    ))
}

fn attention(kernel: Kernel) -> Result<Emitted, String> {
    let (architecture, source) = match kernel {
        Kernel::Mma(tile) => {
            let target = Target::new(80);
            let source = match (tile.dtype, tile.parts) {
                (Dtype::Bf16, false) => mma::<bf16, bf16>(tile, &target),
                (Dtype::Bf16, true) => mma::<bf16, f32>(tile, &target),
                (Dtype::F16, false) => mma::<f16, f16>(tile, &target),
                (Dtype::F16, true) => mma::<f16, f32>(tile, &target),
            };
            ("sm_80", source?)
        }
        Kernel::Wgmma(tile) => {
            let target = Target::new(90);
            let source = match tile.dtype {
                Dtype::Bf16 => wgmma::<bf16>(tile, &target),
                Dtype::F16 => wgmma::<f16>(tile, &target),
            };
            ("sm_90a", source?)
        }
    };
    let dim = kernel.cube_dim();
    if source.shared_bytes > kernel.shared_bytes() {
        let (found, stated) = (source.shared_bytes, kernel.shared_bytes());
        return Err(format!(
            "{kernel} takes {found} bytes of shared memory, the table states {stated}"
        ));
    }
    Ok(Emitted {
        name: kernel.to_string(),
        architecture,
        dtype: kernel.dtype().ptx(),
        head_dim: kernel.head_dim(),
        rows: kernel.rows(),
        keys: kernel.keys(),
        block: [dim.x, dim.y],
        shared_bytes: source.shared_bytes,
        parts: kernel.parts(),
        code: source.code,
    })
}

fn merge_of(head_dim: usize, dtype: &'static str) -> Result<Emitted, String> {
    let target = Target::new(80);
    let source = match dtype {
        "bf16" => merge::<bf16>(head_dim, &target),
        "f16" => merge::<f16>(head_dim, &target),
        _ => merge::<f32>(head_dim, &target),
    }?;
    Ok(Emitted {
        name: format!("merge_{dtype}_d{head_dim}"),
        architecture: "sm_80",
        dtype,
        head_dim,
        rows: 0,
        keys: 0,
        block: [UNITS, 1],
        shared_bytes: source.shared_bytes,
        parts: false,
        code: source.code,
    })
}

/// Compiles every kernel whose name contains `filter`.
///
/// # Errors
///
/// CubeCL's message, or a kernel whose shared memory differs from the table.
pub fn emit(filter: &str) -> Result<Vec<Emitted>, String> {
    let (mut emitted, mut merges) = (Vec::new(), Vec::new());
    for line in TABLE {
        for dtype in [Dtype::Bf16, Dtype::F16] {
            let kernel = line.kernel(dtype);
            if kernel.to_string().contains(filter) {
                emitted.push(attention(kernel)?);
            }
            if kernel.parts() {
                merges.push((kernel.head_dim(), dtype.ptx()));
            }
        }
    }
    for (tile, dtype) in tiles() {
        if tile_name(tile, dtype).contains(filter) {
            emitted.push(portable_attention(tile, dtype)?);
        }
        if tile.parts {
            merges.push((tile.head_dim, dtype));
        }
    }
    merges.sort_unstable();
    merges.dedup();
    for (head_dim, dtype) in merges {
        if format!("merge_{dtype}_d{head_dim}").contains(filter) {
            emitted.push(merge_of(head_dim, dtype)?);
        }
    }
    Ok(emitted)
}
