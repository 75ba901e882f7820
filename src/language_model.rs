//! Everything a model folder holds, ready to compute on one device.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, FloatDType};

use crate::checkpoint::{
    self, ConfigError, LoadOptions, LoadReport, Progress, WeightsError, module_path,
};
use crate::checkpoint::{ModelSource, SourceError};
use crate::kernels::has_kernels;
use crate::model::{Decoder, DecoderConfig};
use crate::text::chat_template::{ChatTemplate, ChatTemplateError, ChatTemplates, RenderOptions};
use crate::text::conversation::{Turn, split_turns};
use crate::text::generation_config::{GenerationConfig, GenerationConfigError};
use crate::text::prompt::{PromptError, PromptOptions, PromptSplit, PromptTemplate, QuerySplit};
use crate::text::stop::{self, StopToken};
use crate::text::tokenizer::{SpecialTokens, Tokenizer, TokenizerError};

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

/// Everything of a model but its weights: enough to turn documents and questions into tokens, and to
/// refuse what will not work before anything large is read.
#[derive(Debug)]
pub struct ModelText {
    /// The decoder's shape.
    pub config: DecoderConfig,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// The tokenizer's special tokens by name.
    pub special_tokens: SpecialTokens,
    /// How conversations are written for this model, by name; none for a base model.
    pub chat_templates: ChatTemplates,
    /// Sampling defaults.
    pub generation: GenerationConfig,
    /// The tokens that end an answer to a prompt by the model's own template; see
    /// [`Self::stop_tokens_of`].
    pub stop_tokens: Vec<StopToken>,
    /// What in the files was overruled or passed over, a sentence each.
    pub warnings: Vec<String>,
}

/// A decoder with its tokenizer, chat template and generation defaults. Clones share the weights.
#[derive(Debug, Clone)]
pub struct LanguageModel {
    /// All but the weights.
    pub text: Arc<ModelText>,
    /// The weights.
    pub decoder: Arc<Decoder>,
    /// The files they came from.
    pub source: Arc<ModelSource>,
    /// Where the weights are.
    pub device: Device,
    /// What weights that are not quantised are stored as.
    pub dtype: FloatDType,
    /// Warnings about the weights, a line each.
    pub warnings: Vec<String>,
}

impl ModelText {
    /// Reads everything but the weights of a Hugging Face folder or a GGUF file.
    ///
    /// # Errors
    ///
    /// A [`ModelError`] saying which file is missing or wrong and what to do about it.
    pub fn load(source: &ModelSource) -> Result<Self, ModelError> {
        let (config, mut warnings) = DecoderConfig::read(source.config())?;
        let loaded = source.tokenizer()?;
        warnings.extend(loaded.beyond(config.vocab_size));
        warnings.extend(loaded.warnings);
        let (tokenizer, special_tokens) = (loaded.tokenizer, loaded.special_tokens);
        let (chat_templates, template) = chat_templates(source, &special_tokens)?;
        let template = template.as_ref();
        let generation = generation_config(source, config.vocab_size)?;
        let (_, ignored) = generation.unusable_but(&[]);
        let ignored = ignored.iter();
        warnings.extend(ignored.map(|value| format!("{value}; it is ignored")));
        let stop_tokens = stop::of_model(
            &generation.eos_token_ids,
            special_tokens.eos(),
            template,
            &tokenizer,
            config.vocab_size,
        );
        let prompt = template
            .map(|template| PromptTemplate::from_chat(template, None, &RenderOptions::default()));
        let control = prompt.and_then(Result::ok);
        let control = control.map(|prompt| prompt.control_tokens(&tokenizer));
        let control = control.into_iter().flatten();
        let control = control.chain(stop_tokens.iter().map(|stop| stop.id));
        Ok(Self {
            config,
            tokenizer: tokenizer.with_control_tokens(control),
            special_tokens,
            chat_templates,
            generation,
            stop_tokens,
            warnings,
        })
    }

    fn template(&self, options: &PromptOptions) -> Result<Option<ChatTemplate>, ChatTemplateError> {
        let has_tools = options.render.tools.is_some();
        options.template.of(&self.chat_templates, has_tools)
    }

