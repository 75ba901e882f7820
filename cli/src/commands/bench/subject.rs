//! What `apb bench prefill` measures: a model with its document, or the shape of one.

use std::sync::Arc;

use burn::tensor::{DType, Device};
use burn_apb::apb::Request;
use burn_apb::checkpoint::{LoadOptions, ModelSource};
use burn_apb::model::{Decoder, DecoderConfig};
use burn_apb::plan::MemoryConfig;

use super::prefill::Prefill;
use crate::commands::prefill::Memory;
use crate::commands::{demo, prefill};
use crate::error::CliError;
use crate::output::Output;
use crate::{memory, predict};

/// Tokens of the query where tokens are random.
const RANDOM_QUERY: usize = 32;

/// A model without its weights.
pub struct Subject {
    /// None: random weights of the shape.
    source: Option<ModelSource>,
    /// The decoder's shape.
    pub config: DecoderConfig,
    /// Where it is computed.
    pub device: Device,
    /// What takes memory.
    pub memory: Memory,
    options: LoadOptions,
    /// Whether the device works through a queue of its own.
    pub gpu: bool,
}

/// What the first process reads.
pub struct Tokens {
    /// Tokens of the document, and at least one behind the longest length asked for.
    pub ids: Vec<u32>,
    /// Tokens of the query in apb's anchor.
    pub query: Vec<u32>,
}

impl Subject {
    /// Opens the model, or reads the shape.
    pub fn open(args: &Prefill, output: &Output) -> Result<Self, CliError> {
        let device = args.compute.device()?;
        let (source, config) = if args.random_weights {
            (None, shape(args)?)
        } else {
            let source = ModelSource::open(prefill::resolve(&args.model, output)?);
            let source = source.map_err(CliError::usage)?;
            let config = DecoderConfig::from_json(source.config()).map_err(CliError::usage)?;
            (Some(source), config)
        };
        args.compute.check_kv_dtype(&config, &device)?;
        let options = args.compute.load_options();
        let dtype = options.dtype;
        let (weights, quantized) = match &source {
            Some(source) => {
                let tensors = source.checkpoint()?;
                let floats = tensors.loaded_bytes(options.with_dequantize(true));
                let bytes = tensors.loaded_bytes(options);
                (bytes as usize, bytes != floats)
            }
            None => {
                let size = DType::from(dtype).size();
                (config.num_parameters().saturating_mul(size), false)
            }
        };
        Ok(Self {
            source,
            config,
            device,
            memory: Memory {
                weights,
                dtype,
                kv_dtype: args.compute.kv_dtype().unwrap_or_else(|| {
                    predict::usual_kv_dtype(quantized, dtype, args.compute.is_gpu())
                }),
            },
            options,
            gpu: args.compute.is_gpu(),
        })
    }

    /// What takes memory in a measurement; `program`: bytes of the process before weights are loaded.
    pub fn memory_config(&self, request: &Request, args: &Prefill, program: u64) -> MemoryConfig {
        MemoryConfig {
            weights: self.memory.weights as u64,
            dtype: self.memory.dtype,
            kv_dtype: self.memory.kv_dtype,
            chunk: request.session.chunk_on(&self.device),
            following: args.decode(),
            program,
            threads: predict::threads(self.gpu),
        }
    }

    /// The model's fingerprint; none of random weights.
    pub fn fingerprint(&self) -> Result<String, CliError> {
        let fingerprint = self.source.as_ref().map(ModelSource::fingerprint);
        Ok(fingerprint.transpose()?.unwrap_or_default())
    }

    /// The tokens of document and query.
    pub fn tokens(&self, args: &Prefill, output: &Output) -> Result<Tokens, CliError> {
        let longest = args.tokens.iter().copied().max().unwrap_or(0);
        let tokens = match &self.source {
            None => Tokens {
                ids: random_ids(longest.saturating_add(1), self.config.vocab_size),
                query: random_ids(RANDOM_QUERY, self.config.vocab_size),
            },
            Some(source) => {
                let text = prefill::read_model_text(source, output)?;
                let document = match &args.document {
                    Some(path) => prefill::read_text(path, "document")?,
                    None => demo::DOCUMENT.to_owned(),
                };
                let encode = |part: &str| text.tokenizer.encode(part, false);
                Tokens {
                    ids: encode(&document).map_err(CliError::failed)?,
                    query: encode(args.query()).map_err(CliError::failed)?,
                }
            }
        };
        if args.tokens.contains(&0) || longest >= tokens.ids.len() {
            return Err(CliError::usage(format!(
                "--tokens goes from 1 to {}, one less than the document's tokens",
                tokens.ids.len().saturating_sub(1)
            )));
        }
        Ok(tokens)
    }

    /// Refuses heads that were trained on another model; random weights are of no model.
    pub fn check(&self, request: &mut Request) -> Result<(), CliError> {
        match &self.source {
            Some(source) => Ok(request.check_heads(&self.config, source)?),
            None => Ok(()),
        }
    }

    /// Loads the weights, or makes them.
    pub fn load(&self, output: &Output) -> Result<Arc<Decoder>, CliError> {
        match &self.source {
            Some(source) => prefill::load_weights(source, self.options, &self.device, output),
            None => Ok(Arc::new(
                self.config.init_random(self.options.dtype, &self.device),
            )),
        }
    }

    /// The process's peak since it was reset; on a GPU what has been reserved there since the start.
    pub fn peak_bytes(&self) -> Option<u64> {
        match self.gpu {
            true => self.device.memory_pool_usage().map(|u| u.bytes_reserved),
            false => memory::peak_bytes(),
        }
    }
}

/// The shape in `config.json`, given as the file or as its folder.
fn shape(args: &Prefill) -> Result<DecoderConfig, CliError> {
    let path = &args.model.model;
    let file = match path.is_dir() {
        true => path.join("config.json"),
        false => path.clone(),
    };
    DecoderConfig::from_json_file(&file).map_err(CliError::usage)
}

/// Reproducible tokens without a pattern.
fn random_ids(count: usize, vocab_size: usize) -> Vec<u32> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    (0..count)
        .map(|_| {
            // Knuth's MMIX generator; the upper bits are the random ones.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % vocab_size.max(1) as u64) as u32
        })
        .collect()
}
