//! A `tokenizer.json` of byte-level BPE: text is cut into words, their bytes are written as
//! characters, and these are merged.

use serde_json::{Map, Value as Json, json};

use super::pre_tokenizer::{GPT2, PreTokenizer};
use super::vocabulary::Steps;

/// What a byte-level BPE is made of.
pub(crate) struct ByteLevel<'a> {
    /// Every token with its id.
    pub vocab: Map<String, Json>,
    /// The merges in the order of their ranks.
    pub merges: Vec<[&'a str; 2]>,
    /// Entries of `added_tokens`.
    pub added_tokens: Vec<Json>,
    /// How text is cut into words.
    pub words: PreTokenizer,
    /// Whether a space is put before a text.
    pub add_prefix_space: bool,
    /// The tokens around a text.
    pub post_processor: Json,
}

impl ByteLevel<'_> {
    /// The content of the `tokenizer.json`.
    pub(crate) fn json(self) -> Json {
        let steps = steps(&self.words, self.add_prefix_space);
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": self.words.ignore_merges,
            "vocab": self.vocab, "merges": self.merges,
        });
        steps.tokenizer_json(model, self.added_tokens, self.post_processor)
    }
}

/// How text is cut into words and put together again.
pub(crate) fn steps(words: &PreTokenizer, add_prefix_space: bool) -> Steps {
    // Cut by its own expression, ByteLevel puts one space before a text; behind other cuts, before
    // each word.
    let alone = words.patterns == [GPT2];
    let own = words.patterns.iter().filter(|_| !alone);
    let mut cuts: Vec<Json> = own.copied().map(split).collect();
    cuts.push(byte_level(add_prefix_space, alone));
    Steps {
        normalizer: if words.nfc {
            json!({ "type": "NFC" })
        } else {
            Json::Null
        },
        pre_tokenizer: json!({ "type": "Sequence", "pretokenizers": cuts }),
        decoder: byte_level(add_prefix_space, false),
    }
}

fn split(pattern: &str) -> Json {
    json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated",
        "invert": false })
}

fn byte_level(add_prefix_space: bool, use_regex: bool) -> Json {
    json!({ "type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": false,
        "use_regex": use_regex })
}

/// The characters that the 256 bytes are written as.
pub(crate) fn byte_characters() -> [char; 256] {
    let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut characters = ['\0'; 256];
    let mut shifted = 0x100..;
    for (byte, character) in (0u32..).zip(&mut characters) {
        let code = if printable(byte) {
            Some(byte)
        } else {
            shifted.next()
        };
        *character = code.and_then(char::from_u32).unwrap_or('\0');
    }
    characters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_as_the_tokenizers_crate_writes_them() {
        let characters = byte_characters();
        assert_eq!(characters[usize::from(b' ')], '\u{120}');
        assert_eq!(characters[usize::from(b'\n')], '\u{10a}');
        let mut ours: Vec<char> = characters.to_vec();
        ours.sort_unstable();
        let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        let mut theirs: Vec<char> = alphabet.into_iter().collect();
        theirs.sort_unstable();
        assert_eq!(ours, theirs);
    }
}
