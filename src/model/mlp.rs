//! The gated MLP of Llama and Qwen (SwiGLU, Shazeer 2020, arXiv 2002.05202).

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};

use super::attention::{apply, linear};
use super::config::DecoderConfig;
use crate::kernels::{self, KernelError};

/// `down(silu(gate(x)) * up(x))`.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `hidden -> intermediate`, through SiLU.
    pub gate_proj: Linear,
    /// `hidden -> intermediate`.
    pub up_proj: Linear,
    /// `intermediate -> hidden`.
    pub down_proj: Linear,
}

impl Mlp {
    /// Initialises the layer with random weights.
    pub fn new(config: &DecoderConfig, device: &Device) -> Self {
        let (hidden, width, bias) = (
            config.hidden_size,
            config.intermediate_size,
            config.mlp_bias,
        );
        Self {
            gate_proj: linear(hidden, width, bias, device),
            up_proj: linear(hidden, width, bias, device),
            down_proj: linear(width, hidden, bias, device),
        }
    }

    /// `[batch, seq, hidden] -> [batch, seq, hidden]`.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the rows do not have the layer's width.
    pub fn forward(&self, hidden: Tensor<3>) -> Result<Tensor<3>, KernelError> {
        let gate = apply(&self.gate_proj, hidden.clone())?;
        let up = apply(&self.up_proj, hidden)?;
        apply(&self.down_proj, kernels::silu_mul(gate, up)?)
    }
}
