//! What a quantised GGUF file is made of: metadata, and which tensor is stored how.

use std::path::Path;

use burn::tensor::{Device, FloatDType};
use bytes::Bytes;

use super::QuantizeError;
use super::recipe::{Quantization, Recipe};
use super::rows::Rows;
use crate::checkpoint::error::WeightsError;
use crate::checkpoint::gguf::{
    Entries, GgmlType, GgufError, describe_config, describe_tokenizer, is_model_tensor, layer,
    name_of_parameter, open_all, places, write_chat_templates,
};
use crate::checkpoint::listing::name_of;
use crate::checkpoint::load::{module_path, report};
use crate::checkpoint::mapped::MappedFile;
use crate::checkpoint::plan;
use crate::checkpoint::reader::Checkpoint;
use crate::checkpoint::source::{ModelSource, SourceError};
use crate::checkpoint::tensor::{StoredType, read_error};
use crate::checkpoint::tying::resolve_tying;
use crate::model::{Architecture, DecoderConfig};
use crate::text::chat_template::ChatTemplates;
use crate::text::generation_config::GenerationConfig;

/// Layers of the models of 70 billion parameters.
const LAYERS_OF_70B: usize = 80;

/// What a file is made of.
pub(super) struct Plan {
    pub entries: Entries,
    pub tensors: Vec<Rows>,
    pub warnings: Vec<String>,
}

fn recipe(to: Quantization, config: &DecoderConfig, tied: bool) -> Recipe {
    let shares = match config.architecture {
        Architecture::Llama => config.num_attention_heads != config.num_key_value_heads,
        Architecture::Qwen2 => true,
        Architecture::Qwen3 => false,
    };
    Recipe {
        to,
        layers: config.num_hidden_layers,
        tied,
        large: shares && config.num_hidden_layers == LAYERS_OF_70B,
    }
}

fn gguf_error(path: &Path) -> impl Fn(GgufError) -> QuantizeError {
    move |source| QuantizeError::Gguf {
        path: path.into(),
        source,
    }
}

/// The plan for a GGUF file: all of its metadata, and all of its tensors.
pub(super) fn of_gguf(source: &ModelSource, to: Quantization) -> Result<Plan, QuantizeError> {
    /// Keys, or the beginnings of keys, about what is made anew.
    const ANEW: [&str; 3] = ["general.alignment", "split.", "quantize.imatrix."];
    let config = DecoderConfig::from_json(source.config()).map_err(SourceError::from)?;
    let parts = open_all(MappedFile::open(source.path())?)?;
    let mut entries = Entries::default();
    if let Some((file, _)) = parts.first() {
        for (key, place) in places(file.bytes()).map_err(gguf_error(file.path()))? {
            if !ANEW.iter().any(|anew| key.starts_with(anew)) {
                entries.put(key, file.bytes()[place].to_vec());
            }
        }
    }
    let all = || parts.iter().flat_map(|(_, header)| &header.tensors);
    let tied = !all().any(|tensor| tensor.name == "output.weight");
    let recipe = recipe(to, &config, tied);
    let mut tensors = Vec::new();
    for (file, header) in &parts {
        for tensor in &header.tensors {
            let data = file.slice(tensor.start..tensor.end);
            let from = tensor.kind.stored();
            // What no Llama or Qwen has, and rotary factors, stay as they are.
            let written =
                is_model_tensor(&tensor.name).then(|| recipe.of(&tensor.name, &tensor.shape));
            let same = |kind: GgmlType| kind == tensor.kind && tensor.kind.blocks().is_some();
            let written = written.filter(|written| !same(written.kind()));
            tensors.push(Rows {
                path: file.path().into(),
                name: tensor.name.clone(),
                shape: tensor.shape.clone(),
                data: data.unwrap_or_default(),
                codes: None,
                mapped: Some((file.clone(), tensor.start..tensor.end)),
                from,
                kind: written.map_or(tensor.kind, |written| written.kind()),
                written,
                head_dim: None,
            });
        }
    }
    Ok(Plan {
        entries,
        tensors,
        warnings: Vec::new(),
    })
}

