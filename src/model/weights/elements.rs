//! Stored elements to the elements asked for: f32, f16 and bf16 into each other.

use burn::tensor::{AllocationProperty, Bytes, FloatDType, bf16, f16};
use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

/// Elements converted by one task: large enough that starting it costs nothing beside it, small
/// enough that its scratch stays in the cache.
const CHUNK: usize = 1 << 15;

/// Bytes of one element of `dtype`, for the types weights are loaded in; `None` for others.
pub(crate) fn width(dtype: FloatDType) -> Option<usize> {
    match dtype {
        FloatDType::F32 => Some(4),
        FloatDType::F16 | FloatDType::BF16 => Some(2),
        _ => None,
    }
}

/// `source`, little-endian elements of type `from`, as elements of type `to`.
///
/// Equal types share the memory of `source` where its address suits the element (copied
/// otherwise); different types are converted in parallel, rounding to nearest even.
/// `None` if a type is not f32, f16 or bf16, or `source` is not a whole number of elements.
pub(crate) fn convert(source: bytes::Bytes, from: FloatDType, to: FloatDType) -> Option<Bytes> {
    let size = width(from)?;
    width(to)?;
    if !source.len().is_multiple_of(size) {
        return None;
    }
    if from == to {
        let aligned = (source.as_ptr() as usize).is_multiple_of(size);
        return Some(if aligned {
            Bytes::from_shared(source, AllocationProperty::File)
        } else {
            match to {
                FloatDType::F32 => {
                    Bytes::from_elems(bytemuck::pod_collect_to_vec::<u8, f32>(&source))
                }
                _ => Bytes::from_elems(bytemuck::pod_collect_to_vec::<u8, u16>(&source)),
            }
        });
    }
    Some(match to {
        FloatDType::F32 => Bytes::from_elems(converted::<f32>(&source, from)),
        FloatDType::F16 => Bytes::from_elems(converted::<f16>(&source, from)),
        _ => Bytes::from_elems(converted::<bf16>(&source, from)),
    })
}

fn converted<T: Target>(source: &[u8], from: FloatDType) -> Vec<T> {
    let size = if from == FloatDType::F32 { 4 } else { 2 };
    let mut out = vec![T::zeroed(); source.len() / size];
    out.par_chunks_mut(CHUNK)
        .zip(source.par_chunks(CHUNK * size))
        .for_each_init(Vec::new, |scratch, (out, chunk)| {
            scratch.resize(out.len(), 0.0);
            widen(chunk, from, scratch);
            T::narrow(scratch, out);
        });
    out
}

/// Elements of type `from` as f32. `out` has as many elements as `source`.
pub(crate) fn widen(source: &[u8], from: FloatDType, out: &mut [f32]) {
    match from {
        FloatDType::F32 => bytemuck::cast_slice_mut(out).copy_from_slice(source),
        FloatDType::F16 => aligned::<f16>(source, |halves| halves.convert_to_f32_slice(out)),
        _ => aligned::<bf16>(source, |halves| halves.convert_to_f32_slice(out)),
    }
}

/// Hands `source` over as elements, in place where its address allows it.
fn aligned<T: Pod>(source: &[u8], run: impl FnOnce(&[T])) {
    match bytemuck::try_cast_slice(source) {
        Ok(elements) => run(elements),
        Err(_) => run(&bytemuck::pod_collect_to_vec(source)),
    }
}

/// A parameter's element, made from f32.
pub(crate) trait Target: Pod + Send + Sync {
    /// Rounds `source` into `out`, which is as long.
    fn narrow(source: &[f32], out: &mut [Self]);
}

impl Target for f32 {
    fn narrow(source: &[f32], out: &mut [Self]) {
        out.copy_from_slice(source);
    }
}

impl Target for f16 {
    fn narrow(source: &[f32], out: &mut [Self]) {
        out.convert_from_f32_slice(source);
    }
}

impl Target for bf16 {
    fn narrow(source: &[f32], out: &mut [Self]) {
        out.convert_from_f32_slice(source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPES: [FloatDType; 3] = [FloatDType::F32, FloatDType::F16, FloatDType::BF16];

    fn encode(values: &[f32], dtype: FloatDType) -> Vec<u8> {
        match dtype {
            FloatDType::F32 => bytemuck::cast_slice(values).to_vec(),
            FloatDType::F16 => values
                .iter()
                .flat_map(|&v| f16::from_f32(v).to_le_bytes())
                .collect(),
            _ => values
                .iter()
                .flat_map(|&v| bf16::from_f32(v).to_le_bytes())
                .collect(),
        }
    }

    /// Every pair of types, more than one chunk, both alignments: equal to element-by-element
    /// conversion by `half`.
    #[test]
    fn converts_like_one_element_at_a_time() {
        let values: Vec<f32> = (0..CHUNK + 37)
            .map(|i| ((i * 7919) % 1009) as f32 / 64.0 - 7.0)
            .collect();
        for from in TYPES {
            for to in TYPES {
                let stored = encode(&values, from);
                let mut exact = vec![0.0; values.len()];
                widen(&stored, from, &mut exact);
                let expected = encode(&exact, to);
                for shift in [0, 1] {
                    let mut padded = vec![0u8; shift];
                    padded.extend(&stored);
                    let source = bytes::Bytes::from(padded).slice(shift..);
                    let found = convert(source, from, to).unwrap();
                    assert_eq!(
                        &found[..],
                        &expected[..],
                        "{from:?} to {to:?}, shift {shift}"
                    );
                }
            }
        }
    }

    #[test]
    fn equal_types_share_memory() {
        let source = bytes::Bytes::from_owner(
            vec![1.0f32, 2.0]
                .into_iter()
                .flat_map(f32::to_le_bytes)
                .collect::<Vec<u8>>(),
        );
        let address = source.as_ptr();
        assert_eq!(
            convert(source, FloatDType::F32, FloatDType::F32)
                .unwrap()
                .as_ptr(),
            address
        );
    }

    #[test]
    fn refuses_other_types_and_part_elements() {
        assert!(
            convert(
                bytes::Bytes::from(vec![0; 6]),
                FloatDType::F32,
                FloatDType::F16
            )
            .is_none()
        );
        assert!(
            convert(
                bytes::Bytes::from(vec![0; 8]),
                FloatDType::F64,
                FloatDType::F32
            )
            .is_none()
        );
        assert!(
            convert(
                bytes::Bytes::from(vec![0; 8]),
                FloatDType::F32,
                FloatDType::F64
            )
            .is_none()
        );
    }
}
