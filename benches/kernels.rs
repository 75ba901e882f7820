//! Rates of the CPU kernels beside what the machine gives: `cargo bench --bench kernels [filter] [cpu]`.
//!
//! Medians of repeated runs, printed as tables. Linear layers stand beside a plain f32 matrix product,
//! few-row layers beside a parallel read of the same memory, operations around attention beside plain
//! tensors, attention and its gradients beside Burn's own. Attention alone: `apb bench attention`.

use std::time::Instant;

use burn::tensor::{
    DType, Device, Distribution, Tensor, activation, module, ops::AttentionModuleOptions,
};
use burn_apb::kernels::{
    Regions, RowChoice, attention, gather_rows, linear, on_workers, reference, rms_norm, rotate,
    select_rows, silu_mul, silu_scores,
};
use rayon::prelude::*;

/// SmolLM2-135M: the shapes that the CPU targets are set on.
const HEADS: usize = 9;
const KV_HEADS: usize = 3;
const HEAD_DIM: usize = 64;

fn main() {
    let mut args = std::env::args().skip(1);
    let filter = args.find(|arg| !arg.starts_with('-') && arg != "cpu");
    // As a forward pass should: on a thread of the pool.
    on_workers(&Device::flex(), || tables(filter));
}

fn tables(filter: Option<String>) {
    let wanted = |name: &str| {
        filter
            .as_ref()
            .is_none_or(|filter| name.contains(filter.as_str()))
    };
    let bandwidth = read_bandwidth();
    let gemm = matmul_rate(2048, 2048, 2048);
    println!(
        "{} threads, memory read {bandwidth:.1} GB/s, f32 2048^3 by Burn {gemm:.0} GFLOP/s",
        rayon::current_num_threads()
    );
    if wanted("linear") {
        many_rows();
    }
    if wanted("gemv") {
        few_rows(bandwidth);
    }
    if wanted("rows") {
        small_operations();
    }
    if wanted("selection") {
        selection();
    }
    if wanted("gradients") {
        gradients();
    }
}

/// Median seconds of `run`, called until half a second or 25 calls have passed.
fn median<T>(mut run: impl FnMut() -> T) -> f64 {
    std::hint::black_box(run());
    if std::env::args().any(|arg| arg == "cpu") {
        return cpu_seconds(run);
    }
    let began = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || (times.len() < 25 && began.elapsed().as_secs_f64() < 0.5) {
        let start = Instant::now();
        std::hint::black_box(run());
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// CPU seconds of one call, divided by the threads that share it.
fn cpu_seconds<T>(mut run: impl FnMut() -> T) -> f64 {
    // Linux keeps nanoseconds on the processor as the first number of each thread's schedstat.
    let spent = || -> f64 {
        let tasks = std::fs::read_dir("/proc/self/task").expect("CPU times need Linux");
        let nanoseconds = tasks.filter_map(|task| {
            let stat = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            stat.split(' ').next()?.parse::<f64>().ok()
        });
        nanoseconds.sum::<f64>() / 1e9
    };
    let began = spent();
    let mut calls = 0;
    // Long against the scheduler's tick, which is how often the numbers move.
    while calls < 2 || spent() - began < 0.4 {
        for _ in 0..1 + calls / 8 {
            std::hint::black_box(run());
            calls += 1;
        }
    }
    (spent() - began) / (calls * rayon::current_num_threads()) as f64
}

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
}

/// Bytes a second that all threads together read, in 1e9.
fn read_bandwidth() -> f64 {
    let data = vec![1u64; 32 << 20];
    let chunk = data.len() / (4 * rayon::current_num_threads());
    let seconds = median(|| {
        data.par_chunks(chunk)
            .map(|part| {
                let mut sums = [0u64; 32];
                for line in part.chunks_exact(32) {
                    for (sum, x) in sums.iter_mut().zip(line) {
                        *sum = sum.wrapping_add(*x);
                    }
                }
                sums.iter().fold(0u64, |a, b| a.wrapping_add(*b))
            })
            .reduce(|| 0, |a, b| a.wrapping_add(b))
    });
    (data.len() * 8) as f64 / seconds / 1e9
}

fn matmul_rate(m: usize, n: usize, k: usize) -> f64 {
    let (a, b) = (random([m, k]), random([k, n]));
    let seconds = median(|| a.clone().matmul(b.clone()));
    2.0 * (m * n * k) as f64 / seconds / 1e9
}

/// A weight as checkpoints store it.
fn stored(d_input: usize, d_output: usize, dtype: DType) -> Tensor<2> {
    random([d_output, d_input]).cast(dtype).transpose()
}

fn many_rows() {
    println!("\nlinear, many rows, GFLOP/s");
    println!(
        "| rows | d_input | d_output | f32 | f16 weight | bf16 weight | Burn, f32 as stored | Burn, f32 plain |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for rows in [16, 64, 256, 512, 1024, 4096] {
        for (d_input, d_output) in [(576, 576), (576, 192), (576, 1536), (1536, 576)] {
            let x = random([rows, d_input]);
            let rate = |seconds: f64| 2.0 * (rows * d_input * d_output) as f64 / seconds / 1e9;
            let ours = |dtype| {
                let weight = stored(d_input, d_output, dtype);
                rate(median(|| linear(x.clone(), weight.clone(), None).unwrap()))
            };
            let weight = stored(d_input, d_output, DType::F32);
            let burn = rate(median(|| x.clone().matmul(weight.clone())));
            println!(
                "| {rows} | {d_input} | {d_output} | {:.0} | {:.0} | {:.0} | {burn:.0} | {:.0} |",
                ours(DType::F32),
                ours(DType::F16),
                ours(DType::BF16),
                matmul_rate(rows, d_output, d_input),
            );
        }
    }
}

fn few_rows(bandwidth: f64) {
    println!("\nlinear, few rows");
    println!("| rows | d_input | d_output | weight | us | GB/s | of memory read | Burn's us |");
    println!("|---|---|---|---|---|---|---|---|");
    let shapes = [
        (1, 576, 192),
        (1, 576, 576),
        (1, 576, 1536),
        (1, 1536, 576),
        (1, 576, 49152),
        (4, 576, 49152),
        (8, 576, 49152),
    ];
    for (rows, d_input, d_output) in shapes {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let x = random([rows, d_input]);
            let weight = stored(d_input, d_output, dtype);
            let seconds = median(|| linear(x.clone(), weight.clone(), None).unwrap());
            let bytes = d_input * d_output * dtype.size();
            let rate = bytes as f64 / seconds / 1e9;
            let burn = match dtype {
                DType::F32 => {
                    let seconds = median(|| x.clone().matmul(weight.clone()));
                    format!("{:.1}", seconds * 1e6)
                }
                _ => "-".into(),
            };
            println!(
                "| {rows} | {d_input} | {d_output} | {dtype:?} | {:.1} | {rate:.1} | {:.2} | {burn} |",
                seconds * 1e6,
                rate / bandwidth
            );
        }
    }
}

