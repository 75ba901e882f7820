//! In what a cache keeps keys and values.

use std::fmt;

use burn::tensor::{DType, Device, FloatDType};
use serde::{Deserialize, Serialize};

use super::CacheError;
use crate::kernels::{BlockFormat, is_cpu};

/// In what a cache keeps keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum KvDType {
    /// Four bytes an element.
    F32,
    /// Two bytes an element.
    F16,
    /// Two bytes an element.
    BF16,
    /// Eight bits an element and a scale for 32 ([`BlockFormat::Q8_0`]); on the CPU, for heads of a multiple of 32
    /// elements.
    #[allow(non_camel_case_types)]
    Q8_0,
}

impl KvDType {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::BF16, Self::Q8_0];

    /// That of rows in `dtype`; f32 for types that a cache does not have.
    pub fn of(dtype: FloatDType) -> Self {
        match dtype {
            FloatDType::F16 => Self::F16,
            FloatDType::BF16 => Self::BF16,
            _ => Self::F32,
        }
    }

    /// Whether a cache on `device` may have it, for heads of `head_dim` elements.
    ///
    /// # Errors
    ///
    /// [`CacheError::HeadDim`] and [`CacheError::Device`].
    pub fn check(self, head_dim: usize, device: &Device) -> Result<(), CacheError> {
        self.row_on(head_dim, device).map(|_| ())
    }

    /// [`row`](Self::row) of a cache on `device`.
    pub(super) fn row_on(self, head_dim: usize, device: &Device) -> Result<usize, CacheError> {
        let dtype = self;
        if dtype.float().is_none() && !is_cpu(device) {
            let device = format!("{device:?}");
            return Err(CacheError::Device { dtype, device });
        }
        let row = dtype.row(head_dim);
        row.ok_or(CacheError::HeadDim { dtype, head_dim })
    }

    /// The name as in [`Display`](fmt::Display): `f32`, `f16`, `bf16` or `q8_0`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q8_0 => "q8_0",
        }
    }

    /// The dtype of the tensors, where they are floats.
    pub(crate) fn float(self) -> Option<FloatDType> {
        match self {
            Self::F32 => Some(FloatDType::F32),
            Self::F16 => Some(FloatDType::F16),
            Self::BF16 => Some(FloatDType::BF16),
            Self::Q8_0 => None,
        }
    }

    /// Values of a row of `head_dim` elements: floats, or the bytes of blocks. None where it is no whole blocks.
    pub(crate) fn row(self, head_dim: usize) -> Option<usize> {
        match self.float() {
            Some(_) => Some(head_dim),
            None => BlockFormat::Q8_0.row_bytes(head_dim),
        }
    }

    /// Bytes of a value.
    pub(super) fn value_bytes(self) -> usize {
        self.float().map_or(1, |dtype| DType::from(dtype).size())
    }
}

impl fmt::Display for KvDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
