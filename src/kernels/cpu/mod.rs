//! The operations on Flex: vector instructions chosen at run time, work shared by rayon's threads.
//!
//! Everything under here is pointers and strides of tensors that have been checked, so whole functions
//! are unsafe, and what they rely on stands in their documentation.
#![allow(unsafe_op_in_unsafe_fn)]

mod attention;
mod dots;
mod linear;
mod panels;
mod rows;
mod scratch;
mod simd;
mod tile;
mod view;
#[cfg(target_arch = "x86_64")]
mod x86;

use burn_flex::{Flex, FlexTensor};

use self::simd::Level;
use super::Regions;
use super::extension::{AttentionPrimitives, Kernels};

impl Kernels for Flex {
    fn attend(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        regions: Regions,
    ) -> AttentionPrimitives<Self> {
        attention::attend(q, k, v, regions, Level::best())
    }

    fn linear_plain(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        linear(x, weight, None)
    }

    fn linear_bias(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        linear(x, weight, Some(bias))
    }

    fn normalise(x: FlexTensor, gamma: FlexTensor, eps: f64) -> FlexTensor {
        rows::normalise(x, &gamma, eps, Level::best())
    }

    fn gate(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        rows::gate(gate, up, Level::best())
    }

    fn rotate_half(x: FlexTensor, cos: FlexTensor, sin: FlexTensor, heads: usize) -> FlexTensor {
        rows::rotate(x, cos, sin, heads, Level::best())
    }
}

fn linear(x: FlexTensor, weight: FlexTensor, bias: Option<FlexTensor>) -> FlexTensor {
    match linear::is_stored_by_output(&weight) {
        true => linear::linear(x, &weight, bias.as_ref(), Level::best()),
        false => linear::linear_elsewhere(x, weight, bias),
    }
}
