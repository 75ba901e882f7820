//! What `apb bench prefill` measures: a model with its document, or the shape of one.

use burn::tensor::{Device, FloatDType};
use burn_apb::apb::{PrefillPlan, compressor};
use burn_apb::checkpoint::source::ModelSource;
use burn_apb::model::{Decoder, DecoderConfig};
use burn_apb::{LanguageModel, ModelText};

use super::prefill::Prefill;
use crate::commands::{demo, generate};
use crate::error::CliError;
use crate::memory;
use crate::output::Output;

/// Tokens of the query where tokens are random.
const RANDOM_QUERY: usize = 32;

/// A model, first without its weights.
pub struct Subject<W = Loaded> {
    weights: W,
    /// Tokens of the document, and at least one behind the longest length asked for.
    pub ids: Vec<u32>,
    /// Tokens of the query in apb's anchor.
    pub query: Vec<u32>,
    /// Where it is computed.
    pub device: Device,
    /// What the weights, and therefore the cache, are stored as.
    pub dtype: FloatDType,
    gpu: bool,
}

/// What has been read of a model.
pub enum Described {
    /// All but the weights.
    Model(ModelSource, Box<ModelText>),
    /// The shape, for random weights.
    Shape(DecoderConfig),
}

/// A model with its weights.
pub struct Loaded {
    config: DecoderConfig,
    decoder: Decoder,
}

impl Subject<Described> {
    /// Reads all but the weights.
    pub fn open(args: &Prefill, output: &Output) -> Result<Self, CliError> {
        let device = args.compute.device()?;
        let longest = args.tokens.iter().copied().max().unwrap_or(0);
        let (weights, ids, query) = if args.random_weights {
            let config = shape(args)?;
            let ids = random_ids(longest + 1, config.vocab_size);
            let query = random_ids(RANDOM_QUERY, config.vocab_size);
            (Described::Shape(config), ids, query)
        } else {
            let (source, text) = generate::open(&args.model, output)?;
            let document = match &args.document {
                Some(path) => generate::read_text(path, "document")?,
                None => demo::DOCUMENT.to_owned(),
            };
            let encode = |text_of: &str| {
                let ids = text.tokenizer.encode(text_of, false);
                ids.map_err(CliError::failed)
            };
            let (ids, query) = (encode(&document)?, encode(&args.query)?);
            (Described::Model(source, Box::new(text)), ids, query)
        };
        if args.tokens.contains(&0) || longest >= ids.len() {
            return Err(CliError::usage(format!(
                "--tokens goes from 1 to {}, one less than the document's tokens",
                ids.len().saturating_sub(1)
            )));
        }
        Ok(Self {
            weights,
            ids,
            query,
            device,
            dtype: args.compute.dtype(),
            gpu: args.compute.is_gpu(),
        })
    }

    /// The decoder's shape.
    pub fn config(&self) -> &DecoderConfig {
        match &self.weights {
            Described::Model(_, text) => &text.config,
            Described::Shape(config) => config,
        }
    }

    /// Refuses heads that were trained on another model; random weights are nobody's.
    pub fn check(&self, plan: &PrefillPlan) -> Result<(), CliError> {
        match &self.weights {
            Described::Model(source, text) => {
                Ok(compressor::check_model(plan, &text.config, source)?)
            }
            Described::Shape(_) => Ok(()),
        }
    }

    /// Loads the weights, or makes them.
    pub fn load(self, args: &Prefill, output: &Output) -> Result<Subject, CliError> {
        let weights = match self.weights {
            Described::Model(source, text) => {
                let compute = &args.compute;
                let LanguageModel { text, decoder, .. } =
                    generate::load_weights(*text, &source, compute.dtype(), &self.device, output)?;
                Loaded {
                    config: text.config,
                    decoder,
                }
            }
            Described::Shape(config) => Loaded {
                decoder: config.init_random(self.dtype, &self.device),
                config,
            },
        };
        Ok(Subject {
            weights,
            ids: self.ids,
            query: self.query,
            device: self.device,
            dtype: self.dtype,
            gpu: self.gpu,
        })
    }
}

impl Subject {
    /// The decoder's shape.
    pub fn config(&self) -> &DecoderConfig {
        &self.weights.config
    }

    /// The decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.weights.decoder
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
