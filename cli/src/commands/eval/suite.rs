//! Parts of a run of scored tasks.

use std::collections::HashMap;
use std::fmt::Display;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use burn_apb::apb::Method;
use burn_apb::tasks::infinitebench::{self, InfiniteBenchTask};
use burn_apb::tasks::infinitebench_generated::{
    self as generated, Generated, GeneratedConfig, GeneratedTask, PromptLength,
};
use burn_apb::tasks::longbench;
use burn_apb::tasks::niah::{self, NiahConfig};
use burn_apb::tasks::ruler::{self, Needs, QuestionSet, RulerConfig, RulerTask, Sources};
use burn_apb::tasks::{CountTokens, Haystack, TaskError, TaskSample};
use serde_json::{Map, Value};

use super::flags::{Flags, Setting, text_or_shipped};
use super::subject::Subject;
use crate::commands::prefill::{hash_of, read_text};
use crate::error::CliError;
use crate::escape;
use crate::limits::{at_least_one, check_samples, check_tokens, distinct};
use crate::output::Output;
use crate::variant::Variant;

/// Methods where none are named.
const USUAL: [Method; 3] = [Method::Full, Method::Star, Method::Apb];

/// Lengths and samples of what is generated, where none are asked for.
const GENERATED_TOKENS: [usize; 2] = [1000, 2000];
const GENERATED_SAMPLES: usize = 50;

/// The score of an answer beside what is right.
type Score<'a> = Box<dyn Fn(&str, &[String]) -> f64 + 'a>;

/// Samples of one task, length and depth.
pub struct Part<'a> {
    pub task: String,
    /// Tokens of prompt and answer, where they were asked for.
    pub tokens: Option<usize>,
    /// Depth of the needle, from 0 to 1, where it was asked for.
    pub depth: Option<f64>,
    pub samples: usize,
    /// SHA-256 of the file that they are read from, where there is one.
    pub source: Option<String>,
    /// The order in which they are answered, where it is not their own: those of one document together.
    pub order: Option<Vec<usize>>,
    /// The sample of a place; its own index says which it is in its file.
    pub make: Box<dyn Fn(usize) -> Result<TaskSample, CliError> + 'a>,
    /// Kinds of the sample, by which results are shown, too.
    pub labels: Box<dyn Fn(usize) -> Vec<String> + 'a>,
    pub score: Score<'a>,
}

impl<'a> Part<'a> {
    /// Samples that are generated; `around`: tokens that the prompt adds to theirs.
    fn generated(
        task: &str,
        tokens: usize,
        samples: usize,
        around: usize,
        make: impl Fn(usize) -> Result<TaskSample, TaskError> + 'a,
        score: impl Fn(&str, &[String]) -> f64 + 'a,
    ) -> Self {
        Self {
            task: task.into(),
            tokens: Some(tokens),
            depth: None,
            samples,
            source: None,
            order: None,
            make: Box::new(move |index| {
                make(index).map_err(|error| refused(error, tokens, around))
            }),
            labels: Box::new(|_| Vec::new()),
            score: Box::new(score),
        }
    }
}

/// What is done with the parts.
pub type Work<'w> = dyn FnMut(&[Part<'_>]) -> Result<(), CliError> + 'w;

/// A run of scored tasks.
pub trait Suite {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Flags of every suite.
    fn common(&self) -> &Common;

    /// Refuses flags that cannot be used, before a model is read.
    fn check(&self) -> Result<(), CliError>;

    /// Adds to what results depend on.
    fn add_to_header(&self, header: &mut Map<String, Value>) -> Result<(), CliError>;

    /// Makes the parts and works on them.
    fn with_parts(
        &self,
        subject: &Subject,
        output: &Output,
        work: &mut Work<'_>,
    ) -> Result<(), CliError>;
}

/// Flags of every suite.
#[derive(clap::Args, Debug, Clone)]
pub struct Common {
    #[command(flatten)]
    pub flags: Flags,
    /// Methods to compare on the same samples; differences are from the first [default: full,star,apb]
    #[arg(
        long,
        value_name = "METHOD,..",
        value_delimiter = ',',
        conflicts_with = "method"
    )]
    pub methods: Vec<Variant>,
}

