//! The decoder: embedding, blocks, final norm and output head.

use std::ops::Range;

use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::{EmbeddingConfig, RmsNorm};
use burn::tensor::{Device, FloatDType, Int, Tensor};

use super::attention::{Projections, join_heads, linear};
use super::block::Block;
use super::cache::{CacheError, CacheFull, KvCache};
use super::causal_lm::{CausalLm, HiddenRows, LayerAttention, forward_layers};
use super::config::DecoderConfig;
use super::norm::{normalize, rms_norm};
use super::projection::{Projection, TokenEmbedding};
use super::rope::{Rope, RopeTables};
use super::shape::AttentionShape;
use crate::kernels::{self, KernelError, Regions, is_cpu};

/// Why a pass could not be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// The rows do not fit the cache, or it is of another model.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The rows do not fit the layers.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A token without an embedding.
    #[error(
        "token {id} is beyond the model's vocabulary of {vocab_size}; is the tokenizer this model's own?"
    )]
    Token {
        /// The token.
        id: i64,
        /// Entries of the vocabulary.
        vocab_size: usize,
    },
}

/// A Llama or Qwen decoder.
///
/// Module and parameter names are Hugging Face's, less the leading `model.`; the gain of a norm is
/// `gamma`, as everywhere in Burn.
#[derive(Module, Debug)]
pub struct Decoder {
    /// Token embedding `[vocab, hidden]`.
    pub embed_tokens: TokenEmbedding,
    /// The blocks, first to last.
    pub layers: Vec<Block>,
    /// Norm of the last block's output.
    pub norm: RmsNorm,
    /// Output head; none when the embedding matrix serves.
    pub lm_head: Option<Projection>,
    /// What it was made from.
    #[module(skip)]
    pub config: DecoderConfig,
}

impl DecoderConfig {
    /// Initialises a decoder with random weights, allocated when first used.
    pub fn init(&self, device: &Device) -> Decoder {
        Decoder {
            embed_tokens: EmbeddingConfig::new(self.vocab_size, self.hidden_size)
                .init(device)
                .into(),
            layers: (0..self.num_hidden_layers)
                .map(|_| Block::new(self, device))
                .collect(),
            norm: rms_norm(self.hidden_size, self.rms_norm_eps, device),
            lm_head: (!self.tie_word_embeddings)
                .then(|| linear(self.hidden_size, self.vocab_size, false, device).into()),
            config: self.clone(),
        }
    }
}

impl Decoder {
    /// Logits `[batch, seq, vocab]` of tokens `[batch, seq]` with causal attention, with a gradient.
    ///
    /// # Errors
    ///
    /// [`ForwardError::Kernel`] when a kernel refuses its arguments; on the CPU [`ForwardError::Token`] for a token
    /// beyond the vocabulary, which a GPU does not look for.
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Result<Tensor<3>, ForwardError> {
        self.check_ids(&tokens)?;
        let hidden = self.forward_embedded(self.embed(tokens)?)?;
        Ok(self.logits(hidden)?)
    }

    /// The final norm's output `[batch, seq, hidden]` of rows that are embedded already,
    /// `[batch, seq, hidden]`, with causal attention and a gradient.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the rows do not have the model's width.
    pub fn forward_embedded(&self, hidden: Tensor<3>) -> Result<Tensor<3>, KernelError> {
        let mut attention = Causal(None);
        let [_, seq, _] = hidden.dims();
        self.run(hidden, 0..seq, &self.config.rope(seq), &mut attention)
    }

    /// The final norm's output `[batch, seq, hidden]` of tokens `[batch, seq]` that follow what `cache`
    /// holds, with causal attention; their keys and values are appended to it.
    ///
    /// # Errors
    ///
    /// [`ForwardError::Cache`] when the tokens do not fit the cache, or it is of another model; on the CPU
    /// [`ForwardError::Token`] for a token beyond the vocabulary.
    pub fn forward_cached(
        &self,
        tokens: Tensor<2, Int>,
        rope: &Rope,
        cache: &mut KvCache,
    ) -> Result<Tensor<3>, ForwardError> {
        self.check_ids(&tokens)?;
        let (start, capacity) = (cache.len(), cache.capacity());
        let needed = start + tokens.dims()[1];
        let layers = self.layers.len();
        if cache.layers() != layers {
            let (layer, layers) = (layers, cache.layers());
            return Err(CacheError::Layer { layer, layers }.into());
        }
        if needed > capacity {
            return Err(CacheError::from(CacheFull { capacity, needed }).into());
        }
        let mut attention = Cached {
            cache,
            attended: None,
        };
        self.run(self.embed(tokens)?, start..needed, rope, &mut attention)
    }

