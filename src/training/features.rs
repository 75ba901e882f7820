//! The frozen backbone: what one layer of a sample shows to its head.

use std::ops::Range;

use burn::tensor::{Device, Tensor};

use super::labels::Labels;
use super::sample::Sample;
use crate::kernels::{self, KernelError, Regions};
use crate::model::{Attention, Decoder, DecoderConfig, Projections, Rope};

/// Why training cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The backbone refused its rows.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(String),
    /// The optimiser has nothing to learn from any more.
    #[error(
        "the loss is {loss} at sample {sample}; try a lower learning rate, or f32 for the backbone"
    )]
    NotFinite {
        /// The loss.
        loss: f64,
        /// Which sample, from 0.
        sample: usize,
    },
    /// The run itself.
    #[error("{0}")]
    Run(String),
}

/// What one layer of a sample shows to its head, and what the head should make of it.
#[derive(Debug, Clone)]
pub struct LayerFeatures {
    /// Queries, keys and values of the scored rows side by side, before RoPE:
    /// `[batch, scored, (heads + 2 * kv_heads) * head_dim]`, dtype of the backbone.
    pub projections: Tensor<3>,
    /// What the answer's rows say about them.
    pub labels: Labels,
}

/// A decoder that is only looked at.
#[derive(Debug, Clone)]
pub struct Backbone {
    decoder: Decoder,
    rope: Rope,
    device: Device,
    /// Rows of a tile of the MLP.
    chunk: usize,
}

impl Backbone {
    /// A decoder on `device`, with `config`'s rotary positions; `chunk`: rows of a tile of the MLP.
    pub fn new(decoder: Decoder, config: &DecoderConfig, device: &Device, chunk: usize) -> Self {
        Self {
            decoder,
            rope: config
                .rope
                .init(config.head_dim, config.max_position_embeddings),
            device: device.clone(),
            chunk,
        }
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The number of layers.
    pub fn layers(&self) -> usize {
        self.decoder.layers.len()
    }

    /// Takes a sample through all layers with causal attention and shows each layer's projections
    /// of all rows. One layer's rows exist at a time.
    ///
    /// # Errors
    ///
    /// What `visit` returns, and [`TrainError::Kernel`].
    pub fn walk<E: From<TrainError> + Send>(
        &self,
        ids: &[u32],
        mut visit: impl FnMut(usize, &Projections) -> Result<(), E> + Send,
    ) -> Result<(), E> {
        kernels::on_workers(&self.device, || {
            let kernel = |error: KernelError| E::from(TrainError::from(error));
            let rope = self.rope.tables(0..ids.len(), &self.device);
            let mut hidden = self.decoder.embed_ids(ids);
            for (index, block) in self.decoder.layers.iter().enumerate() {
                let projections = block.project(hidden.clone(), &rope).map_err(kernel)?;
                visit(index, &projections)?;
                if index + 1 == self.decoder.layers.len() {
                    break;
                }
                let Projections {
                    query, key, value, ..
                } = projections;
                let attended =
                    kernels::attention(query, key, value, Regions::causal()).map_err(kernel)?;
                let joined = Attention::join_heads(attended.out);
                hidden = block
                    .finish_in_tiles(&hidden, joined, self.chunk)
                    .map_err(kernel)?;
            }
            Ok(())
        })
    }

    /// Shows each layer's features of a sample.
    ///
    /// # Errors
    ///
    /// What `visit` returns, and [`TrainError::Kernel`].
    pub fn features(
        &self,
        sample: &Sample,
        mut visit: impl FnMut(usize, LayerFeatures) -> Result<(), TrainError> + Send,
    ) -> Result<(), TrainError> {
        self.walk(&sample.ids, |layer, projections| {
            let labels = Labels::new(projections, &sample.scored, &sample.answer);
            visit(
                layer,
                LayerFeatures {
                    projections: side_by_side(projections, &sample.scored),
                    labels,
                },
            )
        })
    }
}

/// What a head reads of some rows.
fn side_by_side(projections: &Projections, rows: &Range<usize>) -> Tensor<3> {
    let rows = projections.rows(rows.clone());
    Tensor::cat(vec![rows.query_flat, rows.key_flat, rows.value_flat], 2)
}
