//! The decoder: embedding, blocks, final norm and output head.

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Linear, RmsNorm, RmsNormConfig};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::attention::{Attention, apply, linear};
use super::block::Block;
use super::cache::{CacheFull, KvCache};
use super::config::DecoderConfig;
use super::norm::normalize;
use super::rope::{Rope, RopeTables};
use crate::kernels::{self, KernelError, Regions};

/// Why a pass could not be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// The rows do not fit the cache.
    #[error(transparent)]
    Cache(#[from] CacheFull),
    /// The rows do not fit the layers, or the cache is of another model.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// A Llama or Qwen decoder.
///
/// Module and parameter names are Hugging Face's, less the leading `model.`; the gain of a norm is
/// `gamma`, as everywhere in Burn.
#[derive(Module, Debug)]
pub struct Decoder {
    /// Token embedding `[vocab, hidden]`.
    pub embed_tokens: Embedding,
    /// The blocks, first to last.
    pub layers: Vec<Block>,
    /// Norm of the last block's output.
    pub norm: RmsNorm,
    /// Output head; none when the embedding matrix serves.
    pub lm_head: Option<Linear>,
}

impl DecoderConfig {
    /// Initialises a decoder with random weights, allocated when first used.
    pub fn init(&self, device: &Device) -> Decoder {
        Decoder {
            embed_tokens: EmbeddingConfig::new(self.vocab_size, self.hidden_size).init(device),
            layers: (0..self.num_hidden_layers)
                .map(|_| Block::new(self, device))
                .collect(),
            norm: RmsNormConfig::new(self.hidden_size)
                .with_epsilon(self.rms_norm_eps)
                .init(device),
            lm_head: (!self.tie_word_embeddings)
                .then(|| linear(self.hidden_size, self.vocab_size, false, device)),
        }
    }
}

impl Decoder {
    /// Embeds tokens `[batch, seq]` into hidden rows `[batch, seq, hidden]`.
    pub fn embed(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        self.embed_tokens.forward(tokens)
    }

    /// Embeds one sequence of token ids: `[1, seq, hidden]`.
    pub fn embed_ids(&self, ids: &[u32]) -> Tensor<3> {
        let ids: Vec<i32> = ids.iter().map(|id| id.cast_signed()).collect();
        let seq = ids.len();
        let device = self.embed_tokens.weight.lazy_device();
        self.embed(Tensor::from_data(
            TensorData::new(ids, [1, seq]),
            (&device, DType::I32),
        ))
    }

    /// Runs tokens `[batch, seq]` that follow what `cache` holds, with causal attention, and
    /// appends them to the cache. Returns the final norm's output `[batch, seq, hidden]`.
    ///
    /// # Errors
    ///
    /// [`ForwardError::Cache`] when the tokens do not fit the cache.
    pub fn forward(
        &self,
        tokens: Tensor<2, Int>,
        rope: &Rope,
        cache: &mut KvCache,
    ) -> Result<Tensor<3>, ForwardError> {
        let hidden = self.embed(tokens);
        self.forward_embedded(hidden, rope, cache)
    }

    /// [`Self::forward`] of rows that are embedded already, `[batch, seq, hidden]`.
    ///
    /// # Errors
    ///
    /// [`ForwardError::Cache`] when the rows do not fit the cache.
    pub fn forward_embedded(
        &self,
        mut hidden: Tensor<3>,
        rope: &Rope,
        cache: &mut KvCache,
    ) -> Result<Tensor<3>, ForwardError> {
        let start = cache.len();
        let seq = hidden.dims()[1];
        let needed = start + seq;
        if needed > cache.capacity() {
            return Err(CacheFull {
                capacity: cache.capacity(),
                needed,
            }
            .into());
        }
        let device = hidden.device();
        let rope = rope.tables(start..needed, &device);
        kernels::on_workers(&device, || {
            for layer in 0..self.layers.len() {
                let attention = self.attend(layer, hidden.clone(), &rope, cache)?;
                hidden = self.layers[layer].finish(hidden, attention)?;
            }
            Ok(self.final_norm(hidden)?)
        })
    }

    /// Causal attention of a layer over the cache and the rows `[batch, seq, hidden]`, which are
    /// appended to it. Returns the joined heads `[batch, seq, heads * head_dim]`, before the output
    /// projection.
    ///
    /// # Errors
    ///
    /// [`ForwardError::Cache`] when the rows do not fit the cache.
    pub fn attend(
        &self,
        layer: usize,
        hidden: Tensor<3>,
        rope: &RopeTables,
        cache: &mut KvCache,
    ) -> Result<Tensor<3>, ForwardError> {
        let projections = self.layers[layer].project(hidden, rope)?;
        let (keys, values) = cache.append(layer, projections.key, projections.value)?;
        let attended = kernels::attention(projections.query, keys, values, Regions::causal())?;
        Ok(Attention::join_heads(attended.out))
    }

    /// The norm after the last block, `[batch, seq, hidden]`.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the rows do not have the model's width.
    pub fn final_norm(&self, hidden: Tensor<3>) -> Result<Tensor<3>, KernelError> {
        normalize(&self.norm, hidden)
    }

    /// Logits `[batch, seq, vocab]` of normalised rows `[batch, seq, hidden]`. Pass only the rows
    /// that are sampled: a row of logits is as long as the vocabulary.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the rows do not have the model's width.
    pub fn logits(&self, hidden: Tensor<3>) -> Result<Tensor<3>, KernelError> {
        kernels::on_workers(&hidden.device(), || match &self.lm_head {
            Some(head) => apply(head, hidden),
            None => kernels::linear(hidden, self.embed_tokens.weight.val().transpose(), None),
        })
    }
}