    /// Bytes of the weights.
    pub fn weight_bytes(&self) -> usize {
        struct Bytes(usize);
        impl ModuleVisitor for Bytes {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.0 += param.lazy_shape().num_elements() * param.val().dtype().size();
            }
            fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
                self.0 += param.lazy_shape().num_elements() * param.val().dtype().size();
            }
        }
        let mut bytes = Bytes(0);
        self.visit(&mut bytes);
        bytes.0
    }

    /// The linear layers with their paths in the module, first to last.
    pub fn projections_mut(&mut self) -> Vec<(String, &mut Projection)> {
        let mut all = Vec::new();
        for (i, block) in self.layers.iter_mut().enumerate() {
            let (attention, mlp) = (&mut block.self_attn, &mut block.mlp);
            all.extend([
                (
                    format!("layers.{i}.self_attn.q_proj"),
                    &mut attention.q_proj,
                ),
                (
                    format!("layers.{i}.self_attn.k_proj"),
                    &mut attention.k_proj,
                ),
                (
                    format!("layers.{i}.self_attn.v_proj"),
                    &mut attention.v_proj,
                ),
                (
                    format!("layers.{i}.self_attn.o_proj"),
                    &mut attention.o_proj,
                ),
                (format!("layers.{i}.mlp.gate_proj"), &mut mlp.gate_proj),
                (format!("layers.{i}.mlp.up_proj"), &mut mlp.up_proj),
                (format!("layers.{i}.mlp.down_proj"), &mut mlp.down_proj),
            ]);
        }
        all.extend(
            self.lm_head
                .as_mut()
                .map(|head| ("lm_head".to_string(), head)),
        );
        all
    }

    /// Refuses tokens without an embedding, where looking does not wait for a device.
    fn check_ids(&self, tokens: &Tensor<2, Int>) -> Result<(), ForwardError> {
        if !is_cpu(&tokens.device()) {
            return Ok(());
        }
        let vocab_size = self.embed_tokens.vocab_size();
        let beyond = |id: &i64| usize::try_from(*id).map_or(true, |id| id >= vocab_size);
        match tokens.to_data().iter::<i64>().find(beyond) {
            Some(id) => Err(ForwardError::Token { id, vocab_size }),
            None => Ok(()),
        }
    }

    fn run<A: LayerAttention>(
        &self,
        hidden: Tensor<3>,
        positions: Range<usize>,
        rope: &Rope,
        attention: &mut A,
    ) -> Result<Tensor<3>, A::Error> {
        let device = hidden.device();
        let rope = rope.tables(positions, &device);
        let mut rows = [HiddenRows { hidden, rope }];
        attention.compute(&device, |attention| {
            forward_layers(self, &mut rows, attention, |_, _, _| Ok(()))
        })?;
        let [HiddenRows { hidden, .. }] = rows;
        Ok(self.final_norm(hidden)?)
    }
}

/// Causal attention of one sequence over itself.
struct Causal(Option<Projections>);

impl LayerAttention for Causal {
    type Error = KernelError;

    fn push(&mut self, _: usize, _: usize, projections: Projections) -> Result<(), KernelError> {
        self.0 = Some(projections);
        Ok(())
    }

    fn attend(&mut self, _: usize) -> Result<Option<Vec<Tensor<3>>>, KernelError> {
        let attended = self.0.take().map(Projections::attend).transpose()?;
        Ok(attended.map(|rows| vec![rows]))
    }
}

/// Causal attention of one sequence over a cache that it is appended to.
struct Cached<'c> {
    cache: &'c mut KvCache,
    attended: Option<Tensor<3>>,
}

impl LayerAttention for Cached<'_> {
    type Error = ForwardError;

    fn push(
        &mut self,
        layer: usize,
        _: usize,
        projections: Projections,
    ) -> Result<(), ForwardError> {
        let Projections {
            query, key, value, ..
        } = projections;
        let cached = self.cache.append(layer, key, value)?;
        let attended = cached.attend(query, Regions::causal())?;
        self.attended = Some(join_heads(attended.out));
        Ok(())
    }

    fn attend(&mut self, _: usize) -> Result<Option<Vec<Tensor<3>>>, ForwardError> {
        Ok(self.attended.take().map(|rows| vec![rows]))
    }
}

impl CausalLm for Decoder {
    fn shape(&self) -> AttentionShape {
        (&self.config).into()
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn device(&self) -> Device {
        self.embed_tokens.device()
    }

    fn dtype(&self) -> FloatDType {
        match self.embed_tokens.float() {
            Some(embedding) => embedding.weight.val().dtype().into(),
            None => self.norm.gamma.val().dtype().into(),
        }
    }

    /// On a CPU bf16 beside quantised weights, whose rounding is coarser. Not every other device has bf16.
    fn kv_dtype(&self) -> FloatDType {
        let quantized = self
            .layers
            .first()
            .is_some_and(|block| block.is_quantized());
        match (quantized && is_cpu(&self.device()), self.dtype()) {
            (true, FloatDType::F32) => FloatDType::BF16,
            (_, dtype) => dtype,
        }
    }

    fn rope(&self, context: usize) -> Rope {
        self.config.rope(context)
    }

    fn embed(&self, tokens: Tensor<2, Int>) -> Result<Tensor<3>, KernelError> {
        self.embed_tokens.rows(tokens, self.dtype())
    }

    fn project(
        &self,
        layer: usize,
        hidden: Tensor<3>,
        rope: &RopeTables,
    ) -> Result<Projections, KernelError> {
        self.layers[layer].project(hidden, rope)
    }

    fn finish(
        &self,
        layer: usize,
        hidden: Tensor<3>,
        attended: Tensor<3>,
    ) -> Result<Tensor<3>, KernelError> {
        self.layers[layer].finish(hidden, attended)
    }

    fn final_norm(&self, hidden: Tensor<3>) -> Result<Tensor<3>, KernelError> {
        normalize(&self.norm, hidden)
    }

    fn logits(&self, hidden: Tensor<3>) -> Result<Tensor<3>, KernelError> {
        kernels::on_workers(&hidden.device(), || match &self.lm_head {
            Some(head) => head.forward(hidden),
            None => self.embed_tokens.logits(hidden),
        })
    }
}
