//! The key/value cache: allocated once, written in place.
//!
//! | file | holds |
//! |---|---|
//! | `dtype` | [`KvDType`], in what keys and values are kept |
//! | `finite` | which layer and row hold what is no number |
//! | `rows` | [`CachedRows`], keys and values of some rows: floats, or blocks of codes |

mod dtype;
mod finite;
mod rows;

use std::ops::Range;

use burn::tensor::{Device, Tensor};

use super::shape::AttentionShape;
use crate::kernels::{KernelError, is_cpu};
pub use dtype::KvDType;
pub(crate) use finite::BrokenRow;
pub use rows::CachedRows;
use rows::Stored;

/// More rows were appended than the cache was made for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the key/value cache holds {capacity} tokens, {needed} are needed")]
pub struct CacheFull {
    /// Rows the cache was made for.
    pub capacity: usize,
    /// Rows that would have been in it.
    pub needed: usize,
}

/// Why rows were not appended to a cache, or not found in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The rows do not fit.
    #[error(transparent)]
    Full(#[from] CacheFull),
    /// The cache was made for a model of fewer layers.
    #[error(
        "the key/value cache has {layers} layers, and the model has a layer {layer}; make the cache \
         for the model's shape"
    )]
    Layer {
        /// The layer asked for.
        layer: usize,
        /// Layers of the cache.
        layers: usize,
    },
    /// The cache was made for rows of other sizes.
    #[error(
        "the key/value cache holds {expected:?} (batch, kv_heads, head_dim), found {found:?}; make the cache for \
         the model's shape"
    )]
    Rows {
        /// Batch, heads and head dimension of the cache.
        expected: [usize; 3],
        /// Those of the rows.
        found: [usize; 3],
    },
    /// Heads that are no whole blocks of a quantised dtype.
    #[error(
        "a key/value cache in {dtype} takes heads of a multiple of 32 elements, these have {head_dim}; use f32, f16 \
         or bf16"
    )]
    HeadDim {
        /// What was asked for.
        dtype: KvDType,
        /// Elements of a head.
        head_dim: usize,
    },
    /// A quantised dtype on a device whose kernels have none.
    #[error(
        "a key/value cache in {dtype} is for the CPU, not for {device}; use f32, f16 or bf16 there"
    )]
    Device {
        /// What was asked for.
        dtype: KvDType,
        /// The device.
        device: String,
    },
    /// A kernel refused the rows.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The memory cannot be had.
    #[error(
        "a key/value cache of {tokens} tokens takes {} bytes, more than there are; use fewer tokens or more ranks",
        .bytes.map_or("more than can be counted".into(), |bytes| bytes.to_string())
    )]
    Memory {
        /// Tokens it is for, in each sequence.
        tokens: usize,
        /// Its bytes; none where they cannot be counted.
        bytes: Option<usize>,
    },
    /// The device does not give back what it holds.
    #[error("the key/value cache cannot be read: {reason}")]
    Read {
        /// The backend's message.
        reason: String,
    },
    /// Keys and values of different numbers of rows.
    #[error("{keys} rows of keys and {values} of values; append as many of each")]
    Uneven {
        /// Rows of the keys.
        keys: usize,
        /// Rows of the values.
        values: usize,
    },
    /// Rows that the layer does not hold.
    #[error("layer {layer} of the key/value cache holds {len} rows, rows {rows:?} were asked for")]
    Absent {
        /// The layer.
        layer: usize,
        /// Rows asked for.
        rows: Range<usize>,
        /// Rows it holds.
        len: usize,
    },
}

/// Rotated keys and values of one layer.
#[derive(Debug, Clone)]
struct LayerCache {
    /// For `capacity` rows; absent only while it is written.
    key: Option<Stored>,
    value: Option<Stored>,
    len: usize,
}

/// Keys (after RoPE) and values of all layers, with room for `capacity` tokens.
///
/// Rows are written in place; a pass writes each layer in turn, and rows can be dropped from the
/// end, so that a question leaves the cache as it found it. [`reserve`](Self::reserve) makes room for more.
#[derive(Debug, Clone)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    capacity: usize,
}

impl KvCache {
    /// Allocates a cache for `batch` sequences of up to `capacity` tokens.
    ///
    /// # Errors
    ///
    /// [`CacheError::Memory`] when the memory cannot be had, which is looked for on the CPU and counted elsewhere;
    /// [`CacheError::HeadDim`] and [`CacheError::Device`] where `dtype` does not fit.
    pub fn new(
        shape: impl Into<AttentionShape>,
        batch: usize,
        capacity: usize,
        dtype: KvDType,
        device: &Device,
    ) -> Result<Self, CacheError> {
        let AttentionShape {
            layers,
            kv_heads,
            head_dim,
            ..
        } = shape.into();
        let row = dtype.row_on(head_dim, device)?;
        let shape = [batch, kv_heads, capacity, row];
        check_memory(layers, shape, dtype, device)?;
        let layer = || LayerCache {
            key: Some(Stored::zeros(shape, dtype, device)),
            value: Some(Stored::zeros(shape, dtype, device)),
            len: 0,
        };
        Ok(Self {
            layers: (0..layers).map(|_| layer()).collect(),
            capacity,
        })
    }

