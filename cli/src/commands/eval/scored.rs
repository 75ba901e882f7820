//! A run of scored tasks: every sample, every method.

use std::collections::VecDeque;
use std::sync::Arc;

use burn_apb::apb::{AnswerOptions, ask};
use burn_apb::model::Decoder;
use burn_apb::tasks::TaskSample;
use serde_json::{Map, Value, json};

use super::flags::{Flags, Setting};
use super::log::Log;
use super::subject::{Prefilled, Quiet, Subject, check_interrupt};
use super::suite::{Part, Suite};
use super::summary::Summary;
use crate::commands::prefill::describe;
use crate::error::CliError;
use crate::interrupt;
use crate::output::Output;

/// The fields that name a case.
const NAMES: &[&str] = &[
    "task", "tokens", "depth", "source", "index", "method", "heads",
];

/// Runs a suite.
pub fn run(suite: &impl Suite, output: &Output) -> Result<(), CliError> {
    let flags = &suite.common().flags;
    suite.check()?;
    flags.check()?;
    let settings = suite.common().settings()?;
    let mut sources = Map::new();
    suite.add_to_header(&mut sources)?;
    let subject = Subject::open(flags, output)?;
    let mut header = flags.header(suite.name(), subject.source.fingerprint()?)?;
    header.extend(sources);
    suite.with_parts(&subject, output, &mut |parts| {
        let run = Run {
            flags,
            subject: &subject,
            settings: &settings,
            parts,
            has_template: subject.has_template(flags)?,
        };
        let first = parts.iter().map(|part| run.check(part));
        first.collect::<Result<(), _>>()?;
        let mut log = Log::open(flags.out.as_deref(), header.clone(), NAMES)?;
        run.run(&mut log, output)?;
        let summary = Summary::new(suite.name(), &run.rows(&log), &run.methods());
        summary.show(flags, output)
    })
}

struct Run<'a> {
    flags: &'a Flags,
    subject: &'a Subject,
    settings: &'a [Setting],
    parts: &'a [Part<'a>],
    has_template: bool,
}

/// The fields that name a case.
fn case(part: &Part<'_>, index: usize, setting: &Setting) -> Value {
    json!({
        "task": part.task, "tokens": part.tokens, "depth": part.depth,
        "source": part.source, "index": index,
        "method": setting.name, "heads": setting.heads,
    })
}

/// Samples of a part that are still to be answered.
struct Queue<'a> {
    part: &'a Part<'a>,
    indices: VecDeque<usize>,
    /// A sample that was made to see whether its document is the last one's.
    next: Option<TaskSample>,
}

impl Queue<'_> {
    fn next(&mut self) -> Result<Option<TaskSample>, CliError> {
        if let Some(sample) = self.next.take() {
            return Ok(Some(sample));
        }
        let Some(index) = self.indices.pop_front() else {
            return Ok(None);
        };
        let sample = (self.part.make)(index)?;
        Ok(Some(TaskSample { index, ..sample }))
    }

    /// The next samples with a document in common.
    fn group(&mut self) -> Result<Vec<TaskSample>, CliError> {
        let mut group: Vec<TaskSample> = self.next()?.into_iter().collect();
        while let Some(first) = group.first()
            && let Some(sample) = self.next()?
        {
            if sample.document != first.document {
                self.next = Some(sample);
                break;
            }
            group.push(sample);
        }
        Ok(group)
    }
}