impl Common {
    /// What is compared.
    pub fn settings(&self) -> Result<Vec<Setting>, CliError> {
        self.flags.settings(&self.methods, &USUAL)
    }
}

/// Needles at given depths of a text
///
/// Needle and wording are those of RULER's niah_single_2.
#[derive(clap::Args, Debug)]
pub struct Niah {
    #[command(flatten)]
    common: Common,
    /// Lengths of prompt and answer together, in tokens
    #[arg(
        long,
        value_name = "N,..",
        value_delimiter = ',',
        default_value = "1000,2000"
    )]
    tokens: Vec<usize>,
    /// Depths of the needle, in percent of the text
    #[arg(
        long,
        value_name = "PERCENT,..",
        value_delimiter = ',',
        allow_negative_numbers = true,
        default_value = "0,25,50,75,100"
    )]
    depths: Vec<f64>,
    /// Samples of each length and depth
    #[arg(long, value_name = "N", default_value_t = 10)]
    samples: usize,
    /// The text around the needles, UTF-8 [default: the text that ships with apb, Newton's Opticks]
    #[arg(long, value_name = "FILE")]
    haystack: Option<PathBuf>,
}

/// The 13 tasks of RULER, with their published parameters, wording and scoring
///
/// niah_single_1, niah_multikey_2 and 3, vt, cwe and fwe need no text. The tasks over essays take --haystack. qa_1 and
/// qa_2 ask the questions of SQuAD and HotpotQA, whose files are yours.
#[derive(clap::Args, Debug)]
pub struct Ruler {
    #[command(flatten)]
    common: Common,
    /// Tasks [default: all whose files are given]
    #[arg(long, value_name = "TASK,..", value_delimiter = ',')]
    tasks: Vec<RulerTask>,
    /// Lengths of prompt and answer together, in tokens
    #[arg(
        long,
        value_name = "N,..",
        value_delimiter = ',',
        default_value = "1000,2000"
    )]
    tokens: Vec<usize>,
    /// Samples of each task and length
    #[arg(long, value_name = "N", default_value_t = 100)]
    samples: usize,
    /// The text around the needles, UTF-8 [default: the text that ships with apb, Newton's Opticks, in place of the
    /// essays of the published benchmark]
    #[arg(long, value_name = "FILE")]
    haystack: Option<PathBuf>,
    /// qa_1: the JSON file of SQuAD 2.0, its development set for instance
    #[arg(long, value_name = "FILE")]
    squad: Option<PathBuf>,
    /// qa_2: the JSON file of HotpotQA, its development set with distractors for instance
    #[arg(long, value_name = "FILE")]
    hotpotqa: Option<PathBuf>,
}

/// The tasks of InfiniteBench: generated at any length, or from the published files
///
/// passkey, number_string, kv_retrieval and math_find are generated; all twelve are read from the published files, whose
/// prompts are cut in the middle where they are too long, as the benchmark does.
#[derive(clap::Args, Debug)]
pub struct InfiniteBench {
    #[command(flatten)]
    common: Common,
    /// Tasks [default: those that are generated; with --data those whose files are there]
    #[arg(long, value_name = "TASK,..", value_delimiter = ',')]
    tasks: Vec<InfiniteBenchTask>,
    /// Folder of the published files, TASK.jsonl each
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    size: Size,
}

/// LongBench v2: questions with four choices about long texts, from the published file
///
/// Prompts are cut in the middle where they are too long, as the benchmark does.
#[derive(clap::Args, Debug)]
pub struct LongBench {
    #[command(flatten)]
    common: Common,
    /// The published file, data.json
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    #[command(flatten)]
    size: Size,
}

/// How many samples, and how long.
#[derive(clap::Args, Debug)]
struct Size {
    /// Lengths of prompt and answer together, in tokens [default: 1000,2000; of published files the model's context]
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    tokens: Vec<usize>,
    /// The first so many samples of each task and length [default: 50; of published files all]
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// Tokens of an answer at most, where the published number is more
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
}

impl Suite for Niah {
    fn name(&self) -> &'static str {
        "niah"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn check(&self) -> Result<(), CliError> {
        check_samples(self.samples)?;
        check_lengths(&self.tokens)?;
        check_depths(&self.depths)
    }

