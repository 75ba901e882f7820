//! Keys and values of some rows: floats, or blocks of codes.

use std::ops::Range;

use burn::tensor::{DType, Device, ExecutionError, FloatDType, Int, Tensor, TensorData};

use super::KvDType;
use crate::kernels::{
    self, AttentionOutput, BlockFormat, KernelError, Regions, first_rows, some_rows,
};

/// Keys or values of a layer.
#[derive(Debug, Clone)]
pub(super) enum Stored {
    /// `[batch, kv_heads, rows, head_dim]`.
    Float(Tensor<4>),
    /// Blocks of [`BlockFormat::Q8_0`], `[batch, kv_heads, rows, row_bytes]`, `u8`.
    Blocks(Tensor<4, Int>),
}

impl Stored {
    pub(super) fn zeros(shape: [usize; 4], dtype: KvDType, device: &Device) -> Self {
        match dtype.float() {
            Some(dtype) => Self::Float(Tensor::zeros(shape, (device, DType::from(dtype)))),
            None => Self::Blocks(Tensor::zeros(shape, (device, DType::U8))),
        }
    }

    pub(super) fn dims(&self) -> [usize; 4] {
        match self {
            Self::Float(tensor) => tensor.dims(),
            Self::Blocks(tensor) => tensor.dims(),
        }
    }

    pub(super) fn dtype(&self) -> KvDType {
        match self {
            Self::Float(tensor) => match tensor.dtype() {
                DType::F16 => KvDType::F16,
                DType::BF16 => KvDType::BF16,
                _ => KvDType::F32,
            },
            Self::Blocks(_) => KvDType::Q8_0,
        }
    }

    pub(super) fn device(&self) -> Device {
        match self {
            Self::Float(tensor) => tensor.device(),
            Self::Blocks(tensor) => tensor.device(),
        }
    }

    /// `[batch, kv_heads, head_dim]`.
    pub(super) fn sizes(&self) -> [usize; 3] {
        let [batch, kv_heads, _, row] = self.dims();
        match self {
            Self::Float(_) => [batch, kv_heads, row],
            Self::Blocks(_) => [
                batch,
                kv_heads,
                BlockFormat::Q8_0.row_elements(row).unwrap_or(0),
            ],
        }
    }

    /// As rows of `dtype`; what has it is left as it is.
    pub(super) fn to(self, dtype: KvDType) -> Result<Self, KernelError> {
        Ok(match (self, dtype.float()) {
            (Self::Float(rows), Some(dtype)) => Self::Float(rows.cast(dtype)),
            (Self::Float(rows), None) => Self::Blocks(kernels::quantize_rows(rows)?),
            (blocks, None) => blocks,
            (blocks, Some(dtype)) => Self::Float(blocks.float(dtype)?),
        })
    }

    /// As floats: what is not is made `dtype`.
    fn float(self, dtype: FloatDType) -> Result<Tensor<4>, KernelError> {
        match self {
            Self::Float(tensor) => Ok(tensor),
            Self::Blocks(blocks) => {
                let [batch, kv_heads, rows, row] = blocks.dims();
                let flat = blocks.reshape([batch * kv_heads * rows, row]);
                let floats = kernels::dequantize(flat, BlockFormat::Q8_0, dtype)?;
                let width = floats.dims()[1];
                Ok(floats.reshape([batch, kv_heads, rows, width]))
            }
        }
    }

    /// A view of some rows, without a copy wherever a device could do without.
    pub(super) fn slice(self, rows: Range<usize>) -> Self {
        let [batch, kv_heads, _, row] = self.dims();
        let range = [0..batch, 0..kv_heads, rows.clone(), 0..row];
        match self {
            Self::Float(tensor) => Self::Float(match some_rows(tensor.clone(), rows) {
                Ok(rows) => rows,
                // A device without the operation.
                Err(_) => tensor.slice(range),
            }),
            Self::Blocks(tensor) => Self::Blocks(tensor.slice(range)),
        }
    }

    /// A view of the first rows, without a copy wherever a device could do without.
    pub(super) fn first_rows(self, rows: usize) -> Result<Self, KernelError> {
        match self {
            Self::Float(tensor) => Ok(Self::Float(first_rows(tensor, rows)?)),
            blocks => Ok(blocks.slice(0..rows)),
        }
    }

    /// Writes rows of the same dtype in place, if this is the only reference.
    pub(super) fn write(self, at: Range<usize>, rows: Self) -> Self {
        let [batch, kv_heads, _, row] = self.dims();
        let range = [0..batch, 0..kv_heads, at, 0..row];
        match (self, rows) {
            (Self::Float(stored), Self::Float(rows)) => {
                Self::Float(stored.slice_assign(range, rows))
            }
            (Self::Blocks(stored), Self::Blocks(rows)) => {
                Self::Blocks(stored.slice_assign(range, rows))
            }
            (stored, _) => unreachable!("rows are made {} before they are written", stored.dtype()),
        }
    }
}

/// Keys and values of some rows of a layer, as the cache keeps them.
#[derive(Debug, Clone)]
pub struct CachedRows {
    pub(super) key: Stored,
    pub(super) value: Stored,
}

impl CachedRows {
    /// What [`into_data`](Self::into_data) gave of rows in `dtype`.
    pub(crate) fn from_data(data: [TensorData; 2], dtype: KvDType, device: &Device) -> Self {
        let [key, value] = data.map(|data| match dtype.float() {
            Some(dtype) => Stored::Float(Tensor::from_data(data, (device, DType::from(dtype)))),
            None => Stored::Blocks(Tensor::from_data(data, (device, DType::U8))),
        });
        Self { key, value }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.key.dims()[2]
    }

    /// Heads of keys and values.
    pub fn kv_heads(&self) -> usize {
        self.key.dims()[1]
    }

    /// In what they are kept.
    pub fn dtype(&self) -> KvDType {
        self.key.dtype()
    }

    /// Keys and values `[batch, kv_heads, rows, head_dim]`: as they are where they are floats, else what their codes
    /// stand for, rounded to `dtype`.
    ///
    /// # Errors
    ///
    /// [`KernelError`] for a `dtype` other than f32, f16 and bf16.
    pub fn floats(self, dtype: FloatDType) -> Result<(Tensor<4>, Tensor<4>), KernelError> {
        Ok((self.key.float(dtype)?, self.value.float(dtype)?))
    }

    /// [`attention`](kernels::attention()) of queries `[batch, heads, seq_q, head_dim]` over these keys and values.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the queries or regions do not fit.
    pub fn attend(
        self,
        query: Tensor<4>,
        regions: Regions,
    ) -> Result<AttentionOutput, KernelError> {
        match (self.key, self.value) {
            (Stored::Blocks(key), Stored::Blocks(value)) => {
                kernels::quantized_attention(query, key, value, regions)
            }
            (key, value) => {
                let (key, value) = Self { key, value }.floats(FloatDType::F32)?;
                kernels::attention(query, key, value, regions)
            }
        }
    }

    /// Keys and values as they are kept: floats, or bytes of blocks.
    pub(crate) fn into_data(self) -> Result<[TensorData; 2], ExecutionError> {
        let data = |stored| match stored {
            Stored::Float(tensor) => tensor.try_into_data(),
            Stored::Blocks(tensor) => tensor.try_into_data(),
        };
        Ok([data(self.key)?, data(self.value)?])
    }
}
