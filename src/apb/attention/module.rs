//! APB attention as a Burn module, for decoders that are not this crate's.

use burn::config::Config;
use burn::module::Module;
use burn::nn::{Linear, RmsNorm, RmsNormConfig};
use burn::tensor::{Device, Tensor};

use super::{AnchorHeads, PrefillPass, QueryPass, regions};
use crate::apb::error::SessionError;
use crate::apb::heads::RetainingHead;
use crate::apb::passing::Selection;
use crate::kernels::{AttentionOutput, KernelError};
use crate::model::{HiddenRows, LayerAttention, Projections, RopeTables, apply, linear, project};
use crate::ranks::RankGroup;

/// Configuration of [`ApbAttention`].
#[derive(Config, Debug)]
pub struct ApbAttentionConfig {
    /// Width of the hidden rows.
    pub hidden_size: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; they divide the query heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Whether query, key and value projections have biases.
    #[config(default = false)]
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    #[config(default = false)]
    pub output_bias: bool,
    /// Epsilon of the norms of query and key heads (Qwen3); none: no norms.
    #[config(default = "None")]
    pub qk_norm: Option<f64>,
    /// Hidden width R of the retaining head; none: the layer has no retaining head.
    #[config(default = "None")]
    pub retaining_width: Option<usize>,
}

impl ApbAttentionConfig {
    /// Initialises the layer with random weights.
    pub fn init(&self, device: &Device) -> ApbAttention {
        let (hidden, q_width) = (self.hidden_size, self.heads * self.head_dim);
        let kv_width = self.kv_heads * self.head_dim;
        let norm = || {
            let config = |epsilon| RmsNormConfig::new(self.head_dim).with_epsilon(epsilon);
            self.qk_norm.map(|epsilon| config(epsilon).init(device))
        };
        let head = self.retaining_width.map(|width| {
            let projections = q_width + 2 * kv_width;
            (
                linear(projections, width, false, device),
                linear(width, self.kv_heads, false, device),
            )
        });
        let (fc1, fc2) = head.unzip();
        ApbAttention {
            q_proj: linear(hidden, q_width, self.qkv_bias, device),
            k_proj: linear(hidden, kv_width, self.qkv_bias, device),
            v_proj: linear(hidden, kv_width, self.qkv_bias, device),
            o_proj: linear(q_width, hidden, self.output_bias, device),
            q_norm: norm(),
            k_norm: norm(),
            fc1,
            fc2,
            heads: self.heads,
            kv_heads: self.kv_heads,
        }
    }
}

/// Grouped-query attention that prefills by APB (arXiv 2502.12085): anchor, passing and local blocks.
///
/// Parameters have the names of Hugging Face's attention, and of the published retaining heads.
/// [`forward`](Self::forward) is ordinary causal attention, for training. [`prefill`](Self::prefill)
/// computes the rows of all ranks that this process drives, by the method of the pass's plan: full,
/// ring, Ulysses and Star attention as well as APB. [`step`](Self::step) computes rows that follow the
/// document.
///
/// APB's steps are [`project`](Self::project), [`score`](Self::score), [`select`](Self::select),
/// [`exchange`](Self::exchange) and [`attend`](Self::attend).
#[derive(Module, Debug)]
pub struct ApbAttention {
    /// Queries: `hidden -> heads * head_dim`.
    pub q_proj: Linear,
    /// Keys: `hidden -> kv_heads * head_dim`.
    pub k_proj: Linear,
    /// Values: `hidden -> kv_heads * head_dim`.
    pub v_proj: Linear,
    /// Output: `heads * head_dim -> hidden`.
    pub o_proj: Linear,
    /// Norm of each query head (Qwen3).
    pub q_norm: Option<RmsNorm>,
    /// Norm of each key head (Qwen3).
    pub k_norm: Option<RmsNorm>,
    /// First matrix of the retaining head: `(heads + 2 * kv_heads) * head_dim -> width`.
    pub fc1: Option<Linear>,
    /// Second matrix of the retaining head: `width -> kv_heads`.
    pub fc2: Option<Linear>,
    heads: usize,
    kv_heads: usize,
}

impl ApbAttention {
    /// Causal attention over normalised hidden rows `[batch, seq, hidden]`, with a gradient:
    /// `[batch, seq, hidden]`.
    ///
    /// # Errors
    ///
    /// As [`Self::project`].
    pub fn forward(&self, hidden: Tensor<3>, rope: &RopeTables) -> Result<Tensor<3>, KernelError> {
        self.output(self.project(hidden, rope)?.attend()?)
    }

