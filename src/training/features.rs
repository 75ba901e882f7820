//! The frozen backbone: the inputs and labels of each layer's head.

use std::ops::Range;

use burn::tensor::{Device, Tensor};

use super::error::TrainError;
use super::labels::Labels;
use super::sample::Sample;
use crate::kernels::{self, KernelError, Regions};
use crate::model::{Attention, Decoder, DecoderConfig, Projections, Rope};

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

    /// The device of the decoder.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The number of layers.
    pub fn layers(&self) -> usize {
        self.decoder.layers.len()
    }

    /// Runs a sample through all layers with causal attention and calls `visit` with each layer's
    /// projections of all rows. One layer's rows exist at a time.
    ///
    /// # Errors
    ///
    /// Those of `visit`, and [`TrainError::Kernel`].
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

    /// Computes the features of a sample and calls `visit` with each layer's.
    ///
    /// # Errors
    ///
    /// Those of `visit`, and [`TrainError::Kernel`].
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
                    projections: head_input(projections, &sample.scored),
                    labels,
                },
            )
        })
    }
}

/// The input of a head, `[batch, rows, (heads + 2 * kv_heads) * head_dim]`.
fn head_input(projections: &Projections, rows: &Range<usize>) -> Tensor<3> {
    let rows = projections.rows(rows.clone());
    Tensor::cat(vec![rows.query_flat, rows.key_flat, rows.value_flat], 2)
}
