//! A stored tensor: its description and its data.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::{Bytes, FloatDType};

use super::elements;
use super::error::WeightsError;
#[cfg(feature = "gguf")]
use super::gguf::BlockTensor;
use super::grouped::GroupedTensor;
use super::mapped::MappedFile;
use crate::kernels::BlockFormat;

/// How a tensor is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoredType {
    /// Floating point: f64, or of the same layout as a parameter's.
    Float(FloatDType),
    /// Blocks of codes.
    Quantized(BlockFormat),
    /// A type that cannot become a float parameter, by its name in the file.
    Other(String),
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float(dtype) => write!(f, "{dtype:?}"),
            Self::Quantized(format) => write!(f, "{format}"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// The description of a tensor, known without reading it.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// Its Hugging Face name.
    pub name: String,
    /// Its shape, outermost axis first.
    pub shape: Vec<usize>,
    /// How it is stored.
    pub stored: StoredType,
    /// The file it lies in.
    pub file: PathBuf,
}

impl TensorInfo {
    /// Number of elements. The shape was checked against the file, so this does not overflow.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Where a tensor's data comes from.
#[derive(Debug, Clone)]
pub(super) enum Data {
    /// Elements in a mapped file.
    Plain {
        file: MappedFile,
        range: Range<usize>,
        from: FloatDType,
    },
    /// Blocks of a GGUF file.
    #[cfg(feature = "gguf")]
    Gguf(BlockTensor),
    /// Codes whose scales are tensors of their own.
    Grouped(Arc<GroupedTensor>),
    /// Elements of a type that is not read by itself.
    Other {
        file: MappedFile,
        range: Range<usize>,
    },
}

impl Data {
    /// Where elements lie that are plain floats, and of which type they are.
    pub(super) fn plain(&self) -> Option<(&MappedFile, &Range<usize>, FloatDType)> {
        match self {
            Self::Plain { file, range, from } => Some((file, range, *from)),
            _ => None,
        }
    }

    /// The tensor's elements as `to`, or why not. The memory of stored elements is released where
    /// the result is a conversion of them.
    pub(super) fn read(&self, to: FloatDType) -> Result<Bytes, String> {
        let elements = self.elements(to)?;
        if let Some((file, range)) = self.place()
            && !file.bytes().as_ptr_range().contains(&elements.as_ptr())
        {
            file.release(range.clone());
        }
        Ok(elements)
    }

    /// The blocks of a quantised tensor `[rows, row_bytes]`, or why not. The memory of stored blocks is released
    /// where they were copied.
    pub(super) fn blocks(&self) -> Result<Bytes, String> {
        match self {
            #[cfg(feature = "gguf")]
            Self::Gguf(blocks) => {
                let bytes = blocks.blocks()?;
                let (file, range) = blocks.place();
                if !file.bytes().as_ptr_range().contains(&bytes.as_ptr()) {
                    file.release(range.clone());
                }
                Ok(bytes)
            }
            Self::Grouped(grouped) => grouped.blocks(),
            _ => Err("its elements are no blocks".into()),
        }
    }

    /// The file and the bytes of it in which the tensor is stored.
    pub(super) fn place(&self) -> Option<(&MappedFile, &Range<usize>)> {
        match self {
            Self::Plain { file, range, .. } | Self::Other { file, range } => Some((file, range)),
            Self::Grouped(grouped) => Some(grouped.place()),
            #[cfg(feature = "gguf")]
            Self::Gguf(blocks) => Some(blocks.place()),
        }
    }

    fn elements(&self, to: FloatDType) -> Result<Bytes, String> {
        match self {
            Self::Plain { file, range, from } => file
                .slice(range.clone())
                .and_then(|source| elements::convert(source, *from, to))
                .ok_or_else(|| "its bytes are not inside the file".to_string()),
            #[cfg(feature = "gguf")]
            Self::Gguf(blocks) => blocks.read(to),
            Self::Grouped(grouped) => grouped.read(to),
            Self::Other { .. } => Err("its type cannot be read".to_string()),
        }
    }
}

/// The error for a tensor whose data cannot be read.
pub(crate) fn read_error(info: &TensorInfo, message: String) -> WeightsError {
    WeightsError::Read {
        path: info.file.clone(),
        name: info.name.clone(),
        message,
    }
}