    fn add_to_header(&self, header: &mut Map<String, Value>) -> Result<(), CliError> {
        let (_, name) = text_or_shipped(self.haystack.as_deref(), "haystack")?;
        header.insert("haystack".into(), name.into());
        Ok(())
    }

    fn with_parts(
        &self,
        subject: &Subject,
        output: &Output,
        work: &mut Work<'_>,
    ) -> Result<(), CliError> {
        let haystack = haystack(self.haystack.as_deref(), output)?;
        let count = |text: &str| subject.count(text);
        let count: &CountTokens<'_> = &count;
        let around = subject.around(&self.common.flags)?;
        let mut parts = Vec::new();
        for &tokens in &self.tokens {
            subject.check_tokens(&self.common.flags, tokens)?;
            for percent in &self.depths {
                // 0 in place of -0.
                let depth = percent.abs() / 100.0;
                let config = NiahConfig {
                    tokens: tokens.saturating_sub(around),
                    depth,
                    seed: self.common.flags.seed(),
                };
                let samples = niah::Niah::new(config, &haystack, count);
                let samples = samples.map_err(|error| refused(error, tokens, around))?;
                let make = move |index| samples.sample(index);
                let score = niah::score_needle;
                let part = Part::generated("niah", tokens, self.samples, around, make, score);
                parts.push(Part {
                    depth: Some(depth),
                    ..part
                });
            }
        }
        work(&parts)
    }
}

impl Ruler {
    /// The tasks asked for, or all whose files are given.
    fn tasks(&self) -> Result<Vec<RulerTask>, CliError> {
        if !self.tasks.is_empty() {
            return Ok(distinct("--tasks", &self.tasks)?.to_vec());
        }
        let given = |task: &RulerTask| match task.needs() {
            Needs::Squad => self.squad.is_some(),
            Needs::HotpotQa => self.hotpotqa.is_some(),
            _ => true,
        };
        Ok(RulerTask::ALL.into_iter().filter(given).collect())
    }
}

impl Suite for Ruler {
    fn name(&self) -> &'static str {
        "ruler"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn check(&self) -> Result<(), CliError> {
        check_samples(self.samples)?;
        check_lengths(&self.tokens)?;
        let lacks = |task: &RulerTask| match task.needs() {
            Needs::Squad if self.squad.is_none() => Some(("SQuAD", "--squad")),
            Needs::HotpotQa if self.hotpotqa.is_none() => Some(("HotpotQA", "--hotpotqa")),
            _ => None,
        };
        for task in self.tasks()? {
            if let Some((dataset, flag)) = lacks(&task) {
                return Err(CliError::usage(format!(
                    "--tasks names {task}, which asks the questions of {dataset}; give their file with {flag} FILE"
                )));
            }
        }
        Ok(())
    }

    fn add_to_header(&self, header: &mut Map<String, Value>) -> Result<(), CliError> {
        let (_, name) = text_or_shipped(self.haystack.as_deref(), "haystack")?;
        header.insert("haystack".into(), name.into());
        for (name, path) in [("squad", &self.squad), ("hotpotqa", &self.hotpotqa)] {
            let hash = path.as_deref().map(hash_of).transpose()?;
            header.insert(name.into(), hash.into());
        }
        Ok(())
    }

    fn with_parts(
        &self,
        subject: &Subject,
        output: &Output,
        work: &mut Work<'_>,
    ) -> Result<(), CliError> {
        let tasks = self.tasks()?;
        let needs_text = tasks.iter().any(|task| task.needs() == Needs::Text);
        let haystack = match needs_text {
            true => Some(haystack(self.haystack.as_deref(), output)?),
            false => None,
        };
        let squad = questions(self.squad.as_deref(), QuestionSet::squad)?;
        let hotpotqa = questions(self.hotpotqa.as_deref(), QuestionSet::hotpotqa)?;
        let sources = Sources {
            text: haystack.as_ref(),
            squad: squad.as_ref(),
            hotpotqa: hotpotqa.as_ref(),
        };
        let count = |text: &str| subject.count(text);
        let count: &CountTokens<'_> = &count;
        let around = subject.around(&self.common.flags)?;
        let mut parts = Vec::new();
        for &tokens in &self.tokens {
            subject.check_tokens(&self.common.flags, tokens)?;
            for &task in &tasks {
                let config = RulerConfig {
                    task,
                    tokens: tokens.saturating_sub(around),
                    seed: self.common.flags.seed(),
                };
                let samples = ruler::Ruler::new(config, sources, count);
                let samples = samples.map_err(|error| refused(error, tokens, around))?;
                let count = samples.samples().unwrap_or(usize::MAX).min(self.samples);
                let make = move |index| samples.sample(index);
                let score = move |answer: &str, references: &[String]| {
                    ruler::score(task, answer, references)
                };
                parts.push(Part::generated(
                    task.name(),
                    tokens,
                    count,
                    around,
                    make,
                    score,
                ));
            }
        }
        work(&parts)
    }
}

