//! How GGUF stores elements: which types there are, and which are read.

use std::fmt;

use candle_core::quantized::GgmlDType;

/// A type of stored elements that this crate reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind(GgmlDType);

/// Number, candle's type and name of everything that is read.
const READ: [(u32, GgmlDType, &str); 14] = [
    (0, GgmlDType::F32, "F32"),
    (1, GgmlDType::F16, "F16"),
    (30, GgmlDType::BF16, "BF16"),
    (2, GgmlDType::Q4_0, "Q4_0"),
    (3, GgmlDType::Q4_1, "Q4_1"),
    (6, GgmlDType::Q5_0, "Q5_0"),
    (7, GgmlDType::Q5_1, "Q5_1"),
    (8, GgmlDType::Q8_0, "Q8_0"),
    (10, GgmlDType::Q2K, "Q2_K"),
    (11, GgmlDType::Q3K, "Q3_K"),
    (12, GgmlDType::Q4K, "Q4_K"),
    (13, GgmlDType::Q5K, "Q5_K"),
    (14, GgmlDType::Q6K, "Q6_K"),
    (15, GgmlDType::Q8K, "Q8_K"),
];

/// Types that exist and are refused by name.
const NAMED: [(u32, &str); 18] = [
    (9, "Q8_1"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

impl Kind {
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

    /// candle's name for it.
    pub(super) fn ggml(self) -> GgmlDType {
        self.0
    }

    /// Elements of one block.
    pub(super) fn block_len(self) -> u64 {
        self.0.block_size() as u64
    }

    /// Bytes of one block.
    pub(super) fn block_bytes(self) -> u64 {
        self.0.type_size() as u64
    }

    /// ggml's name for it, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        READ.iter()
            .find(|(_, kind, _)| *kind == self.0)
            .map_or("unknown", |(.., name)| name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
