//! Flags that several commands share.

use std::path::PathBuf;

use burn::tensor::{Device, FloatDType};
use burn_apb::ModelText;
use burn_apb::apb::{
    AnchorQuery, AnswerOptions, CompressorConfig, Method, PrefillConfig, RingLayout, SessionConfig,
};
use burn_apb::checkpoint::LoadOptions;
use burn_apb::model::{DecoderConfig, KvDType};
use burn_apb::ranks::{Environment, RankOrder, TransportKind};
use burn_apb::text::chat_template::{RenderOptions, TemplateValue};
use burn_apb::text::prompt::{PromptOptions, TemplateChoice};
use burn_apb::text::sampler::SamplerConfig;
use clap::ValueEnum;

use crate::commands::prefill::read_template;
use crate::error::CliError;
use crate::limits;
use crate::output::Output;
use crate::variant::{self, Variant};

/// Where and how to compute.
#[derive(clap::Args, Debug, Clone)]
pub struct Compute {
    /// Device to compute on: cpu, cuda, cuda:INDEX or wgpu
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceName,
    /// Dtype of weights that are not quantised, and of what is computed [default: f32 on the CPU, bf16 on CUDA,
    /// f32 on wgpu]
    #[arg(long, value_enum, value_name = "DTYPE")]
    dtype: Option<DtypeName>,
    /// Dtype of keys and values in the cache [default: as --dtype; on a CPU bf16 in place of f32 beside weights
    /// that stay quantised]
    #[arg(long, value_enum, value_name = "DTYPE")]
    kv_dtype: Option<KvDtypeName>,
    /// Make quantised weights floats of --dtype; they otherwise stay as they are
    #[arg(long)]
    dequantize: bool,
}

/// How to prefill.
#[derive(clap::Args, Debug, Clone)]
pub struct Strategy {
    /// Prefill strategy: full, ring, ulysses, star or apb [default: full; demo: full and apb]
    #[arg(long, value_name = "METHOD")]
    pub method: Option<Method>,
    /// Ranks to split the document over, shared out evenly over the processes [default: one a process;
    /// of one process, with apb, ring, star and ulysses, 4]
    #[arg(long, value_name = "H")]
    pub ranks: Option<usize>,
    /// ring: how the document is shared out, zigzag or contiguous [default: zigzag]
    #[arg(long, value_name = "LAYOUT")]
    pub ring_layout: Option<RingLayout>,
    /// apb: rows of the anchor, its query included [default: a quarter of a block]
    #[arg(long, value_name = "N")]
    pub anchor: Option<usize>,
    /// apb: rows that each rank passes on for each KV head; 0 turns passing off [default: an eighth of
    /// a block]
    #[arg(long, value_name = "N")]
    pub passing: Option<usize>,
    /// apb: what chooses them [default: retaining with --heads, else query-aware]
    #[arg(long, value_enum, value_name = "NAME")]
    pub compressor: Option<CompressorName>,
    /// apb: retaining heads, a safetensors file or a published PyTorch file (`apb convert-heads` keeps
    /// the conversion)
    #[arg(long, value_name = "FILE")]
    pub heads: Option<PathBuf>,
    /// Seed of everything random: sampling, and the random compressor
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Rows of one prefill pass, and of one tile of the MLP [default: 8192 on CUDA, 1024 elsewhere]
    #[arg(long, value_name = "ROWS")]
    pub chunk: Option<usize>,
}

/// Processes that run a command together, started by `apb launch`, mpirun, srun or torchrun.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Several processes (apb launch, mpirun, srun)")]
pub struct Processes {
    /// Longest wait for another rank, in seconds; then every rank ends with exit code 4 [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<std::num::NonZeroU32>,
    /// An address of the network between the machines, the first one's for instance [default:
    /// MASTER_ADDR, else this machine only]
    #[arg(long, value_name = "ADDRESS")]
    pub rendezvous: Option<String>,
    /// Folder for a log of each process
    #[arg(long, value_name = "DIR")]
    pub rank_logs: Option<PathBuf>,
    /// Which of the ranks each process drives, where it drives several [default: in-order]
    #[arg(long, value_enum, value_name = "ORDER")]
    pub rank_order: Option<RankOrderName>,
}

