//! Text that may not become a control token: what a user writes is text, whatever it spells.

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::AddedToken;

use super::{EncodedText, Tokenizer, TokenizerError, encode_error, guard};

/// A part of a text, by who wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextPiece<'a> {
    /// Of the chat template: control tokens spelled in it are control tokens.
    Template(&'a str),
    /// Of a document, a question or a message: control tokens spelled in it are text.
    Literal(&'a str),
}

/// Encodes text in which no control token is recognised. The template's own are written as
/// stand-ins: tokens of the same kind under texts that nobody writes.
pub(super) struct Strict {
    inner: tokenizers::Tokenizer,
    /// Begins and ends the text of a stand-in.
    mark: char,
    /// The id of the first stand-in; the others follow.
    first: u32,
    /// What the stand-ins stand for.
    tokens: Vec<u32>,
}

/// Finds the texts of control tokens.
pub(super) struct Spellings {
    texts: AhoCorasick,
    ids: Vec<u32>,
}

/// A control token in a text that stands there by right.
struct Own {
    place: Range<usize>,
    token: u32,
}

/// Where a stand-in stands, and where what it stands for stood.
struct Moved {
    new: Range<usize>,
    old: Range<usize>,
}

/// Text of one writer.
struct Stretch {
    place: Range<usize>,
    literal: bool,
}

/// The first of the characters that marks are taken from: Unicode keeps 32 of them, and more of
/// private use, free of any meaning.
const FIRST_MARK: char = '\u{fdd0}';

impl Tokenizer {
    /// Names further control tokens by their ids: stop tokens, and what a chat template itself
    /// writes. Special tokens are control tokens already.
    #[must_use]
    pub fn with_control_tokens(mut self, ids: impl IntoIterator<Item = u32>) -> Self {
        self.control.extend(ids);
        self.strict.take();
        self.spellings.take();
        self
    }

    /// Whether `id` is a control token: a special token, or one that was named.
    pub fn is_control(&self, id: u32) -> bool {
        self.control.contains(&id)
    }

    /// As [`encode_with_spans`](Self::encode_with_spans) of all the pieces in a row, except that
    /// control tokens that are spelled out in a [`TextPiece::Literal`], be it in a part, are text,
    /// as with transformers' `split_special_tokens`. Spans count from the start of the first piece.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Encode`].
    pub fn encode_pieces(
        &self,
        pieces: &[TextPiece<'_>],
        add_special: bool,
    ) -> Result<EncodedText, TokenizerError> {
        let (text, stretches) = join(pieces);
        let encoding = guard(|| self.inner.encode(text.as_str(), false)).map_err(encode_error)?;
        let spans = encoding.get_offsets().to_vec();
        let controls: Vec<Own> = self.controls(&text, encoding.get_ids(), &spans);
        if controls.iter().all(|own| by_right(own, &stretches)) {
            return self.finish(encoding, spans, add_special);
        }
        drop((encoding, spans));

        let own = self.own_tokens(&text, &stretches, controls)?;
        let made;
        let strict = match free_mark(&text) {
            None => {
                return Err(encode_error(
                    "it uses every character that has no meaning".to_owned(),
                ));
            }
            Some(FIRST_MARK) => match self.strict.get() {
                Some(strict) => strict,
                None => {
                    let strict = self.strict(FIRST_MARK)?;
                    self.strict.get_or_init(|| strict)
                }
            },
            Some(mark) => {
                made = self.strict(mark)?;
                &made
            }
        };
        self.encode_strictly(strict, &text, &own, add_special)
    }

    /// How often each control token is spelled out in a text, in the order of their ids.
    pub fn control_tokens_in(&self, text: &str) -> Vec<(u32, usize)> {
        let spellings = self.spellings.get_or_init(|| {
            let tokens = self.control_texts();
            let texts = tokens.iter().map(|(_, token)| token.content.as_str());
            let texts = AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(texts)
                .ok()?;
            let ids = tokens.iter().map(|(id, _)| *id).collect();
            Some(Spellings { texts, ids })
        });
        let Some(spellings) = spellings else {
            return Vec::new();
        };
        let mut counts = vec![0; spellings.ids.len()];
        for found in spellings.texts.find_iter(text) {
            counts[found.pattern().as_usize()] += 1;
        }
        let counts = spellings.ids.iter().copied().zip(counts);
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// The control tokens that a text can spell, in the order of their ids.
    fn control_texts(&self) -> Vec<(u32, &AddedToken)> {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        let control = added.iter().filter(|(id, _)| self.control.contains(id));
        let mut control: Vec<_> = control.map(|(id, token)| (*id, token)).collect();
        control.sort_unstable_by_key(|(id, _)| *id);
        control
    }

    fn added_token(&self, id: u32) -> Option<&AddedToken> {
        let added = self.inner.get_added_vocabulary();
        added.get_added_tokens_decoder().get(&id)
    }

    /// The control tokens among the tokens of a text, without the white space that some take along.
    fn controls(&self, text: &str, ids: &[u32], spans: &[(usize, usize)]) -> Vec<Own> {
        let mut controls = Vec::new();
        for (&token, &(start, end)) in ids.iter().zip(spans) {
            if !self.control.contains(&token) {
                continue;
            }
            let content = self.added_token(token).map(|token| token.content.as_str());
            let within = text.get(start..end).zip(content);
            let place =
                match within.and_then(|(text, content)| Some((text.find(content)?, content))) {
                    Some((at, content)) => start + at..start + at + content.len(),
                    None => start..end,
                };
            controls.push(Own { place, token });
        }
        controls
    }

    /// The control tokens of the template: those that it spells by itself, and those that are
    /// recognised only after normalisation, which goes by the whole text.
    fn own_tokens(
        &self,
        text: &str,
        stretches: &[Stretch],
        mut recognised: Vec<Own>,
    ) -> Result<Vec<Own>, TokenizerError> {
        let normalized = |own: &Own| self.added_token(own.token).map(|token| token.normalized);
        recognised.retain(|own| normalized(own) == Some(true) && by_right(own, stretches));
        let mut own = recognised;
        for stretch in stretches.iter().filter(|stretch| !stretch.literal) {
            let part = &text[stretch.place.clone()];
            let encoding = guard(|| self.inner.encode(part, false)).map_err(encode_error)?;
            for control in self.controls(part, encoding.get_ids(), encoding.get_offsets()) {
                if normalized(&control) == Some(false) {
                    let start = stretch.place.start;
                    own.push(Own {
                        place: start + control.place.start..start + control.place.end,
                        ..control
                    });
                }
            }
        }
        own.sort_by_key(|own| own.place.start);
        Ok(own)
    }

    fn strict(&self, mark: char) -> Result<Strict, TokenizerError> {
        let control = self.control_texts();
        let mut inner = self.inner.clone();
        let mut added: Vec<AddedToken> = control
            .iter()
            .map(|(_, token)| AddedToken::clone(token).special(true))
            .collect();
        let stand_ins = control
            .iter()
            .enumerate()
            .map(|(index, (_, token))| AddedToken {
                content: stand_in(mark, index),
                special: false,
                ..AddedToken::clone(token)
            });
        added.extend(stand_ins);
        guard(|| inner.add_tokens(added)).map_err(encode_error)?;
        inner.set_encode_special_tokens(true);
        let first = inner.token_to_id(&stand_in(mark, 0)).unwrap_or(u32::MAX);
        Ok(Strict {
            inner,
            mark,
            first,
            tokens: control.iter().map(|(id, _)| *id).collect(),
        })
    }

    fn encode_strictly(
        &self,
        strict: &Strict,
        text: &str,
        own: &[Own],
        add_special: bool,
    ) -> Result<EncodedText, TokenizerError> {
        let mut written = String::with_capacity(text.len());
        let mut moved: Vec<Moved> = Vec::with_capacity(own.len());
        let mut done = 0;
        for Own { place, token } in own {
            let index = strict.tokens.binary_search(token);
            let (Ok(index), true) = (index, place.start >= done) else {
                continue;
            };
            written.push_str(&text[done..place.start]);
            let start = written.len();
            written.push_str(&stand_in(strict.mark, index));
            moved.push(Moved {
                new: start..written.len(),
                old: place.clone(),
            });
            done = place.end;
        }
        written.push_str(&text[done..]);

        let encoding = guard(|| strict.inner.encode(written.as_str(), false));
        let encoding = encoding.map_err(encode_error)?;
        let stands_in = |id: &u32| *id >= strict.first;
        if encoding.get_ids().iter().filter(|id| stands_in(id)).count() != moved.len() {
            return Err(encode_error(
                "a control token of the template was not recognised".to_owned(),
            ));
        }
        let spans = encoding.get_offsets().iter();
        let spans = spans.map(|&(start, end)| (place(start, &moved), place(end, &moved)));
        let spans = spans.collect();
        let mut encoded = self.finish(encoding, spans, add_special)?;
        for id in encoded.ids.iter_mut().filter(|id| stands_in(id)) {
            *id = strict.tokens[(*id - strict.first) as usize];
        }
        Ok(encoded)
    }
}

fn stand_in(mark: char, index: usize) -> String {
    format!("{mark}{index}{mark}")
}

/// A character for stand-ins that a text does not use.
fn free_mark(text: &str) -> Option<char> {
    let mut marks = (FIRST_MARK..='\u{fdef}').chain('\u{f0000}'..='\u{ffffd}');
    marks.find(|&mark| !text.contains(mark))
}

/// Where a place of the text with stand-ins is in the text without.
fn place(new: usize, moved: &[Moved]) -> usize {
    let behind = moved.partition_point(|moved| moved.new.start <= new);
    match behind.checked_sub(1).map(|last| &moved[last]) {
        None => new,
        Some(moved) if new >= moved.new.end => moved.old.end + (new - moved.new.end),
        Some(moved) => moved.old.start,
    }
}

/// The whole text, and who wrote which part; neighbours of one writer are one part.
fn join(pieces: &[TextPiece<'_>]) -> (String, Vec<Stretch>) {
    let mut text = String::new();
    let mut stretches: Vec<Stretch> = Vec::new();
    for piece in pieces {
        let (part, literal) = match piece {
            TextPiece::Template(part) => (part, false),
            TextPiece::Literal(part) => (part, true),
        };
        if part.is_empty() {
            continue;
        }
        let start = text.len();
        text.push_str(part);
        match stretches.last_mut() {
            Some(last) if last.literal == literal => last.place.end = text.len(),
            _ => stretches.push(Stretch {
                place: start..text.len(),
                literal,
            }),
        }
    }
    (text, stretches)
}

/// Whether a control token is the template's, all of it.
fn by_right(own: &Own, stretches: &[Stretch]) -> bool {
    let at = stretches.partition_point(|stretch| stretch.place.end <= own.place.start);
    stretches.get(at).is_some_and(|stretch| {
        !stretch.literal
            && stretch.place.start <= own.place.start
            && own.place.end <= stretch.place.end
    })
}

#[cfg(test)]
mod tests {
    use super::TextPiece::{Literal, Template};
    use super::*;
    use crate::model::tokenizer::samples;
    use proptest::prelude::*;

    const END: u32 = 300;
    const START: u32 = 261;

    /// Each token with the text that it stands for.
    fn told(tokenizer: &Tokenizer, pieces: &[TextPiece<'_>]) -> Vec<(u32, String)> {
        let (text, _) = join(pieces);
        let encoded = tokenizer.encode_pieces(pieces, false).unwrap();
        let spans = encoded
            .spans
            .iter()
            .map(|&(start, end)| text[start..end].to_owned());
        encoded.ids.into_iter().zip(spans).collect()
    }

    #[test]
    fn a_control_token_in_a_document_is_text() {
        let tokenizer = samples::byte_level();
        let pieces = [
            Template("<s>"),
            Literal("th<|end|>\n\n"),
            Template("<|end|>x"),
            Literal("<s>"),
        ];
        let told = told(&tokenizer, &pieces);
        let controls = told.iter().filter(|(id, _)| tokenizer.is_control(*id));
        let controls: Vec<_> = controls.map(|(id, text)| (*id, text.as_str())).collect();
        assert_eq!(controls, [(START, "<s>"), (END, "<|end|>")]);
        let whole: String = told.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(whole, "<s>th<|end|>\n\n<|end|>x<s>");
        // "th" and "\n\n" are merged as ever.
        assert_eq!(told[1].1, "th");
        assert_eq!(told.iter().filter(|(_, text)| text == "\n\n").count(), 1);
        let surrounded = tokenizer.encode_pieces(&pieces, true).unwrap();
        assert_eq!((surrounded.special_before, surrounded.ids[0]), (1, START));
        assert_eq!(surrounded.ids.len(), told.len() + 1);
    }

    #[test]
    fn a_token_spelled_across_a_border_is_text() {
        let tokenizer = samples::byte_level();
        for pieces in [
            [Template("<|e"), Literal("nd|>")],
            [Literal("<|en"), Template("d|>")],
        ] {
            assert!(told(&tokenizer, &pieces).iter().all(|(id, _)| *id != END));
        }
        let pieces = [Template("<|e"), Template("nd|>")];
        assert_eq!(told(&tokenizer, &pieces), [(END, "<|end|>".to_owned())]);
    }

    #[test]
    fn named_tokens_are_control_tokens_too() {
        let json = samples::byte_level().inner.to_string(false).unwrap();
        let mut json: serde_json::Value = serde_json::from_str(&json).unwrap();
        json["added_tokens"][1]["special"] = false.into();
        let make = || Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap();
        let pieces = [Literal("a<|end|>"), Template("<|end|>")];
        let ends = |tokenizer: &Tokenizer| {
            let told = told(tokenizer, &pieces);
            told.iter().filter(|(id, _)| *id == END).count()
        };
        assert_eq!(ends(&make()), 2);
        let named = make().with_control_tokens([END]);
        assert_eq!(ends(&named), 1);
        assert_eq!(
            named.control_tokens_in("<|end|><s><|end|>"),
            [(START, 1), (END, 2)]
        );
        assert_eq!(make().control_tokens_in("<|end|>"), []);
    }

    #[test]
    fn a_template_token_takes_white_space_along_as_in_the_whole() {
        let json = samples::byte_level().inner.to_string(false).unwrap();
        let mut json: serde_json::Value = serde_json::from_str(&json).unwrap();
        json["added_tokens"][1]["rstrip"] = true.into();
        let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap();
        let clean = [Template("<|end|>"), Literal("  a")];
        assert_eq!(told(&tokenizer, &clean)[0], (END, "<|end|>  ".to_owned()));
        let spelled = [Template("<|end|>"), Literal("  a<s>")];
        let told = told(&tokenizer, &spelled);
        assert_eq!(told[0], (END, "<|end|>  ".to_owned()));
        assert_eq!(told.len(), 1 + "a<s>".len());
    }

    #[test]
    fn stand_ins_cannot_be_written() {
        let tokenizer = samples::byte_level();
        let document = format!("{}<s>", stand_in(FIRST_MARK, 1));
        let pieces = [Literal(&document), Template("<|end|>")];
        let encoded = tokenizer.encode_pieces(&pieces, false).unwrap();
        assert_eq!(
            encoded
                .ids
                .iter()
                .filter(|id| tokenizer.is_control(**id))
                .count(),
            1
        );
        let back = tokenizer.decode(&encoded.ids, false).unwrap();
        assert_eq!(back, format!("{document}<|end|>"));
    }

    const PARTS: &[&str] = &[
        "<s>", "<|end|>", "<|en", "d|>", "<", "|", "th", "\n\n", ". ", "\u{20ac}", "\u{fdd0}",
    ];

    fn piece() -> impl Strategy<Value = (bool, String)> {
        let text = prop::collection::vec(prop::sample::select(PARTS), 0..6);
        (any::<bool>(), text.prop_map(|parts| parts.concat()))
    }

    proptest! {
        #[test]
        fn only_the_template_writes_control_tokens(pieces in prop::collection::vec(piece(), 0..6)) {
            for tokenizer in [samples::byte_level(), samples::byte_fallback()] {
                let pieces: Vec<TextPiece<'_>> = pieces
                    .iter()
                    .map(|(literal, text)| if *literal { Literal(text) } else { Template(text) })
                    .collect();
                let (text, stretches) = join(&pieces);
                let encoded = tokenizer.encode_pieces(&pieces, false).unwrap();
                prop_assert_eq!(encoded.ids.len(), encoded.spans.len());
                let own: usize = stretches
                    .iter()
                    .filter(|stretch| !stretch.literal)
                    .flat_map(|stretch| tokenizer.control_tokens_in(&text[stretch.place.clone()]))
                    .map(|(_, count)| count)
                    .sum();
                let controls = tokenizer.controls(&text, &encoded.ids, &encoded.spans);
                prop_assert_eq!(controls.len(), own);
                prop_assert!(controls.iter().all(|own| by_right(own, &stretches)));
                if tokenizer.byte_fallback {
                    continue;
                }
                prop_assert_eq!(tokenizer.decode(&encoded.ids, false).unwrap(), text.clone());
                let spelled: usize = tokenizer.control_tokens_in(&text).iter().map(|c| c.1).sum();
                if spelled == own {
                    prop_assert_eq!(encoded, tokenizer.encode_with_spans(&text, false).unwrap());
                }
            }
        }
    }
}
