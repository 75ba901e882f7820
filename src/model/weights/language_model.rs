//! Everything a model folder holds, ready to compute on one device.

use std::path::Path;

use burn::tensor::{Device, FloatDType};

use super::chat_template::{ChatTemplate, ChatTemplateError};
use super::config::{ConfigError, DecoderConfig};
use super::decoder::Decoder;
use super::generation_config::{GenerationConfig, GenerationConfigError};
use super::prompt::{Prompt, PromptError, PromptSplit};
use super::source::{ModelSource, SourceError};
use super::tokenizer::{Tokenizer, TokenizerError};
use super::weights::{self, Progress, WeightsError, module_path};

/// Why a model cannot be used. Every message names the file and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The path is no model.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// `config.json` was refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The weights cannot be loaded.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// `tokenizer.json` was refused.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template was refused.
    #[error(transparent)]
    ChatTemplate(#[from] ChatTemplateError),
    /// `generation_config.json` was refused.
    #[error(transparent)]
    GenerationConfig(#[from] GenerationConfigError),
    /// The prompt cannot be built.
    #[error(transparent)]
    Prompt(#[from] PromptError),
}

/// A decoder with its tokenizer, chat template and generation defaults.
#[derive(Debug)]
pub struct LanguageModel {
    /// The decoder's shape.
    pub config: DecoderConfig,
    /// The weights.
    pub decoder: Decoder,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// How a conversation is written for this model; none for a base model.
    pub chat_template: Option<ChatTemplate>,
    /// Stop tokens and sampling defaults.
    pub generation: GenerationConfig,
    /// Where the weights are.
    pub device: Device,
    /// What the weights, and therefore the cache, are stored as.
    pub dtype: FloatDType,
}

impl LanguageModel {
    /// Loads a Hugging Face folder or a GGUF file in f32.
    ///
    /// # Errors
    ///
    /// A [`ModelError`] saying which file is missing or wrong and what to do about it.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self, ModelError> {
        Self::load_with(path, FloatDType::F32, device, &mut |_| {})
    }

    /// [`Self::load`] with the weights in `dtype` (f32, f16 or bf16); `progress` hears the bytes
    /// loaded and in all.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub fn load_with(
        path: impl AsRef<Path>,
        dtype: FloatDType,
        device: &Device,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self, ModelError> {
        let source = ModelSource::open(path)?;
        let config = DecoderConfig::from_json(source.config())?;
        let tokenizer = Tokenizer::from_bytes(&source.tokenizer()?)?;
        let chat_template = source.chat_template()?;
        let generation = GenerationConfig::from_json(
            source.generation_config(),
            Some(source.config()),
            config.vocab_size,
        )?;
        let decoder = load_decoder(&source, &config, dtype, device, progress)?;
        Ok(Self {
            config,
            decoder,
            tokenizer,
            chat_template,
            generation,
            device: device.clone(),
            dtype,
        })
    }

    /// Splits a prompt into the tokens before the document, the document, the question and the
    /// template's tail.
    ///
    /// # Errors
    ///
    /// [`ModelError::Prompt`] when document or question is empty, or the template changes them.
    pub fn split(&self, prompt: &Prompt<'_>) -> Result<PromptSplit, ModelError> {
        Ok(prompt.split(&self.tokenizer, self.chat_template.as_ref())?)
    }
}

/// Loads only the weights of a model.
///
/// # Errors
///
/// [`ModelError::Source`] or [`ModelError::Weights`], the latter with everything that does not fit
/// the configuration at once.
pub fn load_decoder(
    source: &ModelSource,
    config: &DecoderConfig,
    dtype: FloatDType,
    device: &Device,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Decoder, ModelError> {
    let checkpoint = source.checkpoint()?;
    let decoder = config.init(device);
    Ok(weights::load(decoder, &checkpoint, dtype, module_path, progress)?)
}
