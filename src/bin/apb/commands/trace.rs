//! `apb trace`: runs one reference case and writes what it computed, for comparison.

use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Tensor};
use burn_apb::apb::{
    CompressorConfig, Document, Method, PrefillConfig, PrefillObserver, RingLayout, Session,
    SessionConfig, compressor,
};
use burn_apb::model::sampler::{Sampler, SamplerConfig};
use burn_apb::model::source::ModelSource;
use burn_apb::model::{Decoder, DecoderConfig, load_decoder};
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
    /// How ring attention shares out the document: zigzag or contiguous
    #[arg(long, value_name = "LAYOUT", default_value = "zigzag")]
    ring_layout: RingLayout,
    /// Rows of one prefill pass, and of one tile of the MLP
    #[arg(long, value_name = "ROWS", default_value = "1024")]
    chunk: std::num::NonZeroUsize,
    #[command(flatten)]
    compute: Compute,
}

/// A case, as the vectors' README describes it.
#[derive(Deserialize)]
struct Case {
    format: String,
    method: String,
    #[serde(default = "one_rank")]
    hosts: usize,
    scorer: Option<String>,
    #[serde(default)]
    anchor_len: usize,
    #[serde(default)]
    passing_len: usize,
    #[serde(default)]
    anchor_query_offset: usize,
    /// None: the query.
    anchor_query: Option<Vec<u32>>,
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

    /// What is prefilled.
    fn document(&self) -> Document {
        Document {
            tokens: self.document.clone(),
            prefix: self.anchor_query_offset,
            anchor_query: self.anchor_query.as_ref().unwrap_or(&self.query).clone(),
        }
    }

    /// How.
    fn prefill(&self, args: &Args) -> Result<PrefillConfig, CliError> {
        let method: Method = self.method.parse().map_err(CliError::usage)?;
        let mut config = PrefillConfig::new(method, self.hosts).with_ring_layout(args.ring_layout);
        if method != Method::Apb {
            return Ok(config);
        }
        config.anchor = Some(self.anchor_len);
        config.passing = Some(self.passing_len);
        config.compressor = match self.scorer.as_deref() {
            Some("query_aware") => CompressorConfig::QueryAware,
            Some("random") => CompressorConfig::Random { seed: 0 },
            Some("retaining") => CompressorConfig::Retaining {
                heads: args.heads.clone().unwrap_or_default(),
            },
            found => {
                return Err(CliError::usage(format!(
                    "the case's scorer is `{}`, expected retaining, query_aware or random",
                    found.unwrap_or("missing")
                )));
            }
        };
        Ok(config)
    }
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Result<(), CliError> {
    let case = Case::read(&args.case)?;
    let prefill = case.prefill(args)?;
    let document = case.document();
    if case.query.is_empty() {
        return Err(CliError::usage("the case's query has no tokens"));
    }
    if let Some(heads) = &args.heads
        && !heads.exists()
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
    let plan = prefill.plan(&document, &config).map_err(CliError::usage)?;
    if plan.method == Method::Apb
        && matches!(plan.compressor, CompressorConfig::Retaining { .. })
        && args.heads.is_none()
    {
        return Err(CliError::usage(
            "the case scores with retaining heads; give them with --heads FILE",
        ));
    }
    compressor::check_model(&plan, &config, &source)?;
    if let Some(note) = plan.note() {
        output.note(format!("note: {note}"));
    }

    let bar = output.progress("loading", "B");
    let decoder = load_decoder(&source, &config, dtype, &device, &mut |p| {
        bar.update(p.done, p.total);
    })?;
    bar.finish();
    let compressor = compressor::load(&plan, &config, dtype, &device).map_err(CliError::usage)?;

    let capacity = case.document.len() + case.query.len() + case.generate;
    let settings = SessionConfig::new(capacity)
        .with_dtype(dtype)
        .with_chunk(args.chunk.get());
    let mut session = Session::new(&decoder, &config, settings, &device);
    let mut trace = Trace {
        all: case.store == Store::All,
        owned: (0..plan.ranks).map(|rank| plan.owned(rank)).collect(),
        ..Trace::default()
    };
    session.prefill_with(&document, &plan, compressor.as_deref(), &mut trace)?;
    let tensors = trace.finish(&case, &config, &decoder, &mut session)?;
    write_atomically(&args.out, |file| {
        use std::io::Write;
        let bytes = safetensors::serialize(tensors, None)
            .map_err(|e| std::io::Error::other(e.to_string()))?;
        file.write_all(&bytes)
    })?;
    output.result(
        &json!({
            "out": args.out, "method": plan.method.name(), "ranks": plan.ranks,
            "anchor": plan.anchor, "passing": plan.passing,
        }),
        |w| writeln!(w, "{}", args.out.display()),
    )
}

/// What a prefill computed.
#[derive(Default)]
struct Trace {
    /// Whether the document's rows are kept, too.
    all: bool,
    /// The document ranges of each rank.
    owned: Vec<Vec<Range<usize>>>,
    /// Rows `[1, rows, width]` and where in the document they begin.
    hidden: Vec<(usize, Tensor<3>)>,
    attention: Vec<(usize, Tensor<3>)>,
    tensors: Vec<(String, HostTensor)>,
}

impl PrefillObserver for Trace {
    fn wants_rows(&self) -> bool {
        // Also for the last layer's selections, which nothing else needs.
        true
    }

