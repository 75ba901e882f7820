//! APB attention as a Burn module, for decoders that are not this crate's.

use burn::config::Config;
use burn::module::Module;
use burn::nn::{Linear, RmsNorm};
use burn::tensor::{Device, Tensor};

use super::{AnchorHeads, PrefillPass, QueryPass, regions};
use crate::apb::error::SessionError;
use crate::apb::heads::RetainingHead;
use crate::apb::passing::Selection;
use crate::kernels::{AttentionOutput, KernelError};
use crate::model::{
    HiddenRows, LayerAttention, Projections, RopeTables, apply, linear, project, rms_norm,
};
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
        let norm = || (self.qk_norm).map(|epsilon| rms_norm(self.head_dim, epsilon, device));
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
        let flat = [
            apply(&self.q_proj, hidden.clone())?,
            apply(&self.k_proj, hidden.clone())?,
            apply(&self.v_proj, hidden)?,
        ];
        project(flat, norms, [self.heads, self.kv_heads], rope)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apb::attention::passes;
    use crate::apb::compressor::Compressor;
    use crate::apb::config::{CompressorConfig, Document, Method, PrefillConfig};
    use crate::apb::plan::PrefillPlan;
    use crate::model::{AttentionShape, KvCache, KvDType, Rope, RopeConfig};
    use burn::tensor::Distribution;

    const SHAPE: AttentionShape = AttentionShape {
        layers: 1,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
    };
    const HIDDEN: usize = 24;
    const TOKENS: usize = 40;

    fn attention(device: &Device) -> ApbAttention {
        device.seed(3);
        ApbAttentionConfig::new(HIDDEN, SHAPE.heads, SHAPE.kv_heads, SHAPE.head_dim)
            .with_retaining_width(Some(16))
            .init(device)
    }

    fn rope() -> Rope {
        RopeConfig::new().init(SHAPE.head_dim, TOKENS + 8)
    }

    fn plan(method: Method) -> PrefillPlan {
        let document = Document::new(vec![1; TOKENS]).with_anchor_query([1, 2]);
        let heads = "heads.safetensors".into();
        let config = PrefillConfig::new(method, 4)
            .with_compressor(CompressorConfig::Retaining { heads })
            .with_anchor(6)
            .with_passing(3);
        config.plan(&document, SHAPE).unwrap()
    }

    /// The output of each rank for hidden rows `[1, tokens, hidden]`; the anchor's rows are the
    /// document's first.
    fn prefill(
        attention: &ApbAttention,
        hidden: &Tensor<3>,
        plan: &PrefillPlan,
        compressor: Option<&dyn Compressor>,
    ) -> (Vec<Tensor<3>>, KvCache) {
        let device = hidden.device();
        let mut group = RankGroup::local(plan.ranks);
        let mut cache = KvCache::new(SHAPE, 1, TOKENS + 8, KvDType::F32, &device).unwrap();
        let layout = passes(plan, group.ranks(), compressor, TOKENS).remove(0);
        let rows: Vec<HiddenRows> = (layout.ranks.iter())
            .map(|rows| {
                let ranges = rows.positions();
                let parts = ranges
                    .iter()
                    .map(|range| hidden.clone().slice([0..1, range.clone(), 0..HIDDEN]));
                HiddenRows {
                    hidden: Tensor::cat(parts.collect(), 1),
                    rope: rope().tables(ranges.iter().cloned().flatten(), &device),
                }
            })
            .collect();
        let mut pass = PrefillPass::new(plan, &layout, compressor, &mut group, &mut cache);
        let output = attention.prefill(0, &rows, &mut pass).unwrap().unwrap();
        drop(pass);
        (output, cache)
    }

    fn assert_near(found: Tensor<3>, expected: Tensor<3>) {
        let found = found.into_data();
        found.assert_approx_eq::<f32>(
            &expected.into_data(),
            burn::tensor::Tolerance::absolute(1e-5),
        );
    }

    #[test]
    fn a_full_prefill_and_steps_are_causal_attention() {
        let device = Device::flex();
        let attention = attention(&device);
        let all = [1, TOKENS + 3, HIDDEN];
        let hidden = Tensor::<3>::random(all, Distribution::Default, &device);
        let expected = attention
            .forward(hidden.clone(), &rope().tables(0..TOKENS + 3, &device))
            .unwrap();
        let (output, mut cache) = prefill(&attention, &hidden, &plan(Method::Full), None);
        let rows = |tensor: &Tensor<3>, from, to| tensor.clone().slice([0..1, from..to, 0..HIDDEN]);
        assert_near(output[0].clone(), rows(&expected, 0, TOKENS));

        let mut group = RankGroup::local(1);
        for (from, to) in [(TOKENS, TOKENS + 2), (TOKENS + 2, TOKENS + 3)] {
            let mut pass = QueryPass::new(&mut group, &mut cache, TOKENS);
            let next = HiddenRows {
                hidden: rows(&hidden, from, to),
                rope: rope().tables(from..to, &device),
            };
            let found = attention.step(0, next, &mut pass).unwrap();
            assert_near(found, rows(&expected, from, to));
        }
    }

    /// The retaining head of the module, or the same head as the compressor of the pass.
    #[test]
    fn the_layers_own_head_scores_its_rows() {
        let device = Device::flex();
        let attention = attention(&device);
        let hidden = Tensor::<3>::random([1, TOKENS, HIDDEN], Distribution::Default, &device);
        let plan = plan(Method::Apb);
        let (own, _) = prefill(&attention, &hidden, &plan, None);
        let head = attention.retaining_head().unwrap();
        let mut without = attention.clone();
        (without.fc1, without.fc2) = (None, None);
        let (given, _) = prefill(&without, &hidden, &plan, Some(&head));
        assert_eq!(own.len(), 4);
        for (own, given) in own.iter().zip(given) {
            assert_near(own.clone(), given);
        }
        // What is passed on matters: without it the last rank's output is another.
        let mut nothing = plan.clone();
        nothing.passing = 0;
        let (nothing, _) = prefill(&without, &hidden, &nothing, None);
        let difference = (own[3].clone() - nothing[3].clone()).abs().max();
        let difference = difference.into_scalar::<f32>();
        assert!(difference > 1e-4, "{difference}");
    }
}
