//! The prompt in four parts, each in tokens: the text before the document, the document, the question,
//! and the rest.
//!
//! The prompt is what the chat template makes of one user message, the document and the question
//! with [`SEPARATOR`] between them. The separator counts to the document: tokenizers merge line
//! ends with a full stop before them, but not with the word after them, so that the question begins
//! with a token of its own, whatever the document ends with, and one prefilled document takes many
//! questions.

use super::chat_template::{
    ChatMessage, ChatTemplate, ChatTemplateError, ChatTemplates, RenderOptions,
};
use super::tokenizer::{TextPiece, Tokenizer, TokenizerError};

/// The text between the document and the question.
pub const SEPARATOR: &str = "\n\n";

/// Stand-ins for the document and the question, to find them again in what a template renders. They
/// hold what a template might change: case, quotes, markup, a backslash, line ends, other scripts.
pub(super) const DOCUMENT: &str = "\u{e000}Document \"1\" & <b> \\n 'c'\n\td\u{e9}\u{e001}";
pub(super) const QUESTION: &str = "\u{e002}Question \"2\" & </b> \\t 'c'\n\td\u{e9}\u{e003}";

/// Which chat template makes the prompt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TemplateChoice {
    /// The model's own; none for a base model, which gets the text as it is.
    #[default]
    Model,
    /// The one of this name among the model's.
    Named(String),
    /// Another one: its source.
    Source(String),
    /// None, whatever the model has: document and question unchanged, after the tokenizer's
    /// special tokens.
    None,
}

impl TemplateChoice {
    /// The template that is chosen among a model's; none where the text stays as it is.
    ///
    /// # Errors
    ///
    /// [`ChatTemplateError`] where there is no template of the name, or the source does not parse.
    pub fn of(
        &self,
        templates: &ChatTemplates,
        has_tools: bool,
    ) -> Result<Option<ChatTemplate>, ChatTemplateError> {
        match self {
            Self::Model if templates.is_empty() => Ok(None),
            Self::Model => templates.select(None, has_tools).map(Some),
            Self::Named(name) => templates.select(Some(name), has_tools).map(Some),
            Self::Source(source) => templates.parse(source).map(Some),
            Self::None => Ok(None),
        }
    }
}

/// How a document and a question become a prompt.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PromptOptions {
    /// System prompt, in place of the chat template's own.
    pub system: Option<String>,
    /// The chat template.
    pub template: TemplateChoice,
    /// What the template sees beside the messages, such as `enable_thinking`.
    pub render: RenderOptions,
    /// How the answer begins: text behind the opening of the assistant's turn.
    pub answer_prefix: String,
    /// Whether control tokens that are spelled out in the document or the question become those
    /// tokens. By default they are text: a document that holds `<|im_end|>` ends no turn.
    pub allow_control_tokens: bool,
}

impl PromptOptions {
    /// Refuses what only a chat template has a use for.
    pub(crate) fn check_plain(&self) -> Result<(), PromptError> {
        let given = [
            (self.system.is_some(), "a system prompt"),
            (!self.render.variables.is_empty(), "a template variable"),
        ];
        match given.into_iter().find(|(given, _)| *given) {
            Some((_, what)) => Err(PromptError::NoTemplate { what }),
            None => Ok(()),
        }
    }
}

/// A chat template with a place for a document and one for a question.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PromptTemplate {
    prefix: String,
    tail: String,
    /// Whether the template strips white space from the start of a message.
    strips_start: bool,
    /// Whether the tokenizer adds its special tokens: only without a template.
    add_special: bool,
    /// Whether control tokens spelled out in document and question become those tokens.
    allow_control_tokens: bool,
}

/// The text of a prompt in its four pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptParts {
    /// The text before the document: the begin-of-text token, the system prompt, the opening of
    /// the user's turn.
    pub prefix: String,
    /// The document and the [`SEPARATOR`].
    pub document: String,
    /// The question.
    pub query: String,
    /// The end of the user's turn and the opening of the answer.
    pub tail: String,
    /// Whether the tokenizer adds special tokens of its own.
    pub add_special: bool,
    /// Whether control tokens spelled out in document and question become those tokens; they are
    /// text otherwise.
    pub allow_control_tokens: bool,
}