impl Processes {
    /// Refuses flags about other processes where there are none.
    pub fn check_alone(&self) -> Result<(), CliError> {
        let flags = [
            ("--timeout", self.timeout.is_some()),
            ("--rendezvous", self.rendezvous.is_some()),
            ("--rank-logs", self.rank_logs.is_some()),
            ("--rank-order", self.rank_order.is_some()),
        ];
        limits::unused(
            flags,
            "for one process; start several with `apb launch`, mpirun, srun or torchrun",
        )
    }
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum RankOrderName {
    /// Neighbours: of 4 ranks, 0 and 1, 2 and 3
    InOrder,
    /// Back and forth, which balances apb and a contiguous ring: of 4 ranks, 0 and 3, 1 and 2
    Folded,
}

impl From<RankOrderName> for RankOrder {
    fn from(name: RankOrderName) -> Self {
        match name {
            RankOrderName::InOrder => Self::InOrder,
            RankOrderName::Folded => Self::Folded,
        }
    }
}

/// Ranks where a strategy that needs several is asked for without a number.
pub const DEFAULT_RANKS: usize = 4;

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressorName {
    /// Trained retaining heads, from --heads
    Retaining,
    /// The attention that the anchor's query pays
    QueryAware,
    /// Random: the floor
    Random,
}

impl CompressorName {
    /// The library's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Retaining => "retaining",
            Self::QueryAware => "query-aware",
            Self::Random => "random",
        }
    }
}

impl Strategy {
    /// The strategy asked for.
    pub fn config(&self) -> Result<PrefillConfig, CliError> {
        self.config_of(self.method.unwrap_or(Method::Full))
    }

    /// The same settings with a method.
    pub fn config_of(&self, method: Method) -> Result<PrefillConfig, CliError> {
        if self.chunk == Some(0) {
            return Err(CliError::usage("--chunk is 0; a pass has at least 1 row"));
        }
        let ranks = self.ranks.unwrap_or(match method {
            Method::Full => 1,
            _ => DEFAULT_RANKS,
        });
        let mut config = PrefillConfig::new(method, ranks)
            .with_ring_layout(self.ring_layout.unwrap_or_default())
            .with_compressor(self.compressor_config()?);
        config.anchor = self.anchor;
        config.passing = self.passing;
        Ok(config)
    }

    fn compressor_config(&self) -> Result<CompressorConfig, CliError> {
        match (self.compressor, &self.heads) {
            (None | Some(CompressorName::Retaining), Some(heads)) => {
                Ok(CompressorConfig::Retaining {
                    heads: heads.clone(),
                })
            }
            (Some(CompressorName::Retaining), None) => Err(CliError::usage(
                "--compressor retaining needs --heads FILE; without trained heads use \
                 --compressor query-aware",
            )),
            (Some(_), Some(_)) => Err(CliError::usage(
                "--heads is for --compressor retaining; leave one of the two out",
            )),
            (None | Some(CompressorName::QueryAware), None) => Ok(CompressorConfig::QueryAware),
            (Some(CompressorName::Random), None) => Ok(CompressorConfig::Random {
                seed: self.seed.unwrap_or_default(),
            }),
        }
    }
}

/// A document and how it is prefilled.
#[derive(clap::Args, Debug, Clone)]
pub struct Reading {
    #[command(flatten)]
    pub model: Model,
    /// Refuse weights with tensors that the model does not use, or that the index of the shards does
    /// not name, in place of a warning
    #[arg(long)]
    pub strict: bool,
    /// The document, UTF-8 text; - reads standard input
    #[arg(long, value_name = "FILE|-")]
    pub document: PathBuf,
    #[command(flatten)]
    pub prompt: Prompt,
    /// Go on when the document is longer than the context the model was made for
    #[arg(long)]
    pub allow_long: bool,
    #[command(flatten)]
    pub strategy: Strategy,
    #[command(flatten)]
    pub anchor: Anchor,
    #[command(flatten)]
    pub compute: Compute,
    #[command(flatten)]
    pub processes: Processes,
}

impl Reading {
    /// The method asked for.
    pub fn method(&self) -> Variant {
        self.strategy.method.unwrap_or(Method::Full).into()
    }

