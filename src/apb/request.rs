//! A document and a question in tokens, checked before a weight is read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::compressor::{CompressorError, CompressorSource};
use super::config::{Document, PrefillConfig};
use super::elapsed::{computed, elapsed_after};
use super::error::{AnswerError, SessionError};
use super::observer::Observer;
use super::plan::PrefillPlan;
use super::session::{Session, SessionConfig};
use crate::ModelText;
use crate::checkpoint::ModelSource;
use crate::model::{AttentionShape, CausalLm, KvDType};
use crate::ranks::{RankError, RankGroup};
use crate::text::prompt::PromptOptions;
use crate::text::sampler::SamplerConfig;

/// Which query every rank sees in its anchor (APB only).
///
/// The anchor's query is fixed when the document is prefilled: it steers what ranks pass on. Later
/// questions are still answered exactly over what the cache holds, but what was computed for the
/// document's rows was computed with this query in view. In the paper's ablation an anchor without a
/// query costs 4 points of 72.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AnchorQuery {
    /// The question that comes with the document.
    #[default]
    Question,
    /// A hint at what will be asked.
    Text(String),
    /// Nothing.
    None,
}

/// What stands for the question while a document is prepared for questions to come.
const NO_QUESTION: &str = "?";

/// Rows of an answer that memory is allocated for from the start; a longer one makes the cache grow.
const ANSWER_ROWS: usize = 1024;

/// Rows that memory is allocated for.
fn allocated(rows: usize, max_tokens: usize) -> usize {
    rows.saturating_add(max_tokens.min(ANSWER_ROWS))
}

/// How a question is answered.
///
/// ```
/// use burn_apb::apb::AnswerOptions;
///
/// let mut options = AnswerOptions {
///     stop_texts: vec!["\n\n".into()],
///     logprobs: Some(3),
///     ..AnswerOptions::default()
/// };
/// options.prompt.answer_prefix = "It was".into();
/// options.prompt.render.variables.insert("enable_thinking".into(), false.into());
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerOptions {
    /// How document and question become a prompt.
    pub prompt: PromptOptions,
    /// Most tokens of the answer.
    pub max_tokens: usize,
    /// Texts that end the answer, which then ends before them. One that is a token of its own, such
    /// as `<|im_end|>`, is a stop token.
    pub stop_texts: Vec<String>,
    /// Tokens that end the answer, beside the model's own.
    pub stop_tokens: Vec<u32>,
    /// Log-probabilities of each token of the answer and of this many of the likeliest in its place.
    pub logprobs: Option<usize>,
    /// How tokens are chosen; none: as the model's `generation_config.json` says.
    pub sampler: Option<SamplerConfig>,
    /// Rows of one pass of full attention, and of one tile of the MLP; none:
    /// [`default_prefill_chunk`](super::default_prefill_chunk).
    pub chunk: Option<usize>,
    /// The dtype of keys and values in the cache; none: [`CausalLm::kv_dtype`].
    pub kv_dtype: Option<KvDType>,
    /// Go on when prompt and answer are longer than the context the model was made for.
    pub allow_long: bool,
    /// Strategy, ranks and lengths.
    pub prefill: PrefillConfig,
    /// The query in the anchor.
    pub anchor_query: AnchorQuery,
    /// Room for further questions and their answers, in tokens.
    pub headroom: usize,
    /// Leaves the rows of question and answer in the session, for a question that begins with the same tokens:
    /// [`AskOptions::keep`](super::AskOptions::keep).
    pub keep: bool,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        Self {
            prompt: PromptOptions::default(),
            max_tokens: 256,
            stop_texts: Vec::new(),
            stop_tokens: Vec::new(),
            logprobs: None,
            sampler: None,
            chunk: None,
            kv_dtype: None,
            allow_long: false,
            prefill: PrefillConfig::default(),
            anchor_query: AnchorQuery::default(),
            headroom: 0,
            keep: false,
        }
    }
}

