//! GGUF files as Hugging Face models: tensors, `config.json`, tokenizer.
//!
//! | file | holds |
//! |---|---|
//! | `parts` | the files of a split model, and the one model in a folder: [`find`] |
//! | `header` | the file's metadata and tensor descriptions, bounded by the file's length: [`Header`] |
//! | `kind`, `blocks`, `iq4` | stored types, and blocks to elements (dequantised by candle-core but for IQ4) |
//! | `names` | tensor names and llama.cpp's row order, per architecture |
//! | `config`, `rope` | `config.json` and `generation_config.json` from metadata |
//! | `tokenizer` | `tokenizer.json` and `tokenizer_config.json` from metadata: [`GgufTokenizer`] |
//!
//! candle's own reader is not used: it allocates what the file says before it knows that the file
//! is that long.

mod blocks;
mod config;
mod error;
mod header;
mod iq4;
mod kind;
mod names;
mod parts;
mod rope;
mod tokenizer;

use std::collections::BTreeMap;
use std::path::Path;

pub(super) use blocks::BlockTensor;
pub use error::GgufError;
pub use header::{Described, Header, MAX_KEYS, MAX_TENSORS, Value};
pub use kind::Kind;
pub use parts::find;
pub(super) use parts::{Part, open_all};
pub use tokenizer::GgufTokenizer;

use super::checkpoint::{Data, StoredType, TensorInfo};
use super::elements;
use super::mapped::MappedFile;
use burn::tensor::FloatDType;
use rope::Llama3;

/// The tensor with Llama 3's frequency factors.
const ROPE_FREQS: &str = "rope_freqs.weight";

/// What a GGUF file says about its model beside the tensors.
#[derive(Debug, Clone)]
pub struct Gguf {
    /// The name of the architecture in the file.
    name: &'static str,
    architecture: Architecture,
    metadata: BTreeMap<String, Value>,
    /// Rows of the embedding.
    vocab_size: usize,
    /// Whether the output projection is the embedding.
    tied: bool,
    /// Llama 3's frequency scaling, recovered from its factors.
    llama3: Option<Llama3>,
    /// The projections of a layer that have biases, by their Hugging Face names, and whether a bias
    /// of any layer is not 0.
    biases: BTreeMap<String, bool>,
}

/// The families of models that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Architecture {
    /// Llama 2, 3, 3.1, 3.2, Yi, SmolLM2, Mistral without sliding window.
    Llama,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Qwen3.
    Qwen3,
}

impl Architecture {
    /// Its name in GGUF metadata and in `model_type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }
}

/// Architectures by their names in GGUF files: which family computes the same, and whether
/// neighbouring rows of the query and key projections are rotated together (ggml's "norm" rotation,
/// and not "neox"), so that they have to be put in Hugging Face's order.
///
/// llama.cpp builds the same graph for those after the first as for llama.
const ARCHITECTURES: [(&str, Architecture, bool); 8] = [
    ("llama", Architecture::Llama, true),
    ("ernie4_5", Architecture::Llama, true),
    ("exaone", Architecture::Llama, false),
    ("internlm2", Architecture::Llama, true),
    ("mistral3", Architecture::Llama, true),
    ("xverse", Architecture::Llama, true),
    ("qwen2", Architecture::Qwen2, false),
    ("qwen3", Architecture::Qwen3, false),
];

/// What of its tensors' names says that llama.cpp computes with a tensor in other architectures:
/// leaving it out would change the answer.
const COMPUTED: [&str; 6] = [
    "norm",
    "sinks",
    "_exps",
    ".scale",
    "position_embd",
    "rope_factors",
];

/// A model and its tensors under Hugging Face names.
pub(super) struct Opened {
    pub(super) gguf: Gguf,
    pub(super) tensors: Vec<(TensorInfo, Data)>,
    /// Tensors that no model of these families has, under their own names.
    pub(super) others: Vec<TensorInfo>,
}