impl Size {
    fn check(&self) -> Result<(), CliError> {
        check_samples(self.samples.unwrap_or(1))?;
        at_least_one("--max-tokens", self.max_tokens.unwrap_or(1))?;
        check_lengths(&self.tokens)
    }

    /// The parts of samples that were read: one for each length.
    fn parts<'a>(
        &self,
        flags: &'a Flags,
        subject: &'a Subject,
        task: &'static str,
        samples: &'a [Read],
        source: &str,
        score: fn(&'static str, &str, &[String]) -> f64,
    ) -> Result<Vec<Part<'a>>, CliError> {
        let around = subject.around(flags)?;
        let lengths: Vec<Option<usize>> = match self.tokens.is_empty() {
            true => vec![None],
            false => self.tokens.iter().copied().map(Some).collect(),
        };
        let most = self.max_tokens.unwrap_or(usize::MAX);
        let part = |tokens: Option<usize>| Part {
            task: task.into(),
            tokens,
            depth: None,
            samples: samples.len(),
            source: Some(source.to_owned()),
            order: Some(by_document(samples)),
            make: Box::new(move |index| {
                let limit = subject.limit(tokens);
                fitted(subject, &samples[index].sample, limit, around, most)
            }),
            labels: Box::new(|index| samples[index].labels.clone()),
            score: Box::new(move |answer, references| score(task, answer, references)),
        };
        Ok(lengths.into_iter().map(part).collect())
    }
}

/// A sample of a published file, and what tables are made by.
struct Read {
    sample: TaskSample,
    labels: Vec<String>,
}

/// A sample whose prompt and answer have at most `limit` tokens, cut in the middle of its document.
fn fitted(
    subject: &Subject,
    sample: &TaskSample,
    limit: usize,
    around: usize,
    most: usize,
) -> Result<TaskSample, CliError> {
    // Between document, question and answer tokens may be other than apart.
    const JOINTS: usize = 4;
    let answer = sample.tokens_to_generate.min(most);
    let count = |text: &str| subject.count(text).map_err(CliError::failed);
    let others =
        count(&sample.question)? + count(&sample.answer_prefix)? + around + answer + JOINTS;
    if others >= limit {
        return Err(CliError::usage(format!(
            "{}: sample {}: question and answer take {others} of {limit} tokens; ask for more --tokens, or fewer \
             --max-tokens than {answer}",
            sample.task, sample.index
        )));
    }
    Ok(TaskSample {
        document: subject.cut_middle(&sample.document, limit - others)?,
        tokens_to_generate: answer,
        ..sample.clone()
    })
}

/// The samples' places, those of one document behind each other.
fn by_document(samples: &[Read]) -> Vec<usize> {
    let mut groups: HashMap<&str, usize> = HashMap::new();
    let mut order: Vec<(usize, usize)> = Vec::new();
    for (place, read) in samples.iter().enumerate() {
        let next = groups.len();
        let group = *groups.entry(&read.sample.document).or_insert(next);
        order.push((group, place));
    }
    order.sort_unstable();
    order.into_iter().map(|(_, place)| place).collect()
}

fn open(path: &Path) -> Result<BufReader<File>, CliError> {
    let shown = escape::path(path);
    let failed = |error| CliError::usage(format!("cannot read {shown}: {error}")).at(path);
    // Before opening, because opening a pipe would wait for a writer.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(CliError::usage(format!(
            "{shown}: expected a regular file, found a folder, device or pipe"
        ))
        .at(path));
    }
    Ok(BufReader::new(File::open(path).map_err(failed)?))
}

