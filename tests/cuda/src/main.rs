mod compiler;
mod kernels;

use compiler::{Source, Target};
use cubecl::prelude::*;
use half::{bf16, f16};
use kernels::tensor_core::arguments::{ArgumentsCompilationArg, StridesCompilationArg};
use kernels::tensor_core::mma::attention_mma::AttentionMma;
use kernels::tensor_core::table::{Dtype, Kernel, MmaTile, TABLE, WgmmaTile};
use kernels::tensor_core::visible::VisibleCompilationArg;
use kernels::tensor_core::wgmma::attention_wgmma::AttentionWgmma;

fn strides() -> StridesCompilationArg {
    StridesCompilationArg { batch: (), head: (), row: () }
}

fn arguments() -> ArgumentsCompilationArg {
    ArgumentsCompilationArg {
        q: strides(), k: strides(), v: strides(), out: strides(),
        visible: VisibleCompilationArg { seq_q: (), seq_kv: (), passing: (), anchor_rows: (), diagonal: () },
        group: (), splits: (), split_stride: (), scale_log2: (),
    }
}

fn buffer() -> BufferCompilationArg { BufferCompilationArg { inplace: None } }

fn settings(kernel: Kernel) -> KernelSettings {
    KernelSettings::new(*kernel.cube_dim(), ExecutionMode::Unchecked, AddressType::U32)
}

fn mma<E: Float, O: Float>(tile: MmaTile, target: &Target) -> Result<Source, String> {
    let width = if tile.parts { 2 } else { 8 };
    target.compile(AttentionMma::<E, O>::new(settings(Kernel::Mma(tile)), target.device.clone(), target.layouts.clone(),
        buffer(), buffer(), buffer(), buffer(), buffer(), arguments(), width, tile))
}

fn wgmma<E: Float>(tile: WgmmaTile, target: &Target) -> Result<Source, String> {
    target.compile(AttentionWgmma::<E>::new(settings(Kernel::Wgmma(tile)), target.device.clone(), target.layouts.clone(),
        buffer(), buffer(), buffer(), buffer(), buffer(), arguments(),
        tile.score_registers(), tile.output_registers(), tile.weight_registers(), tile.both_registers(), tile))
}

fn main() {
    let filter = std::env::args().nth(2).unwrap_or_default();
    let out = std::env::args().nth(1).unwrap();
    std::fs::create_dir_all(&out).unwrap();
    for line in TABLE {
        for dtype in [Dtype::Bf16, Dtype::F16] {
            let kernel = line.kernel(dtype);
            let name = kernel.to_string();
            if !name.contains(&filter) { continue; }
            let source = match kernel {
                Kernel::Mma(t) => { let target = Target::new(80); match (dtype, t.parts) {
                    (Dtype::Bf16, false) => mma::<bf16, bf16>(t, &target),
                    (Dtype::F16, false) => mma::<f16, f16>(t, &target),
                    (Dtype::Bf16, true) => mma::<bf16, f32>(t, &target),
                    (Dtype::F16, true) => mma::<f16, f32>(t, &target),
                } }
                Kernel::Wgmma(t) => { let target = Target::new(90); match dtype { Dtype::Bf16 => wgmma::<bf16>(t, &target), Dtype::F16 => wgmma::<f16>(t, &target) } }
            }.unwrap();
            println!("{name} smem {} {}", source.shared_bytes, kernel.shared_bytes());
            std::fs::write(format!("{out}/{name}.cu"), source.code).unwrap();
        }
    }
}
