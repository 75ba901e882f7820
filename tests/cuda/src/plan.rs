//! Launches of given problems, by the crate's own planning: one JSON object a line, in and out.

use serde::{Deserialize, Serialize};

use crate::kernels::Regions;
use crate::kernels::tensor_core::arguments::{Arguments, Strides};
use crate::kernels::tensor_core::plan::{Problem, Views};
use crate::kernels::tensor_core::table::{Dtype, TABLE};

/// A problem, and the views of its tensors.
#[derive(Deserialize)]
pub struct Case {
    /// The kernel to run, or the table's choice.
    kernel: Option<String>,
    architecture: u32,
    shared_bytes: usize,
    multiprocessors: usize,
    dtype: String,
    head_dim: usize,
    batch: usize,
    heads: usize,
    kv_heads: usize,
    seq_q: usize,
    seq_kv: usize,
    passing: usize,
    anchor: usize,
    causal: bool,
    q: [usize; 4],
    k: [usize; 4],
    v: [usize; 4],
    out: [usize; 4],
}

/// A launch: scalars of each type in the order of the kernel's arguments.
#[derive(Serialize)]
pub struct Launch {
    kernel: String,
    cubes: [u32; 3],
    splits: usize,
    f32: [f32; 1],
    i32: [i32; 1],
    u32: Vec<u32>,
}

/// The launch of a case.
///
/// # Errors
///
/// What makes the kernels refuse it.
pub fn launch(case: &Case) -> Result<Launch, String> {
    let dtype = match case.dtype.as_str() {
        "bf16" => Dtype::Bf16,
        "f16" => Dtype::F16,
        other => return Err(format!("no kernel computes in {other}")),
    };
    let regions = Regions {
        passing: case.passing,
        anchor: case.anchor,
        causal: case.causal,
    };
    regions
        .validate(case.seq_q, case.seq_kv)
        .map_err(|error| format!("{error:?}"))?;
    let problem = Problem {
        architecture: case.architecture,
        shared_bytes: case.shared_bytes,
        multiprocessors: case.multiprocessors,
        dtype,
        head_dim: case.head_dim,
        batch: case.batch,
        heads: case.heads,
        kv_heads: case.kv_heads,
        seq_q: case.seq_q,
        seq_kv: case.seq_kv,
    };
    let kernel = match &case.kernel {
        None => problem.kernel(),
        Some(name) => TABLE
            .iter()
            .map(|line| line.kernel(dtype))
            .find(|kernel| kernel.to_string() == *name),
    };
    let kernel = kernel.ok_or("the table has no such kernel")?;
    let plan = problem.plan(kernel).ok_or("the problem does not fit")?;
    let views = Views {
        q: case.q,
        k: case.k,
        v: case.v,
        out: case.out,
    };
    let arguments = problem
        .arguments(&plan, regions, &views)
        .ok_or("a view does not fit")?;
    Ok(Launch {
        kernel: kernel.to_string(),
        cubes: [plan.cubes.0, plan.cubes.1, plan.cubes.2],
        splits: plan.splits,
        f32: [arguments.scale_log2],
        i32: [arguments.visible.diagonal],
        u32: words(&arguments),
    })
}

fn words(arguments: &Arguments) -> Vec<u32> {
    let stride = |view: Strides| [view.batch, view.head, view.row];
    let visible = arguments.visible;
    let views = [arguments.q, arguments.k, arguments.v, arguments.out];
    let mut words: Vec<u32> = views.into_iter().flat_map(stride).collect();
    words.extend([
        visible.seq_q,
        visible.seq_kv,
        visible.passing,
        visible.anchor_rows,
        arguments.group,
        arguments.splits,
        arguments.split_stride,
    ]);
    words
}