fn small_operations() {
    println!("\noperations that go over a tensor once, us");
    println!("| rows | rms_norm | silu_mul | rotate, {HEADS} heads | Burn's silu and product |");
    println!("|---|---|---|---|---|");
    for rows in [1, 512, 4096] {
        let x = random([1, rows, HEADS * HEAD_DIM]);
        let gamma = random([HEADS * HEAD_DIM]);
        let [gate, up] = [(); 2].map(|()| random([1, rows, 1536]));
        let [cos, sin] = [(); 2].map(|()| random([rows, HEAD_DIM / 2]));
        let norm = median(|| rms_norm(x.clone(), gamma.clone(), 1e-5).unwrap());
        let gated = median(|| silu_mul(gate.clone(), up.clone()).unwrap());
        let rotated = median(|| rotate(x.clone(), cos.clone(), sin.clone(), HEADS).unwrap());
        let burn = median(|| activation::silu(gate.clone()) * up.clone());
        println!(
            "| {rows} | {:.1} | {:.1} | {:.1} | {:.1} |",
            norm * 1e6,
            gated * 1e6,
            rotated * 1e6,
            burn * 1e6
        );
    }
}

/// Width of the retaining heads' hidden layer.
const WIDTH: usize = 256;

fn selection() {
    println!(
        "\nfrom a block's hidden scores to its passing block, us, and times faster than plain tensors"
    );
    println!("| rows | kept | scores | | selection | | gathering | |");
    println!("|---|---|---|---|---|---|---|---|");
    for rows in [512, 2048, 16_384] {
        let hidden = random([1, rows, WIDTH]);
        let weight = stored(WIDTH, KV_HEADS, DType::F32);
        let scores = silu_scores(hidden.clone(), weight.clone()).unwrap();
        let choice = RowChoice {
            selectable: 0..rows,
            count: rows / 8,
            window: 5,
        };
        let before = random([1, KV_HEADS, 2]);
        let [keys, values] = [(); 2].map(|()| random([1, KV_HEADS, rows, HEAD_DIM]));
        let kept = select_rows(scores.clone(), Some(before.clone()), choice.clone()).unwrap();
        let ours = [
            median(|| silu_scores(hidden.clone(), weight.clone()).unwrap()),
            median(|| select_rows(scores.clone(), Some(before.clone()), choice.clone()).unwrap()),
            median(|| gather_rows(keys.clone(), values.clone(), kept.clone()).unwrap()),
        ];
        let plain = [
            median(|| reference::silu_scores(hidden.clone(), weight.clone())),
            median(|| reference::select_rows(scores.clone(), before.clone(), choice.clone())),
            median(|| reference::gather_rows(keys.clone(), values.clone(), kept.clone())),
        ];
        print!("| {rows} | {} |", choice.count);
        for (ours, plain) in ours.iter().zip(plain) {
            print!(" {:.1} | {:.1} |", ours * 1e6, plain / ours);
        }
        println!();
    }
}

/// Forward and backward pass of causal attention, as training runs it.
fn gradients() {
    println!("\nattention and its gradients, ms");
    println!("| rows | ours | Burn's | ours of Burn's |");
    println!("|---|---|---|---|");
    for rows in [256, 1024, 2048] {
        let device = Device::flex().autodiff();
        let inputs = [(); 3].map(|()| {
            let data = random([1, HEADS, rows, HEAD_DIM]).into_data();
            Tensor::<4>::from_data(data, &device).require_grad()
        });
        let run = |attend: &dyn Fn([Tensor<4>; 3]) -> Tensor<4>| {
            median(|| attend(inputs.clone()).sum().backward()) * 1e3
        };
        let ours = run(&|[q, k, v]| attention(q, k, v, Regions::causal()).unwrap().out);
        let burn = run(&|[q, k, v]| {
            let options = AttentionModuleOptions {
                is_causal: true,
                ..Default::default()
            };
            module::attention(q, k, v, None, None, options)
        });
        println!("| {rows} | {ours:.1} | {burn:.1} | {:.2} |", ours / burn);
    }
}
