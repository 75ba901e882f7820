//! The frozen backbone: the inputs and labels of each layer's head.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};

use super::error::TrainError;
use super::labels::Labels;
use super::sample::{SAMPLE, Sample};
use crate::LanguageModel;
use crate::apb::default_prefill_chunk;
use crate::kernels::KernelError;
use crate::model::{
    AttentionShape, CausalLm, HiddenRows, LayerAttention, Projections, forward_layers,
};

/// The input of a layer's head for one sample, and the labels of its output.
#[derive(Debug, Clone)]
pub struct LayerFeatures {
    /// Queries, keys and values of the scored rows side by side, before RoPE:
    /// `[batch, scored, (heads + 2 * kv_heads) * head_dim]`, dtype of the backbone.
    pub projections: Tensor<3>,
    /// Labels of the scored rows.
    pub labels: Labels,
}

/// A decoder whose weights are not trained.
#[derive(Clone)]
pub struct Backbone {
    model: Arc<dyn CausalLm>,
    device: Device,
    /// The longest sequence, in tokens.
    context: usize,
    /// Rows of a tile of the MLP.
    chunk: usize,
}

impl std::fmt::Debug for Backbone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backbone")
            .field("shape", &self.shape())
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

impl From<&LanguageModel> for Backbone {
    /// The decoder of a loaded model, for sequences of up to its context; it shares the weights.
    fn from(model: &LanguageModel) -> Self {
        let context = model.text.config.context();
        let chunk = default_prefill_chunk(&model.decoder.device());
        Self::new(model.decoder.clone(), context, chunk)
    }
}

impl Backbone {
    /// A decoder for sequences of up to `context` tokens; `chunk`: rows of a tile of the MLP.
    pub fn new(model: Arc<dyn CausalLm>, context: usize, chunk: usize) -> Self {
        Self {
            device: model.device(),
            model,
            context,
            chunk,
        }
    }

    /// The shape of the decoder's attention.
    pub fn shape(&self) -> AttentionShape {
        self.model.shape()
    }

    /// The device of the decoder.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The number of layers.
    pub fn layers(&self) -> usize {
        self.shape().layers
    }

    /// Refuses samples that the decoder cannot run or heads cannot learn from; `set` names them.
    pub(super) fn check<'s>(
        &self,
        set: &'static str,
        samples: impl IntoIterator<Item = &'s Sample>,
    ) -> Result<(), TrainError> {
        let vocab_size = self.model.vocab_size();
        for (index, sample) in samples.into_iter().enumerate() {
            let checked = sample.check(self.context, vocab_size);
            checked.map_err(|source| TrainError::Sample { set, index, source })?;
        }
        Ok(())
    }

    /// Runs a checked sample through all layers with causal attention and calls `visit` with each
    /// layer's projections of all rows. One layer's rows exist at a time.
    pub(super) fn walk<E: From<TrainError> + Send>(
        &self,
        ids: &[u32],
        visit: impl FnMut(usize, &Projections) -> Result<(), E> + Send,
    ) -> Result<(), E> {
        let rope = self.model.rope(ids.len());
        let mut rows = [HiddenRows {
            hidden: self.model.embed_ids(ids).map_err(TrainError::from)?,
            rope: rope.tables(0..ids.len(), &self.device),
        }];
        let mut attention = Visited {
            visit,
            projections: None,
            last: self.layers().saturating_sub(1),
            tile: self.chunk,
        };
        let walked = attention.compute(&self.device, |attention| {
            forward_layers(&*self.model, &mut rows, attention, |_, _, _| Ok(()))
        });
        walked.map_err(|error| match error {
            VisitError::Kernel(error) => TrainError::from(error).into(),
            VisitError::Visit(error) => error,
        })
    }

    /// Computes the features of a sample and calls `visit` with each layer's.
    ///
    /// # Errors
    ///
    /// Those of `visit`, [`TrainError::Sample`] and [`TrainError::Kernel`].
    pub fn features(
        &self,
        sample: &Sample,
        mut visit: impl FnMut(usize, LayerFeatures) -> Result<(), TrainError> + Send,
    ) -> Result<(), TrainError> {
        self.check(SAMPLE, [sample])?;
        self.walk(&sample.ids, |layer, projections| {
            let labels = Labels::new(projections, &sample.scored, &sample.answer);
            visit(
                layer,
                LayerFeatures {
                    projections: head_input(projections, &sample.scored)?,
                    labels,
                },
            )
        })
    }
}

/// Causal attention whose projections are visited; the last layer's rows need no output.
struct Visited<F> {
    visit: F,
    projections: Option<Projections>,
    last: usize,
    tile: usize,
}

enum VisitError<E> {
    Kernel(KernelError),
    Visit(E),
}

impl<E> From<KernelError> for VisitError<E> {
    fn from(error: KernelError) -> Self {
        Self::Kernel(error)
    }
}

impl<E: Send, F: FnMut(usize, &Projections) -> Result<(), E> + Send> LayerAttention for Visited<F> {
    type Error = VisitError<E>;

    fn push(
        &mut self,
        layer: usize,
        _index: usize,
        projections: Projections,
    ) -> Result<(), VisitError<E>> {
        (self.visit)(layer, &projections).map_err(VisitError::Visit)?;
        self.projections = Some(projections);
        Ok(())
    }

    fn attend(&mut self, layer: usize) -> Result<Option<Vec<Tensor<3>>>, VisitError<E>> {
        let projections = self.projections.take().filter(|_| layer != self.last);
        let attended = projections.map(Projections::attend).transpose()?;
        Ok(attended.map(|rows| vec![rows]))
    }

    fn tile(&self) -> usize {
        self.tile
    }
}

/// The input of a head, `[batch, rows, (heads + 2 * kv_heads) * head_dim]`.
fn head_input(projections: &Projections, rows: &Range<usize>) -> Result<Tensor<3>, KernelError> {
    let rows = projections.rows(rows.clone())?;
    let flat = vec![rows.query_flat, rows.key_flat, rows.value_flat];
    Ok(Tensor::cat(flat, 2))
}
