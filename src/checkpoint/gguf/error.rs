//! Why a GGUF file is refused.

use crate::quoted::{Quoted, cut};
use crate::size::size;

/// Characters of a feature that a message shows: it may be a list of expressions.
const SHOWN: usize = 1000;

/// Why a GGUF file was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// Not GGUF at all.
    #[error("expected a GGUF file, found one that begins with \"{found}\"")]
    NotGguf {
        /// The first bytes, printable.
        found: String,
    },
    /// A version this crate does not read.
    #[error("expected GGUF version 2 or 3, little-endian, found version {found}{}; convert the model again with a current llama.cpp", if found.swap_bytes() < 16 { " (big-endian)" } else { "" })]
    Version {
        /// The version in the file.
        found: u32,
    },
    /// The file ends too early.
    #[error(
        "{} ends at byte {needed}, found a file of {file_len} bytes; the file is incomplete: fetch it again",
        Quoted(what)
    )]
    Truncated {
        /// What does not fit.
        what: String,
        /// Where it would end, in bytes.
        needed: u64,
        /// Length of the file in bytes.
        file_len: u64,
    },
    /// More of something than any real file has.
    #[error("expected at most {limit} {what}, found {found}; the file is damaged: fetch it again")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The most that is read.
        limit: u64,
        /// What the file has.
        found: u64,
    },
    /// More metadata than any real file has.
    #[error(
        "expected metadata that takes at most {}, found more; the file is damaged: fetch it again",
        size(*limit)
    )]
    MetadataTooLarge {
        /// The most bytes that are kept.
        limit: u64,
    },
    /// Text that is not UTF-8.
    #[error(
        "{}: expected UTF-8 text, found another encoding; the file is damaged: fetch it again",
        Quoted(what)
    )]
    NotUtf8 {
        /// Where.
        what: String,
    },
    /// A metadata type that GGUF does not have, or arrays of arrays, which no model uses.
    #[error(
        "metadata `{}`: expected a GGUF value type, found type {found}",
        Quoted(key)
    )]
    ValueType {
        /// The key.
        key: String,
        /// The number of the type.
        found: u32,
    },
    /// A repeated key or tensor.
    #[error(
        "expected each {what} once, found `{}` twice; the file is damaged: fetch it again",
        Quoted(name)
    )]
    Duplicate {
        /// Key or tensor.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A tensor's shape, offset or place that cannot be.
    #[error(
        "tensor `{}`: expected {}, found {}; the file is damaged: fetch it again",
        Quoted(name),
        Quoted(expected),
        Quoted(found)
    )]
    Tensor {
        /// The tensor.
        name: String,
        /// What it has to be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A quantisation that is not dequantised here.
    #[error(
        "tensor `{}`: expected F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q8_K, IQ4_NL or IQ4_XS, found {found}; requantise the model with llama.cpp's llama-quantize, for example to Q8_0",
        Quoted(name)
    )]
    Quantization {
        /// The tensor.
        name: String,
        /// The quantisation's name or number.
        found: String,
    },
    /// Metadata the model cannot do without.
    #[error("metadata `{key}` is missing; convert the model again with a current llama.cpp")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// Metadata of another type or an impossible value.
    #[error(
        "metadata `{}`: expected {expected}, found {}",
        Quoted(key),
        Quoted(found)
    )]
    WrongValue {
        /// The key.
        key: String,
        /// What it has to be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A model of another family.
    #[error(
        "expected a model of the architecture llama, qwen2 or qwen3, or of one that differs from llama by its name only (ernie4_5, exaone, internlm2, mistral3, xverse), found {}",
        Quoted(found)
    )]
    Architecture {
        /// The architecture's name.
        found: String,
    },
    /// A part of a split model whose name is not that of a part, so that the others cannot be found.
    #[error(
        "is part {number} of {count} of a split model, expected the file name {}, found {}; give the parts the names they were made with",
        Quoted(expected),
        Quoted(found)
    )]
    PartName {
        /// The part, from 1 on.
        number: u64,
        /// Number of parts.
        count: u64,
        /// What it would have to be called.
        expected: String,
        /// What it is called.
        found: String,
    },
    /// A file in the place of a part that is another part, or of another model.
    #[error(
        "expected {}, found {}; fetch the parts of one model again",
        Quoted(expected),
        Quoted(found)
    )]
    OtherPart {
        /// The part by the file's name.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// Parts that hold more or fewer tensors than the model has.
    #[error(
        "expected {expected} tensors in all parts, found {found}; the parts are of different models: fetch them again"
    )]
    PartTensors {
        /// The count in the first part.
        expected: u64,
        /// Tensors in all parts.
        found: u64,
    },
    /// A feature of the model that this crate does not have.
    #[error("{what} is not supported: {}", cut(found, SHOWN))]
    Unsupported {
        /// The feature.
        what: &'static str,
        /// What the file asks for.
        found: String,
    },
}