/// The tokens of a prompt in its four pieces. One after the other they are the tokens of the whole
/// text, always.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptSplit {
    /// Tokens before the document.
    pub prefix: Vec<u32>,
    /// Tokens of the document and the separator.
    pub document: Vec<u32>,
    /// Tokens of the question.
    pub query: Vec<u32>,
    /// Tokens after the question.
    pub tail: Vec<u32>,
    /// Whether every piece begins with a token of its own. Where not, some token holds the end of
    /// one piece and the beginning of the next, and is counted to the one in which it ends.
    pub exact: bool,
    /// The index of the first such token among all.
    pub first_difference: Option<usize>,
}

/// The tokens of a question for a document that is prefilled already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuerySplit {
    /// Tokens of the question.
    pub query: Vec<u32>,
    /// Tokens after the question.
    pub tail: Vec<u32>,
    /// Whether both begin with a token of their own; then these are the tokens that the whole
    /// prompt has here.
    pub exact: bool,
}

impl PromptTemplate {
    /// For a base model: nothing around the document and the question but the special tokens of the
    /// tokenizer.
    pub fn plain() -> Self {
        Self {
            add_special: true,
            ..Self::default()
        }
    }

    /// Finds the places for the document and the question in a chat template, with a system prompt
    /// where one is given. The template always opens the answer; other `options` are passed on.
    ///
    /// # Errors
    ///
    /// [`PromptError::Template`] where the template does not render, such as one that takes no
    /// system prompt, and [`PromptError::Altered`] where it does not hold the text it is given, or
    /// not as it is.
    pub fn from_chat(
        template: &ChatTemplate,
        system: Option<&str>,
        options: &RenderOptions,
    ) -> Result<Self, PromptError> {
        let options = RenderOptions {
            add_generation_prompt: true,
            ..options.clone()
        };
        let render = |content: &str| {
            let system = system.map(|text| ChatMessage::new("system", text));
            let user = ChatMessage::new("user", content);
            let messages: Vec<ChatMessage> = system.into_iter().chain([user]).collect();
            template.render(&messages, &options)
        };
        let content = format!("{DOCUMENT}{SEPARATOR}{QUESTION}");
        let rendered = render(&content)?;
        let mut places = rendered.match_indices(&content);
        let (Some((start, _)), None) = (places.next(), places.next()) else {
            return Err(PromptError::Altered);
        };
        let prefix = rendered[..start].to_owned();
        let tail = rendered[start + content.len()..].to_owned();

        let spaced = render(&format!("\n{content}"))?;
        let strips_start = spaced == rendered;
        if !strips_start && spaced != format!("{prefix}\n{content}{tail}") {
            return Err(PromptError::Altered);
        }
        Ok(Self {
            prefix,
            tail,
            strips_start,
            ..Self::default()
        })
    }

    /// The same with an answer that begins with `text`, which is part of the tail.
    pub fn with_answer_prefix(mut self, text: &str) -> Self {
        self.tail.push_str(text);
        self
    }

    /// The same with control tokens that are spelled out in document and question read as such, or
    /// as text.
    pub fn with_allow_control_tokens(mut self, allow: bool) -> Self {
        self.allow_control_tokens = allow;
        self
    }

    /// The text before the document.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The text after the question.
    pub fn tail(&self) -> &str {
        &self.tail
    }

    /// The added tokens that the template itself writes around the user's text: control tokens, whatever
    /// their flags in the tokenizer's files are.
    pub(crate) fn control_tokens(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let texts = [&self.prefix, &self.tail];
        let ids = texts.map(|text| tokenizer.encode(text, false).unwrap_or_default());
        let has_words = |id: &u32| {
            let token = tokenizer.token(*id);
            token.is_some_and(|token| !token.trim().is_empty())
        };
        let ids = ids.into_iter().flatten();
        ids.filter(|id| tokenizer.is_added(*id) && has_words(id))
            .collect()
    }

    /// Puts a document and a question in their places. White space around the question is dropped,
    /// that before the document where the template drops it.
    ///
    /// # Errors
    ///
    /// [`PromptError::EmptyDocument`] and [`PromptError::EmptyQuestion`], also of white space only.
    pub fn parts(&self, document: &str, question: &str) -> Result<PromptParts, PromptError> {
        if document.trim().is_empty() {
            return Err(PromptError::EmptyDocument);
        }
        let document = match self.strips_start {
            true => document.trim_start(),
            false => document,
        };
        Ok(PromptParts {
            prefix: self.prefix.clone(),
            document: format!("{document}{SEPARATOR}"),
            query: checked_question(question)?.to_owned(),
            tail: self.tail.clone(),
            add_special: self.add_special,
            allow_control_tokens: self.allow_control_tokens,
        })
    }

