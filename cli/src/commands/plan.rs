//! `apb plan`: time and memory of a prefill, before anything is loaded.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::FloatDType;
use burn_apb::apb::{DocumentLengths, Method, PlanError, PrefillConfig};
use burn_apb::checkpoint::hub::{Hub, Spec};
use burn_apb::checkpoint::{LoadOptions, ModelSource};
use burn_apb::model::{DecoderConfig, KvDType};
use burn_apb::plan::{Hardware, MemoryConfig, Planner, Prediction, Rates, Recommendation};
use serde_json::{Map, Value, json};

use crate::args::{self, DtypeName, KvDtypeName};
use crate::commands::prefill;
use crate::error::CliError;
use crate::limits;
use crate::memory;
use crate::output::{self, Output};
use crate::predict::{self, GIB};

/// Ranks where none are asked for.
const GPU_RANKS: usize = 8;
/// Tokens of the query in apb's anchor where no number is given.
const QUERY_TOKENS: usize = 32;
/// Layers of the model with random weights that rates are measured with: as many as a second or two allow.
const MEASURED_LAYERS: usize = 4;
/// Entries of its vocabulary, which is not measured.
const MEASURED_VOCABULARY: usize = 4096;
/// Bytes of the program and of an entry of a vocabulary.
const PROGRAM: u64 = 24 << 20;
const VOCABULARY_ENTRY: u64 = 420;

/// Predict time and memory of every method, and recommend one
///
/// From the model's configuration alone; of a model on the hub nothing else is fetched. This machine is measured with the
/// model where it is here and fits, else with random weights of a few layers. Every rank has a device of its own. Exit code 5: the document does not fit.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A config.json, a folder with one, a GGUF file or a hub id (org/name[@revision])
    #[arg(long, value_name = "FILE|DIR|ID")]
    model: PathBuf,
    /// Tokens of the document
    #[arg(long, value_name = "N")]
    tokens: usize,
    /// Tokens of the query in apb's anchor [default: 32]
    #[arg(long, value_name = "N")]
    query_tokens: Option<usize>,
    /// Tokens that follow the document: question and answer
    #[arg(long, value_name = "N", default_value_t = 512)]
    following: usize,
    /// What each rank runs on: a100, a800, h100, h200, or measured: this machine's CPU
    #[arg(long, value_name = "NAME", default_value = "measured")]
    device: String,
    /// Memory of a device in GiB, in place of the known one
    #[arg(long, value_name = "GIB")]
    memory: Option<f64>,
    /// Gigabytes a second between ranks, in place of the known ones; of measured devices nothing is known
    #[arg(long, value_name = "GB/S")]
    bandwidth: Option<f64>,
    /// Ranks at most [default: 8; measured: 4]
    #[arg(long, value_name = "H")]
    ranks: Option<usize>,
    /// apb: rows of the anchor [default: a quarter of a block]
    #[arg(long, value_name = "N")]
    anchor: Option<usize>,
    /// apb: rows that each rank passes on [default: an eighth of a block]
    #[arg(long, value_name = "N")]
    passing: Option<usize>,
    /// Dtype of weights that are not quantised, and of activations [default: bf16; measured: f32]
    #[arg(long, value_enum, value_name = "DTYPE")]
    dtype: Option<DtypeName>,
    /// Dtype of keys and values in the cache [default: as --dtype]
    #[arg(long, value_enum, value_name = "DTYPE")]
    kv_dtype: Option<KvDtypeName>,
    /// Rows of a pass and of a tile of the MLP [default: 8192; measured: 1024]
    #[arg(long, value_name = "ROWS")]
    chunk: Option<usize>,
}

