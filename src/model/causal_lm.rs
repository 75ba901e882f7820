//! The interface of a decoder, and the loop over its layers.
//!
//! Everything that runs a decoder does so through [`forward_layers`]: prefill over ranks, passes of
//! full attention, questions, decoding, and the features that retaining heads are trained on. They
//! differ in the [`LayerAttention`] that they give it.

use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};

use super::attention::Projections;
use super::rope::{Rope, RopeTables};
use super::shape::AttentionShape;
use crate::kernels::{KernelError, on_workers};

/// A pre-norm decoder with grouped-query attention and rotary positions, split where attention is
/// computed: what every method, session and trainer of this crate runs.
///
/// [`Decoder`](super::Decoder) implements it for Llama and Qwen. A decoder of your own needs these
/// functions and gets all prefill methods, sessions, saved sessions and training of retaining heads.
pub trait CausalLm: Send + Sync {
    /// Layers, heads and their width.
    fn shape(&self) -> AttentionShape;

    /// Entries of the vocabulary; larger token ids are refused.
    fn vocab_size(&self) -> usize;

    /// Where the weights are.
    fn device(&self) -> Device;

    /// The dtype of hidden rows: f32, unless stated otherwise.
    fn dtype(&self) -> FloatDType {
        FloatDType::F32
    }

    /// The dtype of keys and values in caches, where none is asked for: that of hidden rows, unless stated
    /// otherwise.
    fn kv_dtype(&self) -> FloatDType {
        self.dtype()
    }

    /// The rotary frequencies for sequences of up to `context` tokens.
    fn rope(&self, context: usize) -> Rope;

    /// Embeds tokens `[batch, seq]`: hidden rows `[batch, seq, hidden]`.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when tokens and embedding are on different devices.
    fn embed(&self, tokens: Tensor<2, Int>) -> Result<Tensor<3>, KernelError>;

    /// The first half of a layer: queries, keys and values of hidden rows `[batch, seq, hidden]`,
    /// rotated by the rows' positions.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the rows do not have the layer's width, or `rope` other rows.
    fn project(
        &self,
        layer: usize,
        hidden: Tensor<3>,
        rope: &RopeTables,
    ) -> Result<Projections, KernelError>;

    /// The second half of a layer: `hidden` is its input `[batch, seq, hidden]`, `attended` the joined
    /// heads `[batch, seq, heads * head_dim]`. Returns its output `[batch, seq, hidden]`.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the rows do not have the layer's widths.
    fn finish(
        &self,
        layer: usize,
        hidden: Tensor<3>,
        attended: Tensor<3>,
    ) -> Result<Tensor<3>, KernelError>;

    /// The norm after the last layer, `[batch, seq, hidden]`; none, unless stated otherwise, where
    /// [`logits`](Self::logits) normalises its rows.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the rows do not have the model's width.
    fn final_norm(&self, hidden: Tensor<3>) -> Result<Tensor<3>, KernelError> {
        Ok(hidden)
    }

    /// Logits `[batch, seq, vocab]` of rows `[batch, seq, hidden]` that [`final_norm`](Self::final_norm)
    /// returned.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the rows do not have the model's width.
    fn logits(&self, hidden: Tensor<3>) -> Result<Tensor<3>, KernelError>;

    /// Embeds one sequence of token ids: `[1, seq, hidden]`.
    ///
    /// # Errors
    ///
    /// As [`embed`](Self::embed).
    fn embed_ids(&self, ids: &[u32]) -> Result<Tensor<3>, KernelError> {
        let ids: Vec<i32> = ids.iter().map(|id| id.cast_signed()).collect();
        let seq = ids.len();
        let data = TensorData::new(ids, [1, seq]);
        self.embed(Tensor::from_data(data, (&self.device(), DType::I32)))
    }
}

/// Rows that go through the layers together: of a sequence, or of one rank.
#[derive(Debug, Clone)]
pub struct HiddenRows {
    /// `[batch, seq, hidden]`.
    pub hidden: Tensor<3>,
    /// Sines and cosines of their positions.
    pub rope: RopeTables,
}

/// A step of a layer that [`forward_layers`] itself computes, for measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerStep {
    /// A layer begins.
    Started,
    /// Norm, query, key and value projections, RoPE of `rows[i]`.
    Projected(usize),
    /// Output projection, norm and MLP of `rows[i]`.
    Finished(usize),
}

/// The attention of one pass over the layers.
pub trait LayerAttention: Send {
    /// Why it fails.
    type Error: From<KernelError> + Send;