/// The plan for a Hugging Face folder: everything that the decoder, the tokenizer and the chat template need.
pub(super) fn of_folder(
    source: &ModelSource,
    checkpoint: &Checkpoint,
    to: Quantization,
) -> Result<Plan, QuantizeError> {
    let path = source.path();
    let config = DecoderConfig::from_json(source.config()).map_err(SourceError::from)?;
    let (config, untied) = resolve_tying(checkpoint, &config, FloatDType::F32)?;
    // Parameters are not initialised by this, only compared.
    let decoder = config.init(&Device::flex());
    let compared = plan::compare(&decoder, checkpoint, &|name| module_path(name), false);
    let compared = compared.map_err(WeightsError::Mismatch)?;
    let mut warnings = report(checkpoint, compared.unused, compared.biases).warnings;
    warnings.extend(untied);
    let mut warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();

    let mut entries = Entries::default();
    let described = describe_config(&config, &mut entries).map_err(gguf_error(path))?;
    entries.text("general.name", &model_name(path));
    let loaded = source.tokenizer()?;
    warnings.extend(loaded.warnings.iter().cloned());
    let generation = generation_config(source, config.vocab_size)?;
    let found = describe_tokenizer(&loaded, config.vocab_size, &generation, &mut entries);
    warnings.extend(found.map_err(gguf_error(path))?);
    let templates = ChatTemplates::read(&source.chat_templates());
    let templates = templates.map_err(|source| QuantizeError::ChatTemplate {
        path: path.into(),
        source,
    })?;
    write_chat_templates(&templates, &mut entries);

    let recipe = recipe(to, &config, config.tie_word_embeddings);
    let mut tensors = Vec::new();
    for filled in compared.plan {
        let (Some(name), Some(info)) = (
            name_of_parameter(&filled.path),
            checkpoint.info(&filled.name),
        ) else {
            continue;
        };
        // What codes of several tensors stand for has no place in a file.
        let resolved =
            checkpoint.quantization().is_some() && matches!(info.stored, StoredType::Quantized(_));
        let place = checkpoint.place(&filled.name).filter(|_| !resolved);
        let data = place.and_then(|(file, range)| file.slice(range.clone()));
        let data = match resolved {
            true => Bytes::new(),
            false => {
                data.ok_or_else(|| read_error(info, "its bytes are not in the file".into()))?
            }
        };
        let written = recipe.of(&name, &info.shape);
        let interleaved = [".q_proj.", ".k_proj."];
        let interleaved = interleaved.iter().any(|part| filled.path.contains(part));
        tensors.push(Rows {
            path: info.file.clone(),
            name,
            shape: info.shape.clone(),
            data,
            codes: resolved.then(|| (checkpoint.clone(), filled.name.clone())),
            mapped: place.map(|(file, range)| (file.clone(), range.clone())),
            from: info.stored.clone(),
            kind: written.kind(),
            written: Some(written),
            head_dim: (interleaved && described.interleaves).then_some(config.head_dim),
        });
    }
    if let Some(factors) = described.rope_factors {
        let written = recipe.of("rope_freqs.weight", &[factors.len()]);
        tensors.push(Rows {
            path: path.into(),
            name: "rope_freqs.weight".into(),
            shape: vec![factors.len()],
            data: factors
                .iter()
                .flat_map(|factor| factor.to_le_bytes())
                .collect(),
            codes: None,
            mapped: None,
            from: StoredType::Float(FloatDType::F32),
            kind: written.kind(),
            written: Some(written),
            head_dim: None,
        });
    }
    // As llama.cpp's converter: the embedding, the layers, what follows them.
    let order = |name: &str| match layer(name) {
        Some(layer) => (1, layer),
        None => (2 * usize::from(name.starts_with("output")), 0),
    };
    tensors.sort_by_cached_key(|tensor| (order(&tensor.name), tensor.name.clone()));
    Ok(Plan {
        entries,
        tensors,
        warnings,
    })
}

/// A model's name by its folder; in a hub cache, by that of its repository.
fn model_name(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.into());
    let repository = path
        .parent()
        .filter(|parent| name_of(parent) == "snapshots")
        .and_then(Path::parent)
        .map(name_of);
    match repository
        .as_deref()
        .and_then(|name| name.strip_prefix("models--"))
    {
        Some(name) => name.rsplit("--").next().unwrap_or(name).into(),
        None => name_of(&path).into(),
    }
}

/// `generation_config.json`, and `config.json` for the token ids that it leaves out.
fn generation_config(
    source: &ModelSource,
    vocab_size: usize,
) -> Result<GenerationConfig, QuantizeError> {
    let parse = |json: &str| {
        GenerationConfig::parse(json.as_bytes(), vocab_size).map_err(|error| {
            QuantizeError::Generation {
                path: source.path().into(),
                source: error,
            }
        })
    };
    let generation = source.generation_config().map(parse).transpose()?;
    Ok(generation
        .unwrap_or_default()
        .or_tokens_of(parse(source.config())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_named_by_its_folder() {
        assert_eq!(model_name(Path::new("/nowhere/Qwen3-0.6B")), "Qwen3-0.6B");
        let cached = "/nowhere/hub/models--Qwen--Qwen3-0.6B/snapshots/0123456789abcdef";
        assert_eq!(model_name(Path::new(cached)), "Qwen3-0.6B");
        assert_eq!(model_name(Path::new("src")), "src");
    }
}
