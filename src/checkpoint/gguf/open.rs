//! The parts of a GGUF model as a model's tensors under Hugging Face names.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::FloatDType;

use super::blocks::BlockTensor;
use super::error::GgufError;
use super::header::{Described, GgufHeader};
use super::metadata::{Metadata, missing};
use super::model::Gguf;
use super::names;
use super::parts::Part;
use super::rope::Llama3;
use crate::checkpoint::elements;
use crate::checkpoint::mapped::MappedFile;
use crate::checkpoint::tensor::{Data, TensorInfo};
use crate::model::Architecture;

/// The tensor with Llama 3's frequency factors.
const ROPE_FREQS: &str = "rope_freqs.weight";

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

/// Parts of the names of tensors that llama.cpp uses in other architectures: ignoring them would
/// change the answer.
const COMPUTED: [&str; 6] = [
    "norm",
    "sinks",
    "_exps",
    ".scale",
    "position_embd",
    "rope_factors",
];

/// A model and its tensors under Hugging Face names.
pub(crate) struct Opened {
    pub(crate) gguf: Gguf,
    pub(crate) tensors: Vec<(TensorInfo, Data)>,
    /// Tensors that no model of these families has, under their own names.
    pub(crate) others: Vec<TensorInfo>,
}

impl Gguf {
    /// Reads the model of the GGUF file with the content `bytes`, or of one part of a split model.
    /// Tensors' names, shapes and places are checked; of their data, only biases are read.
    ///
    /// [`Checkpoint::open`](crate::checkpoint::Checkpoint::open) opens a file and its tensors.
    ///
    /// # Errors
    ///
    /// A [`GgufError`] for the first rule the file breaks.
    pub fn parse(bytes: &[u8]) -> Result<Self, GgufError> {
        let file = MappedFile::in_memory(Path::new("memory"), bytes);
        let header = GgufHeader::parse(file.bytes())?;
        open(vec![(file, header)]).map(|opened| opened.gguf)
    }
}

/// Reads a model from its parts, the first part first.
pub(crate) fn open(parts: Vec<Part>) -> Result<Opened, GgufError> {
    let (mut metadata, mut files) = (None, Vec::new());
    for (file, header) in parts {
        // The parts behind the first repeat nothing of the metadata that matters.
        metadata.get_or_insert(header.metadata);
        files.push((file, header.tensors));
    }
    let metadata = metadata.unwrap_or_default();
    const ARCHITECTURE: &str = "general.architecture";
    let found = Metadata(&metadata).text(ARCHITECTURE)?;
    let found = found.ok_or_else(|| missing(ARCHITECTURE))?;
    let known = ARCHITECTURES
        .into_iter()
        .find(|(known, ..)| *known == found);
    let (name, architecture, interleaves) = known.ok_or_else(|| GgufError::Architecture {
        found: found.into(),
    })?;
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
    let layers = gguf.integer("block_count")?;

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
        let info = TensorInfo {
            name: described.name.clone(),
            shape: described.shape.clone(),
            stored: described.kind.stored(),
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