    /// Refuses flags that the method has no use for.
    pub fn check(&self) -> Result<(), CliError> {
        variant::check_used(&self.strategy, Some(&self.anchor), &[self.method()])?;
        variant::check_passing(&self.strategy)
    }

    /// How the weights are loaded.
    pub fn load_options(&self) -> LoadOptions {
        self.compute.load_options().with_strict(self.strict)
    }

    /// As the options of the library.
    pub fn options(&self) -> Result<AnswerOptions, CliError> {
        Ok(AnswerOptions {
            prompt: self.prompt.options()?,
            chunk: self.strategy.chunk,
            kv_dtype: self.compute.kv_dtype(),
            allow_long: self.allow_long,
            prefill: self.strategy.config()?,
            anchor_query: self.anchor.query(),
            ..AnswerOptions::default()
        })
    }
}

/// How document and question become a prompt.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Prompt")]
pub struct Prompt {
    /// System prompt, in place of the template's own
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Chat template in place of the model's: a file with its Jinja source
    #[arg(long, value_name = "FILE", conflicts_with_all = ["template", "raw"])]
    pub chat_template: Option<PathBuf>,
    /// Which of the model's chat templates, where it has several
    #[arg(long, value_name = "NAME", conflicts_with = "raw")]
    pub template: Option<String>,
    /// No chat template: document and question stand as they are
    #[arg(long, conflicts_with_all = ["system", "template_var"])]
    pub raw: bool,
    /// A variable of the chat template, JSON or else text, such as enable_thinking=false; may be
    /// repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = template_variable)]
    pub template_var: Vec<(String, TemplateValue)>,
    /// How the answer begins
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub answer_prefix: String,
    /// Read control tokens such as <|im_end|> that document or question spell out; by default they
    /// are text
    #[arg(long)]
    pub allow_control_tokens: bool,
}

/// A name and a value, which is text where it is no JSON.
fn template_variable(flag: &str) -> Result<(String, TemplateValue), String> {
    let (name, value) = flag
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| "expected NAME=VALUE, such as enable_thinking=false".to_owned())?;
    let value = match value {
        "True" => true.into(),
        "False" => false.into(),
        text => text.parse().unwrap_or_else(|_| text.into()),
    };
    Ok((name.to_owned(), value))
}

impl Prompt {
    /// As the options of the library.
    pub fn options(&self) -> Result<PromptOptions, CliError> {
        let template = match (&self.chat_template, &self.template, self.raw) {
            (Some(file), ..) => TemplateChoice::Source(read_template(file)?),
            (_, Some(name), _) => TemplateChoice::Named(name.clone()),
            (_, _, true) => TemplateChoice::None,
            _ => TemplateChoice::Model,
        };
        let names = self.template_var.iter().map(|(name, _)| name.as_str());
        limits::distinct("--template-var", &names.collect::<Vec<_>>())?;
        Ok(PromptOptions {
            system: self.system.clone(),
            template,
            render: RenderOptions {
                variables: self.template_var.iter().cloned().collect(),
                ..RenderOptions::default()
            },
            answer_prefix: self.answer_prefix.clone(),
            allow_control_tokens: self.allow_control_tokens,
        })
    }
}

/// The query in the anchor.
#[derive(clap::Args, Debug, Clone)]
pub struct Anchor {
    /// apb: the query that every rank sees in its anchor [default: the question]
    #[arg(long, value_name = "TEXT", conflicts_with = "no_anchor_query")]
    pub anchor_query: Option<String>,
    /// apb: no query in the anchor
    #[arg(long)]
    pub no_anchor_query: bool,
}

impl Anchor {
    /// As the options of the library.
    pub fn query(&self) -> AnchorQuery {
        match (&self.anchor_query, self.no_anchor_query) {
            (Some(text), _) => AnchorQuery::Text(text.clone()),
            (None, true) => AnchorQuery::None,
            (None, false) => AnchorQuery::Question,
        }
    }
}