    /// The tokens that end an answer to a prompt of these options: the model's, and the one with which
    /// the chosen chat template ends an assistant's turn.
    ///
    /// # Errors
    ///
    /// [`ModelError::ChatTemplate`] when there is no template of the name asked for or the one given
    /// does not parse.
    pub fn stop_tokens_of(&self, options: &PromptOptions) -> Result<Vec<StopToken>, ModelError> {
        let template = self.template(options)?;
        let mut stops = self.stop_tokens.clone();
        let vocab_size = self.config.vocab_size;
        stop::add_end_of_turn(&mut stops, template.as_ref(), &self.tokenizer, vocab_size);
        Ok(stops)
    }

    /// The model's prompt with places for a document and a question.
    ///
    /// # Errors
    ///
    /// [`ModelError::ChatTemplate`] when there is no template of the name asked for or the one given
    /// does not parse, [`ModelError::Prompt`] when the template takes no system prompt or changes
    /// the user's text, or there is none for the system prompt or variables given.
    pub fn prompt_template(&self, options: &PromptOptions) -> Result<PromptTemplate, ModelError> {
        let template = self.template(options)?;
        let prompt = match &template {
            Some(template) => {
                PromptTemplate::from_chat(template, options.system.as_deref(), &options.render)?
            }
            None => {
                options.check_plain()?;
                PromptTemplate::plain()
            }
        };
        Ok(prompt
            .with_answer_prefix(&options.answer_prefix)
            .with_allow_control_tokens(options.allow_control_tokens))
    }

    /// The tokens before the document, of the document, the question and the template's tail.
    ///
    /// # Errors
    ///
    /// [`ModelError::Prompt`] when document or question is empty, or as [`Self::prompt_template`].
    pub fn split(
        &self,
        document: &str,
        question: &str,
        options: &PromptOptions,
    ) -> Result<PromptSplit, ModelError> {
        let parts = self.prompt_template(options)?.parts(document, question)?;
        Ok(parts.split(&self.tokenizer, self.config.vocab_size)?)
    }

    /// The tokens of a question to a document that is prefilled already, and of the template's tail.
    ///
    /// # Errors
    ///
    /// [`ModelError::Prompt`] when the question is empty, or as [`Self::prompt_template`].
    pub fn split_query(
        &self,
        question: &str,
        options: &PromptOptions,
    ) -> Result<QuerySplit, ModelError> {
        let template = self.prompt_template(options)?;
        Ok(template.split_query(&self.tokenizer, question, self.config.vocab_size)?)
    }

    /// The tokens of a question that follows other turns of a conversation: everything behind the document, which is
    /// prefilled already, as the chat template writes the whole conversation. Without turns, [`Self::split_query`].
    ///
    /// # Errors
    ///
    /// [`ModelError::Prompt`] when the question is empty, the chat template changes earlier turns, or as
    /// [`Self::prompt_template`].
    pub fn split_turns(
        &self,
        turns: &[Turn],
        question: &str,
        options: &PromptOptions,
    ) -> Result<QuerySplit, ModelError> {
        let template = self.template(options)?;
        let prompt = self.prompt_template(options)?;
        let tokens = (&self.tokenizer, self.config.vocab_size);
        Ok(split_turns(
            template.as_ref(),
            &prompt,
            options,
            turns,
            question,
            tokens,
        )?)
    }
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

    /// [`Self::load`] with the weights in a type of choice (f32, f16 or bf16, or [`LoadOptions`] with
    /// more); `progress` gets the bytes loaded and in all.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub fn load_with(
        path: impl AsRef<Path>,
        options: impl Into<LoadOptions>,
        device: &Device,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self, ModelError> {
        let source = ModelSource::open(path)?;
        let text = ModelText::load(&source)?;
        Self::with_text(text, &source, options, device, progress)
    }