impl InfiniteBench {
    /// The published files of the tasks.
    fn files(&self, folder: &Path) -> Result<Vec<(InfiniteBenchTask, PathBuf)>, CliError> {
        let file = |task: InfiniteBenchTask| (task, folder.join(format!("{task}.jsonl")));
        let all: Vec<_> = match self.tasks.is_empty() {
            true => InfiniteBenchTask::ALL.into_iter().map(file).collect(),
            false => {
                let asked = distinct("--tasks", &self.tasks)?;
                return Ok(asked.iter().copied().map(file).collect());
            }
        };
        let there: Vec<_> = all.into_iter().filter(|(_, path)| path.exists()).collect();
        match there.is_empty() {
            true => Err(CliError::usage(format!(
                "{}: expected published files such as passkey.jsonl, found none",
                escape::path(folder)
            ))
            .at(folder)),
            false => Ok(there),
        }
    }

    /// The tasks that are generated.
    fn generated(&self) -> Result<Vec<GeneratedTask>, CliError> {
        let generated = |task: &InfiniteBenchTask| {
            task.name().parse::<GeneratedTask>().map_err(|_| {
                CliError::usage(format!(
                    "--tasks names {task}, which is not generated; give the folder of its published file with --data"
                ))
            })
        };
        match self.tasks.is_empty() {
            true => Ok(GeneratedTask::ALL.to_vec()),
            false => distinct("--tasks", &self.tasks)?
                .iter()
                .map(generated)
                .collect(),
        }
    }
}

impl Suite for InfiniteBench {
    fn name(&self) -> &'static str {
        "infinitebench"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn check(&self) -> Result<(), CliError> {
        self.size.check()?;
        match &self.data {
            Some(folder) => {
                let files = self.files(folder)?;
                files
                    .iter()
                    .try_for_each(|(_, path)| open(path).map(|_| ()))
            }
            None => self.generated().map(|_| ()),
        }
    }

    fn add_to_header(&self, header: &mut Map<String, Value>) -> Result<(), CliError> {
        header.insert("max_tokens".into(), self.size.max_tokens.into());
        Ok(())
    }

    fn with_parts(
        &self,
        subject: &Subject,
        _: &Output,
        work: &mut Work<'_>,
    ) -> Result<(), CliError> {
        if let Some(folder) = &self.data {
            let mut all = Vec::new();
            for (task, path) in self.files(folder)? {
                let samples = infinitebench::read(task, open(&path)?);
                let samples = samples.take(self.size.samples.unwrap_or(usize::MAX));
                let samples: Result<Vec<TaskSample>, _> = samples.collect();
                let samples = samples.map_err(|error| unreadable(&path, &error))?;
                let samples = samples.into_iter().map(|sample| Read {
                    sample,
                    labels: Vec::new(),
                });
                all.push((task, hash_of(&path)?, samples.collect::<Vec<Read>>()));
            }
            let mut parts = Vec::new();
            for (task, source, samples) in &all {
                let score = |task: &'static str, answer: &str, references: &[String]| {
                    let task = task.parse::<InfiniteBenchTask>();
                    task.map_or(0.0, |task| infinitebench::score(task, answer, references))
                };
                let task = task.name();
                parts.extend(self.size.parts(
                    &self.common.flags,
                    subject,
                    task,
                    samples,
                    source,
                    score,
                )?);
            }
            return work(&parts);
        }
        let tasks = self.generated()?;
        let count = |text: &str| subject.count(text);
        let count: &CountTokens<'_> = &count;
        let around = subject.around(&self.common.flags)?;
        let lengths = match self.size.tokens.is_empty() {
            true => &GENERATED_TOKENS[..],
            false => &self.size.tokens,
        };
        let most = self.size.max_tokens.unwrap_or(usize::MAX);
        let mut parts = Vec::new();
        for &tokens in lengths {
            subject.check_tokens(&self.common.flags, tokens)?;
            for &task in &tasks {
                let config = GeneratedConfig {
                    task,
                    length: PromptLength::Tokens(tokens.saturating_sub(around)),
                    seed: self.common.flags.seed(),
                };
                let samples = Generated::new(config, count);
                let samples = samples.map_err(|error| refused(error, tokens, around))?;
                let make = move |index| {
                    let sample = samples.sample(index)?;
                    let tokens_to_generate = sample.tokens_to_generate.min(most);
                    Ok(TaskSample {
                        tokens_to_generate,
                        ..sample
                    })
                };
                let score = move |answer: &str, references: &[String]| {
                    generated::score(task, answer, references)
                };
                let count = self.size.samples.unwrap_or(GENERATED_SAMPLES);
                parts.push(Part::generated(
                    task.name(),
                    tokens,
                    count,
                    around,
                    make,
                    score,
                ));
            }
        }
        work(&parts)
    }
}

