//! The launch on a CUDA device's tensors.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::prelude::*;
use half::{bf16, f16};

use super::choice::Choice;
use super::mma::attention_mma;
use super::plan::{CHUNK, Plan, Problem};
use super::table::{Dtype, Kernel, MmaTile, WgmmaTile};
use super::wgmma::attention_wgmma;
use crate::kernels::Regions;
use crate::kernels::cube::arguments::Arguments;
use crate::kernels::cube::tensors::{Tensors, lengths};

/// Attention on tensor cores: out `[batch, heads, seq_q, head_dim]`, whose memory runs
/// `[batch, seq_q, heads, head_dim]`, and lse `[batch, heads, seq_q]`, f32.
///
/// `None` where the table has no kernel: another runtime than CUDA, an older device, f32, another
/// head_dim, or nothing to compute. Arguments have been checked by [`attention`](crate::kernels::attention()).
pub fn attention(
    q: &CubeTensor,
    k: &CubeTensor,
    v: &CubeTensor,
    regions: Regions,
) -> Option<(CubeTensor, CubeTensor)> {
    let client = q.client.clone();
    let problem = problem(q, k)?;
    let plan = problem.plan(Choice::of_environment().kernel(&problem)?)?;
    tracing::trace!(kernel = %plan.kernel, splits = plan.splits, "attention");
    let tensors = Tensors::new([q, k, v], CHUNK, plan.kernel.parts().then_some(plan.splits));
    let arguments = problem.arguments(&plan, regions, &tensors.views())?;
    launch(&client, &plan, tensors.buffers(), arguments);
    tensors.finish(&client)
}

/// The problem that the table is searched for; `None` for devices and types that it has no line for.
fn problem(q: &CubeTensor, k: &CubeTensor) -> Option<Problem> {
    let properties = q.client.properties();
    let dtype = match q.dtype {
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::Bf16,
        _ => return None,
    };
    // CUDA's runtime names the compute capability that it compiles for; no other runtime does.
    let architecture = properties.identity.fingerprint.strip_prefix("ptx_sm")?;
    Some(Problem {
        architecture: architecture.parse().ok()?,
        shared_bytes: properties.hardware.max_shared_memory_size,
        multiprocessors: properties.hardware.num_streaming_multiprocessors? as usize,
        dtype,
        lengths: lengths(q, k),
    })
}

fn launch(client: &Client, plan: &Plan, buffers: [BufferArg; 5], arguments: Arguments) {
    match (plan.kernel, plan.kernel.dtype()) {
        (Kernel::Mma(tile), Dtype::Bf16) if tile.parts => {
            launch_mma::<bf16, f32>(client, plan, tile, buffers, arguments);
        }
        (Kernel::Mma(tile), Dtype::F16) if tile.parts => {
            launch_mma::<f16, f32>(client, plan, tile, buffers, arguments);
        }
        (Kernel::Mma(tile), Dtype::Bf16) => {
            launch_mma::<bf16, bf16>(client, plan, tile, buffers, arguments);
        }
        (Kernel::Mma(tile), Dtype::F16) => {
            launch_mma::<f16, f16>(client, plan, tile, buffers, arguments);
        }
        (Kernel::Wgmma(tile), Dtype::Bf16) => {
            launch_wgmma::<bf16>(client, plan, tile, buffers, arguments);
        }
        (Kernel::Wgmma(tile), Dtype::F16) => {
            launch_wgmma::<f16>(client, plan, tile, buffers, arguments);
        }
    }
}

fn cubes(plan: &Plan) -> CubeCount {
    CubeCount::Static(plan.cubes.0, plan.cubes.1, plan.cubes.2)
}

fn launch_mma<E: Float, O: Float>(
    client: &Client,
    plan: &Plan,
    tile: MmaTile,
    [q, k, v, out, lse]: [BufferArg; 5],
    arguments: Arguments,
) {
    // SAFETY: views, lengths and regions have been checked; what a block reads and writes lies within
    // them (tests/cuda runs every kernel under a bounds check).
    unsafe {
        attention_mma::launch_unchecked::<E, O>(
            client,
            cubes(plan),
            plan.kernel.cube_dim(),
            tile.output_width(),
            q,
            k,
            v,
            out,
            lse,
            arguments.launch(),
            tile,
        );
    }
}

fn launch_wgmma<E: Float>(
    client: &Client,
    plan: &Plan,
    tile: WgmmaTile,
    [q, k, v, out, lse]: [BufferArg; 5],
    arguments: Arguments,
) {
    // SAFETY: as above.
    unsafe {
        attention_wgmma::launch_unchecked::<E>(
            client,
            cubes(plan),
            plan.kernel.cube_dim(),
            tile.score_registers(),
            tile.output_registers(),
            tile.weight_registers(),
            tile.both_registers(),
            q,
            k,
            v,
            out,
            lse,
            arguments.launch(),
            tile,
        );
    }
}