    /// Loads the weights that belong to a text side which has been read from the same source.
    ///
    /// # Errors
    ///
    /// As [`load_decoder`].
    pub fn with_text(
        mut text: ModelText,
        source: &ModelSource,
        options: impl Into<LoadOptions>,
        device: &Device,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self, ModelError> {
        let options = options.into();
        let (decoder, report) = load_decoder(source, &text.config, options, device, progress)?;
        text.config.tie_word_embeddings = decoder.lm_head.is_none();
        Ok(Self {
            text: Arc::new(text),
            decoder: Arc::new(decoder),
            source: Arc::new(source.clone()),
            device: device.clone(),
            dtype: options.dtype,
            warnings: report.warnings.iter().map(ToString::to_string).collect(),
        })
    }
}

impl LanguageModel {
    /// The decoder as a module of one's own, to be trained or taken apart; copied where clones share it. Quantised
    /// weights have no gradients and take no LoRA: load with [`LoadOptions::with_dequantize`] for those.
    pub fn into_decoder(self) -> Decoder {
        Arc::unwrap_or_clone(self.decoder)
    }
}

/// Loads only the weights of a model, with the report of the load.
///
/// # Errors
///
/// [`ModelError::Source`] or [`ModelError::Weights`], the latter with everything that does not fit
/// the configuration at once.
pub fn load_decoder(
    source: &ModelSource,
    config: &DecoderConfig,
    options: impl Into<LoadOptions>,
    device: &Device,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(Decoder, LoadReport), ModelError> {
    let options = options.into();
    let tensors = source.checkpoint()?;
    let (config, warning) = checkpoint::resolve_tying(&tensors, config, options.dtype)?;
    let keeps = !options.dequantize && has_kernels(device) && !device.is_autodiff();
    let decoder = match keeps {
        true => checkpoint::keep_quantized(config.init(device), &tensors),
        false => config.init(device),
    };
    let (decoder, mut report) =
        checkpoint::load(decoder, &tensors, options, module_path, progress)?;
    report.warnings.extend(warning);
    for (format, count) in &report.formats {
        let method = tensors.quantization().unwrap_or("GGUF");
        tracing::info!("{count} weights of {method} stay in {format}");
    }
    Ok((decoder, report))
}

/// A file of the source, for a message; all that is in a GGUF file is in one.
fn file(source: &ModelSource, name: &str) -> PathBuf {
    match source.path().is_dir() {
        true => source.path().join(name),
        false => source.path().into(),
    }
}

/// The model's templates, and the one that is used where none is asked for by name.
fn chat_templates(
    source: &ModelSource,
    tokens: &SpecialTokens,
) -> Result<(ChatTemplates, Option<ChatTemplate>), ChatTemplateError> {
    let files = source.chat_templates();
    let in_file = |error: ChatTemplateError| {
        let of_template = matches!(
            error,
            ChatTemplateError::Syntax { .. } | ChatTemplateError::TooLarge { .. }
        );
        let name = match of_template && files.jinja.is_some() {
            true => "chat_template.jinja",
            false => "tokenizer_config.json",
        };
        error.in_file(&file(source, name))
    };
    let templates = ChatTemplates::read(&files).map_err(in_file)?;
    let templates = templates.with_special_tokens(tokens);
    let default = match templates.select(None, false) {
        Ok(template) => Some(template),
        // Where templates have other names, one has to be asked for.
        Err(ChatTemplateError::NoDefault { .. }) => None,
        Err(error) => return Err(in_file(error)),
    };
    Ok((templates, default))
}

/// `generation_config.json`, and `config.json` for the token ids it leaves out.
fn generation_config(
    source: &ModelSource,
    vocab_size: usize,
) -> Result<GenerationConfig, GenerationConfigError> {
    let parse = |name: &str, json: &str| {
        let path = file(source, name);
        GenerationConfig::parse(json.as_bytes(), vocab_size)
            .map(|config| config.in_file(&path))
            .map_err(|error| error.in_file(&path))
    };
    let generation = match source.generation_config() {
        Some(json) => parse("generation_config.json", json)?,
        None => GenerationConfig::default(),
    };
    Ok(generation.or_tokens_of(parse("config.json", source.config())?))
}