/// Reads what the parts of a model, the first part first, say together.
pub(super) fn open(parts: Vec<Part>) -> Result<Opened, GgufError> {
    let (mut metadata, mut files) = (None, Vec::new());
    for (file, header) in parts {
        // The parts behind the first repeat nothing of the metadata that matters.
        metadata.get_or_insert(header.metadata);
        files.push((file, header.tensors));
    }
    let metadata = metadata.unwrap_or_default();
    let (name, architecture, interleaves) = match metadata.get("general.architecture") {
        Some(Value::Text(name)) => ARCHITECTURES
            .into_iter()
            .find(|(known, ..)| known == name)
            .ok_or_else(|| GgufError::Architecture {
                found: name.clone(),
            })?,
        _ => {
            return Err(GgufError::MissingKey {
                key: "general.architecture".into(),
            });
        }
    };
    let mut gguf = Gguf {
        name,
        architecture,
        metadata,
        vocab_size: 0,
        tied: true,
        llama3: None,
        biases: BTreeMap::new(),
    };
    let (heads, kv_heads) = gguf.heads()?;
    let layers = gguf.optional_integer(&gguf.key("block_count"))?;

    let (mut tensors, mut others) = (Vec::new(), Vec::new());
    let (mut embedding, mut head) = (None, None);
    let all = files
        .iter()
        .flat_map(|(file, described)| described.iter().map(move |tensor| (file, tensor)));
    for (file, described) in all {
        if described.name == ROPE_FREQS {
            let factors = factors(file, described)?;
            gguf.llama3 = Some(Llama3::recover(&factors, gguf.rope_theta()?)?);
            continue;
        }
        let stored = match described.kind.plain() {
            Some(dtype) => StoredType::Float(dtype),
            None => StoredType::Quantized(described.kind.name()),
        };
        let info = TensorInfo {
            name: described.name.clone(),
            shape: described.shape.clone(),
            stored,
            file: file.path().into(),
        };
        let Some(name) = names::hugging_face(&described.name) else {
            if COMPUTED.iter().any(|part| described.name.contains(part)) {
                return Err(GgufError::Unsupported {
                    what: "a tensor that Llama and Qwen models do not have",
                    found: described.name.clone(),
                });
            }
            others.push(info);
            continue;
        };
        match name.as_str() {
            "model.embed_tokens.weight" => embedding = Some(described.shape[0]),
            "lm_head.weight" => head = Some(described.shape[0]),
            _ => {}
        }
        if let Some((layer, projection)) = names::bias(&name)
            && layers.is_none_or(|layers| layer < layers)
        {
            let counts = gguf.biases.entry(projection.to_string()).or_default();
            *counts |= !is_zero(file, described);
        }
        let interleaved = if interleaves && name.contains(".q_proj.") {
            Some(heads)
        } else if interleaves && name.contains(".k_proj.") {
            Some(kv_heads)
        } else {
            None
        };
        let (rows, cols) = rows_of(described, interleaved)?;
        let data = Data::Gguf(BlockTensor {
            file: file.clone(),
            range: described.start..described.end,
            kind: described.kind,
            rows,
            cols,
            interleaved,
        });
        tensors.push((TensorInfo { name, ..info }, data));
    }
    // One of the two alone serves for both.
    gguf.tied = embedding.is_none() || head.is_none();
    gguf.vocab_size = embedding.or(head).ok_or_else(|| GgufError::Unsupported {
        what: "a model without an embedding",
        found: "no token_embd.weight".into(),
    })?;
    Ok(Opened {
        gguf,
        tensors,
        others,
    })
}

/// Whether all elements of a tensor of plain floats are 0; false for other tensors.
fn is_zero(file: &MappedFile, described: &Described) -> bool {
    let bytes = file.slice(described.start..described.end);
    match (described.kind.plain().and_then(elements::width), bytes) {
        // A sign in an element's last byte makes no difference.
        (Some(width), Some(bytes)) => bytes.chunks_exact(width).all(|element| {
            element.iter().rev().skip(1).all(|&b| b == 0) && element[width - 1] & 0x7f == 0
        }),
        _ => false,
    }
}

