//! Small tokenizers for the tests of this room.

use super::Tokenizer;
use serde_json::{Value, json};

type Vocabulary = serde_json::Map<String, Value>;

/// The characters that byte-level BPE writes the 256 bytes as.
fn byte_characters() -> Vec<String> {
    let printable = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut shifted = 0x100..;
    (0..256u32)
        .map(|b| {
            if printable(b) {
                b
            } else {
                shifted.next().unwrap()
            }
        })
        .map(|c| char::from_u32(c).unwrap().to_string())
        .collect()
}

fn numbered(tokens: Vec<String>) -> Vocabulary {
    let tokens = tokens.into_iter().enumerate();
    tokens.map(|(id, token)| (token, json!(id))).collect()
}

fn special(id: u32, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true})
}

/// 256 bytes, three merges, two tokens across characters, `<s>` before a text, and `<|end|>`
/// after a gap in the ids. Truncates texts at 4 tokens and pads them to 16.
pub fn byte_level() -> Tokenizer {
    let bytes = byte_characters();
    let merges: Vec<(String, String)> = [(b't', b'h'), (b'\n', b'\n'), (b'.', b'\n')]
        .map(|(a, b)| (bytes[a as usize].clone(), bytes[b as usize].clone()))
        .into();
    let mut tokens = bytes.clone();
    tokens.extend(merges.iter().map(|(a, b)| format!("{a}{b}")));
    let pairs: [[usize; 2]; 2] = [[0xe2, 0x82], [0xac, 0xe2]];
    tokens.extend(pairs.map(|pair| pair.map(|b| bytes[b].as_str()).concat()));
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false,
        "trim_offsets": true, "use_regex": false});
    let json = json!({
        "version": "1.0",
        "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0,
            "direction": "Right"},
        "padding": {"strategy": {"Fixed": 16}, "direction": "Right",
            "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "!"},
        "added_tokens": [special(261, "<s>"), special(300, "<|end|>")],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": {"type": "Sequence", "processors": [
            byte_level,
            {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                    {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [261], "tokens": ["<s>"]}}}]},
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "vocab": numbered(tokens), "merges": merges}
    });
    let mut json = json;
    // `<s>` and `<|end|>` are in the vocabulary, as in Qwen's: that is what fixes their ids.
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    vocab.insert("<s>".to_owned(), json!(261));
    vocab.insert("<|end|>".to_owned(), json!(300));
    Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap()
}

/// As Llama 2's: spaces are U+2581, one is put before a text, unknown characters are bytes.
pub fn byte_fallback() -> Tokenizer {
    let mut tokens = vec!["<unk>".to_owned(), "<s>".to_owned()];
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    let words = [
        "\u{2581}",
        "\u{2581}a",
        "a",
        "b",
        "ab",
        "\u{2581}\u{2581}",
        "\u{e9}",
    ];
    tokens.extend(words.map(String::from));
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(1, "<s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>",
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": true, "vocab": numbered(tokens), "merges": [
                ["\u{2581}", "a"], ["a", "b"], ["\u{2581}", "\u{2581}"]]}
    });
    Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap()
}