    /// One layer of a prefill: `ranks` holds the normalised hidden rows `[batch, rows, hidden]` of each
    /// rank of the pass, `[anchor | local]`. Returns the layer's output `[batch, rows, hidden]` for
    /// each; none where the pass ends with this layer's keys and values.
    ///
    /// Rows are scored by the layer's own retaining head, where it has one, else by the compressor of
    /// the pass.
    ///
    /// # Errors
    ///
    /// [`SessionError`] when rows do not fit the layer or the cache, or an exchange fails.
    pub fn prefill(
        &self,
        layer: usize,
        ranks: &[HiddenRows],
        pass: &mut PrefillPass<'_>,
    ) -> Result<Option<Vec<Tensor<3>>>, SessionError> {
        let head = self.retaining_head();
        for (index, rows) in ranks.iter().enumerate() {
            let projections = self.project(rows.hidden.clone(), &rows.rope)?;
            match &head {
                Some(head) => pass.push_scored(layer, index, projections, Some(head))?,
                None => pass.push(layer, index, projections)?,
            }
        }
        let attended = pass.attend(layer)?;
        let output = |rows: Vec<Tensor<3>>| rows.into_iter().map(|rows| self.output(rows));
        Ok(attended
            .map(|rows| output(rows).collect::<Result<_, _>>())
            .transpose()?)
    }

    /// One layer of rows that follow the document: normalised hidden rows `[batch, seq, hidden]` attend
    /// to what all processes hold and causally to themselves. Returns `[batch, seq, hidden]`.
    ///
    /// # Errors
    ///
    /// As [`Self::prefill`].
    pub fn step(
        &self,
        layer: usize,
        rows: HiddenRows,
        pass: &mut QueryPass<'_>,
    ) -> Result<Tensor<3>, SessionError> {
        let projections = self.project(rows.hidden, &rows.rope)?;
        pass.push(layer, 0, projections)?;
        let attended = pass.attend(layer)?.and_then(|mut rows| rows.pop());
        Ok(self.output(attended.ok_or(SessionError::NoDocument)?)?)
    }

    /// Queries, keys and values of normalised hidden rows `[batch, seq, hidden]`, rotated by the rows'
    /// positions.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the rows do not have the layer's width, or `rope` other rows.
    pub fn project(
        &self,
        hidden: Tensor<3>,
        rope: &RopeTables,
    ) -> Result<Projections, KernelError> {
        let norms = [self.q_norm.as_ref(), self.k_norm.as_ref()];
        let linears = [&self.q_proj, &self.k_proj, &self.v_proj];
        project(linears, norms, [self.heads, self.kv_heads], hidden, rope)
    }

    /// Raw scores `[batch, kv_heads, rows]` of projected rows by the layer's retaining head; none where
    /// it has none.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the projections are not as wide as the head reads.
    pub fn score(&self, rows: &Projections) -> Result<Option<Tensor<3>>, KernelError> {
        let head = self.retaining_head();
        head.map(|head| head.score_projections(rows)).transpose()
    }

    /// The `count` local rows with the highest pooled scores for each KV head; see
    /// [`Selection::highest`].
    ///
    /// # Errors
    ///
    /// [`KernelError`] when shapes or dtypes do not fit.
    pub fn select(
        scores: Tensor<3>,
        before: Option<Tensor<3>>,
        selectable: std::ops::Range<usize>,
        count: usize,
    ) -> Result<Selection, KernelError> {
        Selection::highest(scores, before, selectable, count)
    }

    /// Gathers the packed passing blocks `[2 * batch, kv_heads, l_p, head_dim]` of all ranks, in their
    /// order, from those of the ranks that this process drives.
    ///
    /// # Errors
    ///
    /// [`SessionError::Rank`] when the exchange fails.
    pub fn exchange(
        group: &mut RankGroup,
        blocks: Vec<Tensor<4>>,
    ) -> Result<Vec<Tensor<4>>, SessionError> {
        let pending = group.start_all_gather(blocks)?;
        Ok(group.finish_all_gather(pending)?)
    }

    /// Attention of queries `[batch, heads, rows, head_dim]`, `[anchor | local]` rows or local rows
    /// alone, over packed passing blocks, the anchor and the rank's own keys and values
    /// `[batch, kv_heads, rows, head_dim]`: one call of
    /// [`kernels::attention`](crate::kernels::attention).
    ///
    /// # Errors
    ///
    /// [`KernelError`] when shapes or dtypes do not fit.
    pub fn attend(
        query: Tensor<4>,
        passing: &[Tensor<4>],
        anchor: &AnchorHeads,
        local: (Tensor<4>, Tensor<4>),
    ) -> Result<AttentionOutput, KernelError> {
        regions::over_regions(query, passing, anchor, local)
    }

    /// The output projection of joined heads `[batch, seq, heads * head_dim]`.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the rows do not have the layer's width.
    pub fn output(&self, joined: Tensor<3>) -> Result<Tensor<3>, KernelError> {
        apply(&self.o_proj, joined)
    }

    /// The layer's retaining head, where it has one.
    pub fn retaining_head(&self) -> Option<RetainingHead> {
        let (fc1, fc2) = self.fc1.clone().zip(self.fc2.clone())?;
        Some(RetainingHead { fc1, fc2 })
    }
}
