//! `apb eval agreement`: how far methods move the model from full attention.

use std::io::{self, Write};
use std::sync::Arc;

use burn_apb::ModelText;
use burn_apb::apb::{Method, Request, ask};
use burn_apb::eval::statistics::{Estimate, mean, paired_difference, wilson_interval};
use burn_apb::eval::{Agreement, ReferenceAnswer, answer_logprob};
use burn_apb::model::Decoder;
use burn_apb::text::tokenizer::TokenizerError;
use serde_json::{Value, json};

use super::flags::{Flags, Setting};
use super::log::Log;
use super::questions::{Asked, Length, Material, Question};
use super::subject::{Prefilled, Quiet, Subject, check_interrupt};
use crate::args::Strategy;
use crate::charts::{Bar, BarSeries, Bars, ChartError, MAX_SERIES, Unit, bars};
use crate::commands::prefill::describe;
use crate::error::CliError;
use crate::interrupt;
use crate::output::Output;
use crate::variant::Variant;

/// The fields that name a case.
pub const NAMES: &[&str] = &["tokens", "question", "gold", "method", "heads"];

/// Bytes of the reference's distributions that are held at once.
const REFERENCE_BYTES: usize = 256 << 20;

/// Measure how far methods move the model from full attention; no right answers are needed
///
/// Full attention answers each question. In the place of every token of its answer, each method is asked for the
/// distribution of the next token: the Kullback-Leibler divergence of the two says how far the method moves the model.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    flags: Flags,
    /// Methods to compare with full attention; differences are from the first [default: star,apb]
    #[arg(
        long,
        value_name = "METHOD,..",
        value_delimiter = ',',
        conflicts_with = "method"
    )]
    methods: Vec<Variant>,
    #[command(flatten)]
    asked: Asked,
    /// Let each method answer, too, and keep its text
    #[arg(long)]
    answers: bool,
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Result<(), CliError> {
    let flags = &args.flags;
    flags.check()?;
    let settings = flags.settings(&args.methods, &[Method::Star, Method::Apb])?;
    let material = args.asked.read()?;
    let subject = Subject::open(flags, output)?;
    let lengths = material.lengths(&subject)?;
    let comparison = Comparison {
        flags,
        subject: &subject,
        questions: &material.questions,
        max_tokens: args.asked.max_tokens,
        settings: &settings,
        answers: args.answers,
    };
    for length in &lengths {
        comparison.check(length)?;
    }
    let mut log = open_log(
        "agreement",
        flags,
        &subject,
        &material,
        args.asked.max_tokens,
    )?;
    let decoder = comparison.run(&lengths, &mut log, output)?;
    drop(decoder);
    let summary = Summary::new(&comparison, &lengths, &log);
    if let Some(path) = &flags.chart {
        let svg = summary.chart().map_err(CliError::failed)?;
        output.write_file(path, svg.as_bytes())?;
    }
    let json = json!({
        "eval": "agreement", "model": crate::json::path(&flags.model.model), "questions": material.questions.len(),
        "rows": summary.rows.iter().map(Row::json).collect::<Vec<_>>(), "out": flags.out.as_deref().map(crate::json::path),
    });
    output.result(&json, |w| summary.print(w))
}

/// The file of results.
pub fn open_log(
    eval: &str,
    flags: &Flags,
    subject: &Subject,
    material: &Material,
    max_tokens: usize,
) -> Result<Log, CliError> {
    let mut header = flags.header(eval, subject.source.fingerprint()?)?;
    header.insert("document".into(), material.name.clone().into());
    header.insert("max_tokens".into(), max_tokens.into());
    Log::open(flags.out.as_deref(), header, NAMES)
}

/// Questions about documents, and the settings that are compared with full attention.
pub struct Comparison<'a> {
    pub flags: &'a Flags,
    pub subject: &'a Subject,
    pub questions: &'a [Question],
    pub max_tokens: usize,
    pub settings: &'a [Setting],
    /// Whether each method answers, too.
    pub answers: bool,
}

