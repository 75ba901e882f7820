//! `apb trace`: runs one reference case and writes what it computed, for comparison.

use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor};
use burn_apb::apb::{
    CompressorConfig, Document, Method, Observer, PrefillConfig, PrefillPlan, Request, RingLayout,
    Session,
};
use burn_apb::checkpoint::ModelSource;
use burn_apb::checkpoint::{FileError, write_file};
use burn_apb::model::{CausalLm, Decoder, DecoderConfig};
use burn_apb::ranks::World;
use burn_apb::text::sampler::{Sampler, SamplerConfig};
use safetensors::tensor::{Dtype, View};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::args::{Compute, Processes};
use crate::commands::prefill::{self, Facts};
use crate::error::CliError;
use crate::escape;
use crate::output::{self, Output};
use crate::predict::{self, Weights};
use crate::processes;

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
    /// How ring attention shares out the document: zigzag or contiguous [default: zigzag]
    #[arg(long, value_name = "LAYOUT")]
    ring_layout: Option<RingLayout>,
    /// Rows of one prefill pass, and of one tile of the MLP
    #[arg(long, value_name = "ROWS", default_value = "1024")]
    chunk: std::num::NonZeroUsize,
    #[command(flatten)]
    compute: Compute,
    #[command(flatten)]
    processes: Processes,
}

/// A case, as the vectors' README describes it.
#[derive(Deserialize)]
struct Case {
    format: String,
    method: String,
    #[serde(default = "one_rank")]
    hosts: usize,
    scorer: Option<String>,
    anchor_len: Option<usize>,
    passing_len: Option<usize>,
    anchor_query_offset: Option<usize>,
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

/// As much of a text as a message shows.
fn beginning(text: &str) -> &str {
    let end = text
        .char_indices()
        .nth(100)
        .map_or(text.len(), |(end, _)| end);
    &text[..end]
}

impl Case {
    fn read(path: &Path) -> Result<Self, CliError> {
        let refuse = |reason: String| {
            // Its words may be the file's: on one line, and not all of them.
            let reason: String = reason.chars().take(300).collect();
            let reason = reason.replace('\n', "\\n");
            CliError::usage(format!("{}: {reason}", escape::path(path))).at(path)
        };
        let failed = |error: std::io::Error| refuse(format!("cannot be read: {error}"));
        // Before opening, because opening a pipe would wait for a writer.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            let found = "expected a regular file, found a folder, device or pipe";
            return Err(refuse(found.into()));
        }
        let mut text = String::new();
        let mut file = File::open(path).map_err(failed)?.take(MAX_CASE_BYTES + 1);
        let length = file.read_to_string(&mut text).map_err(failed)?;
        if length as u64 > MAX_CASE_BYTES {
            return Err(refuse(format!(
                "a case has at most {}, found more",
                output::bytes(MAX_CASE_BYTES)
            )));
        }
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
            prefix: self.anchor_query_offset.unwrap_or_default(),
            anchor_query: self.anchor_query.as_ref().unwrap_or(&self.query).clone(),
        }
    }

    /// How.
    fn prefill(&self, args: &Args) -> Result<PrefillConfig, CliError> {
        let unknown = |_| {
            CliError::usage(format!(
                "the case's method is {:?}, expected full, ring, ulysses, star or apb",
                beginning(&self.method)
            ))
        };
        let method: Method = self.method.parse().map_err(unknown)?;
        let layout = args.ring_layout.unwrap_or_default();
        let mut config = PrefillConfig::new(method, self.hosts).with_ring_layout(layout);
        if method != Method::Apb {
            return Ok(config);
        }
        config.anchor = Some(self.anchor_len.unwrap_or_default());
        config.passing = Some(self.passing_len.unwrap_or_default());
        config.compressor = match self.scorer.as_deref() {
            Some("query_aware") => CompressorConfig::QueryAware,
            Some("random") => CompressorConfig::Random { seed: 0 },
            Some("retaining") => CompressorConfig::Retaining {
                heads: args.heads.clone().unwrap_or_default(),
            },
            found => {
                return Err(CliError::usage(format!(
                    "the case's scorer is {:?}, expected retaining, query_aware or random",
                    beginning(found.unwrap_or("missing"))
                )));
            }
        };
        Ok(config)
    }

    /// What the case says, or a flag, that its method has no use for. Cases of several methods may have the same flags.
    fn ignored(&self, prefill: &PrefillConfig, args: &Args) -> Vec<&'static str> {
        let apb = prefill.method == Method::Apb;
        let scored = matches!(prefill.compressor, CompressorConfig::Retaining { .. });
        let all = [
            ("hosts", self.hosts > 1 && prefill.method == Method::Full),
            ("scorer", self.scorer.is_some() && !apb),
            ("anchor_len", self.anchor_len.is_some() && !apb),
            ("passing_len", self.passing_len.is_some() && !apb),
            (
                "anchor_query_offset",
                self.anchor_query_offset.is_some() && !apb,
            ),
            ("anchor_query", self.anchor_query.is_some() && !apb),
            (
                "--ring-layout",
                args.ring_layout.is_some() && prefill.method != Method::Ring,
            ),
            ("--heads", args.heads.is_some() && !scored),
        ];
        let ignored = all.into_iter().filter(|(_, ignored)| *ignored);
        ignored.map(|(name, _)| name).collect()
    }
}