    /// Takes the projections of `rows[index]` in a layer; called once for each of the rows, in order.
    ///
    /// # Errors
    ///
    /// What the attention needs may fail.
    fn push(
        &mut self,
        layer: usize,
        index: usize,
        projections: Projections,
    ) -> Result<(), Self::Error>;

    /// Attends: the joined heads `[batch, seq, heads * head_dim]` of all rows, in their order. None:
    /// the rows are not needed any further, and the pass ends.
    ///
    /// # Errors
    ///
    /// What the attention needs may fail.
    fn attend(&mut self, layer: usize) -> Result<Option<Vec<Tensor<3>>>, Self::Error>;

    /// Rows of one tile of a layer's second half: the MLP is several times as wide as everything else.
    fn tile(&self) -> usize {
        usize::MAX
    }

    /// Called between pieces of a layer's work, so that it can be cancelled.
    ///
    /// # Errors
    ///
    /// What ends the pass.
    fn poll(&self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// A step is done.
    ///
    /// # Errors
    ///
    /// Measuring may fail.
    fn step(&mut self, step: LayerStep) -> Result<(), Self::Error> {
        let _ = step;
        Ok(())
    }

    /// Runs a layer's work where it computes fastest.
    fn compute<T: Send>(&mut self, device: &Device, work: impl FnOnce(&mut Self) -> T + Send) -> T
    where
        Self: Sized,
    {
        on_workers(device, || work(self))
    }
}

/// Takes rows through all layers of a decoder. `layer_done` is called between layers, off the worker
/// threads.
///
/// # Errors
///
/// The attention's, `layer_done`'s, and [`KernelError`] when rows do not fit the layers.
pub fn forward_layers<A: LayerAttention>(
    model: &dyn CausalLm,
    rows: &mut [HiddenRows],
    attention: &mut A,
    mut layer_done: impl FnMut(&mut A, usize, &[HiddenRows]) -> Result<(), A::Error>,
) -> Result<(), A::Error> {
    let device = model.device();
    for layer in 0..model.shape().layers {
        attention.compute(&device, |attention| {
            forward_layer(model, layer, rows, attention)
        })?;
        layer_done(attention, layer, rows)?;
    }
    Ok(())
}

fn forward_layer<A: LayerAttention>(
    model: &dyn CausalLm,
    layer: usize,
    rows: &mut [HiddenRows],
    attention: &mut A,
) -> Result<(), A::Error> {
    attention.step(LayerStep::Started)?;
    for (index, rows) in rows.iter().enumerate() {
        let projections = model.project(layer, rows.hidden.clone(), &rows.rope)?;
        attention.step(LayerStep::Projected(index))?;
        attention.push(layer, index, projections)?;
    }
    let Some(attended) = attention.attend(layer)? else {
        return Ok(());
    };
    let sizes = |rows: &Tensor<3>| rows.dims()[..2].to_vec();
    let expected: Vec<_> = rows.iter().map(|rows| sizes(&rows.hidden)).collect();
    let found: Vec<_> = attended.iter().map(sizes).collect();
    if expected != found {
        let expected = format!("the (batch, seq) {expected:?} of the rows that were pushed");
        return Err(KernelError::shape("attend", "rows", expected, &found.concat()).into());
    }
    for (index, (rows, attended)) in rows.iter_mut().zip(attended).enumerate() {
        rows.hidden = finish_in_tiles(model, layer, &rows.hidden, attended, attention)?;
        attention.step(LayerStep::Finished(index))?;
    }
    Ok(())
}

/// The second half of a layer in tiles of at most [`LayerAttention::tile`] rows.
fn finish_in_tiles<A: LayerAttention>(
    model: &dyn CausalLm,
    layer: usize,
    hidden: &Tensor<3>,
    attended: Tensor<3>,
    attention: &A,
) -> Result<Tensor<3>, A::Error> {
    let [batch, rows, width] = hidden.dims();
    let tile = attention.tile().max(1);
    if rows <= tile {
        return Ok(model.finish(layer, hidden.clone(), attended)?);
    }
    let joined = attended.dims()[2];
    // Even tiles: a last one of a few rows would cost nearly as much as a whole one.
    let tiles = rows.div_ceil(tile.max(1));
    let finished = (0..tiles).map(|i| {
        attention.poll()?;
        let range = i * rows / tiles..(i + 1) * rows / tiles;
        let hidden = hidden.clone().slice([0..batch, range.clone(), 0..width]);
        let attended = attended.clone().slice([0..batch, range, 0..joined]);
        Ok(model.finish(layer, hidden, attended)?)
    });
    Ok(Tensor::cat(finished.collect::<Result<_, A::Error>>()?, 1))
}
