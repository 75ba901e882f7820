//! Flags of every evaluation.

use std::path::{Path, PathBuf};

use burn_apb::apb::{AnswerOptions, CompressorConfig, Method};
use burn_apb::text::sampler::SamplerConfig;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::args::{Anchor, Compute, Model, Prompt, Strategy};
use crate::commands::prefill::{hash_of, read_text};
use crate::error::CliError;
use crate::escape;
use crate::output;
use crate::variant::{self, Variant};

/// Flags of every evaluation.
#[derive(clap::Args, Debug, Clone)]
pub struct Flags {
    #[command(flatten)]
    pub model: Model,
    /// Results of every case, a line of JSON each; those that the file holds already are not computed again
    #[arg(long, value_name = "FILE.jsonl")]
    pub out: Option<PathBuf>,
    /// Draw the results, as SVG
    #[arg(long, value_name = "FILE.svg")]
    pub chart: Option<PathBuf>,
    /// Go on when a prompt is longer than the context the model was made for
    #[arg(long)]
    pub allow_long: bool,
    #[command(flatten)]
    pub prompt: Prompt,
    #[command(flatten)]
    pub strategy: Strategy,
    #[command(flatten)]
    pub anchor: Anchor,
    #[command(flatten)]
    pub compute: Compute,
}

/// How a document is prefilled in a comparison, by the name that results have.
#[derive(Debug, Clone)]
pub struct Setting {
    pub name: String,
    pub strategy: Strategy,
    /// SHA-256 of the retaining heads, where it has some: other heads are another setting.
    pub heads: Option<String>,
}

impl Setting {
    /// Refuses a strategy that cannot be used.
    pub fn new(name: String, strategy: Strategy) -> Result<Self, CliError> {
        let config = strategy.config()?;
        let heads = match config.compressor {
            CompressorConfig::Retaining { heads } if config.method == Method::Apb => {
                Some(hash_of(&heads)?)
            }
            _ => None,
        };
        Ok(Self {
            name,
            strategy,
            heads,
        })
    }
}

impl Flags {
    /// Refuses files of results that cannot be made, or are one and the same, before a model is read.
    pub fn check(&self) -> Result<(), CliError> {
        for path in [&self.out, &self.chart].into_iter().flatten() {
            output::check_file(path)?;
        }
        match (&self.out, &self.chart) {
            (Some(out), Some(chart)) if output::is_same_file(out, chart) => {
                let shown = escape::path(out);
                Err(CliError::usage(format!(
                    "--chart names the file of --out, {shown}, which it would replace; give another"
                ))
                .at(out))
            }
            _ => Ok(()),
        }
    }

    /// The methods of a comparison; `usual` where none are named. Flags that none of them has a use for are refused.
    pub fn settings(
        &self,
        methods: &[Variant],
        usual: &[Method],
    ) -> Result<Vec<Setting>, CliError> {
        let methods = self.variants(methods, usual);
        match self.out {
            None => variant::check_used(&self.strategy, Some(&self.anchor), &methods)?,
            // The file of results begins with them, and a method that has a use for them may be added later.
            Some(_) => {
                let recorded = Strategy {
                    ranks: None,
                    ring_layout: None,
                    anchor: None,
                    passing: None,
                    ..self.strategy.clone()
                };
                variant::check_used(&recorded, None, &methods)?;
            }
        }
        self.settings_of(methods)
    }

    fn variants(&self, methods: &[Variant], usual: &[Method]) -> Vec<Variant> {
        match (methods.is_empty(), self.strategy.method) {
            (false, _) => methods.to_vec(),
            (true, Some(method)) => vec![method.into()],
            (true, None) => usual.iter().copied().map(Variant::from).collect(),
        }
    }

    /// The methods of a comparison that others stand beside.
    pub fn settings_of(
        &self,
        methods: impl IntoIterator<Item = Variant>,
    ) -> Result<Vec<Setting>, CliError> {
        let mut settings: Vec<Setting> = Vec::new();
        for method in methods {
            let name = method.to_string();
            if settings.iter().any(|setting| setting.name == name) {
                return Err(CliError::usage(format!("--methods names {name} twice")));
            }
            settings.push(Setting::new(name, method.of(&self.strategy))?);
        }
        Ok(settings)
    }

    /// Options of a request whose answer has at most `max_tokens` tokens, the most likely ones.
    pub fn options(
        &self,
        strategy: &Strategy,
        max_tokens: usize,
    ) -> Result<AnswerOptions, CliError> {
        Ok(AnswerOptions {
            prompt: self.prompt.options()?,
            max_tokens,
            chunk: strategy.chunk,
            kv_dtype: self.compute.kv_dtype(),
            allow_long: self.allow_long,
            prefill: strategy.config()?,
            anchor_query: self.anchor.query(),
            sampler: Some(SamplerConfig::default()),
            ..AnswerOptions::default()
        })
    }

    /// The seed of samples.
    pub fn seed(&self) -> u64 {
        self.strategy.seed.unwrap_or_default()
    }

    /// What results depend on beside the case, the method's name and its heads; a file of results begins with it.
    pub fn header(&self, eval: &str, fingerprint: String) -> Result<Map<String, Value>, CliError> {
        let Self {
            prompt,
            strategy,
            anchor,
            compute,
            ..
        } = self;
        let template = prompt.chat_template.as_deref().map(hash_of).transpose()?;
        let variables: Vec<String> = (prompt.template_var.iter())
            .map(|(name, value)| format!("{name}={value:?}"))
            .collect();
        let Value::Object(header) = json!({
            "eval": eval, "version": env!("CARGO_PKG_VERSION"), "model": fingerprint,
            "device": compute.device_name(), "dtype": format!("{:?}", compute.dtype()),
            "kv_dtype": compute.kv_dtype().map(|dtype| format!("{dtype:?}")),
            "dequantize": compute.dequantize(), "chunk": strategy.chunk,
            "ranks": strategy.ranks, "ring_layout": strategy.ring_layout.unwrap_or_default().name(), "anchor": strategy.anchor,
            "passing": strategy.passing, "seed": self.seed(),
            "anchor_query": anchor.anchor_query, "no_anchor_query": anchor.no_anchor_query,
            "system": prompt.system, "chat_template": template, "template": prompt.template, "raw": prompt.raw,
            "template_var": variables, "answer_prefix": prompt.answer_prefix,
            "allow_control_tokens": prompt.allow_control_tokens, "allow_long": self.allow_long,
        }) else {
            return Err(CliError::failed("the header of results is no object"));
        };
        Ok(header)
    }
}

/// Text of a file of the user's, or what ships with `apb`, and a name for it with its SHA-256.
pub fn text_or_shipped(path: Option<&Path>, what: &str) -> Result<(String, String), CliError> {
    let (name, text) = match path {
        Some(path) => (path.display().to_string(), read_text(path, what)?),
        None => ("shipped".into(), burn_apb::OPTICKS.to_owned()),
    };
    let hash = burn_apb::hex::encode(&Sha256::digest(&text));
    Ok((text, format!("{name}, {hash}")))
}