    /// Bytes that a cache of `capacity` tokens takes; `usize::MAX` where they are more.
    pub fn bytes(
        shape: impl Into<AttentionShape>,
        batch: usize,
        capacity: usize,
        dtype: KvDType,
    ) -> usize {
        let shape = shape.into();
        // A row that is no whole blocks is as long as the next that is.
        let head_dim = match dtype.float() {
            Some(_) => shape.head_dim,
            None => shape.head_dim.div_ceil(32).saturating_mul(32),
        };
        let row = dtype.row(head_dim).unwrap_or(usize::MAX);
        let layer = [batch, shape.kv_heads, capacity, row];
        checked_bytes(shape.layers, layer, dtype).unwrap_or(usize::MAX)
    }

    /// Tokens the cache has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Layers.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Makes room for `capacity` tokens, where there is less. Layers are copied one after another, so that
    /// no more than one of them is held twice.
    ///
    /// # Errors
    ///
    /// [`CacheError::Memory`] when the memory cannot be had; the cache is unchanged.
    pub fn reserve(&mut self, capacity: usize) -> Result<(), CacheError> {
        if capacity <= self.capacity {
            return Ok(());
        }
        if let Some(stored) = self.layers.first().and_then(|layer| layer.key.as_ref()) {
            let [batch, kv_heads, _, row] = stored.dims();
            let shape = [batch, kv_heads, capacity, row];
            check_memory(self.layers.len(), shape, stored.dtype(), &stored.device())?;
        }
        for layer in &mut self.layers {
            let len = layer.len;
            for slot in [&mut layer.key, &mut layer.value] {
                let Some(stored) = slot.take() else { continue };
                let [batch, kv_heads, _, row] = stored.dims();
                let shape = [batch, kv_heads, capacity, row];
                let larger = Stored::zeros(shape, stored.dtype(), &stored.device());
                *slot = Some(match len {
                    0 => larger,
                    _ => larger.write(0..len, stored.slice(0..len)),
                });
            }
        }
        self.capacity = capacity;
        Ok(())
    }

    /// Tokens that every layer holds.
    pub fn len(&self) -> usize {
        self.layers.iter().map(|l| l.len).min().unwrap_or(0)
    }

    /// Whether no token is held by every layer.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends keys and values `[batch, kv_heads, seq, head_dim]` to a layer, rounded to the cache's dtype, and
    /// returns all that the layer then holds. They are views, which must be gone before it is appended to again.
    ///
    /// # Errors
    ///
    /// [`CacheError`] when the rows do not fit, or the cache was made for another model; it is unchanged.
    pub fn append(
        &mut self,
        layer: usize,
        key: Tensor<4>,
        value: Tensor<4>,
    ) -> Result<CachedRows, CacheError> {
        let (key, value) = (Stored::Float(key), Stored::Float(value));
        self.append_rows(layer, CachedRows { key, value })
    }

    /// [`append`](Self::append) of rows of another cache, or of a file.
    pub(crate) fn append_rows(
        &mut self,
        layer: usize,
        CachedRows { key, value }: CachedRows,
    ) -> Result<CachedRows, CacheError> {
        let (capacity, layers) = (self.capacity, self.layers.len());
        let absent = CacheError::Layer { layer, layers };
        let layer = self.layers.get_mut(layer).ok_or(absent)?;
        let (keys, values) = (key.dims()[2], value.dims()[2]);
        if keys != values {
            return Err(CacheError::Uneven { keys, values });
        }
        let start = layer.len;
        let end = start + keys;
        if end > capacity {
            return Err(CacheFull {
                capacity,
                needed: end,
            }
            .into());
        }
        let fitting = |slot: &Option<Stored>, rows: Stored| {
            let stored = slot
                .as_ref()
                .expect("a layer's cache is only absent while it is written");
            let (expected, found) = (stored.sizes(), rows.sizes());
            match expected == found {
                true => Ok(rows.to(stored.dtype())?),
                false => Err(CacheError::Rows { expected, found }),
            }
        };
        let key = fitting(&layer.key, key)?;
        let value = fitting(&layer.value, value)?;
        // The only reference must be the one written to, or the backend copies the whole cache.
        let write = |slot: &mut Option<Stored>, rows: Stored| {
            let stored = slot
                .take()
                .expect("a layer's cache is only absent while it is written");
            let stored = stored.write(start..end, rows);
            let held = stored.clone().first_rows(end);
            *slot = Some(stored);
            held.expect("the rows fit the capacity")
        };
        let key = write(&mut layer.key, key);
        let value = write(&mut layer.value, value);
        layer.len = end;
        Ok(CachedRows { key, value })
    }

