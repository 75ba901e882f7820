//! `apb train-heads`: trains retaining heads for a model.

mod args;
mod divergence;

use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::{DType, FloatDType};
use burn::train::renderer::default_renderer;
use burn_apb::ModelText;
use burn_apb::apb::compressor::{Compressor, QueryAware, Random};
use burn_apb::apb::default_prefill_chunk;
use burn_apb::apb::heads::{HeadsFile, RetainingHeads};
use burn_apb::checkpoint::ModelSource;
use burn_apb::eval::statistics::Estimate;
use burn_apb::tasks::SynthesisConfig;
use burn_apb::training::{
    Backbone, Collector, Evaluation, FeatureCache, HeadsCard, HeadsTrainer, Quality, Sample,
    TrainError, TrainHeadsConfig, TrainProgress, TrainedHeads, TrainingData, evaluate, save_heads,
};
use serde_json::{Map, Value, json};

use crate::commands::eval::{estimate_json, small};
use crate::commands::prefill;
use crate::error::CliError;
use crate::escape;
use crate::interrupt;
use crate::limits;
use crate::output::{Output, Progress};

pub use args::Args;

/// The default of --limit in tokens, as in Locret.
const LONGEST_SAMPLE: usize = 10_240;
/// The most samples held out by default.
const MOST_HELD_OUT: usize = 32;
/// The most samples made from a text.
const MOST_SYNTHESIZED: usize = 1 << 20;
/// Bytes in a GiB.
const GIB: u64 = 1 << 30;

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Result<(), CliError> {
    let started = Instant::now();
    let mut recipe = args.recipe.config();
    recipe.check().map_err(CliError::usage)?;
    limits::at_most("--synthesized", args.samples.synthesized, MOST_SYNTHESIZED)?;
    limits::unused(
        [("--kv-dtype", args.compute.kv_dtype().is_some())],
        "in training, where keys and values are of --dtype; leave it out",
    )?;
    if let Some(file) = limits::twice(&args.data) {
        return Err(CliError::usage(format!(
            "--data names {} twice: samples would be learned from and held out as well",
            escape::path(file)
        ))
        .at(file));
    }
    if args.out.is_dir() {
        return Err(CliError::usage(format!(
            "{}: expected a file to write, found a folder",
            escape::path(&args.out)
        ))
        .at(&args.out));
    }
    let ending = args.out.extension();
    if !ending.is_some_and(|ending| ending.eq_ignore_ascii_case("safetensors"))
        || (args.out.exists() && !args.out.is_file())
    {
        return Err(CliError::usage(format!(
            "{}: expected the name of a .safetensors file, in which the heads can be read again",
            escape::path(&args.out)
        ))
        .at(&args.out));
    }
    let mut devices = vec![args.compute.device()?];
    for name in &args.also {
        devices.push(name.open()?);
    }
    interrupt::listen();
    let (source, text) = prefill::open_model(&args.model, output)?;
    let fingerprint = source.fingerprint()?;
    let start = args.open_start(&source, &text)?;
    if let Some(heads) = &start {
        recipe.width = heads.info().width;
    }
    let (data, samples) = args.collect(&text, output)?;

    let dtype = args.compute.dtype();
    let mut backbones = Vec::new();
    let mut decoders = Vec::new();
    // Features of weights in codes are not those of floats.
    let mut features_of = fingerprint.clone();
    for device in &devices {
        let decoder = prefill::load_weights(&source, args.compute.load_options(), device, output)?;
        let block = decoder.layers.first();
        if block.is_some_and(|block| block.mlp.gate_proj.float().is_none()) {
            features_of = format!("{fingerprint} in codes");
        }
        decoders.push(decoder.clone());
        let context = text.config.context();
        backbones.push(Backbone::new(
            decoder,
            context,
            default_prefill_chunk(device),
        ));
    }
    let first = backbones[0].clone();
    let mut trainer = HeadsTrainer::new(first.clone())
        .config(recipe.clone())
        .held_out(data.held_out.clone())
        .folder(args.folder(), &fingerprint)
        .resume(args.resume);
    for backbone in backbones.drain(1..) {
        trainer = trainer.also(backbone);
    }
    if let Some(heads) = &start {
        trainer = trainer.start_from(heads.load(FloatDType::F32, &devices[0])?);
    }
    if let Some(cache) = args.open_cache(&features_of, dtype.into())? {
        trainer = trainer.cache(cache);
    }
    // Burn's dashboard on a terminal, with the feature `dashboard`; a progress bar where only stderr is one; else lines.
    let dashboard = cfg!(feature = "dashboard")
        && output.streams()
        && !output.is_quiet()
        && std::io::stdout().is_terminal();
    let bar = (!dashboard).then(|| output.progress("training", "samples"));
    trainer = match &bar {
        Some(bar) => trainer.progress(progress(recipe.steps, bar.clone(), *output)),
        None => {
            let interrupter = trainer.interrupter();
            trainer.renderer(default_renderer(interrupter, None))
        }
    };
    let _reader = output.wait_for_reader(&args.out)?;
    let trained = trainer.fit(data.train.clone()).map_err(refusal)?;
    if let Some(bar) = bar {
        bar.finish();
    }
    if trained.interrupted {
        return Err(CliError::failed(format!(
            "stopped after step {}; the same command with --resume continues it",
            trained.rounds.last().map_or(0, |round| round.step)
        )));
    }
    if let Some(last) = trained
        .rounds
        .last()
        .filter(|last| last.step < recipe.steps)
    {
        output.note(format!(
            "stopped after step {}: no better round than that of step {} for {} rounds",
            last.step,
            trained.rounds[trained.best - 1].step,
            args.recipe.patience,
        ));
    }
    let compared = args.compare(&first, &trained.heads, &data.held_out, output)?;
    let seconds = started.elapsed().as_secs_f64();
    let card = args.card(&source, fingerprint, &recipe, &data, &trained, &compared);
    save_heads(&trained.heads, &args.out, args.heads_dtype.into(), &card)
        .map_err(CliError::failed)?;
    let names: Vec<&str> = compared.iter().map(|(name, _)| name.as_str()).collect();
    let held_out = &data.held_out;
    let divergences =
        divergence::divergences(&decoders[0], &text, &args.out, &names, held_out, output)?;
    let compared: Vec<_> = (compared.into_iter().zip(divergences))
        .map(|((name, found), kl)| (name, found, kl))
        .collect();
    show(args, &trained, &compared, &samples, seconds, output)
}