    /// The tokens of a further question to a document that is prefilled already, without encoding
    /// the document again. `vocab_size` is the model's.
    ///
    /// # Errors
    ///
    /// [`PromptError::EmptyQuestion`], [`PromptError::Tokenizer`] and
    /// [`PromptError::BeyondVocabulary`].
    pub fn split_query(
        &self,
        tokenizer: &Tokenizer,
        question: &str,
        vocab_size: usize,
    ) -> Result<QuerySplit, PromptError> {
        let query = checked_question(question)?;
        // Encoded behind the separator, as in the whole: some tokenizers treat the start of a text
        // in a way of its own.
        let parts = [(SEPARATOR, true), (query, true), (&self.tail, false)];
        let allow = self.allow_control_tokens;
        let ([_, query, tail], straddling) = encode(tokenizer, parts, false, allow, vocab_size)?;
        Ok(QuerySplit {
            query,
            tail,
            exact: straddling.is_none(),
        })
    }
}

impl PromptParts {
    /// The whole prompt.
    pub fn text(&self) -> String {
        [
            self.prefix.as_str(),
            &self.document,
            &self.query,
            &self.tail,
        ]
        .concat()
    }

    /// The tokens of each piece. The whole text is encoded once and cut at the ends of its pieces.
    /// `vocab_size` is the model's: the rows of its embedding.
    ///
    /// # Errors
    ///
    /// [`PromptError::Tokenizer`], [`PromptError::BeyondVocabulary`] where the tokenizer gives a
    /// token that the model has not, [`PromptError::EmptyDocument`] where it gives none for the
    /// document.
    pub fn split(
        &self,
        tokenizer: &Tokenizer,
        vocab_size: usize,
    ) -> Result<PromptSplit, PromptError> {
        let parts = [
            (self.prefix.as_str(), false),
            (&self.document, true),
            (&self.query, true),
            (&self.tail, false),
        ];
        let (special, allow) = (self.add_special, self.allow_control_tokens);
        let (tokens, straddling) = encode(tokenizer, parts, special, allow, vocab_size)?;
        let [prefix, document, query, tail] = tokens;
        if document.is_empty() {
            return Err(PromptError::EmptyDocument);
        }
        Ok(PromptSplit {
            prefix,
            document,
            query,
            tail,
            exact: straddling.is_none(),
            first_difference: straddling,
        })
    }
}

impl PromptSplit {
    /// All tokens, in order.
    pub fn ids(&self) -> Vec<u32> {
        [
            self.prefix.as_slice(),
            &self.document,
            &self.query,
            &self.tail,
        ]
        .concat()
    }

    /// How many tokens there are in all.
    pub fn len(&self) -> usize {
        self.prefix.len() + self.document.len() + self.query.len() + self.tail.len()
    }

    /// Whether there are none; a split has at least one of the document.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A text of a prompt, and whether it is of the user, or the model, and not of the template.
pub(super) type Part<'t> = (&'t str, bool);

