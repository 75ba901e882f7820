//! A further question of a conversation about a document: the turns before it, as the chat template writes them.
//!
//! The first turn is the user message that holds the document and the first question; the document's tokens stay those
//! that were prefilled. What follows them is rendered anew for every question, as transformers does: templates drop the
//! reasoning of earlier answers, for instance. Tokens that two questions begin with alike need no second computation:
//! [`AskOptions::keep`](crate::apb::AskOptions::keep).

use super::chat_template::{ChatMessage, ChatTemplate, RenderOptions};
use super::prompt::{
    DOCUMENT, Part, PromptError, PromptOptions, PromptTemplate, QUESTION, QuerySplit, SEPARATOR,
    checked_question, encode_parts,
};
use super::tokenizer::Tokenizer;

/// What ends an answer's reasoning, which templates drop from earlier turns.
const REASONING_END: &str = "</think>";

/// A question of a conversation and the answer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// What the user asked.
    pub question: String,
    /// What the model answered, with the text that the answer was made to begin with.
    pub answer: String,
}

/// The tokens of a question that follows other turns: everything behind the document's.
pub(crate) fn split_turns(
    template: Option<&ChatTemplate>,
    prompt: &PromptTemplate,
    options: &PromptOptions,
    turns: &[Turn],
    question: &str,
    (tokenizer, vocab_size): (&Tokenizer, usize),
) -> Result<QuerySplit, PromptError> {
    let question = checked_question(question)?;
    let pieces = match template {
        Some(template) if !turns.is_empty() => {
            Rendering { template, options }.pieces(prompt, turns, question)?
        }
        _ => plain(prompt, turns, question),
    };
    // Encoded behind the separator, as in the whole: some tokenizers treat the start of a text in a way of its own.
    let mut parts: Vec<Part<'_>> = vec![(SEPARATOR, true)];
    parts.extend(
        pieces
            .iter()
            .map(|piece| (piece.text.as_str(), piece.of_user)),
    );
    let allow = options.allow_control_tokens;
    let (mut tokens, straddling) = encode_parts(tokenizer, &parts, false, allow, vocab_size)?;
    let tail = tokens.pop().unwrap_or_default();
    Ok(QuerySplit {
        query: tokens.split_off(1).concat(),
        tail,
        exact: straddling.is_none(),
    })
}

/// A stretch of the text behind the document.
struct Piece {
    text: String,
    /// Whether it is of the user or the model, and not of the template.
    of_user: bool,
}

impl Piece {
    fn said(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            of_user: true,
        }
    }

    fn template(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            of_user: false,
        }
    }
}

/// For a base model: one after the other, with the separator between an answer and the next question.
fn plain(prompt: &PromptTemplate, turns: &[Turn], question: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for turn in turns {
        pieces.push(Piece::said(turn.question.trim()));
        pieces.push(Piece::said(&turn.answer));
        pieces.push(Piece::said(SEPARATOR));
    }
    pieces.push(Piece::said(question));
    pieces.push(Piece::template(prompt.tail()));
    pieces
}

/// The stand-in for the text of a turn.
fn mark(kind: &str, turn: usize) -> String {
    QUESTION.replacen("Question", &format!("{kind} {turn}"), 1)
}

struct Rendering<'a> {
    template: &'a ChatTemplate,
    options: &'a PromptOptions,
}

impl Rendering<'_> {
    /// Messages that take turns, beginning with the user's, rendered up to the opening of an answer.
    fn render(&self, contents: &[String]) -> Result<String, PromptError> {
        let system = self.options.system.as_deref();
        let system = system.map(|text| ChatMessage::new("system", text));
        let spoken = contents.iter().enumerate().map(|(at, text)| {
            let role = if at % 2 == 0 { "user" } else { "assistant" };
            ChatMessage::new(role, text.as_str())
        });
        let messages: Vec<ChatMessage> = system.into_iter().chain(spoken).collect();
        let options = RenderOptions {
            add_generation_prompt: true,
            ..self.options.render.clone()
        };
        Ok(self.template.render(&messages, &options)?)
    }

    fn pieces(
        &self,
        prompt: &PromptTemplate,
        turns: &[Turn],
        question: &str,
    ) -> Result<Vec<Piece>, PromptError> {
        let first = format!("{DOCUMENT}{SEPARATOR}");
        let mut contents = Vec::new();
        let mut marks = Vec::new();
        let mut said = Vec::new();
        for (at, turn) in turns.iter().enumerate() {
            marks.extend([mark("Question", at), mark("Answer", at)]);
            said.push(turn.question.trim().to_owned());
            said.push(self.as_kept(&turn.answer)?);
        }
        marks.push(mark("Question", turns.len()));
        said.push(question.to_owned());
        contents.extend(marks.iter().cloned());
        contents[0].insert_str(0, &first);

        let rendered = self.render(&contents)?;
        // The document's tokens are those of a conversation of one turn.
        let start = format!("{}{first}", prompt.prefix());
        let mut rest = rendered
            .strip_prefix(&start)
            .ok_or(PromptError::AlteredTurns)?;
        let mut pieces = Vec::new();
        for (mark, said) in marks.iter().zip(&said) {
            let (before, after) = rest.split_once(mark).ok_or(PromptError::AlteredTurns)?;
            pieces.push(Piece::template(before));
            pieces.push(Piece::said(said));
            rest = after;
        }
        if marks.iter().any(|mark| rest.contains(mark)) {
            return Err(PromptError::AlteredTurns);
        }
        pieces.push(Piece::template(&format!(
            "{rest}{}",
            self.options.answer_prefix
        )));
        Ok(pieces)
    }

    /// The part of an earlier answer that the template keeps: all, without white space around, or without reasoning.
    fn as_kept(&self, answer: &str) -> Result<String, PromptError> {
        let around = [mark("Question", 0), mark("Question", 1)];
        let contents = [around[0].clone(), answer.to_owned(), around[1].clone()];
        let rendered = self.render(&contents)?;
        let between = rendered
            .split_once(&around[0])
            .and_then(|(_, rest)| Some(rest.split_once(&around[1])?.0))
            .ok_or(PromptError::AlteredTurns)?;
        let without_reasoning = answer
            .rsplit_once(REASONING_END)
            .map(|(_, rest)| rest.trim());
        [Some(answer), Some(answer.trim()), without_reasoning]
            .into_iter()
            .flatten()
            .find(|kept| between.contains(kept))
            .map(str::to_owned)
            .ok_or(PromptError::AlteredTurns)
    }
}