    /// Keys and values of some rows of a layer; views, which must be gone before the layer is appended to again.
    ///
    /// # Errors
    ///
    /// [`CacheError`] when the cache has no such layer, or the layer no such rows.
    pub fn rows(&self, layer: usize, rows: Range<usize>) -> Result<CachedRows, CacheError> {
        let (index, layers) = (layer, self.layers.len());
        let absent = CacheError::Layer { layer, layers };
        let layer = self.layers.get(layer).ok_or(absent)?;
        if rows.start > rows.end || rows.end > layer.len {
            return Err(CacheError::Absent {
                layer: index,
                rows,
                len: layer.len,
            });
        }
        let view = |slot: &Option<Stored>| {
            let stored = slot.clone();
            stored
                .expect("a layer's cache is only absent while it is written")
                .slice(rows.clone())
        };
        Ok(CachedRows {
            key: view(&layer.key),
            value: view(&layer.value),
        })
    }

    /// Drops all rows from `len` on, in every layer.
    pub fn truncate(&mut self, len: usize) {
        for layer in &mut self.layers {
            layer.len = layer.len.min(len);
        }
    }
}

/// Bytes of keys and values of all layers, tensors of `shape`; none where they cannot be counted.
fn checked_bytes(layers: usize, shape: [usize; 4], dtype: KvDType) -> Option<usize> {
    let factors = [2, layers, dtype.value_bytes()].into_iter().chain(shape);
    factors.into_iter().try_fold(1, usize::checked_mul)
}