/// Shows samples on the bar and rounds as lines, and stops the run on Ctrl-C.
fn progress(
    steps: usize,
    bar: Progress,
    output: Output,
) -> impl FnMut(TrainProgress) -> ControlFlow<()> + Send + 'static {
    move |progress| {
        match progress {
            TrainProgress::Sample { done, total } => bar.update(done as u64, total as u64),
            TrainProgress::Round(round) => {
                let valid = round.valid_loss;
                let valid = valid.map_or_else(String::new, |loss| format!(", held-out {loss:.4}"));
                output.note(format!(
                    "step {}/{steps}, loss {:.4}{valid}, recall {:.4}, attention {:.4}",
                    round.step, round.loss, round.recall, round.mass
                ));
            }
        }
        interrupt::poll()
    }
}

/// What the command was given and cannot be used, or a run that failed.
fn refusal(error: TrainError) -> CliError {
    match error {
        TrainError::OtherModel { .. }
        | TrainError::UnknownModel { .. }
        | TrainError::Sample { .. } => CliError::usage(error),
        _ => CliError::failed(error),
    }
}

/// The trained heads and other compressors on the held-out samples, by name.
type Compared = [(String, Evaluation)];

impl Args {
    /// Reads and synthesises the samples; with them their numbers as JSON.
    fn collect(
        &self,
        text: &ModelText,
        output: &Output,
    ) -> Result<(TrainingData, Value), CliError> {
        let context = text.config.context();
        let limit = self.samples.limit.unwrap_or(context.min(LONGEST_SAMPLE));
        if limit > context {
            return Err(CliError::usage(format!(
                "--limit is {limit}, more than the {context} tokens of the model's context"
            )));
        }
        let mut collector = Collector::new(
            text,
            limit,
            !self.samples.no_question_first,
            self.samples.strict,
        );
        let bar = output.progress("samples", "samples");
        let mut progress = |done: usize, total: usize| -> ControlFlow<()> {
            bar.update(done as u64, total as u64);
            interrupt::poll()
        };
        for path in &self.data {
            let most = self.samples.per_file.map_or(usize::MAX, NonZeroUsize::get);
            collector
                .add_file(path, most, &mut progress)
                .map_err(CliError::usage)?;
        }
        for (index, path) in self.synthesize.iter().enumerate() {
            let document = prefill::read_text(path, "text")?;
            let lengths = self.samples.min_tokens..=self.samples.max_tokens;
            let config = SynthesisConfig::new(self.samples.synthesized, lengths)
                .with_seed(self.recipe.seed.wrapping_add(index as u64));
            collector
                .add_synthesis(&document, config, &mut progress)
                .map_err(|error| {
                    CliError::usage(format!("{}: {error}", escape::path(path))).at(path)
                })?;
        }
        bar.finish();
        for problem in collector.problems() {
            output.note(format!("skipped: {problem}"));
        }
        let shown = collector.problems().len();
        if collector.skipped() > shown {
            output.note(format!("skipped: {} more", collector.skipped() - shown));
        }
        let held_out = self
            .samples
            .held_out
            .unwrap_or((collector.len() / 10).min(MOST_HELD_OUT));
        let skipped = collector.skipped();
        let mut samples = json!({
            "train": 0, "held_out": held_out, "skipped": skipped,
            "problems": collector.problems(), "made": collector.made(),
        });
        let data = collector
            .finish(held_out, self.recipe.seed)
            .map_err(CliError::usage)?;
        let train = data.train.len();
        samples["train"] = json!(train);
        output.note(format!(
            "{train} samples to learn from, {held_out} held out, {skipped} skipped"
        ));
        Ok((data, samples))
    }

