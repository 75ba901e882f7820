//! How GGUF stores elements: which types there are, and which are read.

use std::fmt;

use burn::tensor::FloatDType;

use crate::checkpoint::tensor::StoredType;
use crate::kernels::BlockFormat;

/// A type of stored elements that this crate reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgmlType(Stored);

/// What elements are stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    Plain(FloatDType),
    Blocks(BlockFormat),
}

use Stored::{Blocks, Plain};

/// Numbers of everything that is read.
const READ: [(u32, Stored); 16] = [
    (0, Plain(FloatDType::F32)),
    (1, Plain(FloatDType::F16)),
    (30, Plain(FloatDType::BF16)),
    (2, Blocks(BlockFormat::Q4_0)),
    (3, Blocks(BlockFormat::Q4_1)),
    (6, Blocks(BlockFormat::Q5_0)),
    (7, Blocks(BlockFormat::Q5_1)),
    (8, Blocks(BlockFormat::Q8_0)),
    (10, Blocks(BlockFormat::Q2K)),
    (11, Blocks(BlockFormat::Q3K)),
    (12, Blocks(BlockFormat::Q4K)),
    (13, Blocks(BlockFormat::Q5K)),
    (14, Blocks(BlockFormat::Q6K)),
    (15, Blocks(BlockFormat::Q8K)),
    (20, Blocks(BlockFormat::Iq4Nl)),
    (23, Blocks(BlockFormat::Iq4Xs)),
];

/// Types that exist and are refused by name.
const NAMED: [(u32, &str); 17] = [
    (9, "Q8_1"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

impl GgmlType {
    /// The type with a number in the file; otherwise the name of what is refused.
    pub(super) fn from_id(id: u32) -> Result<Self, String> {
        match READ.iter().find(|(n, _)| *n == id) {
            Some(&(_, kind)) => Ok(Self(kind)),
            None => Err(match NAMED.iter().find(|(n, _)| *n == id) {
                Some((_, name)) => (*name).to_string(),
                None => format!("type {id}"),
            }),
        }
    }

    /// Plain floats: f32, f16 or bf16.
    pub(super) const fn floats(dtype: FloatDType) -> Self {
        Self(Plain(dtype))
    }

    /// Blocks of codes.
    pub(super) const fn quantized(format: BlockFormat) -> Self {
        Self(Blocks(format))
    }

    /// Its number in the file.
    pub(super) fn id(self) -> u32 {
        let found = READ.iter().find(|(_, stored)| *stored == self.0);
        found.map_or(0, |(id, _)| *id)
    }

    /// How a tensor of it is stored.
    pub(in crate::checkpoint) fn stored(self) -> StoredType {
        match self.0 {
            Plain(dtype) => StoredType::Float(dtype),
            Blocks(format) => StoredType::Quantized(format),
        }
    }

    /// The type of its elements where they are plain floats.
    pub(super) fn plain(self) -> Option<FloatDType> {
        match self.0 {
            Plain(dtype) => Some(dtype),
            Blocks(_) => None,
        }
    }

    /// How its elements lie where they are quantised.
    pub(in crate::checkpoint) fn blocks(self) -> Option<BlockFormat> {
        match self.0 {
            Plain(_) => None,
            Blocks(format) => Some(format),
        }
    }

    /// Elements of one block.
    pub(super) fn block_len(self) -> u64 {
        match self.0 {
            Plain(_) => 1,
            Blocks(format) => format.block_len() as u64,
        }
    }

    /// Bytes of one block.
    pub(super) fn block_bytes(self) -> u64 {
        match self.0 {
            Plain(FloatDType::F32) => 4,
            Plain(_) => 2,
            Blocks(format) => format.block_bytes() as u64,
        }
    }

    /// ggml's name for it, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Plain(FloatDType::F32) => "F32",
            Plain(FloatDType::F16) => "F16",
            Plain(_) => "BF16",
            Blocks(format) => format.name(),
        }
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