/// A model without its weights.
struct Subject {
    config: DecoderConfig,
    /// None where there is only a configuration.
    source: Option<ModelSource>,
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Result<(), CliError> {
    args.check()?;
    let subject = Subject::open(&args.model)?;
    let measured = args.device == "measured";
    let hardware = match measured {
        true => args.measured(&subject, output)?,
        false => Hardware::known(&args.device).map_err(CliError::usage)?,
    };
    let planner = Planner::new(subject.config.clone(), args.set(hardware));
    let planner = planner.with_memory(args.memory_config(&subject, measured)?);
    let settings = PrefillConfig {
        anchor: args.anchor,
        passing: args.passing,
        ..PrefillConfig::new(Method::Apb, args.ranks(measured))
    };
    let query = args.query_tokens.unwrap_or(QUERY_TOKENS);
    let document = DocumentLengths::new(args.tokens).with_anchor_query(query);
    let report = Report {
        methods: planner
            .compare(&settings, &document)
            .into_iter()
            .map(|(settings, predicted)| {
                let most = planner.max_tokens(&settings, &document);
                (settings, predicted, most)
            })
            .collect(),
        recommended: planner.recommend(&settings, &document),
        planner,
        settings,
        document,
    };
    let mut json = report.json(args);
    let refused = match &report.recommended {
        Some(_) => return output.result(&json, |w| report.print(w)),
        None => CliError::memory(report.refusal()),
    };
    // One object: the report is what was asked for, and the error is in it.
    json["error"] = refused.to_json()["error"].clone();
    output.result(&json, |w| report.print(w))?;
    match output.is_json() {
        true => {
            output::stderr_line(&format!("apb: {refused}"));
            Err(refused.printed())
        }
        false => Err(refused),
    }
}

impl Args {
    fn check(&self) -> Result<(), CliError> {
        let positive = [("--memory", self.memory), ("--bandwidth", self.bandwidth)];
        for (flag, value) in positive {
            if let Some(value) = value.filter(|value| !(value.is_finite() && *value > 0.0)) {
                return Err(CliError::usage(format!(
                    "{flag} is {value}; it must be a positive number"
                )));
            }
        }
        let least = [
            ("--tokens", Some(self.tokens)),
            ("--ranks", self.ranks),
            ("--chunk", self.chunk),
        ];
        if let Some((flag, _)) = least.into_iter().find(|(_, value)| *value == Some(0)) {
            return Err(CliError::usage(format!("{flag} is 0; the least is 1")));
        }
        limits::check_tokens(self.tokens)
    }

    fn ranks(&self, measured: bool) -> usize {
        self.ranks.unwrap_or(match measured {
            true => args::DEFAULT_RANKS,
            false => GPU_RANKS,
        })
    }

    fn dtype(&self, measured: bool) -> FloatDType {
        match (self.dtype, measured) {
            (Some(dtype), _) => dtype.into(),
            (None, true) => FloatDType::F32,
            (None, false) => FloatDType::BF16,
        }
    }

    fn chunk(&self, measured: bool) -> usize {
        self.chunk.unwrap_or(if measured { 1024 } else { 8192 })
    }

    /// A device with the memory and the bandwidth that were given.
    fn set(&self, hardware: Hardware) -> Hardware {
        let given = self.memory.map(|gib| (gib * GIB) as u64);
        Hardware {
            memory_bytes: given.or(hardware.memory_bytes),
            rates: Rates {
                exchange: self
                    .bandwidth
                    .map(|gb| gb * 1e9)
                    .or(hardware.rates.exchange),
                ..hardware.rates
            },
            ..hardware
        }
    }

    fn memory_config(&self, subject: &Subject, measured: bool) -> Result<MemoryConfig, CliError> {
        let dtype = self.dtype(measured);
        let (weights, quantized) = subject.weights(dtype)?;
        let asked = self.kv_dtype.map(KvDType::from);
        let program = match measured {
            true => PROGRAM + subject.config.vocab_size as u64 * VOCABULARY_ENTRY,
            false => 0,
        };
        Ok(MemoryConfig {
            weights,
            dtype,
            kv_dtype: asked.unwrap_or_else(|| predict::usual_kv_dtype(quantized, dtype, !measured)),
            chunk: self.chunk(measured),
            following: self.following,
            program,
            threads: predict::threads(!measured),
        })
    }

