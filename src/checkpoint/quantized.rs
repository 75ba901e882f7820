//! Decoders whose weights stay as a checkpoint has quantised them.

use std::collections::HashMap;

use super::load::module_path;
use super::mismatch::HEAD;
use super::plan::EMBEDDING;
use super::reader::Checkpoint;
use super::tensor::{StoredType, TensorInfo};
use crate::kernels::BlockFormat;
use crate::model::{Decoder, Projection, QuantizedLinear, QuantizedLinearConfig, TokenEmbedding};

/// The decoder with a [`QuantizedLinear`] in place of every linear layer, and of the embedding, that the checkpoint
/// holds in blocks. To be called on a decoder that has just been initialised; [`load`](super::load()) then fills it.
pub fn keep_quantized(mut decoder: Decoder, checkpoint: &Checkpoint) -> Decoder {
    let tensors: HashMap<String, &TensorInfo> = checkpoint
        .tensors()
        .map(|info| (module_path(&info.name), info))
        .collect();
    let device = decoder.embed_tokens.device();
    // A layer of another shape stays, and is refused when it is loaded.
    let quantized = |path: &str, stored: [usize; 2], bias: bool| -> Option<QuantizedLinear> {
        let info = tensors.get(path)?;
        let (format, [d_output, d_input]) = blocks(info)?;
        let ordered = checkpoint.order(&info.name).is_some();
        let config = QuantizedLinearConfig::new(d_input, d_output, format)
            .with_bias(bias)
            .with_order(ordered);
        let fits = [d_output, d_input] == stored;
        fits.then(|| config.init(&device).ok()).flatten()
    };
    for (path, projection) in decoder.projections_mut() {
        if let Projection::Float(layer) = projection {
            let stored = layer.weight.lazy_shape().dims();
            let bias = layer.bias.is_some();
            if let Some(layer) = quantized(&format!("{path}.weight"), stored, bias) {
                *projection = layer.into();
            }
        }
    }
    if let TokenEmbedding::Float(layer) = &decoder.embed_tokens {
        let stored = layer.weight.lazy_shape().dims();
        // Where the two are one, either tensor serves for both.
        let path = match tensors.contains_key(EMBEDDING) || decoder.lm_head.is_some() {
            true => EMBEDDING,
            false => HEAD,
        };
        // Rows are looked up in the order of the weight.
        let layer = quantized(path, stored, false).filter(|layer| layer.order.is_none());
        if let Some(layer) = layer {
            decoder.embed_tokens = layer.into();
        }
    }
    decoder
}

fn blocks(info: &TensorInfo) -> Option<(BlockFormat, [usize; 2])> {
    match (&info.stored, &info.shape[..]) {
        (StoredType::Quantized(format), &[rows, cols]) => Some((*format, [rows, cols])),
        _ => None,
    }
}