/// How to choose the next token; what is not given comes from the model's `generation_config.json`.
#[derive(clap::Args, Debug, Clone)]
pub struct Sampling {
    /// Most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_tokens: usize,
    /// Always take the most likely token
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p", "min_p"])]
    pub greedy: bool,
    /// Flatness of the distribution; 0 is greedy
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub temperature: Option<f32>,
    /// Keep the K most likely tokens
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Keep the most likely tokens that make up this probability
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Keep tokens at least this probable, relative to the most likely
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<f32>,
    /// Divide the logits of tokens already seen by this
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub repetition_penalty: Option<f32>,
    /// End the answer before this text; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// End the answer at this token, an id or as the vocabulary spells it; may be repeated
    #[arg(long, value_name = "TOKEN")]
    pub stop_token: Vec<String>,
    /// Log-probabilities of each token of the answer, and of the N likeliest in its place; with --json
    #[arg(long, value_name = "N")]
    pub logprobs: Option<usize>,
}

impl Sampling {
    /// The fields of a `generation_config.json` that the flags stand in place of.
    fn overridden(&self) -> Vec<&'static str> {
        let mut fields = vec!["max_new_tokens"];
        let mut add = |given: bool, names: &[&'static str]| {
            if given {
                fields.extend(names);
            }
        };
        let drawn = ["temperature", "top_k", "top_p", "min_p", "do_sample"];
        add(self.greedy, &drawn);
        add(self.temperature == Some(0.0), &drawn);
        add(self.temperature.is_some(), &["temperature", "do_sample"]);
        add(self.top_k.is_some(), &["top_k"]);
        add(self.top_p.is_some(), &["top_p"]);
        add(self.min_p.is_some(), &["min_p"]);
        add(self.repetition_penalty.is_some(), &["repetition_penalty"]);
        fields
    }

    /// Sets how tokens are chosen and what ends the answer: the flags over the model's own
    /// defaults, greedy where there are neither. A value of the model's files that cannot be used is
    /// an error where no flag stands in its place.
    pub fn complete(
        &self,
        seed: Option<u64>,
        model: &ModelText,
        options: &mut AnswerOptions,
        output: &Output,
    ) -> Result<(), CliError> {
        let overridden = self.overridden();
        let (needed, ignored) = model.generation.unusable_but(&overridden);
        if let Some(unusable) = needed.first() {
            return Err(CliError::usage(format!(
                "{unusable}; mend the file, or give the value as a flag, or --greedy"
            )));
        }
        // Values that are not needed were reported when the model was opened.
        let (_, reported) = model.generation.unusable_but(&[]);
        for unusable in ignored.iter().filter(|value| !reported.contains(value)) {
            output.note(format!("warning: {unusable}; the flags are used"));
        }
        let mut config = match self.greedy {
            true => SamplerConfig::default(),
            false => SamplerConfig::from(&model.generation),
        };
        config.temperature = self.temperature.unwrap_or(config.temperature);
        config.top_k = self.top_k.unwrap_or(config.top_k);
        config.top_p = self.top_p.unwrap_or(config.top_p);
        config.min_p = self.min_p.unwrap_or(config.min_p);
        config.repetition_penalty = self.repetition_penalty.unwrap_or(config.repetition_penalty);
        config.validate().map_err(CliError::usage)?;
        self.check_used(&config)?;
        config.seed = match (seed, config.temperature > 0.0) {
            (Some(seed), true) => seed,
            (Some(_), false) => {
                let random = CompressorConfig::Random { seed: 0 }.name();
                if options.prefill.compressor.name() != random {
                    output.note("note: --seed changes nothing without --temperature: the likeliest token is taken");
                }
                config.seed
            }
            (None, true) => {
                let drawn: u32 = rand::random();
                output.note(format!(
                    "note: seed {drawn}; --seed {drawn} repeats the answer"
                ));
                drawn.into()
            }
            (None, false) => config.seed,
        };
        options.sampler = Some(config);
        options.max_tokens = self.max_tokens;
        options.logprobs = self.logprobs;
        if self.logprobs.is_some() && !output.is_json() {
            return Err(CliError::usage(
                "--logprobs are printed with --json alone; add it",
            ));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(CliError::usage("--stop is empty; give the text to stop at"));
        }
        options.stop_texts.clone_from(&self.stop);
        options.stop_tokens = self
            .stop_token
            .iter()
            .map(|token| stop_token(token, model))
            .collect::<Result<_, _>>()?;
        Ok(())
    }
}

