//! Launches of given problems, by the crate's own planning: one JSON object a line, in and out.

use serde::{Deserialize, Serialize};

use crate::emit::{tile_name, tiles};
use burn_apb::kernels::Regions;
use burn_apb::kernels::cube::arguments::{Arguments, Strides};
use burn_apb::kernels::cube::lengths::{Lengths, Views};
use burn_apb::kernels::portable::{self, table::Tile};
use burn_apb::kernels::tensor_core::plan::Problem;
use burn_apb::kernels::tensor_core::table::{Dtype, TABLE};

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
    let regions = Regions {
        passing: case.passing,
        anchor: case.anchor,
        causal: case.causal,
    };
    regions
        .validate(case.seq_q, case.seq_kv)
        .map_err(|error| format!("{error:?}"))?;
    let views = Views {
        q: case.q,
        k: case.k,
        v: case.v,
        out: case.out,
    };
    let portable = tiles()
        .into_iter()
        .find(|(tile, dtype)| case.kernel.as_deref() == Some(&tile_name(*tile, dtype)));
    match portable {
        Some((tile, _)) => launch_portable(case, tile, regions, &views),
        None => launch_tensor_core(case, regions, &views),
    }
}

fn lengths(case: &Case) -> Lengths {
    Lengths {
        batch: case.batch,
        heads: case.heads,
        kv_heads: case.kv_heads,
        seq_q: case.seq_q,
        seq_kv: case.seq_kv,
        head_dim: case.head_dim,
    }
}

fn launch_portable(
    case: &Case,
    tile: Tile,
    regions: Regions,
    views: &Views,
) -> Result<Launch, String> {
    let problem = portable::plan::Problem {
        shared_bytes: case.shared_bytes,
        units: 1024,
        grid: (i32::MAX as u32, 65_535, 65_535),
        multiprocessors: Some(case.multiprocessors),
        lengths: lengths(case),
    };
    let plan = problem.plan(tile).ok_or("the problem does not fit")?;
    let arguments = problem
        .arguments(&plan, regions, views)
        .ok_or("a view does not fit")?;
    let name = case.kernel.clone().unwrap_or_default();
    Ok(described(name, plan.cubes, plan.splits, &arguments))
}

fn launch_tensor_core(case: &Case, regions: Regions, views: &Views) -> Result<Launch, String> {
    let dtype = match case.dtype.as_str() {
        "bf16" => Dtype::Bf16,
        "f16" => Dtype::F16,
        other => return Err(format!("no kernel computes in {other}")),
    };
    let problem = Problem {
        architecture: case.architecture,
        shared_bytes: case.shared_bytes,
        multiprocessors: case.multiprocessors,
        dtype,
        lengths: lengths(case),
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
    let arguments = problem
        .arguments(&plan, regions, views)
        .ok_or("a view does not fit")?;
    Ok(described(
        kernel.to_string(),
        plan.cubes,
        plan.splits,
        &arguments,
    ))
}

fn described(
    kernel: String,
    cubes: (u32, u32, u32),
    splits: usize,
    arguments: &Arguments,
) -> Launch {
    Launch {
        kernel,
        cubes: [cubes.0, cubes.1, cubes.2],
        splits,
        f32: [arguments.scale],
        i32: [arguments.visible.diagonal],
        u32: words(arguments),
    }
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