    /// Opens the heads to start from, which must be for this model, of its shapes and of the width asked for.
    fn open_start(
        &self,
        source: &ModelSource,
        text: &ModelText,
    ) -> Result<Option<HeadsFile>, CliError> {
        let Some(path) = &self.start_from else {
            return Ok(None);
        };
        let heads = HeadsFile::open(path, &text.config)?;
        heads.check_model(source)?;
        let found = heads.info().width;
        match self.recipe.width {
            Some(width) if width != found => Err(CliError::usage(format!(
                "{}: expected heads of --width {width}, found {found}; leave --width out",
                escape::path(path)
            ))
            .at(path)),
            _ => Ok(Some(heads)),
        }
    }

    fn open_cache(&self, model: &str, dtype: DType) -> Result<Option<FeatureCache>, CliError> {
        let open = |folder: &PathBuf| {
            let limit = self.cache_limit.saturating_mul(GIB);
            FeatureCache::open(folder, limit, model, dtype)
                .map_err(|error| CliError::failed(error).at(folder))
        };
        self.cache.as_ref().map(open).transpose()
    }

    /// Evaluates the trained heads and the compressors without training on the held-out samples.
    fn compare(
        &self,
        backbone: &Backbone,
        heads: &RetainingHeads,
        held_out: &[Arc<Sample>],
        output: &Output,
    ) -> Result<Vec<(String, Evaluation)>, CliError> {
        if held_out.is_empty() {
            return Ok(Vec::new());
        }
        let random = Random::new(self.recipe.seed);
        let mut compressors: Vec<&dyn Compressor> = vec![heads];
        if !self.samples.no_question_first {
            compressors.push(&QueryAware);
        }
        compressors.push(&random);
        let bar = output.progress("comparing", "samples");
        let found = evaluate(
            backbone,
            &compressors,
            held_out,
            self.recipe.keep,
            |done, total| {
                bar.update(done as u64, total as u64);
                interrupt::poll()
            },
        )
        .map_err(CliError::failed)?;
        bar.finish();
        let names = compressors
            .iter()
            .map(|compressor| compressor.name().to_owned());
        Ok(names.zip(found).collect())
    }