impl Sampling {
    /// Refuses flags about the draw where the likeliest token is taken.
    fn check_used(&self, config: &SamplerConfig) -> Result<(), CliError> {
        let greedy = config.temperature == 0.0;
        let flags = [
            ("--top-k", greedy && self.top_k.is_some()),
            ("--top-p", greedy && self.top_p.is_some()),
            ("--min-p", greedy && self.min_p.is_some()),
        ];
        limits::unused(
            flags,
            "while the likeliest token is taken; give --temperature T above 0, or leave it out",
        )
    }
}

/// The seed of an answer whose tokens are drawn.
pub fn drawn_seed(options: &AnswerOptions) -> Option<u64> {
    let config = options.sampler.as_ref()?;
    (config.temperature > 0.0).then_some(config.seed)
}

/// A token by its text, or else by its number.
fn stop_token(token: &str, model: &ModelText) -> Result<u32, CliError> {
    let tokenizer = &model.tokenizer;
    let number = || {
        token
            .parse()
            .ok()
            .filter(|&id| (id as usize) < model.config.vocab_size)
    };
    tokenizer.token_id(token).or_else(number).ok_or_else(|| {
        CliError::usage(format!(
            "--stop-token {token} is no token of the model, which has 0 to {}; for a text of several \
             tokens use --stop",
            model.config.vocab_size - 1
        ))
    })
}

/// A model and what it is read as.
#[derive(clap::Args, Debug, Clone)]
pub struct Model {
    /// A Hugging Face folder, a GGUF file, a hub id (org/name[@revision]) or a listed name
    #[arg(long, value_name = "DIR|ID")]
    pub model: PathBuf,
}

/// A device by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceName {
    Cpu,
    /// By index; without one, the first, and of several processes each its own.
    Cuda(Option<usize>),
    Wgpu,
}

impl std::str::FromStr for DeviceName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let bad =
            || format!("`{name}` is no device; use cpu, cuda, cuda:0 (or another index) or wgpu");
        match name.split_once(':') {
            None if name == "cpu" => Ok(Self::Cpu),
            None if name == "cuda" => Ok(Self::Cuda(None)),
            None if name == "wgpu" => Ok(Self::Wgpu),
            Some(("cuda", index)) => match index.parse() {
                Ok(index) => Ok(Self::Cuda(Some(index))),
                Err(_) => Err(bad()),
            },
            _ => Err(bad()),
        }
    }
}

impl DeviceName {
    /// The device. A GPU is looked for before it is used: Burn aborts where a driver is missing.
    pub fn open(self) -> Result<Device, CliError> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            Self::Cuda(index) => cuda(index),
            Self::Wgpu => wgpu(),
        }
    }
}

impl std::fmt::Display for DeviceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{}", index.unwrap_or(0)),
            Self::Wgpu => f.write_str("wgpu"),
        }
    }
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum DtypeName {
    F32,
    F16,
    Bf16,
}

impl From<DtypeName> for FloatDType {
    fn from(name: DtypeName) -> Self {
        match name {
            DtypeName::F32 => Self::F32,
            DtypeName::F16 => Self::F16,
            DtypeName::Bf16 => Self::BF16,
        }
    }
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvDtypeName {
    F32,
    F16,
    Bf16,
    /// Eight bits an element and a scale for 32; on the CPU.
    #[value(name = "q8_0")]
    Q8,
}

impl From<KvDtypeName> for KvDType {
    fn from(name: KvDtypeName) -> Self {
        match name {
            KvDtypeName::F32 => Self::F32,
            KvDtypeName::F16 => Self::F16,
            KvDtypeName::Bf16 => Self::BF16,
            KvDtypeName::Q8 => Self::Q8_0,
        }
    }
}

impl Compute {
    /// The device asked for.
    pub fn device(&self) -> Result<Device, CliError> {
        self.device.open()
    }

    /// What moves tensors between processes that compute on this device.
    pub fn exchange(&self, environment: &Environment) -> Result<TransportKind, CliError> {
        #[cfg(feature = "nccl")]
        if let DeviceName::Cuda(index) = self.device {
            // A missing library is reported before other processes wait for this one.
            burn_apb::ranks::nccl_version()?;
            self.device()?;
            return Ok(TransportKind::Nccl {
                device: index.unwrap_or(environment.local_process),
            });
        }
        let _ = environment;
        Ok(TransportKind::Mpi)
    }

