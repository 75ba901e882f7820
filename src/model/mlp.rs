//! The gated MLP of Llama and Qwen (SwiGLU, Shazeer 2020, arXiv 2002.05202).

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::attention::linear;
use super::config::DecoderConfig;
use super::projection::Projection;
use crate::kernels::{self, KernelError};

/// `down(silu(gate(x)) * up(x))`.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `hidden -> intermediate`, through SiLU.
    pub gate_proj: Projection,
    /// `hidden -> intermediate`.
    pub up_proj: Projection,
    /// `intermediate -> hidden`.
    pub down_proj: Projection,
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
            gate_proj: linear(hidden, width, bias, device).into(),
            up_proj: linear(hidden, width, bias, device).into(),
            down_proj: linear(width, hidden, bias, device).into(),
        }
    }

    /// `[batch, seq, hidden] -> [batch, seq, hidden]`.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the rows do not have the layer's width.
    pub fn forward(&self, hidden: Tensor<3>) -> Result<Tensor<3>, KernelError> {
        let gate = self.gate_proj.forward(hidden.clone())?;
        let up = self.up_proj.forward(hidden)?;
        self.down_proj.forward(kernels::silu_mul(gate, up)?)
    }
}
