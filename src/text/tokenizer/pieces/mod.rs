//! Encodes a prompt so that control tokens spelled out by a user stay text.

pub(super) mod strict;

use std::collections::HashSet;
use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::AddedToken;

use strict::{Spellings, Strict};

use super::{EncodedText, Tokenizer, TokenizerError, encode_error, guard};

/// A part of a text, by its origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextPiece<'a> {
    /// Of the chat template: control tokens spelled in it are control tokens.
    Template(&'a str),
    /// Of a document, a question or a message: control tokens spelled in it are text.
    Literal(&'a str),
}

/// A control token in a text.
struct ControlToken {
    place: Range<usize>,
    token: u32,
}

/// The place of a stand-in, and of the token that it replaces.
struct Moved {
    new: Range<usize>,
    old: Range<usize>,
}

/// Text of one origin.
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
    /// A control token that the model's own merges make of plain text, such as an exclamation mark
    /// that the vocabulary marks as one, has no other spelling and stays.
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
        let controls: Vec<ControlToken> = self.controls(&text, encoding.get_ids(), &spans);
        if controls.iter().all(|own| is_of_template(own, &stretches)) {
            return self.finish(encoding, spans, add_special);
        }
        drop((encoding, spans));

        let own = self.template_tokens(&text, &stretches, controls)?;
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

    /// The control tokens among the tokens of a text, without the white space that some include.
    fn controls(&self, text: &str, ids: &[u32], spans: &[(usize, usize)]) -> Vec<ControlToken> {
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
            controls.push(ControlToken { place, token });
        }
        controls
    }

    /// The control tokens of the template: those that it spells by itself, and those that are
    /// recognised only after normalisation, which goes by the whole text.
    fn template_tokens(
        &self,
        text: &str,
        stretches: &[Stretch],
        mut recognised: Vec<ControlToken>,
    ) -> Result<Vec<ControlToken>, TokenizerError> {
        let normalized =
            |own: &ControlToken| self.added_token(own.token).map(|token| token.normalized);
        recognised.retain(|own| normalized(own) == Some(true) && is_of_template(own, stretches));
        let mut own = recognised;
        for stretch in stretches.iter().filter(|stretch| !stretch.literal) {
            let part = &text[stretch.place.clone()];
            let encoding = guard(|| self.inner.encode(part, false)).map_err(encode_error)?;
            for control in self.controls(part, encoding.get_ids(), encoding.get_offsets()) {
                if normalized(&control) == Some(false) {
                    let start = stretch.place.start;
                    own.push(ControlToken {
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
        own: &[ControlToken],
        add_special: bool,
    ) -> Result<EncodedText, TokenizerError> {
        let mut written = String::with_capacity(text.len());
        let mut moved: Vec<Moved> = Vec::with_capacity(own.len());
        let mut done = 0;
        for ControlToken { place, token } in own {
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
    let (first, second) = (FIRST_MARK..='\u{fdef}', '\u{f0000}'..='\u{ffffd}');
    let marks = text.chars();
    let used = marks.filter(|c| first.contains(c) || second.contains(c));
    let used: HashSet<char> = used.collect();
    first.chain(second).find(|mark| !used.contains(mark))
}

/// The place in the text without stand-ins for one in the text with them.
fn place(new: usize, moved: &[Moved]) -> usize {
    let behind = moved.partition_point(|moved| moved.new.start <= new);
    match behind.checked_sub(1).map(|last| &moved[last]) {
        None => new,
        Some(moved) if new >= moved.new.end => moved.old.end + (new - moved.new.end),
        Some(moved) => moved.old.start,
    }
}

/// The whole text, and the origin of each part; neighbours of one origin are one part.
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

/// Whether all of a control token is the template's.
fn is_of_template(own: &ControlToken, stretches: &[Stretch]) -> bool {
    let at = stretches.partition_point(|stretch| stretch.place.end <= own.place.start);
    stretches.get(at).is_some_and(|stretch| {
        !stretch.literal
            && stretch.place.start <= own.place.start
            && own.place.end <= stretch.place.end
    })
}

#[cfg(test)]
mod tests;