/// Runs the command. Every process reads the case and checks it.
pub fn run(args: &Args, output: &Output) -> Result<(), CliError> {
    let Args {
        processes, compute, ..
    } = args;
    processes::run(processes, compute, output, |world, output| {
        trace(args, world, output)
    })
}

/// A case that has been checked.
struct Prepared {
    request: Request,
    store: Store,
    source: ModelSource,
    config: DecoderConfig,
    device: Device,
    /// What the method has no use for.
    ignored: Vec<&'static str>,
}

/// Checks everything that can be checked before the weights are read.
fn prepare(args: &Args) -> Result<Prepared, CliError> {
    let case = Case::read(&args.case)?;
    let prefill = case.prefill(args)?;
    let ignored = case.ignored(&prefill, args);
    let document = case.document();
    if case.query.is_empty() {
        return Err(CliError::usage("the case's query has no tokens"));
    }
    if let Some(heads) = &args.heads
        && !heads.exists()
    {
        return Err(
            CliError::usage(format!("{}: no such heads file", escape::path(heads))).at(heads),
        );
    }
    let device = args.compute.device()?;
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
    let chunk = args.chunk.get();
    let mut request = Request::from_tokens(document, plan, case.query, case.generate, chunk);
    args.compute.check_kv_dtype(&config, &device)?;
    request.session.kv_dtype = args.compute.kv_dtype();
    request.check_heads(&config, &source)?;
    Ok(Prepared {
        request,
        store: case.store,
        source,
        config,
        device,
        ignored,
    })
}

/// Prefills the case's document, asks its query, writes the tensors.
fn trace(args: &Args, world: &mut World, output: &Output) -> Result<(), CliError> {
    let prepared = processes::agree(world, prepare(args))?;
    let Prepared {
        request,
        store,
        source,
        config,
        device,
        ignored,
    } = &prepared;
    let plan = &request.plan;
    if !world.is_single() {
        let facts = facts(args, &prepared);
        let facts = processes::agree(world, facts)?;
        processes::compare(world, &facts)?;
        if plan.ranks == 1 {
            let alone = || trace(args, &mut World::single(), output);
            return processes::on_first(world, alone).map(|_| ());
        }
    }
    if let Some(note) = plan.note() {
        output.note(format!("note: {note}"));
    }
    if !ignored.is_empty() {
        let (names, method) = (ignored.join(", "), plan.asked);
        output.note(format!("note: a case of {method} does not use {names}"));
    }
    let group = world.group(plan.ranks);
    let group = group.map_err(|error| CliError::from(error).known())?;
    let load = args.compute.load_options();
    let fits = predict::check_fits(
        source,
        Weights::ToLoad,
        load,
        request,
        group.ranks(),
        &args.compute,
    );
    processes::agree(world, fits)?;
    let loaded = prefill::load_weights(source, args.compute.load_options(), device, output);
    let decoder = processes::agree(world, loaded)?;
    let mut trace = Trace {
        all: *store == Store::All,
        owned: (0..plan.ranks).map(|rank| plan.owned(rank)).collect(),
        ..Trace::default()
    };
    let (mut session, _) = request.prefill(decoder.clone(), group, &mut trace)?;
    trace.ask(request, *store, &decoder, &mut session)?;
    trace.gather(world, session, plan)?;
    if world.process() > 0 {
        return Ok(());
    }
    let tensors = trace.finish(config)?;
    let _reader = output.wait_for_reader(&args.out)?;
    write_file(&args.out, |file| {
        safetensors::serialize(tensors, None)
            .map_err(std::io::Error::other)
            .and_then(|bytes| file.write_all(&bytes))
            .map_err(FileError::at(&args.out))
    })
    .map_err(|error: FileError| CliError::failed(error))?;
    output.result(
        &json!({
            "out": crate::json::path(&args.out), "method": plan.method.name(), "ranks": plan.ranks,
            "anchor": plan.anchor, "passing": plan.passing,
        }),
        |w| writeln!(w, "{}", escape::path(&args.out)),
    )
}

/// What must be the same on every process.
fn facts(args: &Args, prepared: &Prepared) -> Result<Facts, CliError> {
    let plan = &prepared.request.plan;
    let heads = args.heads.as_ref().map(|heads| prefill::hash_of(heads));
    Ok(vec![
        ("crate version", Some(env!("CARGO_PKG_VERSION").into())),
        ("tokens of the document", Some(plan.tokens.to_string())),
        ("lengths", Some(format!("{plan:?}"))),
        ("dtype", Some(format!("{:?}", args.compute.dtype()))),
        ("kv-dtype", Some(format!("{:?}", args.compute.kv_dtype()))),
        ("dequantize", Some(args.compute.dequantize().to_string())),
        ("chunk", Some(args.chunk.to_string())),
        ("model", Some(prepared.source.fingerprint()?)),
        ("case", Some(prefill::hash_of(&args.case)?)),
        ("heads", heads.transpose()?),
    ])
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
    selected: Vec<Selected>,
    tensors: Vec<(String, HostTensor)>,
}

