//! `apb trace`: runs one reference case and writes what it computed, for comparison.

use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, FloatDType, Tensor};
use burn_apb::apb::Method;
use burn_apb::model::sampler::{Sampler, SamplerConfig};
use burn_apb::model::source::ModelSource;
use burn_apb::model::{Decoder, DecoderConfig, KvCache, Rope, load_decoder};
use safetensors::tensor::{Dtype, View};
use serde::Deserialize;
use serde_json::json;

use crate::args::Compute;
use crate::error::CliError;
use crate::output::{Output, write_atomically};

/// Largest case file that is read, in bytes: a million tokens in JSON are about 8 MB.
const MAX_CASE_BYTES: u64 = 64 << 20;
/// Most tokens a case may ask to be generated.
const MAX_GENERATE: usize = 1 << 20;

/// Run one reference case and write its tensors
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The case, as JSON: method, document and query as token ids
    #[arg(long, value_name = "FILE")]
    case: PathBuf,
    /// The model: a Hugging Face folder or a GGUF file
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Retaining heads; only needed by cases that score with them
    #[arg(long, value_name = "FILE")]
    heads: Option<PathBuf>,
    /// Where to write the tensors, as safetensors
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Rows of one prefill pass
    #[arg(long, value_name = "ROWS", default_value = "1024")]
    chunk: std::num::NonZeroUsize,
    #[command(flatten)]
    compute: Compute,
}

/// The part of a case that every method needs.
#[derive(Deserialize)]
struct Case {
    format: String,
    method: String,
    #[serde(default = "one_rank")]
    hosts: usize,
    #[serde(default)]
    store: Store,
    generate: usize,
    query: Vec<u32>,
    document: Vec<u32>,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Store {
    #[default]
    All,
    Last,
}

fn one_rank() -> usize {
    1
}

impl Case {
    fn read(path: &Path) -> Result<Self, CliError> {
        let refuse = |reason: String| CliError::usage(format!("{}: {reason}", path.display()));
        let length = std::fs::metadata(path)
            .map_err(|e| refuse(format!("cannot be read: {e}")))?
            .len();
        if length > MAX_CASE_BYTES {
            return Err(refuse(format!(
                "{length} bytes; a case has at most {MAX_CASE_BYTES}"
            )));
        }
        let text =
            std::fs::read_to_string(path).map_err(|e| refuse(format!("cannot be read: {e}")))?;
        let case: Self = serde_json::from_str(&text).map_err(|e| refuse(e.to_string()))?;
        if case.format != "apb-case-1" {
            return Err(refuse(format!(
                "format is `{}`, expected `apb-case-1`",
                case.format
            )));
        }
        if case.generate > MAX_GENERATE {
            return Err(refuse(format!(
                "generate is {}, at most {MAX_GENERATE}",
                case.generate
            )));
        }
        Ok(case)
    }

