//! SentencePiece's `tokenizer.model`: a protocol buffer with pieces and how text is prepared for
//! them.
//!
//! Format: <https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto>.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value as Json, json};
use tokenizers::AddedToken;

use super::TokenizerError;
use super::class::Class;
use super::protobuf::{Field, fields};
use super::sentencepiece::{Pieces, Rank, SPACE, replace};
use super::vocabulary::{Base, Kind, Steps, Vocabulary};

const FILE: &str = "tokenizer.model";

/// What the file holds, as far as it is used.
#[derive(Debug, Clone, PartialEq)]
struct Model {
    pieces: Vec<(String, f32, Kind)>,
    algorithm: u64,
    byte_fallback: bool,
    unk: (i64, String),
    bos: (i64, String),
    eos: (i64, String),
    charsmap: Vec<u8>,
    dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
}

/// The number of the unigram algorithm, which is the default, and that of BPE.
const UNIGRAM: u64 = 1;
const BPE: u64 = 2;

impl Default for Model {
    fn default() -> Self {
        Self {
            pieces: Vec::new(),
            algorithm: UNIGRAM,
            byte_fallback: false,
            unk: (0, "<unk>".to_owned()),
            bos: (1, "<s>".to_owned()),
            eos: (2, "</s>".to_owned()),
            charsmap: Vec::new(),
            dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        }
    }
}

/// The tokenizer of a `tokenizer.model`: transformers' `LlamaTokenizer` for a folder that names this
/// class, and otherwise as the file itself has it.
pub(super) fn base(
    bytes: &[u8],
    class: Option<Class>,
    config: &Map<String, Json>,
) -> Result<Base, TokenizerError> {
    let model = Model::parse(bytes).ok_or_else(|| TokenizerError::Content {
        file: FILE,
        message: "expected a SentencePiece model or lines of base64, found neither; the file is \
                  damaged: fetch it again"
            .to_owned(),
    })?;
    match class {
        Some(Class::Llama) => model.llama(config),
        _ => model.by_itself(config),
    }
}