/// The fields that name a case: questions may be added to, edited or put into another order.
fn case(tokens: Option<usize>, question: &Question, setting: &Setting) -> Value {
    json!({ "tokens": tokens, "question": question.question, "gold": question.answer, "method": setting.name, "heads": setting.heads })
}

/// Full attention's answer to a question.
struct Reference {
    index: usize,
    answer: ReferenceAnswer,
    text: String,
    gold: Option<f64>,
}

/// The text of an answer, without tokens that the tokenizer does not know: models have more rows than it has tokens.
fn known_text(text: &ModelText, answer: &[u32]) -> Result<String, TokenizerError> {
    let known = |id: &u32| text.tokenizer.token(*id).is_some();
    let known: Vec<u32> = answer.iter().copied().filter(known).collect();
    text.tokenizer.decode(&known, true)
}

impl Comparison<'_> {
    fn full(&self) -> Strategy {
        Strategy {
            method: Some(Method::Full),
            ..self.flags.strategy.clone()
        }
    }

    /// A request for a question, and the tokens of its right answer, where that is known.
    fn request(
        &self,
        strategy: &Strategy,
        length: &Length<'_>,
        question: &Question,
    ) -> Result<(Request, Vec<u32>), CliError> {
        let gold = match &question.answer {
            Some(answer) => {
                let tokens = self.subject.text.tokenizer.encode(answer, false);
                tokens.map_err(CliError::failed)?
            }
            None => Vec::new(),
        };
        let options = self
            .flags
            .options(strategy, self.max_tokens.max(gold.len()))?;
        let request = self
            .subject
            .request(length.document, &question.question, &options)?;
        Ok((request, gold))
    }

    /// Refuses what cannot be asked, before the weights are read.
    pub fn check(&self, length: &Length<'_>) -> Result<(), CliError> {
        let full = self.full();
        let strategies = self.settings.iter().map(|setting| &setting.strategy);
        for strategy in [&full].into_iter().chain(strategies) {
            for (index, question) in self.questions.iter().enumerate() {
                // An anchor that is too short is so for some questions only.
                let (request, _) = self.request(strategy, length, question)?;
                if index == 0 {
                    self.subject.check(self.flags, &request)?;
                }
            }
        }
        Ok(())
    }

    /// Computes what the log does not hold. Returns the weights, where they were read.
    pub fn run(
        &self,
        lengths: &[Length<'_>],
        log: &mut Log,
        output: &Output,
    ) -> Result<Option<Arc<Decoder>>, CliError> {
        let is_open = |length: &Length<'_>, index: usize, log: &Log| {
            let mut settings = self.settings.iter();
            settings
                .any(|setting| !log.holds(&case(length.tokens, &self.questions[index], setting)))
        };
        let mut open: Vec<(&Length<'_>, Vec<usize>)> = Vec::new();
        for length in lengths {
            let indices = (0..self.questions.len()).filter(|index| is_open(length, *index, log));
            open.push((length, indices.collect()));
        }
        let total = self.questions.len() * lengths.len();
        let left: usize = open.iter().map(|(_, indices)| indices.len()).sum();
        if left == 0 {
            return Ok(None);
        }
        if left < total {
            output.note(format!(
                "note: {} of {total} questions are in the file of results; goes on with the others",
                total - left
            ));
        }
        interrupt::listen();
        let decoder = self.subject.load(self.flags, output)?;
        let bar = output.progress("comparing", "cases");
        let settings = self.settings.len() as u64 + 1;
        let mut done = 0;
        let vocab = self.subject.text.config.vocab_size;
        let bytes = vocab
            .saturating_mul(self.max_tokens)
            .saturating_mul(size_of::<f32>());
        let batch = (REFERENCE_BYTES / bytes.max(1)).max(1);
        for (length, indices) in open {
            for indices in indices.chunks(batch) {
                let mut step = || {
                    done += 1;
                    bar.update(done, left as u64 * settings);
                };
                let references = self.references(length, indices, &decoder, &mut step)?;
                for setting in self.settings {
                    self.compare(setting, length, &references, &decoder, log, &mut step)?;
                }
            }
        }
        bar.finish();
        Ok(Some(decoder))
    }

    /// Full attention's answers.
    fn references(
        &self,
        length: &Length<'_>,
        indices: &[usize],
        decoder: &Arc<Decoder>,
        step: &mut dyn FnMut(),
    ) -> Result<Vec<Reference>, CliError> {
        let full = self.full();
        let options = self.flags.options(&full, self.max_tokens)?;
        let text = &self.subject.text;
        let stops = text.stop_tokens_of(&options.prompt)?;
        let stops: Vec<u32> = stops.iter().map(|stop| stop.id).collect();
        let mut prefilled = Prefilled::default();
        let mut references = Vec::new();
        for &index in indices {
            let (request, gold) = self.request(&full, length, &self.questions[index])?;
            let session = prefilled.session(self.subject, decoder, &request);
            check_interrupt()?;
            let (session, _) = session?;
            let token = interrupt::token();
            let answer =
                ReferenceAnswer::new(session, &request.query, &stops, self.max_tokens, token);
            check_interrupt()?;
            let answer = answer.map_err(CliError::failed)?;
            let gold = match gold.is_empty() {
                true => None,
                false => Some(answer_logprob(session, &request.query, &gold, token)),
            };
            references.push(Reference {
                index,
                text: known_text(text, answer.answer()).map_err(CliError::failed)?,
                answer,
                gold: gold.transpose().map_err(CliError::failed)?,
            });
            step();
        }
        Ok(references)
    }

    /// One setting beside full attention's answers.
    fn compare(
        &self,
        setting: &Setting,
        length: &Length<'_>,
        references: &[Reference],
        decoder: &Arc<Decoder>,
        log: &mut Log,
        step: &mut dyn FnMut(),
    ) -> Result<(), CliError> {
        let mut prefilled = Prefilled::default();
        let token = interrupt::token();
        for reference in references {
            step();
            let question = &self.questions[reference.index];
            let mut row = case(length.tokens, question, setting);
            if log.holds(&row) {
                continue;
            }
            let (request, gold) = self.request(&setting.strategy, length, question)?;
            let session = prefilled.session(self.subject, decoder, &request);
            check_interrupt()?;
            let (session, _) = session?;
            let agreement = Agreement::measure(session, &request.query, &reference.answer, token);
            check_interrupt()?;
            let agreement = agreement.map_err(CliError::failed)?;
            row["index"] = reference.index.into();
            row["kl"] = agreement.kl.into();
            row["top1"] = agreement.top1.into();
            row["exact"] = agreement.exact.into();
            row["logprob"] = agreement.logprob.into();
            row["full_logprob"] = reference.answer.logprob().into();
            if !gold.is_empty() {
                let found = answer_logprob(session, &request.query, &gold, token);
                row["gold_logprob"] = found.map_err(CliError::failed)?.into();
                row["full_gold_logprob"] = reference.gold.into();
            }
            row["plan"] = describe(&request.plan).into();
            row["anchor"] = request.plan.anchor.into();
            row["passing"] = request.plan.passing.into();
            row["document_tokens"] = request.document.tokens.len().into();
            row["answer_tokens"] = reference.answer.tokens().len().into();
            row["full_answer"] = reference.text.clone().into();
            if self.answers {
                let options = self.flags.options(&setting.strategy, self.max_tokens)?;
                let text = &self.subject.text;
                let reply = ask(text, session, &request.query, &options, &mut Quiet);
                check_interrupt()?;
                row["answer"] = reply?.text.into();
            }
            log.push(row)?;
        }
        Ok(())
    }

    /// The results of a setting at a length, in the order of the questions.
    pub fn rows(&self, length: &Length<'_>, setting: &Setting, log: &Log) -> Vec<Value> {
        let cases = self
            .questions
            .iter()
            .map(|question| case(length.tokens, question, setting));
        cases.filter_map(|case| log.find(&case)).collect()
    }
}