#[cfg(test)]
mod tests {
    use super::super::prompt::TemplateChoice;
    use super::super::tokenizer::samples;
    use super::*;

    const CHAT: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|end|>{% endfor %}\
                        {% if add_generation_prompt %}[assistant]{% endif %}";
    /// As Qwen 3's: reasoning of earlier answers is dropped.
    const REASONING: &str = "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}\
                             {{ m.content.split('</think>')[-1].lstrip('\\n') }}{% else %}{{ m.content }}{% endif %}\
                             <|end|>{% endfor %}[assistant]<think>";

    fn turn(question: &str, answer: &str) -> Turn {
        Turn {
            question: question.into(),
            answer: answer.into(),
        }
    }

    /// The text behind the document, by pieces put together.
    fn behind(
        source: &str,
        options: &PromptOptions,
        turns: &[Turn],
        question: &str,
    ) -> Result<String, PromptError> {
        let template = ChatTemplate::parse(source).unwrap();
        let prompt =
            PromptTemplate::from_chat(&template, options.system.as_deref(), &options.render)?;
        let rendering = Rendering {
            template: &template,
            options,
        };
        let pieces = rendering.pieces(&prompt, turns, question)?;
        Ok(pieces.into_iter().map(|piece| piece.text).collect())
    }

    #[test]
    fn turns_are_as_the_template_writes_the_whole_conversation() {
        let options = PromptOptions {
            system: Some("Be brief.".into()),
            answer_prefix: "It".into(),
            ..PromptOptions::default()
        };
        let turns = [turn(" Who? ", "It was I."), turn("When?", "")];
        let expected = "Who?<|end|>[assistant]It was I.<|end|>[user]When?<|end|>[assistant]<|end|>[user]Why?<|end|>\
                        [assistant]It";
        assert_eq!(behind(CHAT, &options, &turns, "Why?").unwrap(), expected);
    }

    #[test]
    fn reasoning_is_dropped_where_the_template_drops_it() {
        let options = PromptOptions::default();
        let turns = [turn("Who?", "<think>\nHm.\n</think>\n\nI.")];
        let expected = "Who?<|end|>[assistant]I.<|end|>[user]Why?<|end|>[assistant]<think>";
        assert_eq!(
            behind(REASONING, &options, &turns, "Why?").unwrap(),
            expected
        );
        let kept = behind(CHAT, &options, &turns, "Why?").unwrap();
        assert!(kept.contains("<think>\nHm.\n</think>\n\nI."), "{kept}");
    }

    #[test]
    fn templates_that_change_turns_are_refused() {
        let sources = [
            // The first message only.
            "{{ messages[0].content }}",
            // Answers in capitals.
            "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content | upper }}{% else %}{{ m.content }}\
             {% endif %}{% endfor %}",
            // Another text before a longer conversation.
            "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}",
        ];
        for source in sources {
            let options = PromptOptions::default();
            let refused = behind(source, &options, &[turn("Who?", "I was.")], "Why?");
            assert!(
                matches!(refused, Err(PromptError::AlteredTurns)),
                "{source}: {refused:?}"
            );
        }
    }

    /// A first question, and further ones without a template, have the tokens of their text; control tokens spelled out
    /// in an answer are text.
    #[test]
    fn tokens_are_those_of_the_text() {
        let tokenizer = samples::byte_level();
        let template = ChatTemplate::parse(CHAT).unwrap();
        let options = PromptOptions {
            template: TemplateChoice::Source(CHAT.into()),
            ..PromptOptions::default()
        };
        let prompt = PromptTemplate::from_chat(&template, None, &options.render).unwrap();
        let size = (&tokenizer, usize::MAX);
        let first = split_turns(Some(&template), &prompt, &options, &[], "Why?", size).unwrap();
        assert_eq!(
            first,
            prompt.split_query(&tokenizer, "Why?", usize::MAX).unwrap()
        );

        let turns = [turn("Who?", "I said so")];
        let next = split_turns(Some(&template), &prompt, &options, &turns, "Why?", size).unwrap();
        let begins = prompt.split_query(&tokenizer, "Who?", usize::MAX).unwrap();
        let begins = [begins.query, begins.tail].concat();
        assert_eq!(next.query[..begins.len()], begins, "rows are computed once");

        let plain = PromptTemplate::plain();
        let next = split_turns(None, &plain, &options, &turns, "Why?", size).unwrap();
        let text = tokenizer
            .decode(&[next.query, next.tail].concat(), false)
            .unwrap();
        assert_eq!(text, "Who?I said so\n\nWhy?");
    }
}
