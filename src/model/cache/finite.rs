//! Keys and values that are no numbers: a layer that made NaN or infinity is found by them.

use std::ops::Range;

use burn::tensor::{FloatDType, Tensor};

use super::{CacheError, KvCache};
use crate::kernels::{is_cpu, not_finite};

/// Rows that exist as floats at once.
const ROWS: usize = 4096;

/// A row of keys or values that is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BrokenRow {
    /// Its layer.
    pub layer: usize,
    /// Its row in the cache.
    pub row: usize,
    /// Whether no element is finite: what the layer was given is not, either.
    pub whole: bool,
}

impl KvCache {
    /// The first layer and row whose keys or values are not finite, among some layers and rows.
    pub(crate) fn first_not_finite(
        &self,
        layers: Range<usize>,
        rows: Range<usize>,
    ) -> Result<Option<BrokenRow>, CacheError> {
        for layer in layers {
            if self.is_finite_on_device(layer, rows.clone())? {
                continue;
            }
            for start in rows.clone().step_by(ROWS) {
                let part = start..(start + ROWS).min(rows.end);
                let (keys, values) = self.rows(layer, part)?.floats(FloatDType::F32)?;
                if finite(&[keys.clone(), values.clone()])? {
                    continue;
                }
                let mut first: Option<(usize, bool)> = None;
                for tensor in [keys, values] {
                    if let Some((row, whole)) = broken(tensor)? {
                        let earlier = first.is_none_or(|(known, _)| row < known);
                        first = if earlier { Some((row, whole)) } else { first };
                    }
                }
                if let Some((row, whole)) = first {
                    let row = start + row;
                    return Ok(Some(BrokenRow { layer, row, whole }));
                }
            }
        }
        Ok(None)
    }

    /// Whether a GPU finds all elements finite, of keys and values at once; false on a CPU, and of blocks, which would all
    /// have to be floats.
    fn is_finite_on_device(&self, layer: usize, rows: Range<usize>) -> Result<bool, CacheError> {
        let rows = self.rows(layer, rows)?;
        match rows.dtype().float() {
            Some(dtype) if !is_cpu(&rows.key.device()) => {
                let (keys, values) = rows.floats(dtype)?;
                finite(&[keys, values])
            }
            _ => Ok(false),
        }
    }
}

/// Whether all elements are finite.
fn finite(tensors: &[Tensor<4>]) -> Result<bool, CacheError> {
    let found = tensors.iter().map(|tensor| not_finite(tensor.clone()));
    let found = Tensor::cat(found.collect::<Result<Vec<_>, _>>()?, 0);
    let data = found.try_into_data().map_err(unread)?;
    Ok(data.iter::<i32>().all(|found| found == 0))
}

/// The first row of `[batch, kv_heads, rows, head_dim]` with an element that is not finite, and whether none of it is.
fn broken(tensor: Tensor<4>) -> Result<Option<(usize, bool)>, CacheError> {
    let [batch, heads, rows, width] = tensor.dims();
    let values = host(tensor)?;
    let row_of = |row: usize| {
        (0..batch * heads).flat_map(move |head| {
            let start = (head * rows + row) * width;
            start..start + width
        })
    };
    let is_finite = |at: usize| values.get(at).is_none_or(|x| x.is_finite());
    let found = (0..rows).find(|row| !row_of(*row).all(is_finite));
    Ok(found.map(|row| (row, !row_of(row).any(is_finite))))
}

/// A tensor's elements in f32.
fn host<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, CacheError> {
    let data = tensor.try_into_data().map_err(unread)?;
    Ok(data.iter::<f32>().collect())
}

fn unread(error: impl std::fmt::Display) -> CacheError {
    CacheError::Read {
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{KvDType, tests::rows};
    use super::*;
    use crate::model::{Architecture, DecoderConfig};
    use burn::tensor::Device;

    #[test]
    fn the_first_layer_and_row_are_found() {
        let device = Device::flex();
        let config = DecoderConfig::new(Architecture::Llama, 8, 8, 8, 3, 4, 2, 32);
        for dtype in [KvDType::F32, KvDType::F16, KvDType::BF16, KvDType::Q8_0] {
            let mut cache = KvCache::new(&config, 1, 9, dtype, &device).unwrap();
            let wide = |from: f32| rows(from, 9, &device).repeat_dim(3, 16);
            for layer in 0..3 {
                cache.append(layer, wide(1.0), wide(2.0)).unwrap();
            }
            assert_eq!(cache.first_not_finite(0..3, 0..9).unwrap(), None);

            let mut cache = KvCache::new(&config, 1, 9, dtype, &device).unwrap();
            let whole = Tensor::<4>::full([1, 2, 1, 32], f32::NAN, &device);
            let one = Tensor::<4>::full([1, 1, 1, 1], f32::INFINITY, &device);
            for layer in 0..3 {
                let (mut key, mut value) = (wide(1.0), wide(2.0));
                if layer == 1 {
                    value = value.slice_assign([0..1, 1..2, 4..5, 7..8], one.clone());
                }
                if layer == 2 {
                    key = key.slice_assign([0..1, 0..2, 3..4, 0..32], whole.clone());
                }
                cache.append(layer, key, value).unwrap();
            }
            let found = cache.first_not_finite(0..3, 0..9).unwrap().unwrap();
            assert_eq!(
                (found.layer, found.row, found.whole),
                (1, 4, false),
                "{dtype}"
            );
            let found = cache.first_not_finite(2..3, 0..9).unwrap().unwrap();
            assert_eq!((found.layer, found.row), (2, 3), "{dtype}");
            assert!(found.whole || dtype == KvDType::Q8_0);
            assert_eq!(cache.first_not_finite(1..3, 0..3).unwrap(), None);
        }
    }
}