/// A setting at a length.
struct Row {
    tokens: Option<usize>,
    method: String,
    plan: String,
    questions: usize,
    /// By the names of the JSON.
    means: Vec<(&'static str, Option<Estimate>)>,
    /// Of the divergence, from the first setting's.
    difference: Option<Estimate>,
}

struct Summary {
    rows: Vec<Row>,
}

/// What is averaged.
const MEASURES: [&str; 7] = [
    "kl",
    "top1",
    "exact",
    "logprob",
    "full_logprob",
    "gold_logprob",
    "full_gold_logprob",
];

/// A column of rows; none where a row lacks it.
pub fn column(rows: &[Value], name: &str) -> Option<Vec<f64>> {
    let value = |row: &Value| match &row[name] {
        Value::Bool(yes) => Some(f64::from(u8::from(*yes))),
        value => value.as_f64(),
    };
    rows.iter().map(value).collect()
}

/// The mean of a column. Right answers may be known of some questions only.
fn average(rows: &[Value], name: &str) -> Option<Estimate> {
    if name == "exact" {
        let exact = column(rows, name)?;
        let right = exact.iter().filter(|exact| **exact == 1.0).count();
        let interval = wilson_interval(right, exact.len()).ok()?;
        let value = mean(&exact).ok()?.value;
        return Some(Estimate { value, interval });
    }
    let known: Vec<f64> = rows.iter().filter_map(|row| row[name].as_f64()).collect();
    mean(&known).ok()
}

impl Summary {
    fn new(comparison: &Comparison<'_>, lengths: &[Length<'_>], log: &Log) -> Self {
        let mut rows = Vec::new();
        for length in lengths {
            let mut first: Option<Vec<f64>> = None;
            for setting in comparison.settings {
                let found = comparison.rows(length, setting, log);
                let divergences = column(&found, "kl").unwrap_or_default();
                let difference = match &first {
                    Some(first) => paired_difference(&divergences, first).ok(),
                    None => None,
                };
                first.get_or_insert(divergences);
                let plan = found.first().and_then(|row| row["plan"].as_str());
                rows.push(Row {
                    tokens: length.tokens,
                    method: setting.name.clone(),
                    plan: plan.unwrap_or_default().to_owned(),
                    questions: found.len(),
                    means: MEASURES.map(|name| (name, average(&found, name))).to_vec(),
                    difference,
                });
            }
        }
        Self { rows }
    }

