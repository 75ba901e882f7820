//! Conversion of stored elements: f64, f32, f16 and bf16 to f32, f16 and bf16.

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

/// Bytes of one stored element of `dtype`; `None` for types that are not read. Files may also hold
/// f64, which no parameter is.
pub(super) fn stored_width(dtype: FloatDType) -> Option<usize> {
    match dtype {
        FloatDType::F64 => Some(8),
        other => width(other),
    }
}

/// `source`, little-endian elements of type `from`, as elements of type `to`.
///
/// Equal types share the memory of `source` where its address suits the element (copied
/// otherwise); different types are converted in parallel, rounding to nearest even. An f64 becomes
/// a half by way of f32, as in PyTorch.
/// `None` if `from` is not f64, f32, f16 or bf16, `to` not one of the last three, or `source` not a
/// whole number of elements.
pub(crate) fn convert(source: bytes::Bytes, from: FloatDType, to: FloatDType) -> Option<Bytes> {
    let size = stored_width(from)?;
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
        FloatDType::F32 => Bytes::from_elems(converted::<f32>(&source, from, size)),
        FloatDType::F16 => Bytes::from_elems(converted::<f16>(&source, from, size)),
        _ => Bytes::from_elems(converted::<bf16>(&source, from, size)),
    })
}

/// Whether two rows of stored elements are the same numbers once they are of type `to`; NaN is
/// unequal to itself, as everywhere. Compared in parallel, a chunk at a time. False when the types
/// are not readable or the rows not of one length.
pub(super) fn equal(left: (&[u8], FloatDType), right: (&[u8], FloatDType), to: FloatDType) -> bool {
    match to {
        FloatDType::F32 => equal_as::<f32>(left, right),
        FloatDType::F16 => equal_as::<f16>(left, right),
        FloatDType::BF16 => equal_as::<bf16>(left, right),
        _ => false,
    }
}

fn equal_as<T: Target + PartialEq>(
    (left, left_type): (&[u8], FloatDType),
    (right, right_type): (&[u8], FloatDType),
) -> bool {
    let (Some(left_size), Some(right_size)) = (stored_width(left_type), stored_width(right_type))
    else {
        return false;
    };
    let rounded = |source: &[u8], from: FloatDType, size: usize| {
        let (mut wide, mut out) = (vec![0.0; source.len() / size], Vec::new());
        widen(source, from, &mut wide);
        out.resize(wide.len(), T::zeroed());
        T::narrow(&wide, &mut out);
        out
    };
    left.len() / left_size == right.len() / right_size
        && left
            .par_chunks(CHUNK * left_size)
            .zip(right.par_chunks(CHUNK * right_size))
            .all(|(left, right)| {
                rounded(left, left_type, left_size) == rounded(right, right_type, right_size)
            })
}

fn converted<T: Target>(source: &[u8], from: FloatDType, size: usize) -> Vec<T> {
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
        FloatDType::F64 => {
            for (out, element) in out.iter_mut().zip(source.as_chunks::<8>().0) {
                *out = f64::from_le_bytes(*element) as f32;
            }
        }
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

    const STORED: [FloatDType; 4] = [
        FloatDType::F64,
        FloatDType::F32,
        FloatDType::F16,
        FloatDType::BF16,
    ];
    const TYPES: [FloatDType; 3] = [FloatDType::F32, FloatDType::F16, FloatDType::BF16];

    fn encode(values: &[f32], dtype: FloatDType) -> Vec<u8> {
        match dtype {
            FloatDType::F64 => values
                .iter()
                .flat_map(|&v| f64::from(v).to_le_bytes())
                .collect(),
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
        for from in STORED {
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
                bytes::Bytes::from(vec![0; 12]),
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

    #[test]
    fn f64_is_rounded_to_f32_first() {
        // Halfway between two f16 in f32, and above it only in f64.
        let value = 1.0f64 + 2f64.powi(-11) + 2f64.powi(-40);
        let source = bytes::Bytes::from(value.to_le_bytes().to_vec());
        let found = convert(source, FloatDType::F64, FloatDType::F16).unwrap();
        assert_eq!(f16::from_le_bytes([found[0], found[1]]), f16::ONE);
    }

    #[test]
    fn equal_compares_numbers_of_the_type_asked_for() {
        let values: Vec<f32> = (0..CHUNK + 5).map(|i| i as f32 / 3.0).collect();
        let exact = encode(&values, FloatDType::F32);
        let halves = encode(&values, FloatDType::BF16);
        let (exact, halves) = (
            (&exact[..], FloatDType::F32),
            (&halves[..], FloatDType::BF16),
        );
        assert!(equal(exact, exact, FloatDType::F32));
        assert!(equal(exact, halves, FloatDType::BF16));
        assert!(!equal(exact, halves, FloatDType::F32));
        assert!(!equal(
            exact,
            (&exact.0[4..], FloatDType::F32),
            FloatDType::F32
        ));
        let mut other = values.clone();
        other[CHUNK + 4] += 1.0;
        let other = encode(&other, FloatDType::F32);
        assert!(!equal(exact, (&other, FloatDType::F32), FloatDType::F32));
        let zeros = [
            encode(&[0.0], FloatDType::F32),
            encode(&[-0.0], FloatDType::F32),
        ];
        let [plus, minus] = zeros.each_ref().map(|z| (&z[..], FloatDType::F32));
        assert!(equal(plus, minus, FloatDType::F32));
    }
}