/// Refuses what the allocator would: tensors are allocated without a way to fail.
fn check_memory(
    layers: usize,
    shape: [usize; 4],
    dtype: KvDType,
    device: &Device,
) -> Result<(), CacheError> {
    let bytes = checked_bytes(layers, shape, dtype);
    let fits = |bytes: &usize| {
        *bytes <= isize::MAX as usize
            && (!is_cpu(device) || Vec::<u8>::new().try_reserve_exact(*bytes).is_ok())
    };
    match bytes.filter(fits) {
        Some(_) => Ok(()),
        None => Err(CacheError::Memory {
            tokens: shape[2],
            bytes,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{self, Regions};
    use crate::model::{Architecture, DecoderConfig};
    use burn::tensor::{DType, FloatDType, Int, TensorData};

    fn floats(rows: CachedRows) -> (Tensor<4>, Tensor<4>) {
        rows.floats(FloatDType::F32).unwrap()
    }

    pub(super) fn rows(from: f32, seq: usize, device: &Device) -> Tensor<4> {
        let values: Vec<f32> = (0..2 * seq * 2).map(|i| from + i as f32).collect();
        Tensor::from_data(TensorData::new(values, [1, 2, seq, 2]), device)
    }

    #[test]
    fn appends_in_order_truncates_and_refuses_overflow() {
        let device = Device::flex();
        let config = DecoderConfig::new(Architecture::Llama, 8, 8, 8, 2, 4, 2, 2);
        let mut cache = KvCache::new(&config, 1, 5, KvDType::F32, &device).unwrap();
        for layer in 0..2 {
            cache
                .append(layer, rows(0.0, 3, &device), rows(100.0, 3, &device))
                .unwrap();
        }
        assert_eq!(cache.len(), 3);
        let (keys, values) = cache
            .append(0, rows(50.0, 2, &device), rows(150.0, 2, &device))
            .map(floats)
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
            CacheError::Full(CacheFull {
                capacity: 5,
                needed: 6
            })
        );

        cache.truncate(3);
        let (keys, _) = cache
            .append(0, rows(70.0, 1, &device), rows(0.0, 1, &device))
            .map(floats)
            .unwrap();
        let expected = Tensor::cat(vec![rows(0.0, 3, &device), rows(70.0, 1, &device)], 2);
        keys.into_data().assert_eq(&expected.into_data(), true);

        cache.truncate(3);
        cache.reserve(7).unwrap();
        assert_eq!(cache.capacity(), 7);
        let (keys, values) = cache
            .append(0, rows(80.0, 4, &device), rows(90.0, 4, &device))
            .map(floats)
            .unwrap();
        let expected = Tensor::cat(vec![rows(0.0, 3, &device), rows(80.0, 4, &device)], 2);
        keys.into_data().assert_eq(&expected.into_data(), true);
        let expected = Tensor::cat(vec![rows(100.0, 3, &device), rows(90.0, 4, &device)], 2);
        values.into_data().assert_eq(&expected.into_data(), true);
    }

    #[test]
    fn a_cache_of_another_model_is_refused() {
        let device = Device::flex();
        let config = DecoderConfig::new(Architecture::Llama, 8, 8, 8, 1, 4, 2, 2);
        let mut cache = KvCache::new(&config, 1, 5, KvDType::F32, &device).unwrap();
        let row = || rows(0.0, 1, &device);
        let absent = CacheError::Layer {
            layer: 1,
            layers: 1,
        };
        assert_eq!(cache.append(1, row(), row()).unwrap_err(), absent);
        assert_eq!(cache.rows(1, 0..0).unwrap_err(), absent);
        let narrow = || row().slice([0..1, 0..1, 0..1, 0..2]);
        let narrow = cache.append(0, narrow(), narrow());
        assert!(matches!(narrow, Err(CacheError::Rows { .. })));
        assert!(matches!(
            cache.rows(0, 0..1),
            Err(CacheError::Absent { .. })
        ));
    }

    #[test]
    fn rows_are_rounded_to_the_dtype_of_the_cache() {
        let device = Device::flex();
        let config = DecoderConfig::new(Architecture::Llama, 8, 8, 8, 1, 4, 2, 2);
        let mut cache = KvCache::new(&config, 1, 5, KvDType::BF16, &device).unwrap();
        let dims = rows(0.0, 2, &device).dims();
        let row = |value: f32| Tensor::<4>::full(dims, value, &device);
        let (key, value) = floats(cache.append(0, row(1.001), row(3.0)).unwrap());
        assert_eq!((key.dtype(), value.dtype()), (DType::BF16, DType::BF16));
        let rounded: Vec<f32> = key.cast(DType::F32).into_data().try_to_vec().unwrap();
        assert!(rounded.iter().all(|x| *x == 1.0), "{rounded:?}");
    }

    #[test]
    fn rows_in_blocks_are_kept_to_eight_bits() {
        let device = Device::flex();
        let config = DecoderConfig::new(Architecture::Llama, 8, 8, 8, 1, 4, 2, 64);
        let mut cache = KvCache::new(&config, 1, 5, KvDType::Q8_0, &device).unwrap();
        let row = |seq: i64| {
            let count = 2 * seq * 64;
            let values = Tensor::<1, Int>::arange(0..count, &device).float();
            values.reshape([1, 2, seq, 64]).sin()
        };
        let first = cache.append(0, row(3), row(3) * 2.0).unwrap();
        assert_eq!((first.rows(), first.kv_heads()), (3, 2));
        assert_eq!(first.dtype(), KvDType::Q8_0);
        let blocks = first.clone().into_data().unwrap();
        let (key, value) = floats(first);
        // Half a step of the largest magnitude, and what the scale is off in f16.
        for (found, given, most) in [(key, row(3), 1.0), (value, row(3) * 2.0, 2.0)] {
            let error: f32 = (found - given).abs().max().into_scalar();
            assert!(
                error > 0.0 && error <= most * (0.5 / 127.0 + 6e-4),
                "{error}"
            );
        }
        // Rows of a file are kept as they are, and the room may grow beneath them.
        cache.reserve(9).unwrap();
        cache.truncate(0);
        let rows = CachedRows::from_data(blocks.clone(), KvDType::Q8_0, &device);
        let again = cache.append_rows(0, rows).unwrap().into_data().unwrap();
        assert_eq!(again, blocks);
        let held = cache.append(0, row(6), row(6)).unwrap();
        let query = Tensor::<4>::ones([1, 4, 6, 64], &device);
        let (keys, values) = floats(held.clone());
        let own = held.attend(query.clone(), Regions::causal()).unwrap();
        let same = kernels::attention(query, keys, values, Regions::causal()).unwrap();
        let error: f32 = (own.out - same.out).abs().max().into_scalar();
        assert!(error < 1e-2, "{error}");
    }

    #[test]
    fn heads_of_no_whole_blocks_are_refused() {
        let device = Device::flex();
        let config = DecoderConfig::new(Architecture::Llama, 8, 8, 8, 1, 4, 2, 48);
        let refused = KvCache::new(&config, 1, 5, KvDType::Q8_0, &device);
        let (dtype, head_dim) = (KvDType::Q8_0, 48);
        assert_eq!(
            refused.unwrap_err(),
            CacheError::HeadDim { dtype, head_dim }
        );
        assert_eq!(KvCache::bytes(&config, 1, 5, KvDType::Q8_0), 2 * 2 * 5 * 68);
    }

    #[test]
    fn bytes_of_smollm2_at_4096() {
        let config = DecoderConfig::new(Architecture::Llama, 49152, 576, 1536, 30, 9, 3, 64);
        assert_eq!(KvCache::bytes(&config, 1, 4096, KvDType::F32), 188_743_680);
    }
}