/// A document and a question in tokens, with a plan that fits them: all that can be checked before a
/// weight is read.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Request {
    /// What is prefilled.
    pub document: Document,
    /// The question's tokens, with the template's tail.
    pub query: Vec<u32>,
    /// How it is prefilled.
    pub plan: PrefillPlan,
    /// Whether the prompt's pieces have the tokens that the whole would have.
    pub exact_split: bool,
    /// Control tokens that document and question spell out, with their numbers. They are text, unless
    /// [`PromptOptions::allow_control_tokens`] is set.
    pub control_tokens: Vec<(u32, usize)>,
    /// Most tokens of the answer.
    pub max_tokens: usize,
    /// The session's sizes.
    pub session: SessionConfig,
    /// The plan's compressor, where it is open already.
    #[serde(skip)]
    compressor: Option<CompressorSource>,
}

impl Request {
    /// Puts document and question into the model's prompt and checks that everything fits.
    ///
    /// # Errors
    ///
    /// An [`AnswerError`] when the prompt cannot be built, is longer than the model's context, or the
    /// strategy's lengths or heads do not fit it.
    pub fn new(
        model: &ModelText,
        document: &str,
        question: &str,
        options: &AnswerOptions,
    ) -> Result<Self, AnswerError> {
        let split = model.split(document, question, &options.prompt)?;
        let anchor_query = match &options.anchor_query {
            AnchorQuery::Question => split.query.clone(),
            AnchorQuery::Text(hint) => model.split_query(hint, &options.prompt)?.query,
            AnchorQuery::None => Vec::new(),
        };
        let mut spelled = BTreeMap::new();
        for text in [document, question] {
            for (id, count) in model.tokenizer.control_tokens_in(text) {
                *spelled.entry(id).or_default() += count;
            }
        }
        let document = Document {
            prefix: split.prefix.len(),
            tokens: [split.prefix, split.document].concat(),
            anchor_query,
        };
        let query = [split.query, split.tail].concat();
        let context_rows = document.tokens.len() + query.len();
        let needed = options.check_context(&model.config, document.tokens.len(), query.len())?;
        let plan = options.prefill.plan(&document, &model.config)?;
        let compressor = CompressorSource::open(&plan, &model.config)?;
        let mut session = SessionConfig::new(allocated(context_rows, options.max_tokens))
            .with_limit(needed.saturating_add(options.headroom))
            .with_context(context_rows);
        session.chunk = options.chunk;
        session.kv_dtype = options.kv_dtype;
        Ok(Self {
            document,
            query,
            plan,
            exact_split: split.exact,
            control_tokens: spelled.into_iter().collect(),
            max_tokens: options.max_tokens,
            session,
            compressor: Some(compressor),
        })
    }

    /// A request of tokens: a document, how it is prefilled, a question that follows it, and at most
    /// `max_tokens` tokens of an answer. The session has room for all of them, and passes of `chunk` rows.
    pub fn from_tokens(
        document: Document,
        plan: PrefillPlan,
        query: Vec<u32>,
        max_tokens: usize,
        chunk: impl Into<Option<usize>>,
    ) -> Self {
        let rows = document.tokens.len() + query.len();
        let mut session = SessionConfig::new(allocated(rows, max_tokens))
            .with_limit(rows.saturating_add(max_tokens))
            .with_context(rows);
        session.chunk = chunk.into();
        Self {
            document,
            query,
            plan,
            exact_split: true,
            control_tokens: Vec::new(),
            max_tokens,
            session,
            compressor: None,
        }
    }

    /// Refuses retaining heads that are not for `model`, whose files are `source`. No weight is read.
    ///
    /// # Errors
    ///
    /// [`CompressorError`] when the file holds no retaining heads, or those of another model.
    pub fn check_heads(
        &self,
        model: impl Into<AttentionShape>,
        source: &ModelSource,
    ) -> Result<(), CompressorError> {
        self.compressor(model)?.check_model(source)
    }

    /// The plan's compressor, opened now where it is not open already.
    fn compressor(
        &self,
        model: impl Into<AttentionShape>,
    ) -> Result<CompressorSource, CompressorError> {
        match &self.compressor {
            Some(open) => Ok(open.clone()),
            None => CompressorSource::open(&self.plan, model),
        }
    }

