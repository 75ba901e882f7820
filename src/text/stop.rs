//! Stop tokens and stop texts.

use super::chat_template::{ChatMessage, ChatTemplate, RenderOptions};
use super::tokenizer::Tokenizer;

/// Where a stop token comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StopSource {
    /// `generation_config.json`, or `config.json` where that names none; of a GGUF file, its end
    /// tokens.
    GenerationConfig,
    /// The tokenizer's `eos_token`.
    Tokenizer,
    /// The chat template, which ends an assistant's turn with it.
    ChatTemplate,
    /// The options of the request.
    Request,
}

impl StopSource {
    /// The name used in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::GenerationConfig => "generation_config",
            Self::Tokenizer => "tokenizer",
            Self::ChatTemplate => "chat_template",
            Self::Request => "request",
        }
    }
}

/// A token that ends an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopToken {
    /// Its id.
    pub id: u32,
    /// Where it comes from.
    pub source: StopSource,
}

/// What ended an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stop {
    /// A token, which is no part of the answer.
    Token {
        /// The token and where it comes from.
        token: StopToken,
        /// As the vocabulary spells it.
        text: String,
    },
    /// A text; the answer ends before it.
    Text(String),
}

/// The stop tokens of a model: those of its generation configuration, its tokenizer's `eos_token`,
/// and the token with which its chat template ends an assistant's turn.
pub(crate) fn of_model(
    configured: &[u32],
    eos_token: Option<&str>,
    template: Option<&ChatTemplate>,
    tokenizer: &Tokenizer,
    vocab_size: usize,
) -> Vec<StopToken> {
    let mut tokens = Vec::new();
    for &id in configured {
        add(&mut tokens, id, StopSource::GenerationConfig, vocab_size);
    }
    if let Some(id) = eos_token.and_then(|text| tokenizer.token_id(text)) {
        add(&mut tokens, id, StopSource::Tokenizer, vocab_size);
    }
    add_end_of_turn(&mut tokens, template, tokenizer, vocab_size);
    tokens
}

/// Adds the token with which a chat template ends an assistant's turn.
pub(crate) fn add_end_of_turn(
    tokens: &mut Vec<StopToken>,
    template: Option<&ChatTemplate>,
    tokenizer: &Tokenizer,
    vocab_size: usize,
) {
    if let Some(id) = template.and_then(|template| end_of_turn(template, tokenizer)) {
        add(tokens, id, StopSource::ChatTemplate, vocab_size);
    }
}

/// Adds a token that the model has and that is not there yet.
fn add(tokens: &mut Vec<StopToken>, id: u32, source: StopSource, vocab_size: usize) {
    if (id as usize) < vocab_size && tokens.iter().all(|token| token.id != id) {
        tokens.push(StopToken { id, source });
    }
}

/// The special token that follows an assistant's text in a rendered conversation, at most white
/// space between.
fn end_of_turn(template: &ChatTemplate, tokenizer: &Tokenizer) -> Option<u32> {
    const ANSWER: &str = "\u{e004}Answer\u{e005}";
    let messages = [
        ChatMessage::new("user", "Question"),
        ChatMessage::new("assistant", ANSWER),
    ];
    let rendered = template.render(&messages, &RenderOptions::default()).ok()?;
    let (_, after) = rendered.rsplit_once(ANSWER)?;
    let ids = tokenizer.encode(after.trim_start(), false).ok()?;
    let id = ids.first().copied();
    id.filter(|&id| tokenizer.is_added(id))
}

/// Finds stop texts in an answer that comes in pieces.
///
/// The output never contains a stop text, nor the beginning of one that may still be completed.
/// The text that is completed first counts, whatever the pieces.
#[derive(Debug, Clone)]
pub struct StopTexts {
    texts: Vec<String>,
    /// The end of the answer that may be the beginning of a stop text.
    pending: String,
}

impl StopTexts {
    /// Looks for `texts`; empty ones are left out.
    pub fn new(texts: &[String]) -> Self {
        Self {
            texts: texts.iter().filter(|t| !t.is_empty()).cloned().collect(),
            pending: String::new(),
        }
    }