/// The document positions that a rank passes on in a layer, for each KV head.
#[derive(Clone, Serialize, Deserialize)]
struct Selected {
    layer: usize,
    rank: usize,
    heads: Vec<Vec<usize>>,
}

impl Observer for Trace {
    fn wants_rows(&self) -> bool {
        // Also for the last layer's selections, which nothing else needs.
        true
    }

    fn wants_selections(&self) -> bool {
        true
    }

    fn selected(&mut self, layer: usize, rank: usize, positions: &[Vec<Vec<usize>>]) {
        for heads in positions {
            let heads = heads.clone();
            self.selected.push(Selected { layer, rank, heads });
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

    /// Asks the case's query.
    fn ask(
        &mut self,
        request: &Request,
        store: Store,
        decoder: &Decoder,
        session: &mut Session,
    ) -> Result<(), CliError> {
        let query = session.extend(&request.query)?;
        let [_, rows, width] = query.dims();
        let last = query.clone().slice([0..1, rows - 1..rows, 0..width]);
        let stored = match store {
            Store::All => query,
            Store::Last => last.clone(),
        };
        let logits_of = |rows| to_host(decoder.logits(rows).map_err(CliError::failed)?);
        let query_logits = logits_of(stored)?;

        let mut logits = logits_of(last)?;
        let vocab = logits.len();
        let mut sampler = Sampler::new(SamplerConfig::default()).map_err(CliError::failed)?;
        let mut generated = Vec::with_capacity(request.max_tokens);
        for step in 0..request.max_tokens {
            let token = sampler.sample(&mut logits).map_err(CliError::failed)?;
            let token = session.broadcast_tokens(&[token])?[0];
            generated.push(i64::from(token));
            if step + 1 < request.max_tokens {
                logits = logits_of(session.extend(&[token])?)?;
            }
        }

        let shape = vec![generated.len()];
        self.tensors.extend([
            ("query_logits".into(), HostTensor::f32(query_logits, vocab)),
            ("generated".into(), HostTensor::i64(&generated, shape)),
        ]);
        Ok(())
    }

    /// Brings what the processes computed to the first.
    fn gather(
        &mut self,
        world: &mut World,
        session: Session,
        plan: &PrefillPlan,
    ) -> Result<(), CliError> {
        if world.is_single() {
            return Ok(());
        }
        let mine = world.process();
        let all = world.all_gather_values(self.selected.clone())?;
        for (process, selected) in all.into_iter().enumerate() {
            if process != mine {
                self.selected.extend(selected);
            }
        }
        if !self.all {
            return Ok(());
        }
        let mut group = session.into_group();
        let owned = |process| -> Vec<Range<usize>> {
            let ranks = group.ranks_of(process);
            ranks.flat_map(|rank| plan.owned(rank)).collect()
        };
        let pieces: Vec<Vec<Range<usize>>> = (0..group.processes()).map(owned).collect();
        let rows = |process: &Vec<Range<usize>>| process.iter().map(Range::len).sum::<usize>();
        let most = pieces.iter().map(rows).max().unwrap_or(0);
        for kept in [&mut self.hidden, &mut self.attention] {
            // All send as many rows: the shorter are filled up, and cut again where they arrive.
            let held: Vec<Tensor<3>> = pieces[mine]
                .iter()
                .filter_map(|piece| {
                    let found = kept.iter().find(|(start, _)| *start == piece.start);
                    found.map(|(_, rows)| rows.clone())
                })
                .collect();
            let held = Tensor::cat(held, 1);
            let [_, count, width] = held.dims();
            let filled = match most - count {
                0 => held,
                missing => {
                    let zeros = Tensor::zeros([1, missing, width], (&held.device(), held.dtype()));
                    Tensor::cat(vec![held, zeros], 1)
                }
            };
            let gathered = group.gather_processes(filled.unsqueeze_dim(0))?;
            *kept = Vec::new();
            for (pieces, rows) in pieces.iter().zip(gathered) {
                let mut start = 0;
                for piece in pieces {
                    let end = start + piece.len();
                    let part = rows.clone().slice([0..1, 0..1, start..end, 0..width]);
                    kept.push((piece.start, part.squeeze_dim(0)));
                    start = end;
                }
            }
        }
        Ok(())
    }

    /// All tensors.
    fn finish(mut self, config: &DecoderConfig) -> Result<Vec<(String, HostTensor)>, CliError> {
        for Selected { layer, rank, heads } in &self.selected {
            let width = heads.first().map_or(0, Vec::len);
            let values: Vec<i64> = heads.iter().flatten().map(|p| *p as i64).collect();
            let tensor = HostTensor::i64(&values, vec![heads.len(), width]);
            self.tensors
                .push((format!("selected.{layer}.{rank}"), tensor));
        }
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