    fn wants_selections(&self) -> bool {
        true
    }

    fn selected(&mut self, layer: usize, rank: usize, positions: &[Vec<Vec<usize>>]) {
        for heads in positions {
            let width = heads.first().map_or(0, Vec::len);
            let values: Vec<i64> = heads.iter().flatten().map(|p| *p as i64).collect();
            self.tensors.push((
                format!("selected.{layer}.{rank}"),
                HostTensor::i64(&values, vec![heads.len(), width]),
            ));
        }
    }

    fn attention(&mut self, rank: usize, rows: Tensor<3>) {
        if self.all {
            let pieces = self.pieces(rank, self.attention.len(), rows);
            self.attention.extend(pieces);
        }
    }

    fn hidden(&mut self, rank: usize, rows: Tensor<3>) {
        if self.all {
            let pieces = self.pieces(rank, self.hidden.len(), rows);
            self.hidden.extend(pieces);
        }
    }
}

impl Trace {
    /// A rank's rows by the document ranges they come from. Full attention gives its rows in passes,
    /// `before` of them so far, in the document's order.
    fn pieces(&self, rank: usize, before: usize, rows: Tensor<3>) -> Vec<(usize, Tensor<3>)> {
        let [batch, count, width] = rows.dims();
        let owned = &self.owned[rank];
        if owned.iter().map(ExactSizeIterator::len).sum::<usize>() != count {
            return vec![(before, rows)];
        }
        let mut start = 0;
        let piece = |range: &Range<usize>| {
            let end = start + range.len();
            let piece = rows.clone().slice([0..batch, start..end, 0..width]);
            start = end;
            (range.start, piece)
        };
        owned.iter().map(piece).collect()
    }

    /// Asks the case's query and gives all tensors.
    fn finish(
        mut self,
        case: &Case,
        config: &DecoderConfig,
        decoder: &Decoder,
        session: &mut Session<'_>,
    ) -> Result<Vec<(String, HostTensor)>, CliError> {
        let query = session.extend(&case.query)?;
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
                logits = logits_of(session.extend(&[token])?)?;
            }
        }

        let shape = vec![generated.len()];
        self.tensors.extend([
            (
                "query_logits".into(),
                HostTensor::f32(query_logits, config.vocab_size),
            ),
            ("generated".into(), HostTensor::i64(&generated, shape)),
        ]);
        let heads_width = config.num_attention_heads * config.head_dim;
        for (name, parts, width) in [
            ("hidden", self.hidden, config.hidden_size),
            ("attn_out.0", self.attention, heads_width),
        ] {
            if !parts.is_empty() {
                let mut parts: Vec<(usize, Tensor<3>)> = parts;
                parts.sort_by_key(|(start, _)| *start);
                let parts = parts.into_iter().map(|(_, rows)| rows).collect();
                let rows = to_host(Tensor::cat(parts, 1))?;
                self.tensors
                    .push((name.into(), HostTensor::f32(rows, width)));
            }
        }
        Ok(self.tensors)
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

    fn i64(values: &[i64], shape: Vec<usize>) -> Self {
        Self {
            dtype: Dtype::I64,
            shape,
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