    /// Takes the next piece. Returns the text that can be output, and the stop text that ends the
    /// answer after it.
    pub fn push(&mut self, piece: &str) -> (String, Option<&str>) {
        self.pending.push_str(piece);
        let found = self.texts.iter().filter_map(|text| {
            let start = self.pending.find(text.as_str())?;
            Some((start + text.len(), start, text.as_str()))
        });
        // The first to end; of those, the longest.
        if let Some((_, start, text)) = found.min() {
            self.pending.truncate(start);
            return (std::mem::take(&mut self.pending), Some(text));
        }
        let kept = self
            .pending
            .char_indices()
            .map(|(at, _)| at)
            .find(|&at| {
                self.texts
                    .iter()
                    .any(|t| t.starts_with(&self.pending[at..]))
            })
            .unwrap_or(self.pending.len());
        let rest = self.pending.split_off(kept);
        (std::mem::replace(&mut self.pending, rest), None)
    }

    /// Returns the rest at the end of the answer.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.pending)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tokenizer::samples;
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<String>) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut texts = StopTexts::new(&stops);
        let mut out = String::new();
        for piece in pieces {
            let (text, stop) = texts.push(piece);
            out.push_str(&text);
            if let Some(stop) = stop {
                return (out, Some(stop.to_owned()));
            }
        }
        out.push_str(&texts.finish());
        (out, None)
    }

    #[test]
    fn a_stop_text_ends_an_answer_before_it() {
        let stop = |text: &str, stop: &str| (text.to_owned(), Some(stop.to_owned()));
        assert_eq!(run(&["\n\n"], &["a\n", "\nb"]), stop("a", "\n\n"));
        assert_eq!(run(&["END"], &["xE", "N", "Dy"]), stop("x", "END"));
        assert_eq!(run(&["END"], &["xE", "Nd"]), ("xENd".to_owned(), None));
        assert_eq!(run(&["abc", "b"], &["xab", "c"]), stop("xa", "b"));
        assert_eq!(run(&["aab"], &["aa", "ab"]), stop("a", "aab"));
        assert_eq!(run(&["", "é"], &["né"]), stop("n", "é"));
        assert_eq!(run(&[], &["a", "b"]), ("ab".to_owned(), None));
        assert_eq!(run(&["bc", "abc"], &["xabc"]), stop("x", "abc"));
    }

    proptest! {
        /// However an answer is cut, the same comes of it.
        #[test]
        fn pieces_do_not_matter(
            text in "[abé]{0,20}",
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let mut ends: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
            ends.push(text.len());
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| ends[cut.index(ends.len())]).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();
            let (out, stop) = run(&stops, &pieces);
            prop_assert_eq!((&out, &stop), (&run(&stops, &[&text]).0, &run(&stops, &[&text]).1));
            prop_assert!(text.starts_with(&out));
            prop_assert!(stops.iter().all(|s| !out.contains(s)));
            match stop {
                Some(stop) => prop_assert!(text[out.len()..].starts_with(&stop)),
                None => prop_assert_eq!(out, text),
            }
        }
    }

    #[test]
    fn the_token_after_an_assistants_text_is_found() {
        let tokenizer = samples::byte_level();
        let ends = |source: &str| {
            let template = ChatTemplate::parse(source).unwrap();
            of_model(&[], None, Some(&template), &tokenizer, 301)
        };
        let turn = |id| {
            vec![StopToken {
                id,
                source: StopSource::ChatTemplate,
            }]
        };
        let each = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}TAIL{% endfor %}";
        assert_eq!(ends(&each.replace("TAIL", "<|end|>\n")), turn(300));
        assert_eq!(ends(&each.replace("TAIL", " \n<|end|>")), turn(300));
        assert!(ends(&each.replace("TAIL", "\n###")).is_empty());
        assert!(ends(&each.replace("TAIL", "")).is_empty());
        assert!(ends("{{ raise_exception('no') }}").is_empty());

        let template = ChatTemplate::parse(&each.replace("TAIL", "<|end|>")).unwrap();
        let all = of_model(&[5, 300], Some("<s>"), Some(&template), &tokenizer, 301);
        let ids: Vec<(u32, &str)> = all.iter().map(|t| (t.id, t.source.name())).collect();
        assert_eq!(
            ids,
            [
                (5, "generation_config"),
                (300, "generation_config"),
                (261, "tokenizer")
            ]
        );
    }
}
