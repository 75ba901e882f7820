//! How GGUF stores elements: which types there are, and which are read.

use std::fmt;

use burn::tensor::FloatDType;
use candle_core::quantized::GgmlDType;

use super::iq4;

/// A type of stored elements that this crate reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgmlType(Stored);

/// Who dequantises a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// candle.
    Candle(GgmlDType),
    /// [`iq4`].
    Iq4Nl,
    /// [`iq4`].
    Iq4Xs,
}

use Stored::{Candle, Iq4Nl, Iq4Xs};

/// Number, reader and name of everything that is read.
const READ: [(u32, Stored, &str); 16] = [
    (0, Candle(GgmlDType::F32), "F32"),
    (1, Candle(GgmlDType::F16), "F16"),
    (30, Candle(GgmlDType::BF16), "BF16"),
    (2, Candle(GgmlDType::Q4_0), "Q4_0"),
    (3, Candle(GgmlDType::Q4_1), "Q4_1"),
    (6, Candle(GgmlDType::Q5_0), "Q5_0"),
    (7, Candle(GgmlDType::Q5_1), "Q5_1"),
    (8, Candle(GgmlDType::Q8_0), "Q8_0"),
    (10, Candle(GgmlDType::Q2K), "Q2_K"),
    (11, Candle(GgmlDType::Q3K), "Q3_K"),
    (12, Candle(GgmlDType::Q4K), "Q4_K"),
    (13, Candle(GgmlDType::Q5K), "Q5_K"),
    (14, Candle(GgmlDType::Q6K), "Q6_K"),
    (15, Candle(GgmlDType::Q8K), "Q8_K"),
    (20, Iq4Nl, "IQ4_NL"),
    (23, Iq4Xs, "IQ4_XS"),
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
        match READ.iter().find(|(n, ..)| *n == id) {
            Some(&(_, kind, _)) => Ok(Self(kind)),
            None => Err(match NAMED.iter().find(|(n, _)| *n == id) {
                Some((_, name)) => (*name).to_string(),
                None => format!("type {id}"),
            }),
        }
    }

    /// Who dequantises it.
    pub(super) fn stored(self) -> Stored {
        self.0
    }

    /// The type of its elements where they are plain floats.
    pub(super) fn plain(self) -> Option<FloatDType> {
        match self.0 {
            Candle(GgmlDType::F32) => Some(FloatDType::F32),
            Candle(GgmlDType::F16) => Some(FloatDType::F16),
            Candle(GgmlDType::BF16) => Some(FloatDType::BF16),
            _ => None,
        }
    }

    /// Elements of one block.
    pub(super) fn block_len(self) -> u64 {
        match self.0 {
            Candle(kind) => kind.block_size() as u64,
            Iq4Nl => iq4::NL_LEN as u64,
            Iq4Xs => iq4::XS_LEN as u64,
        }
    }

    /// Bytes of one block.
    pub(super) fn block_bytes(self) -> u64 {
        match self.0 {
            Candle(kind) => kind.type_size() as u64,
            Iq4Nl => iq4::NL_BYTES as u64,
            Iq4Xs => iq4::XS_BYTES as u64,
        }
    }

    /// ggml's name for it, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        READ.iter()
            .find(|(_, kind, _)| *kind == self.0)
            .map_or("unknown", |(.., name)| name)
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