/// A tensor's rows and their length, checked for the reordering they need.
fn rows_of(described: &Described, interleaved: Option<usize>) -> Result<(usize, usize), GgufError> {
    let elements = described
        .shape
        .iter()
        .try_fold(1usize, |n, &dim| n.checked_mul(dim))
        .unwrap_or(usize::MAX);
    let innermost = described.shape.last().copied().unwrap_or(1);
    // A bias is reordered element by element, so each is a row.
    let cols = if interleaved.is_some() && described.shape.len() == 1 {
        1
    } else {
        innermost
    };
    let rows = elements / cols.max(1);
    if let Some(heads) = interleaved {
        let fits = heads > 0 && rows.is_multiple_of(heads) && (rows / heads).is_multiple_of(2);
        if !fits || !(cols as u64).is_multiple_of(described.kind.block_len()) {
            return Err(GgufError::Tensor {
                name: described.name.clone(),
                expected: format!("{heads} heads of an even dimension"),
                found: format!("{:?} of {}", described.shape, described.kind),
            });
        }
    }
    Ok((rows, cols))
}

/// The values of the frequency factors.
fn factors(file: &MappedFile, described: &Described) -> Result<Vec<f32>, GgufError> {
    /// Longer than half of any head dimension.
    const LONGEST: usize = 4096;
    let wrong = |expected: &str| GgufError::Tensor {
        name: described.name.clone(),
        expected: expected.into(),
        found: format!("{:?} of {}", described.shape, described.kind),
    };
    if described.kind.plain() != Some(FloatDType::F32)
        || described.shape.len() != 1
        || described.shape[0] > LONGEST
    {
        return Err(wrong("one axis of F32"));
    }
    let bytes = file
        .slice(described.start..described.end)
        .ok_or_else(|| wrong("bytes inside the file"))?;
    Ok(bytemuck::pod_collect_to_vec(&bytes))
}

impl Gguf {
    /// Reads what the GGUF file that `bytes` is, the whole of it, says about its model; tensors'
    /// names, shapes and places are checked, their data not touched but for biases. Of a split model, what the one
    /// part says.
    ///
    /// [`Checkpoint::open`](super::Checkpoint::open) is the way to read tensors.
    ///
    /// # Errors
    ///
    /// A [`GgufError`] for the first thing that does not hold.
    pub fn parse(bytes: &[u8]) -> Result<Self, GgufError> {
        let file = MappedFile::in_memory(Path::new("memory"), bytes);
        let header = Header::parse(file.bytes())?;
        open(vec![(file, header)]).map(|opened| opened.gguf)
    }

    /// The family of the model.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// A metadata value by its key in the file.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// The chat template.
    pub fn chat_template(&self) -> Option<&str> {
        match self.get("tokenizer.chat_template") {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The key of the architecture's own metadata, such as `llama.block_count`.
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    fn wrong(key: &str, expected: &'static str, found: &Value) -> GgufError {
        let mut found = format!("{found:?}");
        found.truncate(
            found
                .char_indices()
                .nth(80)
                .map_or(found.len(), |(at, _)| at),
        );
        GgufError::WrongValue {
            key: key.into(),
            expected,
            found,
        }
    }

    fn optional_integer(&self, key: &str) -> Result<Option<usize>, GgufError> {
        let integer = match self.get(key) {
            None => return Ok(None),
            Some(Value::Unsigned(n)) => usize::try_from(*n).ok(),
            Some(Value::Signed(n)) => usize::try_from(*n).ok(),
            Some(_) => None,
        };
        match (integer, self.get(key)) {
            (None, Some(value)) => Err(Self::wrong(key, "one non-negative integer", value)),
            (found, _) => Ok(found),
        }
    }

    fn integer(&self, key: &str) -> Result<usize, GgufError> {
        self.optional_integer(key)?
            .ok_or_else(|| GgufError::MissingKey { key: key.into() })
    }

    /// A float as the shortest decimal that its stored type reads back: 1e-5 and not 9.9999997e-6.
    fn optional_float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) if x.is_finite() => Ok(x.to_string().parse().ok()),
            Some(Value::Double(x)) if x.is_finite() => Ok(Some(*x)),
            Some(other) => Err(Self::wrong(key, "one finite float", other)),
        }
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(Self::wrong(key, "true or false", other)),
        }
    }

    fn text(&self, key: &str) -> Result<Option<&str>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(Self::wrong(key, "a text", other)),
        }
    }
}