impl Suite for LongBench {
    fn name(&self) -> &'static str {
        "longbench"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn check(&self) -> Result<(), CliError> {
        self.size.check()?;
        open(&self.data).map(|_| ())
    }

    fn add_to_header(&self, header: &mut Map<String, Value>) -> Result<(), CliError> {
        header.insert("max_tokens".into(), self.size.max_tokens.into());
        Ok(())
    }

    fn with_parts(
        &self,
        subject: &Subject,
        _: &Output,
        work: &mut Work<'_>,
    ) -> Result<(), CliError> {
        let source = hash_of(&self.data)?;
        let samples = longbench::read(open(&self.data)?);
        let samples = samples.take(self.size.samples.unwrap_or(usize::MAX));
        let samples: Result<Vec<_>, _> = samples.collect();
        let samples = samples.map_err(|error| unreadable(&self.data, &error))?;
        let samples = samples.into_iter().map(|read| Read {
            labels: vec![
                read.difficulty.to_string(),
                read.length.to_string(),
                read.domain,
            ],
            sample: read.sample,
        });
        let samples: Vec<Read> = samples.collect();
        let score = |_: &'static str, answer: &str, references: &[String]| {
            longbench::score(answer, references)
        };
        let task = longbench::NAME;
        work(
            &self
                .size
                .parts(&self.common.flags, subject, task, &samples, &source, score)?,
        )
    }
}

/// Refuses lengths that no prompt has, and one that is named twice.
pub fn check_lengths(tokens: &[usize]) -> Result<(), CliError> {
    for &tokens in distinct("--tokens", tokens)? {
        at_least_one("--tokens", tokens)?;
        check_tokens(tokens)?;
    }
    Ok(())
}

/// Refuses depths outside the text.
fn check_depths(depths: &[f64]) -> Result<(), CliError> {
    let range = 0.0..=100.0;
    match depths.iter().find(|depth| !range.contains(*depth)) {
        Some(depth) => Err(CliError::usage(format!(
            "--depths is {depth}; depths are percents of the text, from 0 to 100"
        ))),
        None => distinct("--depths", depths).map(|_| ()),
    }
}

fn haystack(path: Option<&Path>, output: &Output) -> Result<Haystack, CliError> {
    let (text, _) = text_or_shipped(path, "haystack")?;
    if path.is_none() {
        output.note(
            "note: needles are hidden in the text that ships with apb, Newton's Opticks; --haystack takes another",
        );
    }
    Haystack::new(&text).map_err(CliError::usage)
}

fn questions(
    path: Option<&Path>,
    read: fn(&str) -> Result<QuestionSet, TaskError>,
) -> Result<Option<QuestionSet>, CliError> {
    let Some(path) = path else {
        return Ok(None);
    };
    let json = read_text(path, "question file")?;
    match read(&json) {
        Ok(set) => Ok(Some(set)),
        Err(error) => Err(unreadable(path, &error)),
    }
}

/// What is wrong with a file.
fn unreadable(path: &Path, error: &dyn Display) -> CliError {
    CliError::usage(format!("{}: {error}", escape::path(path))).at(path)
}

/// An error of making a sample of `asked` tokens; lengths in it are without what the template adds.
fn refused(error: TaskError, asked: usize, around: usize) -> CliError {
    let error = match error {
        TaskError::TooShort { task, needed, .. } => TaskError::TooShort {
            task,
            tokens: asked,
            needed: needed.saturating_add(around),
        },
        TaskError::TooLong { task, most, .. } => TaskError::TooLong {
            task,
            tokens: asked,
            most: most.saturating_add(around),
        },
        error => return CliError::usage(error),
    };
    CliError::usage(format!("--tokens: {error}"))
}
