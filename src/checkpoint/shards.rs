//! Safetensors files: one alone, and those that an index names.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use burn::tensor::FloatDType;
use safetensors::Dtype;

use super::error::WeightsError;
use super::index::Index;
use super::mapped::MappedFile;
use super::report::ShardNotes;
use super::safetensors::Header;
use super::tensor::{Data, StoredType, TensorInfo};

/// The tensors of a safetensors file and its metadata.
type Shard = (Vec<(TensorInfo, Data)>, BTreeMap<String, String>);

/// The tensors of the shards in `folder` that the index at `path` names, and in what they differ
/// from it.
pub(super) fn open(
    folder: &Path,
    path: &Path,
) -> Result<(Vec<(TensorInfo, Data)>, ShardNotes), WeightsError> {
    let index = open_index(path, ".safetensors")?;
    let missing: Vec<String> = index
        .shards()
        .into_iter()
        .filter(|name| !folder.join(name).exists())
        .map(String::from)
        .collect();
    if !missing.is_empty() {
        return Err(WeightsError::ShardMissing {
            index: path.into(),
            shards: missing,
        });
    }

    let promised: HashMap<&str, &str> = index
        .weight_map
        .iter()
        .map(|(tensor, shard)| (tensor.as_str(), shard.as_str()))
        .collect();
    let mut notes = ShardNotes::default();
    let (mut tensors, mut found) = (Vec::new(), HashMap::new());
    for name in index.shards() {
        for (info, data) in read(&MappedFile::open(&folder.join(name))?)?.0 {
            match promised.get(info.name.as_str()) {
                None => notes.unlisted.push(info.name.clone()),
                Some(shard) if *shard != name => notes.elsewhere.push(info.name.clone()),
                Some(_) => {}
            }
            // As in transformers, which reads one shard after the other.
            match found.entry(info.name.clone()) {
                Entry::Vacant(place) => {
                    place.insert(tensors.len());
                    tensors.push((info, data));
                }
                Entry::Occupied(place) => {
                    notes.repeated.push(info.name.clone());
                    let at: usize = *place.get();
                    tensors[at] = (info, data);
                }
            }
        }
    }
    // Reported once: one of a repeated tensor's shards is not the one that the index names.
    let twice: BTreeSet<&String> = notes.repeated.iter().collect();
    notes.elsewhere.retain(|name| !twice.contains(name));
    notes.unlisted.retain(|name| !twice.contains(name));
    let faults: Vec<String> = index
        .weight_map
        .iter()
        .filter(|(tensor, _)| !found.contains_key(tensor))
        .map(|(tensor, shard)| format!("{shard} lacks `{tensor}`"))
        .collect();
    if !faults.is_empty() {
        return Err(WeightsError::ShardDisagrees {
            index: path.into(),
            faults,
        });
    }
    Ok((tensors, notes))
}

/// Reads the index at `path` of shards whose names end in `extension`.
pub(crate) fn open_index(path: &Path, extension: &'static str) -> Result<Index, WeightsError> {
    let text = MappedFile::open(path)?;
    Index::parse_shards(text.bytes(), extension).map_err(|source| WeightsError::Index {
        path: path.into(),
        source,
    })
}

/// The tensors of one safetensors file, and its metadata.
pub(super) fn read(file: &MappedFile) -> Result<Shard, WeightsError> {
    let header = Header::parse(file.bytes()).map_err(|source| WeightsError::Header {
        path: file.path().into(),
        source,
    })?;
    let tensors = header.tensors.into_iter().map(|entry| {
        let stored = match entry.dtype {
            Dtype::F64 => StoredType::Float(FloatDType::F64),
            Dtype::F32 => StoredType::Float(FloatDType::F32),
            Dtype::F16 => StoredType::Float(FloatDType::F16),
            Dtype::BF16 => StoredType::Float(FloatDType::BF16),
            other => StoredType::Other(format!("{other:?}")),
        };
        let data = match stored {
            StoredType::Float(from) => Data::Plain {
                file: file.clone(),
                range: entry.start..entry.end,
                from,
            },
            _ => Data::Other {
                file: file.clone(),
                range: entry.start..entry.end,
            },
        };
        (
            TensorInfo {
                name: entry.name,
                shape: entry.shape,
                stored,
                file: file.path().into(),
            },
            data,
        )
    });
    Ok((tensors.collect(), header.metadata))
}
