//! One decoder block, in the two halves between which ranks exchange keys and values.

use burn::module::Module;
use burn::nn::RmsNorm;
use burn::tensor::{Device, Tensor};

use super::attention::{Attention, Projections};
use super::config::DecoderConfig;
use super::mlp::Mlp;
use super::norm::{add_normalize, normalize, rms_norm};
use super::rope::RopeTables;
use crate::kernels::{self, KernelError};

/// Pre-norm attention and MLP with residual connections.
#[derive(Module, Debug)]
pub struct Block {
    /// Norm before the attention.
    pub input_layernorm: RmsNorm,
    /// The attention's projections.
    pub self_attn: Attention,
    /// Norm before the MLP.
    pub post_attention_layernorm: RmsNorm,
    /// The MLP.
    pub mlp: Mlp,
}

impl Block {
    /// Initialises the block with random weights.
    pub fn new(config: &DecoderConfig, device: &Device) -> Self {
        let norm = || rms_norm(config.hidden_size, config.rms_norm_eps, device);
        Self {
            input_layernorm: norm(),
            self_attn: Attention::new(config, device),
            post_attention_layernorm: norm(),
            mlp: Mlp::new(config, device),
        }
    }

    /// Whether its weights are quantised.
    pub(crate) fn is_quantized(&self) -> bool {
        self.mlp.gate_proj.float().is_none()
    }

    /// The first half: queries, keys and values of hidden rows `[batch, seq, hidden]`.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the rows do not have the block's width, or `rope` other rows.
    pub fn project(
        &self,
        hidden: Tensor<3>,
        rope: &RopeTables,
    ) -> Result<Projections, KernelError> {
        let normed = normalize(&self.input_layernorm, hidden)?;
        self.self_attn.project(normed, rope)
    }

    /// The second half: `hidden` is the block's input, `attention` the joined heads' outputs
    /// `[batch, seq, heads * head_dim]`. Returns the block's output `[batch, seq, hidden]`.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the rows do not have the block's widths.
    pub fn finish(
        &self,
        hidden: Tensor<3>,
        attention: Tensor<3>,
    ) -> Result<Tensor<3>, KernelError> {
        let attended = self.self_attn.output(attention)?;
        if hidden.dims() != attended.dims() {
            let expected = format!("as the attention's {:?}", attended.dims());
            let found = hidden.dims();
            return Err(KernelError::shape("finish", "hidden", expected, &found));
        }
        let (hidden, normed) = add_normalize(&self.post_attention_layernorm, hidden, attended)?;
        Ok(kernels::add(hidden, self.mlp.forward(normed)?))
    }
}
