//! The launch on a CUDA device's tensors.

use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::prelude::*;
use half::{bf16, f16};

use super::super::Regions;
use super::arguments::{Arguments, Strides};
use super::choice::Choice;
use super::merge::{UNITS, merge_parts};
use super::mma::attention_mma;
use super::plan::{Plan, Problem, Views};
use super::table::{Dtype, Kernel, MmaTile, WgmmaTile};
use super::wgmma::attention_wgmma;

/// Attention on tensor cores: out `[batch, heads, seq_q, head_dim]`, whose memory runs
/// `[batch, seq_q, heads, head_dim]`, and lse `[batch, heads, seq_q]`, f32.
///
/// `None` where the table has no kernel: another runtime than CUDA, an older device, f32, another
/// head_dim, or nothing to compute. Arguments have been checked by [`attention`](super::super::attention()).
pub fn attend(
    q: &CubeTensor,
    k: &CubeTensor,
    v: &CubeTensor,
    regions: Regions,
) -> Option<(CubeTensor, CubeTensor)> {
    let client = q.client.clone();
    let problem = problem(q, k)?;
    let plan = problem.plan(Choice::of_environment().kernel(&problem)?)?;
    tracing::trace!(kernel = %plan.kernel, splits = plan.splits, "attention");
    let (q, k, v) = (readable(q), readable(k), readable(v));

    let [batch, heads, rows, columns] = dims(&q);
    let empty = |shape: Vec<usize>, dtype: DType| {
        let shape = Shape::from(shape);
        let handle = client.empty(shape.num_elements() * dtype.size());
        CubeTensor::new_contiguous(client.clone(), q.device.clone(), shape, handle, dtype)
    };
    let out = empty(vec![batch, rows, heads, columns], q.dtype);
    let out = CubeBackend::float_swap_dims(out, 1, 2);
    let lse = empty(vec![batch, heads, rows], DType::F32);
    let part = [heads * rows * columns, rows * columns, columns, 1];
    let views = Views {
        q: strides(&q),
        k: strides(&k),
        v: strides(&v),
        out: if plan.kernel.parts() {
            part
        } else {
            strides(&out)
        },
    };
    let arguments = problem.arguments(&plan, regions, &views)?;
    let inputs = [&q, &k, &v];
    if plan.kernel.parts() {
        let parts = empty(vec![plan.splits, batch, heads, rows, columns], DType::F32);
        let part_lse = empty(vec![plan.splits, batch, heads, rows], DType::F32);
        launch(&client, &plan, inputs, &parts, &part_lse, arguments);
        merge(&client, &plan, &parts, &part_lse, &out, &lse)?;
    } else {
        launch(&client, &plan, inputs, &out, &lse, arguments);
    }
    Some((out, lse))
}

/// What the table is asked; `None` for devices and types that it knows nothing of.
fn problem(q: &CubeTensor, k: &CubeTensor) -> Option<Problem> {
    let properties = q.client.properties();
    let dtype = match q.dtype {
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::Bf16,
        _ => return None,
    };
    // CUDA's runtime names the compute capability that it compiles for, and no other runtime does so.
    let architecture = properties.identity.fingerprint.strip_prefix("ptx_sm")?;
    let [batch, heads, seq_q, head_dim] = dims(q);
    let [_, kv_heads, seq_kv, _] = dims(k);
    Some(Problem {
        architecture: architecture.parse().ok()?,
        shared_bytes: properties.hardware.max_shared_memory_size,
        multiprocessors: properties.hardware.num_streaming_multiprocessors? as usize,
        dtype,
        head_dim,
        batch,
        heads,
        kv_heads,
        seq_q,
        seq_kv,
    })
}

fn dims(tensor: &CubeTensor) -> [usize; 4] {
    tensor.meta.shape().dims()
}

fn strides(tensor: &CubeTensor) -> [usize; 4] {
    let strides = tensor.meta.strides();
    [strides[0], strides[1], strides[2], strides[3]]
}