/// Encodes the parts as one text and cuts it at their ends. Returns the tokens of each part, and the
/// index of the first token that lies across two of them.
fn encode<const N: usize>(
    tokenizer: &Tokenizer,
    parts: [Part<'_>; N],
    add_special: bool,
    allow_control_tokens: bool,
    vocab_size: usize,
) -> Result<([Vec<u32>; N], Option<usize>), PromptError> {
    let allow = allow_control_tokens;
    let (mut tokens, straddling) = encode_parts(tokenizer, &parts, add_special, allow, vocab_size)?;
    let tokens =
        std::array::from_fn(|at| tokens.get_mut(at).map(std::mem::take).unwrap_or_default());
    Ok((tokens, straddling))
}

/// As [`encode`], of any number of parts.
pub(super) fn encode_parts(
    tokenizer: &Tokenizer,
    parts: &[Part<'_>],
    add_special: bool,
    allow_control_tokens: bool,
    vocab_size: usize,
) -> Result<(Vec<Vec<u32>>, Option<usize>), PromptError> {
    let mut pieces = Vec::with_capacity(parts.len());
    for &(text, of_user) in parts {
        pieces.push(match of_user && !allow_control_tokens {
            true => TextPiece::Literal(text),
            false => TextPiece::Template(text),
        });
    }
    let encoded = tokenizer.encode_pieces(&pieces, add_special)?;
    let ids = &encoded.ids;
    if let Some(index) = ids.iter().position(|&id| id as usize >= vocab_size) {
        return Err(PromptError::BeyondVocabulary {
            id: ids[index],
            index,
            vocab_size,
        });
    }
    let mut straddling = None;
    let (mut end, mut start) = (0, 0);
    let mut at = 0;
    let tokens = parts.iter().map(|(text, _)| {
        (at, end) = (at + 1, end + text.len());
        let first = encoded.spans.partition_point(|&(_, last)| last <= end);
        let stop = match at < parts.len() {
            true => first + encoded.special_before,
            false => ids.len(),
        };
        if at < parts.len() && encoded.spans.get(first).is_some_and(|span| span.0 < end) {
            straddling = straddling.or(Some(stop));
        }
        let tokens = ids.get(start..stop).unwrap_or_default().to_vec();
        start = stop;
        tokens
    });
    let tokens = tokens.collect();
    Ok((tokens, straddling))
}

pub(super) fn checked_question(question: &str) -> Result<&str, PromptError> {
    match question.trim() {
        "" => Err(PromptError::EmptyQuestion),
        question => Ok(question),
    }
}

/// Why a prompt cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// The document is empty or white space.
    #[error("the document is empty: there is nothing to read in it")]
    EmptyDocument,
    /// The question is empty or white space.
    #[error("the question is empty: say what to find out")]
    EmptyQuestion,
    /// The chat template does not render.
    #[error(transparent)]
    Template(#[from] ChatTemplateError),
    /// The chat template gives the user's text back changed, several times or not at all.
    #[error(
        "the chat template does not hold the user's text once and unchanged, so the document cannot \
         be told apart from the rest; use another template, or none"
    )]
    Altered,
    /// Something for a chat template, where there is none.
    #[error(
        "{what} needs a chat template, and this prompt has none; leave it out, or give a template \
         (--chat-template FILE)"
    )]
    NoTemplate {
        /// What was given.
        what: &'static str,
    },
    /// The chat template changes what was said in earlier turns of a conversation, or what stands before the document.
    #[error(
        "the chat template does not hold earlier turns of the conversation unchanged; ask each question by itself \
         (in `apb chat`: --no-history)"
    )]
    AlteredTurns,
    /// The text cannot be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A token of the text is not in the model's vocabulary.
    #[error(
        "token {index} of the prompt has the id {id}, but the model has {vocab_size} tokens: the \
         tokenizer is another model's"
    )]
    BeyondVocabulary {
        /// The id.
        id: u32,
        /// Its place in the prompt.
        index: usize,
        /// How many tokens the model has.
        vocab_size: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::super::tokenizer::samples;
    use super::*;
    use proptest::prelude::*;

    fn chat(source: &str) -> Result<PromptTemplate, PromptError> {
        let template = ChatTemplate::parse(source)
            .unwrap()
            .with_special_token("bos_token", "<s>");
        PromptTemplate::from_chat(&template, Some("Be brief."), &RenderOptions::default())
    }

    const KEEPS: &str = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]\n{{ m.content }}\
                         <|end|>{% endfor %}{% if add_generation_prompt %}[a]\n{% endif %}";

    #[test]
    fn a_chat_template_is_split_at_document_and_question() {
        let template = chat(KEEPS).unwrap();
        assert_eq!(template.prefix(), "<s>[system]\nBe brief.<|end|>[user]\n");
        assert_eq!(template.tail(), "<|end|>[a]\n");
        let parts = template.parts(" A text.\n", "\tWhat?\n").unwrap();
        assert_eq!(parts.document, " A text.\n\n\n");
        assert_eq!(parts.query, "What?");
        assert!(!parts.add_special);
    }

    #[test]
    fn what_the_template_strips_is_stripped() {
        for filter in [" | trim", ".strip()", ".lstrip()"] {
            let source = KEEPS.replace("m.content", &format!("m.content{filter}"));
            let parts = chat(&source)
                .unwrap()
                .parts("\n A text. \n", "What?")
                .unwrap();
            assert_eq!(parts.document, "A text. \n\n\n", "{filter}");
        }
    }

    #[test]
    fn templates_that_change_the_text_are_refused() {
        for change in [
            "m.content | upper",
            "m.content | tojson",
            "m.content | replace('\\n', ' ')",
            "m.content | e",
            "m.content[:10]",
            "m.content ~ m.content",
            "m.role",
            "' '.join(m.content.split())",
            "m.content if m.content[0] != '\\n' else 'x' ~ m.content",
        ] {
            let error = chat(&KEEPS.replace("m.content", change)).unwrap_err();
            assert!(matches!(error, PromptError::Altered), "{change}: {error}");
        }
        let error = chat("{{ raise_exception('no system prompt') }}").unwrap_err();
        assert!(error.to_string().contains("no system prompt"));
    }

    #[test]
    fn empty_texts_are_refused() {
        let template = PromptTemplate::plain();
        for empty in ["", " ", "\n\t\u{a0}\u{3000}"] {
            let error = template.parts(empty, "What?").unwrap_err();
            assert!(matches!(error, PromptError::EmptyDocument));
            let error = template.parts("A text.", empty).unwrap_err();
            assert!(matches!(error, PromptError::EmptyQuestion));
            let tokenizer = samples::byte_level();
            let error = template.split_query(&tokenizer, empty, 301).unwrap_err();
            assert!(matches!(error, PromptError::EmptyQuestion));
        }
    }

    #[test]
    fn pieces_are_cut_where_they_meet() {
        let tokenizer = samples::byte_level();
        let template = chat(KEEPS).unwrap();
        let parts = template.parts("A th.", "What?").unwrap();
        let split = parts.split(&tokenizer, 301).unwrap();
        assert_eq!(split.ids(), tokenizer.encode(&parts.text(), false).unwrap());
        assert_eq!(split.len(), split.ids().len());
        let text = |ids: &[u32]| tokenizer.decode(ids, false).unwrap();
        assert_eq!(text(&split.prefix), parts.prefix);
        assert_eq!(text(&split.document), "A th.\n\n");
        assert_eq!(text(&split.query), "What?");
        assert_eq!(text(&split.tail), parts.tail);
        assert_eq!((split.exact, split.first_difference), (true, None));
        assert_eq!(split.prefix[0], 261);
        assert_eq!(split.tail[0], 300);

        let again = template.split_query(&tokenizer, " What?", 301).unwrap();
        assert_eq!((again.query, again.tail), (split.query, split.tail));
        assert!(again.exact);

        let error = parts.split(&tokenizer, 300).unwrap_err();
        assert!(
            matches!(error, PromptError::BeyondVocabulary { id: 300, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_base_model_gets_the_tokenizers_special_tokens() {
        let tokenizer = samples::byte_level();
        let parts = PromptTemplate::plain().parts("A th.", "What?").unwrap();
        let split = parts.split(&tokenizer, 301).unwrap();
        assert_eq!(split.prefix, [261]);
        assert_eq!(
            split.ids(),
            tokenizer.encode("A th.\n\nWhat?", true).unwrap()
        );
        assert!(split.tail.is_empty() && split.exact);
        let again = PromptTemplate::plain().split_query(&tokenizer, "What?", 301);
        assert_eq!(again.unwrap().query, split.query);
    }

    /// The line end that opens the user's turn and the document's own make one token.
    #[test]
    fn a_token_across_two_pieces_is_reported() {
        let tokenizer = samples::byte_level();
        let parts = chat(KEEPS).unwrap().parts("\nA th.", "What?").unwrap();
        let split = parts.split(&tokenizer, 301).unwrap();
        assert!(!split.exact);
        assert_eq!(split.first_difference, Some(split.prefix.len()));
        assert_eq!(split.ids(), tokenizer.encode(&parts.text(), false).unwrap());
        assert_eq!(
            tokenizer.decode(&split.document[..1], false).unwrap(),
            "\n\n"
        );
    }

    proptest! {
        /// Whatever the texts, the pieces are the whole; and where the split is exact, each piece
        /// is its own text.
        #[test]
        fn pieces_are_the_whole(
            document in "[a-c\u{e9}\u{20ac} .\nth]{1,20}",
            question in "[a-c\u{e9}\u{20ac} .\nth]{1,10}",
            plain: bool,
            fallback: bool,
        ) {
            prop_assume!(!document.trim().is_empty() && !question.trim().is_empty());
            let tokenizer = if fallback { samples::byte_fallback() } else { samples::byte_level() };
            let template = if plain { PromptTemplate::plain() } else { chat(KEEPS).unwrap() };
            let parts = template.parts(&document, &question).unwrap();
            let split = parts.split(&tokenizer, 1000).unwrap();
            let whole = tokenizer.encode(&parts.text(), parts.add_special).unwrap();
            prop_assert_eq!(split.ids(), whole);
            if split.exact && !fallback {
                let text = |ids: &[u32]| tokenizer.decode(ids, plain).unwrap();
                prop_assert_eq!(text(&split.document), parts.document);
                prop_assert_eq!(text(&split.query), parts.query);
                let again = template.split_query(&tokenizer, &question, 1000).unwrap();
                prop_assert_eq!((again.query, again.tail), (split.query, split.tail));
            }
        }
    }
}