    /// This machine, measured with the model where it is here and fits, or with random weights of a few of its layers.
    fn measured(&self, subject: &Subject, output: &Output) -> Result<Hardware, CliError> {
        let device = burn::tensor::Device::flex();
        let dtype = self.dtype(true);
        // Asked before the model takes some of it.
        let memory_bytes = memory::available_bytes();
        let (weights, _) = subject.weights(dtype)?;
        let fits = memory_bytes.is_none_or(|free| weights < free / 2);
        let (decoder, config) = match &subject.source {
            Some(source) if fits => {
                let decoder = prefill::load_weights(source, dtype, &device, output)?;
                (decoder, subject.config.clone())
            }
            _ => {
                let config = few_layers(&subject.config, dtype, memory_bytes)?;
                (Arc::new(config.init_random(dtype, &device)), config)
            }
        };
        let mut session = burn_apb::apb::SessionConfig::new(0);
        session.chunk = Some(self.chunk(true));
        session.kv_dtype = self.kv_dtype.map(KvDType::from);
        let rates = predict::rates(decoder, &config, session, output)?;
        Ok(Hardware {
            memory_bytes,
            ..predict::here(rates)
        })
    }
}

/// A few layers of a model, as many as fit half of the free memory; two at least, as the last is not computed to its end.
fn few_layers(
    config: &DecoderConfig,
    dtype: FloatDType,
    free: Option<u64>,
) -> Result<DecoderConfig, CliError> {
    let size = burn::tensor::DType::from(dtype).size() as u64;
    let few = |layers: usize| DecoderConfig {
        num_hidden_layers: config.num_hidden_layers.min(layers),
        vocab_size: config.vocab_size.min(MEASURED_VOCABULARY),
        ..config.clone()
    };
    let bytes = |few: &DecoderConfig| (few.num_parameters() as u64).saturating_mul(size);
    let fits = |few: &DecoderConfig| free.is_none_or(|free| bytes(few) < free / 2);
    (2..=MEASURED_LAYERS).rev().map(few).find(fits).ok_or_else(|| {
        CliError::memory(format!(
            "two layers of this model take {:.2} GiB, more than half of what is free here; name a device with --device",
            bytes(&few(2)) as f64 / GIB
        ))
    })
}

impl Subject {
    fn open(model: &Path) -> Result<Self, CliError> {
        let json = model.extension().is_some_and(|ending| ending == "json");
        let folder = model.join("config.json");
        let read = |path: &Path| DecoderConfig::from_json_file(path).map_err(CliError::usage);
        if json && model.is_file() {
            return Ok(Self {
                config: read(model)?,
                source: None,
            });
        }
        if model.exists() || model.is_symlink() {
            return match ModelSource::open(model) {
                Ok(source) => Ok(Self {
                    config: DecoderConfig::from_json(source.config()).map_err(CliError::usage)?,
                    source: source.checkpoint().is_ok().then_some(source),
                }),
                // A folder with nothing but a configuration.
                Err(_) if folder.is_file() => Ok(Self {
                    config: read(&folder)?,
                    source: None,
                }),
                Err(error) => Err(CliError::usage(error)),
            };
        }
        let spec = Spec::parse(&model.to_string_lossy())?;
        let text = Hub::from_env().config(&spec)?;
        Ok(Self {
            config: DecoderConfig::from_json(&text).map_err(CliError::usage)?,
            source: None,
        })
    }

    /// Bytes of the weights as they are loaded, and whether they are quantised.
    fn weights(&self, dtype: FloatDType) -> Result<(u64, bool), CliError> {
        let options = LoadOptions::from(dtype);
        Ok(match &self.source {
            Some(source) => {
                let tensors = source.checkpoint()?;
                let bytes = tensors.loaded_bytes(options);
                let floats = tensors.loaded_bytes(options.with_dequantize(true));
                (bytes, bytes != floats)
            }
            None => {
                let size = burn::tensor::DType::from(dtype).size() as u64;
                let parameters = self.config.num_parameters() as u64;
                (parameters.saturating_mul(size), false)
            }
        })
    }
}

type Compared = (PrefillConfig, Result<Prediction, PlanError>, Option<usize>);

/// What is shown.
struct Report {
    planner: Planner,
    settings: PrefillConfig,
    document: DocumentLengths,
    methods: Vec<Compared>,
    recommended: Option<Recommendation>,
}

impl Report {
    fn json(&self, args: &Args) -> Value {
        let mut methods = Map::new();
        for (settings, predicted, most) in &self.methods {
            let value = match predicted {
                Ok(predicted) => prediction_json(predicted, *most),
                Err(error) => json!({ "refused": error.to_string() }),
            };
            let name = predict::name(settings.method, settings.ring_layout);
            methods.insert(name.to_owned(), value);
        }
        let hardware = &self.planner.hardware;
        json!({
            "model": crate::json::path(&args.model), "tokens": self.document.tokens, "parameters": self.planner.config.num_parameters(),
            "device": hardware.name, "rates_from": hardware.source, "rates": hardware.rates,
            "usable_bytes": hardware.usable_bytes(),
            "methods": methods,
            "recommended": self.recommended.as_ref().map(|recommended| json!({
                "method": predict::name(recommended.prediction.plan.method, recommended.prediction.plan.ring_layout),
                "ranks": recommended.prediction.plan.ranks,
                "anchor": recommended.prediction.plan.anchor,
                "passing": recommended.prediction.plan.passing,
                "prefill_seconds": recommended.prediction.seconds(),
                "reason": recommended.reason,
            })),
            "max_tokens": self.max_tokens(),
        })
    }

    /// The longest document that fits with any of the methods.
    fn max_tokens(&self) -> Option<usize> {
        self.methods.iter().filter_map(|(_, _, most)| *most).max()
    }

