//! The CUDA C++ of the kernels over quantised weights, and blocks for them with what they stand for.

use std::path::Path;

use burn_apb::kernels::BlockFormat;
use burn_apb::kernels::fused::quantized::dequantize::{dequantize::Dequantize, look_up::LookUp};
use burn_apb::kernels::fused::quantized::layout::Layout;
use burn_apb::kernels::fused::quantized::product::{GROUPS, LANES, product::Product};
use cubecl::prelude::*;
use cubecl_core::ir::{ElemType, FloatKind};

use crate::compiler::{Source, Target};
use crate::emit::{Emitted, buffer, settings};

/// Units of the kernels that give each word one.
const UNITS: u32 = 256;
/// Rows of the blocks that are written: no multiple of a cube's.
const ROWS: usize = 11;
/// Elements of a row of those: more pieces than units share.
const WIDTH: usize = 1280;
/// Products that are emitted: their format, rows of `x`, and whether there is a bias.
const PRODUCTS: [(BlockFormat, usize, bool); 7] = [
    (BlockFormat::Q4_0, 1, false),
    (BlockFormat::Q5_1, 2, true),
    (BlockFormat::Q8_0, 1, true),
    (BlockFormat::Q4K, 1, false),
    (BlockFormat::Q4K, 8, true),
    (BlockFormat::Q6K, 1, false),
    (BlockFormat::Int4x64, 1, false),
];

fn layout(format: BlockFormat) -> Layout {
    Layout {
        format,
        aligned: format.block_bytes().is_multiple_of(4),
    }
}

fn dequantize(format: BlockFormat, target: &Target) -> Result<Source, String> {
    target.compile(Dequantize::new(
        settings(CubeDim::new_1d(UNITS)),
        target.device.clone(),
        target.layouts.clone(),
        buffer(),
        buffer(),
        (),
        (),
        (),
        layout(format),
        ElemType::Float(FloatKind::F32),
    ))
}

fn look_up(format: BlockFormat, target: &Target) -> Result<Source, String> {
    target.compile(LookUp::new(
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
        layout(format),
        ElemType::Float(FloatKind::F32),
    ))
}

fn product(
    (format, rows, biased): (BlockFormat, usize, bool),
    target: &Target,
) -> Result<Source, String> {
    let element = ElemType::Float(FloatKind::BF16);
    target.compile(Product::new(
        settings(CubeDim::new_2d(LANES, GROUPS)),
        target.device.clone(),
        target.layouts.clone(),
        buffer(),
        buffer(),
        buffer(),
        buffer(),
        (),
        (),
        (),
        rows,
        biased,
        layout(format),
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
    let mut emitted = Vec::new();
    let mut keep = |name: String, dtype, block, compile: &dyn Fn() -> Result<Source, String>| {
        if name.contains(filter) {
            let source = compile()?;
            emitted.push(Emitted {
                name,
                architecture: "sm_80",
                dtype,
                head_dim: 0,
                rows: 0,
                keys: 0,
                block,
                shared_bytes: source.shared_bytes,
                parts: false,
                code: source.code,
            });
        }
        Ok::<(), String>(())
    };
    for &format in BlockFormat::ALL {
        let compile = || dequantize(format, &target);
        keep(format!("dequantize_{format}"), "f32", [UNITS, 1], &compile)?;
    }
    let format = BlockFormat::Q6K;
    let compile = || look_up(format, &target);
    keep(format!("look_up_{format}"), "f32", [UNITS, 1], &compile)?;
    for case in PRODUCTS {
        let (format, rows, biased) = case;
        let bias = if biased { "_bias" } else { "" };
        let name = format!("product_{format}_r{rows}{bias}");
        keep(name, "bf16", [LANES, GROUPS], &|| product(case, &target))?;
    }
    Ok(emitted)
}

/// Writes `ROWS` rows of blocks of every format, as FORMAT.blocks, and the f32 that they stand for, as FORMAT.elements.
///
/// # Errors
///
/// Those of writing.
pub fn write_blocks(folder: &Path) -> std::io::Result<()> {
    for &format in BlockFormat::ALL {
        let Some(row_bytes) = format.row_bytes(WIDTH) else {
            continue;
        };
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as u8
        };
        let mut bytes = vec![0; ROWS * row_bytes];
        for block in bytes.chunks_exact_mut(format.block_bytes()) {
            // Any bytes, until what they stand for is neither very large nor very small.
            loop {
                block.fill_with(&mut next);
                let mut values = vec![0f32; format.block_len()];
                format.dequantize(block, &mut values);
                let fits = |value: &f32| *value == 0.0 || (1e-6..1e6).contains(&value.abs());
                if format.first_not_finite(block).is_none() && values.iter().all(fits) {
                    break;
                }
            }
        }
        let mut elements = vec![0f32; ROWS * WIDTH];
        format.dequantize(&bytes, &mut elements);
        let elements: Vec<u8> = elements.into_iter().flat_map(f32::to_le_bytes).collect();
        std::fs::write(folder.join(format!("{format}.blocks")), bytes)?;
        std::fs::write(folder.join(format!("{format}.elements")), elements)?;
    }
    Ok(())
}
