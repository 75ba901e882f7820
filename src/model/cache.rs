//! The key/value cache: allocated once, written in place.

use std::ops::Range;

use burn::tensor::{DType, Device, Tensor};

use super::shape::AttentionShape;
use crate::kernels::first_rows;

/// More rows were appended than the cache was made for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the key/value cache holds {capacity} tokens, {needed} are needed")]
pub struct CacheFull {
    /// Rows the cache was made for.
    pub capacity: usize,
    /// Rows that would have been in it.
    pub needed: usize,
}

/// Rotated keys and values of one layer.
#[derive(Debug, Clone)]
struct LayerCache {
    /// `[batch, kv_heads, capacity, head_dim]`; absent only while it is written.
    key: Option<Tensor<4>>,
    value: Option<Tensor<4>>,
    len: usize,
}

/// Keys (after RoPE) and values of all layers, with room for `capacity` tokens.
///
/// Rows are written in place; a pass writes each layer in turn, and rows can be dropped from the
/// end, so that a question leaves the cache as it found it.
#[derive(Debug, Clone)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    capacity: usize,
}

impl KvCache {
    /// Allocates a cache for `batch` sequences of up to `capacity` tokens.
    pub fn new(
        shape: impl Into<AttentionShape>,
        batch: usize,
        capacity: usize,
        dtype: DType,
        device: &Device,
    ) -> Self {
        let AttentionShape {
            layers,
            kv_heads,
            head_dim,
            ..
        } = shape.into();
        let shape = [batch, kv_heads, capacity, head_dim];
        let layer = || LayerCache {
            key: Some(Tensor::zeros(shape, (device, dtype))),
            value: Some(Tensor::zeros(shape, (device, dtype))),
            len: 0,
        };
        Self {
            layers: (0..layers).map(|_| layer()).collect(),
            capacity,
        }
    }

    /// Bytes that a cache of `capacity` tokens takes.
    pub fn bytes(
        shape: impl Into<AttentionShape>,
        batch: usize,
        capacity: usize,
        dtype: DType,
    ) -> usize {
        let shape = shape.into();
        2 * shape.layers * batch * shape.kv_heads * capacity * shape.head_dim * dtype.size()
    }

    /// Tokens the cache has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Tokens that every layer holds.
    pub fn len(&self) -> usize {
        self.layers.iter().map(|l| l.len).min().unwrap_or(0)
    }

    /// Whether no token is held by every layer.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends keys and values `[batch, kv_heads, seq, head_dim]` to a layer and returns all that
    /// the layer then holds: `[batch, kv_heads, len, head_dim]` each.
    ///
    /// # Errors
    ///
    /// [`CacheFull`] when the rows do not fit; the cache is unchanged.
    ///
    /// # Panics
    ///
    /// Panics if `layer` is not a layer of the model, or if batch, heads or head dimension differ.
    pub fn append(
        &mut self,
        layer: usize,
        key: Tensor<4>,
        value: Tensor<4>,
    ) -> Result<(Tensor<4>, Tensor<4>), CacheFull> {
        let capacity = self.capacity;
        let layer = &mut self.layers[layer];
        let start = layer.len;
        let end = start + key.dims()[2];
        if end > capacity {
            return Err(CacheFull {
                capacity,
                needed: end,
            });
        }
        // The only reference must be the one written to, or the backend copies the whole cache.
        let write = |slot: &mut Option<Tensor<4>>, rows: Tensor<4>| {
            let [batch, kv_heads, _, head_dim] = rows.dims();
            let stored = slot.take().expect("a layer's cache is only absent here");
            let stored =
                stored.slice_assign([0..batch, 0..kv_heads, start..end, 0..head_dim], rows);
            let held = first_rows(stored.clone(), end).expect("the rows fit the capacity");
            *slot = Some(stored);
            held
        };
        let keys = write(&mut layer.key, key);
        let values = write(&mut layer.value, value);
        layer.len = end;
        Ok((keys, values))
    }

    /// Keys and values `[batch, kv_heads, rows, head_dim]` of some rows of a layer; views, which must
    /// be gone before the layer is appended to again.
    ///
    /// # Panics
    ///
    /// Panics if `layer` is not a layer of the model, or does not hold the rows.
    pub fn rows(&self, layer: usize, rows: Range<usize>) -> (Tensor<4>, Tensor<4>) {
        let layer = &self.layers[layer];
        assert!(rows.end <= layer.len, "{rows:?} of {} rows", layer.len);
        let view = |slot: &Option<Tensor<4>>| {
            let stored = slot
                .clone()
                .expect("a layer's cache is only absent while it is written");
            let [batch, kv_heads, _, head_dim] = stored.dims();
            stored.slice([0..batch, 0..kv_heads, rows.clone(), 0..head_dim])
        };
        (view(&layer.key), view(&layer.value))
    }

    /// Drops all rows from `len` on, in every layer.
    pub fn truncate(&mut self, len: usize) {
        for layer in &mut self.layers {
            layer.len = layer.len.min(len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Architecture, DecoderConfig};
    use burn::tensor::TensorData;

    fn rows(from: f32, seq: usize, device: &Device) -> Tensor<4> {
        let values: Vec<f32> = (0..2 * seq * 2).map(|i| from + i as f32).collect();
        Tensor::from_data(TensorData::new(values, [1, 2, seq, 2]), device)
    }

    #[test]
    fn appends_in_order_truncates_and_refuses_overflow() {
        let device = Device::flex();
        let config = DecoderConfig::new(Architecture::Llama, 8, 8, 8, 2, 4, 2, 2);
        let mut cache = KvCache::new(&config, 1, 5, DType::F32, &device);
        for layer in 0..2 {
            cache
                .append(layer, rows(0.0, 3, &device), rows(100.0, 3, &device))
                .unwrap();
        }
        assert_eq!(cache.len(), 3);
        let (keys, values) = cache
            .append(0, rows(50.0, 2, &device), rows(150.0, 2, &device))
            .unwrap();
        let expected = Tensor::cat(vec![rows(0.0, 3, &device), rows(50.0, 2, &device)], 2);
        keys.into_data().assert_eq(&expected.into_data(), true);
        assert_eq!(values.dims(), [1, 2, 5, 2]);
        assert_eq!(cache.len(), 3, "the second layer has not been written yet");

        let full = cache
            .append(0, rows(0.0, 1, &device), rows(0.0, 1, &device))
            .unwrap_err();
        assert_eq!(
            full,
            CacheFull {
                capacity: 5,
                needed: 6
            }
        );

        cache.truncate(3);
        let (keys, _) = cache
            .append(0, rows(70.0, 1, &device), rows(0.0, 1, &device))
            .unwrap();
        let expected = Tensor::cat(vec![rows(0.0, 3, &device), rows(70.0, 1, &device)], 2);
        keys.into_data().assert_eq(&expected.into_data(), true);
    }

    #[test]
    fn bytes_of_smollm2_at_4096() {
        let config = DecoderConfig::new(Architecture::Llama, 49152, 576, 1536, 30, 9, 3, 64);
        assert_eq!(KvCache::bytes(&config, 1, 4096, DType::F32), 188_743_680);
    }
}