    fn print(&self, w: &mut dyn Write) -> io::Result<()> {
        let hardware = &self.planner.hardware;
        let usable = match hardware.usable_bytes() {
            Some(bytes) => format!("{:.1} GiB usable", bytes as f64 / GIB),
            None => "memory unknown".into(),
        };
        writeln!(
            w,
            "{} tokens, {:.2} billion parameters, each rank on {} ({usable}; rates {})\n",
            self.document.tokens,
            self.planner.config.num_parameters() as f64 / 1e9,
            hardware.name,
            hardware.source
        )?;
        writeln!(
            w,
            "{:<16} {:>5} {:>9} {:>10} {:>10} {:>9} {:>10} {:>9} {:>12} {:>5} {:>11}",
            "method",
            "ranks",
            "prefill s",
            "attention",
            "linear",
            "exchange",
            "exch. GiB",
            "other",
            "GiB a rank",
            "fits",
            "longest"
        )?;
        for (settings, predicted, most) in &self.methods {
            let name = predict::name(settings.method, settings.ring_layout);
            match predicted {
                Err(error) => writeln!(w, "{name:<16} {:>5} {error}", settings.ranks)?,
                Ok(predicted) => print_row(w, name, predicted, *most)?,
            }
        }
        if let Some(Recommendation { prediction, reason }) = &self.recommended {
            writeln!(
                w,
                "\nrecommended: {} ({:.3} s)\n  {reason}",
                prefill::describe(&prediction.plan),
                prediction.seconds()
            )?;
        }
        Ok(())
    }

    /// The planner where so many tokens follow the document.
    fn followed_by(&self, following: usize) -> Planner {
        let memory = MemoryConfig {
            following,
            ..self.planner.memory
        };
        self.planner.clone().with_memory(memory)
    }

    /// Whether the document fits with so many tokens behind it.
    fn fits(&self, following: usize) -> bool {
        let planner = self.followed_by(following);
        planner.recommend(&self.settings, &self.document).is_some()
    }

    /// Why nothing is recommended, and what would fit.
    fn refusal(&self) -> String {
        let (tokens, following) = (self.document.tokens, self.planner.memory.following);
        if self.fits(0) {
            // The most that may follow lies in `low..high`.
            let (mut low, mut high) = (0, following);
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                match self.fits(middle) {
                    true => low = middle,
                    false => high = middle,
                }
            }
            return format!(
                "a document of {tokens} tokens fits, but not with the {following} that follow it; the most that fits is \
                 --following {low}"
            );
        }
        let bare = self.followed_by(0);
        let longest = |(settings, ..): &Compared| bare.max_tokens(settings, &self.document);
        let advice = if let Some(most) = self.max_tokens() {
            format!("the longest that fits is {most} tokens")
        } else if let Some(most) = self.methods.iter().filter_map(longest).max() {
            format!(
                "none fits with {following} tokens behind it, and with --following 0 the longest is {most} tokens"
            )
        } else {
            let least = PrefillConfig::new(Method::Full, 1);
            let least = bare.predict(&least, &DocumentLengths::new(1));
            format!(
                "weights and working memory alone take {}, and {} are usable: use more memory, a smaller or a quantised \
                 model",
                output::bytes(least.map_or(0, |predicted| predicted.memory.total())),
                output::bytes(bare.hardware.usable_bytes().unwrap_or(0))
            )
        };
        format!(
            "a document of {tokens} tokens fits no device with any method on up to {} ranks; {advice}",
            self.settings.ranks
        )
    }
}

fn prediction_json(predicted: &Prediction, most: Option<usize>) -> Value {
    let parts: Map<String, Value> = predicted
        .parts
        .named()
        .into_iter()
        .map(|(name, seconds)| (name.to_owned(), json!(seconds)))
        .collect();
    json!({
        "ranks": predicted.plan.ranks, "anchor": predicted.plan.anchor, "passing": predicted.plan.passing,
        "prefill_seconds": predicted.seconds(), "parts": parts,
        "memory_bytes": predicted.memory.total(), "memory": predicted.memory,
        "exchange_bytes": predicted.exchange_bytes, "fits": predicted.fits, "max_tokens": most,
    })
}

fn print_row(
    w: &mut dyn Write,
    name: &str,
    predicted: &Prediction,
    most: Option<usize>,
) -> io::Result<()> {
    let parts = &predicted.parts;
    writeln!(
        w,
        "{name:<16} {:>5} {:>9.3} {:>10.3} {:>10.3} {:>9.3} {:>10.2} {:>9.3} {:>12.2} {:>5} {:>11}",
        predicted.plan.ranks,
        predicted.seconds(),
        parts.attention,
        parts.projections + parts.mlp,
        parts.exchange,
        predicted.exchange_bytes as f64 / GIB,
        parts.selection + parts.other,
        predicted.memory.total() as f64 / GIB,
        match predicted.fits {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        },
        most.map_or_else(|| "-".into(), |most| most.to_string()),
    )
}