    fn print(&self, w: &mut dyn Write) -> io::Result<()> {
        let width = self.rows.iter().map(|row| row.method.len()).max();
        let width = width.unwrap_or(0).max("method".len());
        let with_gold = self
            .rows
            .iter()
            .any(|row| row.mean("gold_logprob").is_some());
        write!(
            w,
            "{:>8} {:<width$} {:>9} {:>24} {:>18} {:>7} {:>9} {:>9}",
            "tokens",
            "method",
            "questions",
            "KL, nats",
            "same top token",
            "same",
            "logprob",
            "of full"
        )?;
        match with_gold {
            true => writeln!(w, " {:>9} {:>9}", "gold", "of full")?,
            false => writeln!(w)?,
        }
        for row in &self.rows {
            let kl = row
                .mean("kl")
                .map_or_else(|| "-".into(), |mean| small(&mean));
            let top = row
                .mean("top1")
                .map_or_else(|| "-".into(), |mean| percent(&mean));
            let same = row
                .mean("exact")
                .map(|mean| format!("{:.0}%", mean.value * 100.0));
            let plain = |name: &str| {
                let mean = row.mean(name);
                mean.map_or_else(|| "-".into(), |mean| format!("{:.3}", mean.value))
            };
            write!(
                w,
                "{:>8} {:<width$} {:>9} {kl:>24} {top:>18} {:>7} {:>9} {:>9}",
                row.tokens
                    .map_or_else(|| "all".into(), |tokens| tokens.to_string()),
                row.method,
                row.questions,
                same.unwrap_or_default(),
                plain("logprob"),
                plain("full_logprob"),
            )?;
            match with_gold {
                true => writeln!(
                    w,
                    " {:>9} {:>9}",
                    plain("gold_logprob"),
                    plain("full_gold_logprob")
                )?,
                false => writeln!(w)?,
            }
        }
        writeln!(
            w,
            "\nKL: of the distributions of the next token from full attention's, mean over the tokens of its answers, \
             with 95 % intervals\nsame: questions that are answered in the same tokens; logprob: of full attention's \
             answers, a token"
        )?;
        for row in &self.rows {
            if let Some(difference) = &row.difference {
                let note = match difference.excludes_zero() {
                    true => "",
                    false => ", not significant",
                };
                let first = self.rows.first().map_or("", |first| first.method.as_str());
                writeln!(
                    w,
                    "{:>8} tokens: KL of {} less that of {first}: {}{note}",
                    row.tokens
                        .map_or_else(|| "all".into(), |tokens| tokens.to_string()),
                    row.method,
                    small(difference),
                )?;
            }
        }
        Ok(())
    }