    /// The dtype asked for, or the device's usual one.
    pub fn dtype(&self) -> FloatDType {
        match (self.dtype, self.device) {
            (Some(dtype), _) => dtype.into(),
            (None, DeviceName::Cuda(_)) => FloatDType::BF16,
            (None, _) => FloatDType::F32,
        }
    }

    /// The cache's dtype, where one is asked for.
    pub fn kv_dtype(&self) -> Option<KvDType> {
        self.kv_dtype.map(KvDType::from)
    }

    /// Refuses a cache that the model's heads or the device do not have, before a weight is read.
    pub fn check_kv_dtype(&self, config: &DecoderConfig, device: &Device) -> Result<(), CliError> {
        match self.kv_dtype() {
            Some(dtype) => dtype
                .check(config.head_dim, device)
                .map_err(CliError::usage),
            None => Ok(()),
        }
    }

    /// Whether floats of quantised weights are asked for.
    pub fn dequantize(&self) -> bool {
        self.dequantize
    }

    /// How weights are loaded.
    pub fn load_options(&self) -> LoadOptions {
        LoadOptions::new(self.dtype()).with_dequantize(self.dequantize)
    }

    /// Whether the device works through a queue of its own.
    pub fn is_gpu(&self) -> bool {
        self.device != DeviceName::Cpu
    }

    /// Sizes of a session: its chunk and the dtype of its cache.
    pub fn session(&self, chunk: Option<usize>) -> SessionConfig {
        let mut session = SessionConfig::new(0);
        session.chunk = chunk;
        session.kv_dtype = self.kv_dtype();
        session
    }

    /// Bytes of the GPU's memory that are free, where that can be asked.
    pub fn free_bytes(&self) -> Option<u64> {
        #[cfg(feature = "cuda")]
        if let DeviceName::Cuda(index) = self.device {
            return crate::cuda::free_bytes(index.unwrap_or(0));
        }
        None
    }

    /// The device's name as it is written on the command line.
    pub fn device_name(&self) -> String {
        self.device.to_string()
    }
}

/// The GPU of this index; without one, the first, and of several processes on a machine each its own.
#[cfg(feature = "cuda")]
fn cuda(index: Option<usize>) -> Result<Device, CliError> {
    use burn::tensor::DeviceType;
    if let Some(missing) = crate::cuda::missing() {
        return Err(CliError::environment(format!("CUDA: {missing}")));
    }
    let found = Device::enumerate(DeviceType::Cuda).into_iter().count();
    let index = match (index, Environment::detect()?) {
        (Some(index), _) => index,
        // NCCL wants a GPU for each; over MPI processes may share them.
        (None, Some(all)) if cfg!(feature = "nccl") => all.local_process,
        (None, Some(all)) => all.local_process % found.max(1),
        (None, None) => 0,
    };
    if index < found {
        Ok(Device::cuda(index))
    } else {
        Err(CliError::environment(format!(
            "no CUDA device {index}: {found} found; `apb doctor` says what is missing, and each process \
             takes one"
        )))
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: Option<usize>) -> Result<Device, CliError> {
    Err(CliError::environment(
        "this apb was built without CUDA; build it with `cargo install --path cli --features cuda`",
    ))
}

#[cfg(feature = "wgpu")]
fn wgpu() -> Result<Device, CliError> {
    use burn::tensor::{DeviceKind, DeviceType};
    if Device::enumerate(DeviceType::Wgpu)
        .into_iter()
        .next()
        .is_some()
    {
        Ok(Device::wgpu(DeviceKind::DefaultDevice))
    } else {
        Err(CliError::environment(
            "no WebGPU adapter found; install a Vulkan driver (`apb doctor` says more)",
        ))
    }
}

#[cfg(not(feature = "wgpu"))]
fn wgpu() -> Result<Device, CliError> {
    Err(CliError::environment(
        "this apb was built without WebGPU; build it with `cargo install --path cli --features wgpu`",
    ))
}
