//! The launch on a device's tensors.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use half::{bf16, f16};

use super::attention::attention_portable;
use super::plan::{Plan, Problem};
use super::table::CHUNK;
use crate::kernels::Regions;
use crate::kernels::cube::arguments::Arguments;
use crate::kernels::cube::tensors::{Tensors, lengths};

/// Attention in f32 arithmetic: out `[batch, heads, seq_q, head_dim]`, whose memory runs
/// `[batch, seq_q, heads, head_dim]`, and lse `[batch, heads, seq_q]`, f32.
///
/// `None` where the table has no tile, the device lacks the dtype, or nothing is to be computed.
/// Arguments have been checked by [`attention`](crate::kernels::attention()).
pub fn attention(
    q: &CubeTensor,
    k: &CubeTensor,
    v: &CubeTensor,
    regions: Regions,
) -> Option<(CubeTensor, CubeTensor)> {
    let client = q.client.clone();
    let problem = problem(q, k)?;
    let plan = problem.plan(problem.tile()?)?;
    let tensors = Tensors::new([q, k, v], CHUNK, plan.tile.parts.then_some(plan.splits));
    let arguments = problem.arguments(&plan, regions, &tensors.views())?;
    let parts = plan.tile.parts;
    let launch = match q.dtype {
        DType::F16 if parts => launch::<f16, f32>,
        DType::F16 => launch::<f16, f16>,
        DType::BF16 if parts => launch::<bf16, f32>,
        DType::BF16 => launch::<bf16, bf16>,
        _ => launch::<f32, f32>,
    };
    launch(&client, &plan, tensors.buffers(), arguments);
    tensors.finish(&client)
}

/// The problem that the table is searched for; `None` for types that the device lacks.
fn problem(q: &CubeTensor, k: &CubeTensor) -> Option<Problem> {
    let properties = q.client.properties();
    let kind = match q.dtype {
        DType::F32 => FloatKind::F32,
        DType::F16 => FloatKind::F16,
        DType::BF16 => FloatKind::BF16,
        _ => return None,
    };
    if !properties.supports_type(ElemType::Float(kind)) {
        return None;
    }
    let hardware = &properties.hardware;
    Some(Problem {
        shared_bytes: hardware.max_shared_memory_size,
        units: hardware.max_units_per_cube as usize,
        grid: hardware.max_cube_count,
        multiprocessors: hardware.num_streaming_multiprocessors.map(|n| n as usize),
        lengths: lengths(q, k),
    })
}

fn launch<E: Float, O: Float>(
    client: &Client,
    plan: &Plan,
    [q, k, v, out, lse]: [BufferArg; 5],
    arguments: Arguments,
) {
    // SAFETY: views, lengths and regions have been checked; what a block reads and writes lies within
    // them.
    unsafe {
        attention_portable::launch_unchecked::<E, O>(
            client,
            CubeCount::Static(plan.cubes.0, plan.cubes.1, plan.cubes.2),
            CubeDim::new_1d(plan.tile.units() as u32),
            q,
            k,
            v,
            out,
            lse,
            arguments.launch(),
            plan.tile,
        );
    }
}
