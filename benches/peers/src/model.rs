//! candle-transformers' Llama and Qwen2, from folders and from GGUF files, behind one surface.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::Content;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, quantized_llama, quantized_qwen2, qwen2};

use crate::Result;

/// A model with its cache.
pub enum Model {
    Llama(Box<Llama>),
    Qwen2(Box<qwen2::ModelForCausalLM>),
    QuantizedLlama(Box<quantized_llama::ModelWeights>),
    QuantizedQwen2(Box<quantized_qwen2::ModelWeights>),
}

/// candle's Llama holds its cache outside.
pub struct Llama {
    model: llama::Llama,
    config: llama::Config,
    cache: llama::Cache,
    dtype: DType,
}

impl Model {
    /// Reads a folder as `dtype`, or a GGUF file, whose matrices keep their types.
    pub fn load(path: &Path, dtype: DType) -> Result<Self> {
        if path.is_dir() {
            Self::folder(path, dtype)
        } else {
            Self::gguf(path)
        }
    }

    fn folder(path: &Path, dtype: DType) -> Result<Self> {
        let config = std::fs::read(path.join("config.json"))?;
        let kind: serde_json::Value = serde_json::from_slice(&config)?;
        let mut files: Vec<PathBuf> = std::fs::read_dir(path)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::io::Result<_>>()?;
        files.retain(|file| file.extension().is_some_and(|end| end == "safetensors"));
        // SAFETY: the files stay as they are while this runs.
        let weights = unsafe { VarBuilder::from_mmaped_safetensors(&files, dtype, &Device::Cpu)? };
        match kind["model_type"].as_str() {
            Some("llama") => {
                let config: llama::LlamaConfig = serde_json::from_slice(&config)?;
                let config = config.into_config(false);
                Ok(Self::Llama(Box::new(Llama {
                    model: llama::Llama::load(weights, &config)?,
                    cache: llama::Cache::new(true, dtype, &config, &Device::Cpu)?,
                    config,
                    dtype,
                })))
            }
            Some("qwen2") => {
                let config = serde_json::from_slice(&config)?;
                let model = qwen2::ModelForCausalLM::new(&config, weights)?;
                Ok(Self::Qwen2(Box::new(model)))
            }
            other => Err(format!("model_type {other:?}: expected llama or qwen2").into()),
        }
    }

    fn gguf(path: &Path) -> Result<Self> {
        let mut file = BufReader::new(File::open(path)?);
        let content = Content::read(&mut file)?;
        let kind = match content.metadata.get("general.architecture") {
            Some(kind) => kind.to_string()?.clone(),
            None => return Err(format!("{}: no general.architecture", path.display()).into()),
        };
        match kind.as_str() {
            "llama" => {
                let model =
                    quantized_llama::ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
                Ok(Self::QuantizedLlama(Box::new(model)))
            }
            "qwen2" => {
                let model =
                    quantized_qwen2::ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
                Ok(Self::QuantizedQwen2(Box::new(model)))
            }
            other => Err(format!("architecture {other}: expected llama or qwen2").into()),
        }
    }

    /// The most positions that it has rotary tables for, where that is less than its configuration says.
    pub fn positions(&self) -> Option<usize> {
        match self {
            Self::QuantizedLlama(_) => Some(quantized_llama::MAX_SEQ_LEN),
            _ => None,
        }
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) -> Result<()> {
        match self {
            Self::Llama(llama) => {
                llama.cache = llama::Cache::new(true, llama.dtype, &llama.config, &Device::Cpu)?;
            }
            Self::Qwen2(model) => model.clear_kv_cache(),
            Self::QuantizedLlama(model) => model.clear_kv_cache(),
            Self::QuantizedQwen2(model) => model.clear_kv_cache(),
        }
        Ok(())
    }

    /// The likeliest token after `ids`, which stand at `position`.
    pub fn likeliest(&mut self, ids: &[u32], position: usize) -> Result<u32> {
        let input = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        let logits = match self {
            Self::Llama(llama) => llama.model.forward(&input, position, &mut llama.cache)?,
            Self::Qwen2(model) => model.forward(&input, position)?,
            Self::QuantizedLlama(model) => model.forward(&input, position)?,
            Self::QuantizedQwen2(model) => model.forward(&input, position)?,
        };
        let logits = logits.flatten_all()?.to_dtype(DType::F32)?;
        Ok(logits.argmax(0)?.to_scalar::<u32>()?)
    }
}
