//! A model, requests to it, and documents prefilled with it.

use std::ops::ControlFlow;
use std::sync::Arc;

use burn::tensor::Device;
use burn_apb::ModelText;
use burn_apb::apb::{
    AnswerOptions, CancelToken, Document, Observer, PrefillPlan, Request, Session,
};
use burn_apb::checkpoint::ModelSource;
use burn_apb::model::{Decoder, RopeScaling};
use burn_apb::ranks::RankGroup;
use burn_apb::text::prompt::TemplateChoice;

use super::flags::Flags;
use crate::commands::prefill;
use crate::error::CliError;
use crate::limits::check_tokens;
use crate::output::Output;
use crate::predict::{self, Weights};
use crate::{interrupt, memory};

/// A model whose weights are not read yet.
pub struct Subject {
    pub source: ModelSource,
    pub text: ModelText,
    device: Device,
}

impl Subject {
    /// Opens the model and the device.
    pub fn open(flags: &Flags, output: &Output) -> Result<Self, CliError> {
        let (source, text) = prefill::open_model(&flags.model, output)?;
        let device = flags.compute.device()?;
        flags.compute.check_kv_dtype(&text.config, &device)?;
        Ok(Self {
            source,
            text,
            device,
        })
    }

    /// A request, checked against the model and its context.
    pub fn request(
        &self,
        document: &str,
        question: &str,
        options: &AnswerOptions,
    ) -> Result<Request, CliError> {
        let request = || Request::new(&self.text, document, question, options);
        Ok(interrupt::at_once(request)?)
    }

    /// Refuses heads of another model, and what the memory does not hold.
    pub fn check(&self, flags: &Flags, request: &Request) -> Result<(), CliError> {
        request.check_heads(&self.text.config, &self.source)?;
        let options = flags.compute.load_options();
        let ranks = 0..request.plan.ranks;
        predict::check_fits(
            &self.source,
            Weights::ToLoad,
            options,
            request,
            ranks,
            &flags.compute,
        )
    }

    /// Reads the weights.
    pub fn load(&self, flags: &Flags, output: &Output) -> Result<Arc<Decoder>, CliError> {
        memory::give_back();
        let options = flags.compute.load_options();
        prefill::load_weights(&self.source, options, &self.device, output)
    }

    /// Refuses a length that the model was not made for, before a document of it is made.
    pub fn check_tokens(&self, flags: &Flags, tokens: usize) -> Result<(), CliError> {
        let context = self.text.config.context();
        if tokens > context && !flags.allow_long {
            return Err(CliError::usage(format!(
                "--tokens is {tokens}, but the model's context is {context}; ask for fewer, or go on regardless with \
                 --allow-long"
            )));
        }
        check_tokens(tokens)
    }

    /// Tokens of a text, without special ones.
    pub fn count(&self, text: &str) -> Result<usize, burn_apb::tasks::CountError> {
        Ok(self.text.tokenizer.encode(text, false)?.len())
    }

    /// Tokens of a prompt that belong to neither document, question nor answer.
    pub fn around(&self, flags: &Flags) -> Result<usize, CliError> {
        const WORD: &str = "word";
        let options = flags.prompt.options()?;
        let split = self.text.split(WORD, WORD, &options);
        let split = split.map_err(CliError::usage)?;
        let inner = self
            .count(&format!("{WORD}\n\n"))
            .map_err(CliError::failed)?
            + self.count(WORD).map_err(CliError::failed)?;
        Ok(split.len().saturating_sub(inner))
    }

    /// Whether a chat template makes the prompts.
    pub fn has_template(&self, flags: &Flags) -> Result<bool, CliError> {
        let options = flags.prompt.options()?;
        Ok(match options.template {
            TemplateChoice::None => false,
            TemplateChoice::Model => !self.text.chat_templates.is_empty(),
            _ => true,
        })
    }

    /// Tokens of prompt and answer together at most: those asked for, or the model's context.
    pub fn limit(&self, asked: Option<usize>) -> usize {
        asked.unwrap_or_else(|| self.text.config.context())
    }

    /// The first `tokens` tokens of a text, or all of it.
    pub fn first_tokens<'t>(&self, text: &'t str, tokens: usize) -> Result<&'t str, CliError> {
        let encoded = self.text.tokenizer.encode_with_spans(text, false);
        let encoded = encoded.map_err(CliError::failed)?;
        let end = match encoded.spans.get(tokens) {
            Some((start, _)) => *start,
            None => text.len(),
        };
        Ok(&text[..text.floor_char_boundary(end)])
    }

    /// A text of at most `tokens` tokens: its beginning and its end, as the benchmarks cut a prompt that is too
    /// long.
    pub fn cut_middle(&self, text: &str, tokens: usize) -> Result<String, CliError> {
        let encoded = self.text.tokenizer.encode_with_spans(text, false);
        let spans = encoded.map_err(CliError::failed)?.spans;
        if spans.len() <= tokens {
            return Ok(text.to_owned());
        }
        let half = tokens / 2;
        let start = spans.get(half).map_or(0, |span| span.0);
        let end = spans
            .get(spans.len() - half)
            .map_or(text.len(), |span| span.0);
        let [start, end] = [start, end].map(|at| text.floor_char_boundary(at));
        Ok(format!("{}{}", &text[..start], &text[end..]))
    }

    /// Whether a document prefilled for one question serves another: not where rotary frequencies are those of
    /// document and question together.
    fn shares_prefill(&self) -> bool {
        !matches!(self.text.config.rope.scaling, RopeScaling::Dynamic { .. })
    }
}

/// The document that was prefilled last, for further questions about it.
#[derive(Default)]
pub struct Prefilled {
    last: Option<(Document, PrefillPlan, Session)>,
}

impl Prefilled {
    /// A session of the request's document, prefilled now unless it was before; the seconds that took, if so.
    pub fn session(
        &mut self,
        subject: &Subject,
        decoder: &Arc<Decoder>,
        request: &Request,
    ) -> Result<(&mut Session, Option<f64>), CliError> {
        // The question is a part of what is prefilled where the anchor holds it.
        let same_anchor = |document: &Document, plan: &PrefillPlan| {
            plan.anchor_query.is_empty() || document.anchor_query == request.document.anchor_query
        };
        let same = self.last.as_ref().is_some_and(|(document, plan, _)| {
            document.tokens == request.document.tokens
                && *plan == request.plan
                && same_anchor(document, plan)
                && subject.shares_prefill()
        });
        let mut seconds = None;
        if !same {
            // Not both at once.
            self.last = None;
            let group = RankGroup::local(request.plan.ranks);
            let prefilled = request.prefill(decoder.clone(), group, &mut Quiet);
            let (session, took) = prefilled?;
            seconds = Some(took);
            self.last = Some((request.document.clone(), request.plan.clone(), session));
        }
        let Some((.., session)) = &mut self.last else {
            return Err(CliError::failed("no document is prefilled"));
        };
        session.set_limit(request.session.limit);
        Ok((session, seconds))
    }
}

/// Listens to Ctrl-C.
pub struct Quiet;

impl Observer for Quiet {
    fn progress(&mut self, _: usize, _: usize) -> ControlFlow<()> {
        interrupt::poll()
    }

    fn cancel_token(&self) -> CancelToken {
        interrupt::token().clone()
    }

    fn text(&mut self, _: &str) -> ControlFlow<()> {
        interrupt::poll()
    }
}

/// An error after Ctrl-C: what was computed before it is kept.
pub fn check_interrupt() -> Result<(), CliError> {
    match interrupt::poll() {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(CliError::failed("cancelled")),
    }
}