    /// A document whose questions come later; `question` stands in their place while its tokens are made.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub(super) fn of_document(
        model: &ModelText,
        document: &str,
        options: &AnswerOptions,
    ) -> Result<Self, AnswerError> {
        let mut options = options.clone();
        options.max_tokens = 0;
        if options.anchor_query == AnchorQuery::Question {
            options.anchor_query = AnchorQuery::None;
        }
        Self::new(model, document, NO_QUESTION, &options)
    }

    /// The request of process 0 on every process of a group; others give none.
    ///
    /// # Errors
    ///
    /// [`SessionError::Rank`] when the exchange fails or process 0 gives none.
    pub fn broadcast(request: Option<Self>, group: &mut RankGroup) -> Result<Self, SessionError> {
        let missing = |reason: String| SessionError::Rank(RankError::Connect { reason });
        if group.processes() == 1 {
            return request.ok_or_else(|| missing("there is no request".into()));
        }
        // Plain numbers and names, which JSON always holds.
        let mut bytes = request
            .and_then(|request| serde_json::to_vec(&request).ok())
            .unwrap_or_default();
        let length = group.broadcast((bytes.len() as u64).to_le_bytes().to_vec())?;
        let length = length.first_chunk().map_or(0, |n| u64::from_le_bytes(*n));
        bytes.resize(usize::try_from(length).unwrap_or(0), 0);
        let bytes = group.broadcast(bytes)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| missing(format!("process 0 sent no request: {error}")))
    }

    /// Prefills the document into a session of its own, with the ranks of `group`; also returns the
    /// seconds that took. Every process of the group calls it with the same request.
    ///
    /// # Errors
    ///
    /// An [`AnswerError`] when the heads cannot be loaded or the prefill fails or is cancelled.
    pub fn prefill(
        &self,
        model: Arc<dyn CausalLm>,
        group: RankGroup,
        observer: &mut dyn Observer,
    ) -> Result<(Session, f64), AnswerError> {
        let device = model.device();
        self.prefill_until(model, group, observer, || computed(&device))
    }

    /// [`prefill`](Self::prefill), which is over when `wait` has returned.
    fn prefill_until(
        &self,
        model: Arc<dyn CausalLm>,
        group: RankGroup,
        observer: &mut dyn Observer,
        wait: impl FnOnce() -> Result<(), SessionError>,
    ) -> Result<(Session, f64), AnswerError> {
        let (shape, dtype, device) = (model.shape(), model.dtype(), model.device());
        let compressor = self.compressor(shape)?.load(dtype, &device)?;
        let mut session = Session::new(model, self.session).with_group(group);
        let started = Instant::now();
        session.prefill_with(&self.document, &self.plan, compressor.as_deref(), observer)?;
        let time = elapsed_after(started, wait)?;
        Ok((session, time.as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use burn::tensor::Device;

    use super::*;
    use crate::apb::Method;
    use crate::model::{Architecture, DecoderConfig};

    /// The device goes on for longer than the calls took, and its time is part of the prefill's.
    #[test]
    fn a_prefill_takes_until_a_late_device_has_computed_it() {
        let config = DecoderConfig::new(Architecture::Llama, 64, 32, 48, 2, 4, 2, 8);
        let model = Arc::new(config.init(&Device::flex()));
        let document = Document::new((0..12).collect::<Vec<u32>>());
        let plan = PrefillConfig::new(Method::Full, 1)
            .plan(&document, model.shape())
            .unwrap();
        let request = Request::from_tokens(document, plan, vec![1, 2], 4, 12);

        let before = Instant::now();
        let mut calls = Duration::MAX;
        let late = || {
            calls = before.elapsed();
            while before.elapsed() <= 2 * calls {
                std::hint::spin_loop();
            }
            Ok(())
        };
        let prefilled = request.prefill_until(model, RankGroup::local(1), &mut (), late);
        let (_, seconds) = prefilled.unwrap();
        assert!(seconds > calls.as_secs_f64(), "{seconds} s, {calls:?}");
    }
}