impl Model {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut model = Self::default();
        for field in fields(bytes) {
            match field? {
                (1, Field::Bytes(piece)) => {
                    let (mut text, mut score, mut kind) = (String::new(), 0.0, 1);
                    for field in fields(piece) {
                        match field? {
                            (1, Field::Bytes(bytes)) => text = text_of(bytes)?,
                            (2, Field::Word(bits)) => score = f32::from_bits(bits),
                            (3, Field::Number(number)) => kind = i64::try_from(number).ok()?,
                            _ => {}
                        }
                    }
                    model.pieces.push((text, score, Kind::from_number(kind)));
                }
                (2, Field::Bytes(trainer)) => {
                    for field in fields(trainer) {
                        match field? {
                            (3, Field::Number(number)) => model.algorithm = number,
                            (35, Field::Number(flag)) => model.byte_fallback = flag != 0,
                            // Negative numbers are written as 64 bits.
                            (40, Field::Number(id)) => model.unk.0 = id.cast_signed(),
                            (41, Field::Number(id)) => model.bos.0 = id.cast_signed(),
                            (42, Field::Number(id)) => model.eos.0 = id.cast_signed(),
                            (45, Field::Bytes(bytes)) => model.unk.1 = text_of(bytes)?,
                            (46, Field::Bytes(bytes)) => model.bos.1 = text_of(bytes)?,
                            (47, Field::Bytes(bytes)) => model.eos.1 = text_of(bytes)?,
                            _ => {}
                        }
                    }
                }
                (3, Field::Bytes(normalizer)) => {
                    for field in fields(normalizer) {
                        match field? {
                            (2, Field::Bytes(bytes)) => model.charsmap = bytes.to_vec(),
                            (3, Field::Number(flag)) => model.dummy_prefix = flag != 0,
                            (4, Field::Number(flag)) => model.remove_extra_whitespaces = flag != 0,
                            (5, Field::Number(flag)) => model.escape_whitespaces = flag != 0,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        (!model.pieces.is_empty()).then_some(model)
    }

    fn vocabulary(
        &self,
        names: impl Fn(usize, &str) -> String,
    ) -> Result<Vocabulary, TokenizerError> {
        let pieces = self.pieces.iter().enumerate();
        let texts = pieces.map(|(id, (text, ..))| names(id, text)).collect();
        Vocabulary::new(texts, self.pieces.iter().map(|(.., kind)| *kind).collect())
    }

    fn scores(&self) -> Vec<f32> {
        self.pieces.iter().map(|(_, score, _)| *score).collect()
    }

    /// Control and user-defined pieces as added tokens.
    fn added(&self, kinds: &[Kind]) -> Vec<AddedToken> {
        let pieces = self.pieces.iter().filter(|(.., kind)| kinds.contains(kind));
        pieces
            .map(|(text, _, kind)| {
                AddedToken::from(text.as_str(), *kind == Kind::Control).normalized(false)
            })
            .collect()
    }

    /// As transformers' `LlamaTokenizer`: the file's settings for white space are ignored.
    fn llama(&self, config: &Map<String, Json>) -> Result<Base, TokenizerError> {
        let vocabulary = self.vocabulary(|_, text| text.to_owned())?;
        let json = Pieces {
            vocabulary: &vocabulary,
            scores: &self.scores(),
            rank: Rank::Id,
            // The class leaves it out: what has no piece and no bytes is dropped.
            unknown: None,
            byte_fallback: true,
            ignore_merges: false,
            added_tokens: Vec::new(),
            steps: Class::Llama.steps(config),
            post_processor: Json::Null,
        };
        Ok(Base {
            json: json.json()?,
            extra: self.added(&[Kind::Control, Kind::UserDefined]),
            defaults: Class::Llama.defaults(),
            bare: true,
            ..Base::default()
        })
    }

    /// By the file's settings, as transformers reads it where no class is named.
    fn by_itself(&self, config: &Map<String, Json>) -> Result<Base, TokenizerError> {
        let decoder = config.get("added_tokens_decoder").and_then(Json::as_object);
        let renamed = |id: usize| decoder?.get(&id.to_string())?.get("content")?.as_str();
        let kept = self.pieces.iter().enumerate();
        let kept = kept.filter(|(id, _)| renamed(*id).is_none());
        let kept: HashSet<&str> = kept.map(|(_, (text, ..))| text.as_str()).collect();
        let name = |id: usize, text: &str| match renamed(id).filter(|name| !kept.contains(name)) {
            Some(name) => name.to_owned(),
            None => text.to_owned(),
        };
        let legacy = config.get("legacy").and_then(Json::as_bool).unwrap_or(true);
        let user_defined: Vec<String> = (self.pieces.iter().enumerate())
            .filter(|(_, (.., kind))| *kind == Kind::UserDefined)
            .map(|(id, (text, ..))| name(id, text))
            .collect();
        let unknown = self.pieces.iter().any(|(text, ..)| *text == self.unk.1);
        let steps = self.steps(&user_defined, legacy);
        let json = match self.algorithm {
            BPE => {
                let vocabulary = self.vocabulary(name)?;
                Pieces {
                    vocabulary: &vocabulary,
                    scores: &self.scores(),
                    rank: Rank::Score,
                    unknown: unknown.then_some(self.unk.1.as_str()),
                    byte_fallback: self.byte_fallback,
                    ignore_merges: !user_defined.is_empty(),
                    added_tokens: Vec::new(),
                    steps,
                    post_processor: Json::Null,
                }
                .json()?
            }
            UNIGRAM => {
                let vocab = self
                    .pieces
                    .iter()
                    .map(|(text, score, _)| json!([text, score]));
                let vocab: Vec<Json> = vocab.collect();
                let model = json!({ "type": "Unigram", "unk_id": self.unk.0, "vocab": vocab,
                    "byte_fallback": self.byte_fallback });
                steps.tokenizer_json(model, Vec::new(), Json::Null)
            }
            other => {
                return Err(TokenizerError::Unsupported {
                    file: FILE,
                    what: format!(
                        "a SentencePiece model of type {other}, neither unigram nor BPE,"
                    ),
                });
            }
        };
        let named = [
            ("bos_token", &self.bos),
            ("eos_token", &self.eos),
            ("unk_token", &self.unk),
        ];
        let named = named.into_iter().filter(|(_, (id, _))| *id >= 0);
        Ok(Base {
            json,
            extra: self.added(&[Kind::Control]),
            defaults: named
                .map(|(name, (_, text))| (name, text.clone()))
                .collect(),
            raw_added: self.dummy_prefix && decoder.is_some_and(|decoder| !decoder.is_empty()),
            bare: true,
        })
    }

    /// White space as the file's normaliser treats it.
    fn steps(&self, user_defined: &[String], legacy: bool) -> Steps {
        let pattern = |regex: &str, content: &str| json!({ "type": "Replace", "pattern": { "Regex": regex }, "content": content });
        let mut normalizers = Vec::new();
        if !self.charsmap.is_empty() {
            let charsmap = STANDARD.encode(&self.charsmap);
            normalizers.push(json!({ "type": "Precompiled", "precompiled_charsmap": charsmap }));
        }
        if self.remove_extra_whitespaces {
            normalizers.extend([pattern(r"\A +| +\z", ""), pattern(" {2,}", " ")]);
        }
        if self.escape_whitespaces {
            normalizers.push(replace(" ", SPACE));
        }
        let mut cuts = Vec::new();
        if self.dummy_prefix {
            // Metaspace leaves out the prefix where a text begins with a space; SentencePiece does
            // not.
            if legacy {
                normalizers.push(pattern(&format!(r"\A{SPACE}"), &SPACE.repeat(2)));
            }
            let scheme = if legacy { "always" } else { "first" };
            cuts.push(json!({ "type": "Metaspace", "replacement": SPACE,
                "prepend_scheme": scheme, "split": false }));
        }
        if !user_defined.is_empty() {
            let mut longest_first = user_defined.to_vec();
            longest_first.sort_by_key(|text| std::cmp::Reverse(text.chars().count()));
            let escaped: Vec<String> = longest_first.iter().map(|text| escape(text)).collect();
            cuts.push(
                json!({ "type": "Split", "pattern": { "Regex": escaped.join("|") },
                "behavior": "Isolated", "invert": false }),
            );
        }
        let mut decoders = vec![replace(SPACE, " ")];
        if self.byte_fallback {
            decoders.push(json!({ "type": "ByteFallback" }));
        }
        if self.dummy_prefix || self.byte_fallback {
            decoders.push(json!({ "type": "Fuse" }));
        }
        if self.dummy_prefix {
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        Steps {
            normalizer: json!({ "type": "Sequence", "normalizers": normalizers }),
            pre_tokenizer: match cuts.is_empty() {
                true => Json::Null,
                false => json!({ "type": "Sequence", "pretokenizers": cuts }),
            },
            decoder: json!({ "type": "Sequence", "decoders": decoders }),
        }
    }
}

/// A text as a regular expression that matches it.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if r"\.+*?()|[]{}^$".contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

fn text_of(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        [&[(number << 3) | 2, content.len() as u8], content].concat()
    }

    fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
        let mut piece = bytes(1, text.as_bytes());
        piece.extend([0x15]);
        piece.extend(score.to_le_bytes());
        piece.extend([0x18, kind]);
        bytes(1, &piece)
    }

    #[test]
    fn pieces_and_settings_are_read() {
        let mut file = piece("<unk>", 0.0, 2);
        file.extend(piece("<s>", 0.0, 3));
        file.extend(piece("a", -1.5, 1));
        // Type BPE, byte fallback, no `eos`.
        let minus_one = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        let trainer = [&[0x18, 2, 0x98, 0x02, 1, 0xd0, 0x02][..], &minus_one].concat();
        file.extend(bytes(2, &trainer));
        // No prefix; an unknown 64-bit field.
        file.extend(bytes(3, &[0x18, 0, 0x79, 1, 2, 3, 4, 5, 6, 7, 8]));
        let model = Model::parse(&file).unwrap();
        assert_eq!(model.pieces[2], ("a".to_owned(), -1.5, Kind::Normal));
        assert_eq!(model.pieces[1].2, Kind::Control);
        assert_eq!((model.algorithm, model.byte_fallback), (BPE, true));
        assert_eq!((model.eos.0, model.bos.0), (-1, 1));
        assert!(!model.dummy_prefix && model.remove_extra_whitespaces);
        for len in 1..file.len() {
            // Cut anywhere, it is refused or has fewer parts; it never panics.
            let _ = Model::parse(&file[..len]);
        }
        assert_eq!(Model::parse(b""), None);
        assert_eq!(Model::parse(b"\x0a\x05abc"), None);
        let config = Map::new();
        let refused = |algorithm: u8| {
            let mut file = file.clone();
            file.extend(bytes(2, &[0x18, algorithm]));
            base(&file, None, &config)
                .err()
                .map(|error| error.to_string())
        };
        assert!(
            refused(3)
                .unwrap()
                .contains("type 3, neither unigram nor BPE")
        );
        assert_eq!(refused(2), None);
    }

    /// Also that the time does not grow with the square of the pieces, which would be minutes here.
    #[test]
    fn pieces_are_renamed_by_the_configuration() {
        const COUNT: usize = 100_000;
        let pieces = (0..COUNT).map(|at| (format!("p{at}"), 0.0, Kind::Normal));
        let model = Model {
            pieces: pieces.collect(),
            algorithm: BPE,
            ..Model::default()
        };
        let odd = (1..COUNT).step_by(2);
        let mut decoder: Map<String, Json> = odd
            .map(|at| (at.to_string(), json!({ "content": format!("<r{at}>") })))
            .collect();
        // A name that another piece keeps.
        decoder.insert("3".into(), json!({ "content": "p2" }));
        let config = json!({ "added_tokens_decoder": decoder });
        let base = model.by_itself(config.as_object().unwrap()).unwrap();
        let vocab = base.json["model"]["vocab"].as_object().unwrap();
        assert_eq!(vocab.len(), COUNT);
        for (piece, id) in [("p0", 0), ("<r1>", 1), ("p2", 2), ("p3", 3)] {
            assert_eq!(vocab[piece], id, "{piece}");
        }
    }

    #[test]
    fn user_defined_pieces_are_escaped() {
        assert_eq!(escape("<|a.b|>$1"), r"<\|a\.b\|>\$1");
    }
}