    /// The metadata of the file.
    fn card(
        &self,
        source: &ModelSource,
        fingerprint: String,
        recipe: &TrainHeadsConfig,
        data: &TrainingData,
        trained: &TrainedHeads,
        compared: &Compared,
    ) -> HeadsCard {
        let name = |path: &Path| {
            let name = path.file_name().unwrap_or(path.as_os_str());
            name.to_string_lossy().into_owned()
        };
        let made = |path| format!("made from {}", name(path));
        let texts = self.data.iter().map(|path| name(path));
        let texts: Vec<String> = texts
            .chain(self.synthesize.iter().map(|path| made(path)))
            .collect();
        let best = trained.rounds.get(trained.best.saturating_sub(1));
        let metrics = json!({
            "step": best.map(|round| round.step),
            "loss": best.map(|round| round.loss),
            "valid_loss": best.and_then(|round| round.valid_loss),
            "keep": self.recipe.keep,
            "held_out": by_name(compared, |found| mean_json(&found.all)),
        });
        let question = match self.samples.no_question_first {
            true => "behind",
            false => "in front",
        };
        let start = self.start_from.as_deref().map(name);
        let more = [
            ("recipe", json!(recipe).to_string()),
            ("data", texts.join(", ")),
            ("data_hash", data.hash()),
            (
                "samples",
                format!("{} and {} held out", data.train.len(), data.held_out.len()),
            ),
            ("question", question.to_owned()),
            ("metrics", metrics.to_string()),
            ("trained_on", fingerprint.clone()),
        ];
        let more = more
            .into_iter()
            .chain(start.map(|start| ("started_from", start)));
        let base_model = self.base_model.clone();
        HeadsCard {
            base_model: Some(base_model.unwrap_or_else(|| name(source.path()))),
            model: (!self.any_weights).then(|| fingerprint.clone()),
            source: Some(format!("apb train-heads {}", env!("CARGO_PKG_VERSION"))),
            more: more.map(|(key, value)| (key.to_owned(), value)).collect(),
        }
    }
}

fn show(
    args: &Args,
    trained: &TrainedHeads,
    compared: &[(String, Evaluation, Option<Estimate>)],
    samples: &Value,
    seconds: f64,
    output: &Output,
) -> Result<(), CliError> {
    let last = trained.rounds.last();
    let best = trained.rounds.get(trained.best.saturating_sub(1));
    let held_out = compared.iter().map(|(name, found, kl)| {
        let layers: Vec<f64> = found.layers.iter().map(|layer| layer.recall).collect();
        let mut value = mean_json(&found.all);
        value["kl"] = estimate_json(kl.as_ref());
        value["recall_by_layer"] = json!(layers);
        (name.clone(), value)
    });
    let held_out: Map<String, Value> = held_out.collect();
    let recall = compared.first().map(|(_, found, _)| found.all.recall);
    let value = json!({
        "out": crate::json::path(&args.out),
        "steps": last.map(|round| round.step),
        "best_step": best.map(|round| round.step),
        "loss": best.map(|round| round.loss),
        "valid_loss": best.and_then(|round| round.valid_loss),
        "keep": args.recipe.keep,
        "recall_at_k": recall.or(best.map(|round| round.recall)),
        "held_out": held_out,
        "rounds": trained.rounds,
        "samples": samples,
        "seconds": seconds,
    });
    output.result(&value, |w| {
        let step = best.map_or(0, |round| round.step);
        writeln!(
            w,
            "{}: heads of step {step}, {:.0} s",
            escape::path(&args.out),
            seconds
        )?;
        if !compared.is_empty() {
            let share = 100.0 * args.recipe.keep;
            writeln!(
                w,
                "on {} held-out samples, keeping {share} %:",
                samples["held_out"]
            )?;
            writeln!(
                w,
                "{:<12} {:>8} {:>10} {:>24}",
                "", "recall", "attention", "KL, nats"
            )?;
        }
        for (name, found, kl) in compared {
            let kl = kl.as_ref().map_or_else(|| "-".into(), small);
            writeln!(
                w,
                "{name:<12} {:>8.3} {:>10.3} {kl:>24}",
                found.all.recall, found.all.mass
            )?;
        }
        match compared.is_empty() {
            true => Ok(()),
            false => writeln!(
                w,
                "KL: of apb's answers over 4 ranks from full attention's, on at most 8 of them"
            ),
        }
    })
}

fn by_name(compared: &Compared, value: impl Fn(&Evaluation) -> Value) -> Map<String, Value> {
    let values = compared.iter();
    values
        .map(|(name, found)| (name.clone(), value(found)))
        .collect()
}

fn mean_json(quality: &Quality) -> Value {
    json!({ "recall": quality.recall, "mass": quality.mass })
}