    fn chart(&self) -> Result<String, ChartError> {
        let mut lengths: Vec<Option<usize>> = Vec::new();
        let mut methods: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !lengths.contains(&row.tokens) {
                lengths.push(row.tokens);
            }
            if !methods.contains(&row.method.as_str()) {
                methods.push(&row.method);
            }
        }
        let bar = |tokens: &Option<usize>, method: &str| {
            let of = |row: &&Row| row.tokens == *tokens && row.method == method;
            let estimate = self.rows.iter().find(of)?.mean("kl")?;
            Some(Bar {
                value: estimate.value,
                interval: Some((estimate.interval.low, estimate.interval.high)),
            })
        };
        bars(&Bars {
            title: "Divergence from full attention".into(),
            x_label: "tokens of the document".into(),
            y_label: "KL divergence, nats a token".into(),
            unit: Unit::Number,
            groups: (lengths.iter())
                .map(|tokens| tokens.map_or_else(|| "all".into(), |tokens| tokens.to_string()))
                .collect(),
            series: (methods.iter().take(MAX_SERIES))
                .map(|method| BarSeries {
                    name: (*method).to_owned(),
                    bars: lengths.iter().map(|tokens| bar(tokens, method)).collect(),
                })
                .collect(),
            reference: None,
        })
    }
}

/// An estimate as JSON.
pub fn estimate_json(estimate: Option<&Estimate>) -> Value {
    match estimate {
        Some(Estimate { value, interval }) => {
            json!({ "value": value, "low": interval.low, "high": interval.high })
        }
        None => Value::Null,
    }
}

impl Row {
    fn mean(&self, name: &str) -> Option<Estimate> {
        let mean = self.means.iter().find(|(known, _)| *known == name);
        mean.and_then(|(_, mean)| *mean)
    }

    fn json(&self) -> Value {
        let mut value = json!({
            "tokens": self.tokens, "method": self.method, "plan": self.plan, "questions": self.questions,
        });
        for (name, mean) in &self.means {
            value[*name] = estimate_json(mean.as_ref());
        }
        value["kl_difference"] = estimate_json(self.difference.as_ref());
        value
    }
}

/// A divergence with its interval.
pub fn small(estimate: &Estimate) -> String {
    let Estimate { value, interval } = estimate;
    let number = |x: f64| match x.abs() {
        0.0 => "0".to_owned(),
        size if size < 1e-3 => format!("{x:.0e}"),
        _ => format!("{x:.3}"),
    };
    format!(
        "{} ({} to {})",
        number(*value),
        number(interval.low),
        number(interval.high)
    )
}

fn percent(estimate: &Estimate) -> String {
    let Estimate { value, interval } = estimate;
    format!(
        "{:.1}% ({:.0}-{:.0})",
        value * 100.0,
        interval.low * 100.0,
        interval.high * 100.0
    )
}
