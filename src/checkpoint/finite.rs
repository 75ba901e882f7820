//! Elements of a checkpoint that are no numbers to compute with: NaN and infinity.

use burn::tensor::FloatDType;
use half::{bf16, f16};
use rayon::prelude::*;

use super::error::WeightsError;
use super::reader::Checkpoint;
use super::tensor::{Data, StoredType, TensorInfo, read_error};

/// Elements that one task looks at.
const CHUNK: usize = 1 << 16;

impl Checkpoint {
    /// Refuses a tensor that holds NaN or infinity. All of it is read.
    ///
    /// # Errors
    ///
    /// [`WeightsError::NotFinite`] with the first such element; as [`read`](Self::read) where there is no such tensor, or it
    /// cannot be read.
    pub fn check_finite(&self, name: &str) -> Result<(), WeightsError> {
        let (info, data, _) = self.find(name, FloatDType::F32)?;
        check(info, data)
    }

    /// Refuses a checkpoint with NaN or infinity in any tensor that can be loaded. All of it is read, so this is for
    /// finding out why a model computes no numbers.
    ///
    /// # Errors
    ///
    /// As [`check_finite`](Self::check_finite), for the first such tensor.
    pub fn check_all_finite(&self) -> Result<(), WeightsError> {
        self.all_stored()
            .filter(|(info, _)| !matches!(info.stored, StoredType::Other(_)))
            .try_for_each(|(info, data)| check(info, data))
    }
}

fn check(info: &TensorInfo, data: &Data) -> Result<(), WeightsError> {
    let found = match data.plain() {
        // As they are stored: nothing is converted.
        Some((file, range, from)) => {
            let bytes = file.bytes().get(range.clone()).unwrap_or_default();
            let found = first(bytes, from);
            file.release(range.clone());
            found
        }
        None => {
            let bytes = data.read(FloatDType::F32);
            let bytes = bytes.map_err(|reason| read_error(info, reason))?;
            first(&bytes, FloatDType::F32)
        }
    };
    let Some((mut index, value)) = found else {
        return Ok(());
    };
    let mut position = vec![0; info.shape.len()];
    for (at, &size) in position.iter_mut().zip(&info.shape).rev() {
        let size = size.max(1);
        (*at, index) = (index % size, index / size);
    }
    Err(WeightsError::NotFinite {
        path: info.file.clone(),
        name: info.name.clone(),
        position,
        value,
    })
}

/// The first element that is not finite, and its value; types that are not read have none.
fn first(bytes: &[u8], dtype: FloatDType) -> Option<(usize, f32)> {
    match dtype {
        FloatDType::F64 => first_of(bytes, |x: [u8; 8]| f64::from_le_bytes(x) as f32),
        FloatDType::F32 => first_of(bytes, f32::from_le_bytes),
        FloatDType::F16 => first_of(bytes, |x| f16::from_le_bytes(x).to_f32()),
        FloatDType::BF16 => first_of(bytes, |x| bf16::from_le_bytes(x).to_f32()),
        _ => None,
    }
}

fn first_of<const N: usize>(
    bytes: &[u8],
    value: impl Fn([u8; N]) -> f32 + Sync,
) -> Option<(usize, f32)> {
    let elements = bytes.as_chunks::<N>().0;
    let found = |(at, chunk): (usize, &[[u8; N]])| {
        // The sum is NaN where an element is not finite; no branch stands in its way.
        let sum: f32 = chunk.iter().map(|x| value(*x) * 0.0).sum();
        if sum == 0.0 {
            return None;
        }
        let place = chunk.iter().position(|x| !value(*x).is_finite())?;
        Some((at * CHUNK + place, value(chunk[place])))
    };
    elements.par_chunks(CHUNK).enumerate().find_map_first(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_type_is_found() {
        let values = |broken: f32| {
            let mut values = vec![1.0f32; 3 * CHUNK];
            values[CHUNK + 5] = broken;
            values[2 * CHUNK] = f32::NAN;
            values
        };
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let values = values(broken);
            let f32s: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            let f64s: Vec<u8> = (values.iter())
                .flat_map(|x| f64::from(*x).to_le_bytes())
                .collect();
            let f16s: Vec<u8> = (values.iter())
                .flat_map(|x| f16::from_f32(*x).to_le_bytes())
                .collect();
            let bf16s: Vec<u8> = (values.iter())
                .flat_map(|x| bf16::from_f32(*x).to_le_bytes())
                .collect();
            for (bytes, dtype) in [
                (f32s, FloatDType::F32),
                (f64s, FloatDType::F64),
                (f16s, FloatDType::F16),
                (bf16s, FloatDType::BF16),
            ] {
                let (index, value) = first(&bytes, dtype).unwrap();
                assert_eq!(index, CHUNK + 5, "{dtype:?}");
                assert_eq!(value.to_bits() & 0x7f80_0000, 0x7f80_0000);
            }
        }
        assert_eq!(first(&f32::MAX.to_le_bytes(), FloatDType::F32), None);
        assert_eq!(first(&f16::MAX.to_le_bytes(), FloatDType::F16), None);
        assert_eq!(first(&[], FloatDType::BF16), None);
    }
}