/// The tensor itself where 16-byte copies can follow its view, a contiguous copy elsewhere.
fn readable(tensor: &CubeTensor) -> CubeTensor {
    let aligned = tensor.handle.offset_start.unwrap_or(0).is_multiple_of(16);
    if aligned && Strides::new(dims(tensor), strides(tensor)).is_some() {
        tensor.clone()
    } else {
        into_contiguous(tensor.clone())
    }
}

fn buffer(tensor: &CubeTensor) -> BufferArg {
    let len = tensor.handle.size_in_used() as usize / tensor.dtype.size();
    // SAFETY: the length is that of the handle.
    unsafe { BufferArg::from_raw_parts(tensor.handle.clone(), len) }
}

fn launch(
    client: &Client,
    plan: &Plan,
    inputs: [&CubeTensor; 3],
    out: &CubeTensor,
    lse: &CubeTensor,
    arguments: Arguments,
) {
    match (plan.kernel, plan.kernel.dtype()) {
        (Kernel::Mma(tile), Dtype::Bf16) if tile.parts => {
            launch_mma::<bf16, f32>(client, plan, tile, inputs, out, lse, arguments);
        }
        (Kernel::Mma(tile), Dtype::F16) if tile.parts => {
            launch_mma::<f16, f32>(client, plan, tile, inputs, out, lse, arguments);
        }
        (Kernel::Mma(tile), Dtype::Bf16) => {
            launch_mma::<bf16, bf16>(client, plan, tile, inputs, out, lse, arguments);
        }
        (Kernel::Mma(tile), Dtype::F16) => {
            launch_mma::<f16, f16>(client, plan, tile, inputs, out, lse, arguments);
        }
        (Kernel::Wgmma(tile), Dtype::Bf16) => {
            launch_wgmma::<bf16>(client, plan, tile, inputs, out, lse, arguments);
        }
        (Kernel::Wgmma(tile), Dtype::F16) => {
            launch_wgmma::<f16>(client, plan, tile, inputs, out, lse, arguments);
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
    [q, k, v]: [&CubeTensor; 3],
    out: &CubeTensor,
    lse: &CubeTensor,
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
            buffer(q),
            buffer(k),
            buffer(v),
            buffer(out),
            buffer(lse),
            arguments.launch(),
            tile,
        );
    }
}

fn launch_wgmma<E: Float>(
    client: &Client,
    plan: &Plan,
    tile: WgmmaTile,
    [q, k, v]: [&CubeTensor; 3],
    out: &CubeTensor,
    lse: &CubeTensor,
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
            buffer(q),
            buffer(k),
            buffer(v),
            buffer(out),
            buffer(lse),
            arguments.launch(),
            tile,
        );
    }
}

fn merge(
    client: &Client,
    plan: &Plan,
    parts: &CubeTensor,
    part_lse: &CubeTensor,
    out: &CubeTensor,
    lse: &CubeTensor,
) -> Option<()> {
    let [batch, heads, seq_q, head_dim] = dims(out);
    let view = Strides::new(dims(out), strides(out))?;
    let rows = batch * heads * seq_q;
    let units = u32::try_from(rows * head_dim / 8).ok()?;
    let count = CubeCount::Static(units.div_ceil(UNITS), 1, 1);
    let launch = match plan.kernel.dtype() {
        Dtype::Bf16 => merge_parts::launch_unchecked::<bf16>,
        Dtype::F16 => merge_parts::launch_unchecked::<f16>,
    };
    // SAFETY: a unit beyond the last row does nothing; the others stay within parts and output.
    unsafe {
        launch(
            client,
            count,
            CubeDim::new_1d(UNITS),
            buffer(parts),
            buffer(part_lse),
            buffer(out),
            buffer(lse),
            view.launch(),
            plan.splits as u32,
            heads as u32,
            seq_q as u32,
            rows as u32,
            head_dim,
        );
    }
    Some(())
}