    fn check(&self, config: &DecoderConfig) -> Result<(), CliError> {
        for (what, tokens) in [("document", &self.document), ("query", &self.query)] {
            if tokens.is_empty() {
                return Err(CliError::usage(format!("the case's {what} has no tokens")));
            }
            let beyond = |id: &&u32| usize::try_from(**id).is_ok_and(|id| id >= config.vocab_size);
            if let Some(id) = tokens.iter().find(beyond) {
                return Err(CliError::usage(format!(
                    "token {id} of the case's {what} is beyond the model's vocabulary of {}",
                    config.vocab_size
                )));
            }
        }
        Ok(())
    }
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Result<(), CliError> {
    let case = Case::read(&args.case)?;
    let method: Method = case.method.parse().map_err(CliError::usage)?;
    method.on_ranks(case.hosts).map_err(CliError::usage)?;
    if let Some(heads) = &args.heads
        && !heads.is_file()
    {
        return Err(CliError::usage(format!(
            "{}: no such heads file",
            heads.display()
        )));
    }
    let device = args.compute.device()?;
    let dtype = args.compute.dtype();
    let source = ModelSource::open(&args.model).map_err(CliError::usage)?;
    let config = DecoderConfig::from_json(source.config()).map_err(CliError::usage)?;
    case.check(&config)?;

    let bar = output.progress("loading", "B");
    let decoder = load_decoder(&source, &config, dtype, &device, &mut |p| {
        bar.update(p.done, p.total);
    })?;
    bar.finish();

    let trace = Trace::run(&case, &config, &decoder, dtype, &device, args.chunk.get())?;
    write_atomically(&args.out, |file| {
        use std::io::Write;
        let bytes = safetensors::serialize(trace.tensors, None)
            .map_err(|e| std::io::Error::other(e.to_string()))?;
        file.write_all(&bytes)
    })?;
    output.result(
        &json!({ "out": args.out, "method": case.method, "ranks": case.hosts }),
        |w| writeln!(w, "{}", args.out.display()),
    )
}

/// The tensors of a trace.
struct Trace {
    tensors: Vec<(String, HostTensor)>,
}

impl Trace {
    fn run(
        case: &Case,
        config: &DecoderConfig,
        decoder: &Decoder,
        dtype: FloatDType,
        device: &Device,
        chunk: usize,
    ) -> Result<Self, CliError> {
        let capacity = case.document.len() + case.query.len() + case.generate;
        let rope = config.rope.init(config.head_dim, capacity);
        let mut cache = KvCache::new(config, 1, capacity, dtype.into(), device);
        let mut pass = Pass {
            decoder,
            rope,
            cache: &mut cache,
        };

        let (mut hidden, mut attention) = (Vec::new(), Vec::new());
        for tokens in case.document.chunks(chunk) {
            let rows = pass.forward(tokens)?;
            if case.store == Store::All {
                hidden.extend(to_host(rows.hidden)?);
                attention.extend(to_host(rows.first_attention)?);
            }
        }
        let query = pass.forward(&case.query)?.hidden;
        let [_, rows, width] = query.dims();
        let last = query.clone().slice([0..1, rows - 1..rows, 0..width]);
        let kept = match case.store {
            Store::All => query,
            Store::Last => last.clone(),
        };
        let logits_of = |rows| to_host(decoder.logits(rows).map_err(CliError::failed)?);
        let query_logits = logits_of(kept)?;

        let mut logits = logits_of(last)?;
        let mut sampler = Sampler::new(SamplerConfig::default()).map_err(CliError::failed)?;
        let mut generated = Vec::with_capacity(case.generate);
        for step in 0..case.generate {
            let token = sampler.sample(&mut logits).map_err(CliError::failed)?;
            generated.push(i64::from(token));
            if step + 1 < case.generate {
                logits = logits_of(pass.forward(&[token])?.hidden)?;
            }
        }

        let n = case.document.len();
        let heads_width = config.num_attention_heads * config.head_dim;
        let mut tensors = vec![
            (
                "query_logits".into(),
                HostTensor::f32(query_logits, config.vocab_size),
            ),
            ("generated".into(), HostTensor::i64(&generated)),
        ];
        if case.store == Store::All {
            debug_assert_eq!(hidden.len(), n * config.hidden_size);
            tensors.push(("hidden".into(), HostTensor::f32(hidden, config.hidden_size)));
            tensors.push(("attn_out.0".into(), HostTensor::f32(attention, heads_width)));
        }
        Ok(Self { tensors })
    }
}

/// The decoder's pass with layer 0's attention kept.
struct Pass<'a> {
    decoder: &'a Decoder,
    rope: Rope,
    cache: &'a mut KvCache,
}

struct Rows {
    /// The final norm's output `[1, seq, hidden]`.
    hidden: Tensor<3>,
    /// Layer 0's joined heads `[1, seq, heads * head_dim]`.
    first_attention: Tensor<3>,
}

impl Pass<'_> {
    fn forward(&mut self, tokens: &[u32]) -> Result<Rows, CliError> {
        let positions: Range<usize> = self.cache.len()..self.cache.len() + tokens.len();
        let mut hidden = self.decoder.embed_ids(tokens);
        let rope = self.rope.tables(positions, &hidden.device());
        let mut first_attention = None;
        for layer in 0..self.decoder.layers.len() {
            let attention = self
                .decoder
                .attend(layer, hidden.clone(), &rope, self.cache)
                .map_err(CliError::failed)?;
            first_attention.get_or_insert_with(|| attention.clone());
            hidden = self.decoder.layers[layer]
                .finish(hidden, attention)
                .map_err(CliError::failed)?;
        }
        let hidden = self.decoder.final_norm(hidden).map_err(CliError::failed)?;
        let first_attention =
            first_attention.ok_or_else(|| CliError::failed("the model has no layers"))?;
        Ok(Rows {
            hidden,
            first_attention,
        })
    }
}

fn to_host(tensor: Tensor<3>) -> Result<Vec<f32>, CliError> {
    tensor
        .cast(DType::F32)
        .try_into_data()
        .map_err(CliError::failed)?
        .try_to_vec::<f32>()
        .map_err(CliError::failed)
}

/// A tensor in host memory as safetensors writes it.
struct HostTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl HostTensor {
    /// Rows of `width`.
    fn f32(values: Vec<f32>, width: usize) -> Self {
        Self {
            dtype: Dtype::F32,
            shape: vec![values.len() / width, width],
            bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    fn i64(values: &[i64]) -> Self {
        Self {
            dtype: Dtype::I64,
            shape: vec![values.len()],
            bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }
}

impl View for HostTensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        (&self.bytes[..]).into()
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}
