//! Values to compute with, how they lie in memory, and how far results are apart.

use burn::tensor::{DType, Tensor};
use burn_apb::kernels::first_rows;

pub use crate::noise::noise;

/// How a `[batch, heads, seq, head_dim]` tensor lies in memory.
#[derive(Debug, Clone, Copy)]
pub enum Memory {
    /// In the order of its dimensions.
    Plain,
    /// As a projection leaves it: `[batch, seq, heads, head_dim]`.
    SeqFirst,
    /// A slice of a larger cache whose other rows hold NaN.
    Cache,
    /// The rows that a cache holds so far; those behind them hold NaN.
    Begun,
    /// `head_dim` is not the fastest dimension.
    Transposed,
    /// Last row first.
    Reversed,
}

pub fn laid_out(tensor: Tensor<4>, memory: Memory) -> Tensor<4> {
    let [batch, heads, seq, head_dim] = tensor.dims();
    let device = tensor.device();
    let dtype = tensor.dtype();
    let nan = |rows| Tensor::full([batch, heads, rows, head_dim], f32::NAN, (&device, dtype));
    match memory {
        Memory::Plain => tensor,
        Memory::SeqFirst => compact(tensor.swap_dims(1, 2)).swap_dims(1, 2),
        Memory::Transposed => compact(tensor.swap_dims(2, 3)).swap_dims(2, 3),
        Memory::Begun => first_rows(Tensor::cat(vec![tensor, nan(5)], 2), seq).unwrap(),
        Memory::Cache => Tensor::cat(vec![nan(3), tensor, nan(5)], 2).narrow(2, 3, seq),
        Memory::Reversed => compact(tensor.flip([2])).flip([2]),
    }
}

fn compact(tensor: Tensor<4>) -> Tensor<4> {
    let dtype = tensor.dtype();
    let device = tensor.device();
    Tensor::from_data(tensor.into_data(), (&device, dtype))
}

pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.cast(DType::F32).into_data().try_to_vec().unwrap()
}

pub fn largest_difference<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
    assert_eq!(a.dims(), b.dims());
    values(a)
        .into_iter()
        .zip(values(b))
        .map(|(a, b)| match a == b {
            // Covers infinities, whose difference is not a number.
            true => 0.0,
            false => (a - b).abs(),
        })
        .fold(0.0, |largest, x| if x <= largest { largest } else { x })
}