impl Run<'_> {
    fn methods(&self) -> Vec<String> {
        let names = self.settings.iter().map(|setting| setting.name.clone());
        names.collect()
    }

    /// Refuses what cannot be answered, by the first sample of a part, before the weights are read.
    fn check(&self, part: &Part<'_>) -> Result<(), CliError> {
        let sample = (part.make)(0)?;
        for setting in self.settings {
            let options = self.options(&setting.strategy, &sample)?;
            let request = self
                .subject
                .request(&sample.document, &sample.question, &options)?;
            self.subject.check(self.flags, &request)?;
        }
        Ok(())
    }

    fn options(
        &self,
        strategy: &crate::args::Strategy,
        sample: &TaskSample,
    ) -> Result<AnswerOptions, CliError> {
        let mut options = self.flags.options(strategy, sample.tokens_to_generate)?;
        // The opening of an answer ends with the space that would separate them.
        let prefix = match self.has_template {
            true => sample.answer_prefix.trim_start(),
            false => &sample.answer_prefix,
        };
        options.prompt.answer_prefix.push_str(prefix);
        Ok(options)
    }

    /// Computes what the log does not hold.
    fn run(&self, log: &mut Log, output: &Output) -> Result<(), CliError> {
        let open = |part: &Part<'_>, index: usize, log: &Log| {
            let mut settings = self.settings.iter();
            settings.any(|setting| !log.holds(&case(part, index, setting)))
        };
        let mut queues: Vec<Queue<'_>> = Vec::new();
        for part in self.parts {
            let order = part.order.clone();
            let order = order.unwrap_or_else(|| (0..part.samples).collect());
            let indices = order.into_iter().filter(|index| open(part, *index, log));
            queues.push(Queue {
                part,
                indices: indices.collect(),
                next: None,
            });
        }
        let open: usize = queues.iter().map(|queue| queue.indices.len()).sum();
        let total: usize = self.parts.iter().map(|part| part.samples).sum();
        if open == 0 {
            return Ok(());
        }
        if open < total {
            output.note(format!(
                "note: {} of {total} samples are answered in the file of results; goes on with the others",
                total - open
            ));
        }
        interrupt::listen();
        let decoder = self.subject.load(self.flags, output)?;
        let bar = output.progress("evaluating", "samples");
        bar.update((total - open) as u64, total as u64);
        let mut done = total - open;
        // A group of every part in turn, so that a run that is stopped has samples of all.
        while !queues.is_empty() {
            for queue in &mut queues {
                check_interrupt()?;
                let group = interrupt::at_once(|| queue.group())?;
                self.answer(queue.part, &group, &decoder, log)?;
                done += group.len();
                bar.update(done as u64, total as u64);
            }
            queues.retain(|queue| queue.next.is_some() || !queue.indices.is_empty());
        }
        bar.finish();
        Ok(())
    }

    /// Answers samples of one document, method by method.
    fn answer(
        &self,
        part: &Part<'_>,
        group: &[TaskSample],
        decoder: &Arc<Decoder>,
        log: &mut Log,
    ) -> Result<(), CliError> {
        for setting in self.settings {
            let mut prefilled = Prefilled::default();
            for sample in group {
                let mut row = case(part, sample.index, setting);
                if log.holds(&row) {
                    continue;
                }
                let options = self.options(&setting.strategy, sample)?;
                let request = self
                    .subject
                    .request(&sample.document, &sample.question, &options)?;
                let prefilled = prefilled.session(self.subject, decoder, &request);
                check_interrupt()?;
                let (session, seconds) = prefilled?;
                let reply = ask(
                    &self.subject.text,
                    session,
                    &request.query,
                    &options,
                    &mut Quiet,
                );
                // An answer that was cut short is no result.
                check_interrupt()?;
                let reply = reply?;
                row["score"] = (part.score)(&reply.text, &sample.references).into();
                row["answer"] = reply.text.into();
                row["references"] = json!(sample.references);
                row["labels"] = json!((part.labels)(sample.index));
                row["plan"] = describe(&request.plan).into();
                row["prompt_tokens"] = (request.document.tokens.len() + request.query.len()).into();
                row["answer_tokens"] = reply.completion.tokens.len().into();
                row["stop_reason"] = reply.completion.stop_reason.name().into();
                row["prefill_seconds"] = seconds.into();
                log.push(row)?;
            }
        }
        Ok(())
    }

    /// The results of this run's cases.
    fn rows(&self, log: &Log) -> Vec<Value> {
        let mut rows = Vec::new();
        for part in self.parts {
            for index in 0..part.samples {
                let settings = self.settings.iter();
                rows.extend(settings.filter_map(|setting| log.find(&case(part, index, setting))));
            }
        }
        rows
    }
}
