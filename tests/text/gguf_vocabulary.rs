//! llama.cpp's own vocabulary files, which are too large to ship: `scripts/fetch-test-data` gets
//! them. Each comes with texts and with the ids that the model's own tokenizer gives for them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn_apb::checkpoint::gguf::{GgufHeader, GgufTokenizer, Value};
use burn_apb::text::tokenizer::Tokenizer;

use super::data;

/// What stands between two texts of a `.inp` file.
const SEPARATOR: &str = "\n__ggml_vocab_test__\n";

/// The path of a vocabulary, or `None` with a message where it is not there.
fn vocabulary(name: &str) -> Option<PathBuf> {
    data::find(
        "target/test-data/llama-cpp-vocabs",
        &format!("ggml-vocab-{name}.gguf"),
        Some("APB_TEST_LLAMA_CPP_VOCABS"),
    )
}

/// A text and the ids that the model's own tokenizer gives for it.
type Case = (String, Vec<u32>);

/// A vocabulary with its texts, or `None` with a message where it is not there.
fn fixture(name: &str) -> Option<(Tokenizer, Vec<Case>)> {
    let path = vocabulary(name)?;
    let header = GgufHeader::parse(&std::fs::read(&path).unwrap()).unwrap();
    let tokenizer = GgufTokenizer::read(&header.metadata)
        .unwrap()
        .build()
        .unwrap();
    let beside = |extension: &str| {
        std::fs::read_to_string(path.with_extension(format!("gguf.{extension}"))).unwrap()
    };
    let texts = beside("inp");
    let texts = texts.strip_suffix(SEPARATOR).unwrap_or(&texts);
    let texts = texts.split(SEPARATOR).map(str::to_owned);
    let ids = beside("out");
    let ids = ids.lines().map(|line| {
        let ids = line.split_whitespace();
        ids.map(|id| id.parse().unwrap()).collect()
    });
    let (texts, ids): (Vec<String>, Vec<Vec<u32>>) = (texts.collect(), ids.collect());
    assert_eq!(texts.len(), ids.len(), "{name}");
    Some((tokenizer, texts.into_iter().zip(ids).collect()))
}

/// Texts of the file for Qwen 3.5 that are not in Unicode's normal form C. transformers'
/// `Qwen3_5Tokenizer` brings them into it first, and so do we; the file's ids are those without.
const NOT_NORMAL: [&str; 3] = ["e\u{301}", "re\u{301}sume\u{301}", "a\u{300}a\u{300}"];

/// Every text gives the ids, and the ids give the text.
fn holds(name: &str, cases: usize) {
    let Some((tokenizer, texts)) = fixture(name) else {
        return;
    };
    assert_eq!(texts.len(), cases, "{name}");
    let (mut wrong, mut otherwise) = (Vec::new(), 0);
    for (text, ids) in &texts {
        let found = tokenizer.encode(text, false).unwrap();
        let normalized = name == "qwen35" && NOT_NORMAL.iter().any(|start| text.starts_with(start));
        assert!(!normalized || &found != ids, "{name}: {text:?}");
        otherwise += usize::from(normalized);
        if &found != ids && !normalized {
            wrong.push(format!("{text:?}: expected {ids:?}, found {found:?}"));
        }
        let back = tokenizer.decode(ids, false).unwrap();
        if &back != text {
            wrong.push(format!("{text:?}: decoded to {back:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{name}: {} of {cases} wrong\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    println!(
        "{name}: {} of {cases}, {otherwise} as transformers",
        cases - otherwise
    );
}

macro_rules! fixtures {
    ($($test:ident $name:literal $cases:literal),* $(,)?) => {
        $(#[test] fn $test() { holds($name, $cases); })*
    };
}

fixtures! {
    command_r "command-r" 46,
    deepseek_coder "deepseek-coder" 46,
    deepseek_llm "deepseek-llm" 46,
    falcon "falcon" 46,
    gpt_2 "gpt-2" 46,
    llama_bpe "llama-bpe" 46,
    llama_spm "llama-spm" 46,
    mpt "mpt" 46,
    phi_3 "phi-3" 46,
    qwen2 "qwen2" 46,
    qwen35 "qwen35" 50,
    refact "refact" 46,
    starcoder "starcoder" 46,
}

/// Vocabularies that come without texts.
#[test]
fn vocabularies_without_texts_load() {
    for name in ["aquila", "baichuan", "gpt-neox"] {
        let Some(path) = vocabulary(name) else {
            continue;
        };
        let header = GgufHeader::parse(&std::fs::read(path).unwrap()).unwrap();
        let read = GgufTokenizer::read(&header.metadata).unwrap();
        let tokenizer = read.build().unwrap();
        let text = "Light, 12345 \u{5149}\n";
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text, "{name}");
    }
}

/// Metadata of a byte-level vocabulary with special tokens at both ends and between.
fn metadata(kinds: bool) -> BTreeMap<String, Value> {
    let mut tokens: Vec<String> = ["<unk>", "<|im_start|>"].map(String::from).to_vec();
    let mut types = vec![2, 3];
    let printable = (0x21..=0x7e).chain(0xa1..=0xac).chain(0xae..=0xffu32);
    let shifted = 0x100..0x144u32;
    for character in printable.chain(shifted).filter_map(char::from_u32) {
        tokens.push(character.to_string());
        // An exclamation mark that is a control token, and a letter that is user-defined.
        types.push(match character {
            '!' => 3,
            'q' => 4,
            _ => 1,
        });
    }
    let more = [
        ("th", 1),
        ("<tool>", 4),
        ("", 1),
        ("the", 1),
        ("[PAD]", 5),
        ("<|end|>", 1),
    ];
    for (token, kind) in more.into_iter().chain([("<|im_end|>", 3)]) {
        tokens.push(token.to_owned());
        types.push(kind);
    }
    let mut metadata = BTreeMap::from([
        (
            "tokenizer.ggml.model".to_owned(),
            Value::Text("gpt2".to_owned()),
        ),
        (
            "tokenizer.ggml.pre".to_owned(),
            Value::Text("qwen2".to_owned()),
        ),
        ("tokenizer.ggml.tokens".to_owned(), Value::Texts(tokens)),
        (
            "tokenizer.ggml.merges".to_owned(),
            Value::Texts(vec!["t h".to_owned(), "th e".to_owned()]),
        ),
    ]);
    if kinds {
        metadata.insert(
            "tokenizer.ggml.token_type".to_owned(),
            Value::Integers(types),
        );
    }
    metadata
}

fn tokens(metadata: &BTreeMap<String, Value>) -> Vec<String> {
    match &metadata["tokenizer.ggml.tokens"] {
        Value::Texts(tokens) => tokens.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_id_is_its_place_in_the_file() {
    let metadata = metadata(true);
    let read = GgufTokenizer::read(&metadata).unwrap();
    let tokenizer = read.build().unwrap();
    let tokens = tokens(&metadata);
    for (id, token) in tokens.iter().enumerate() {
        let spelled = if token.is_empty() {
            format!("[EMPTY_{id}]")
        } else {
            token.clone()
        };
        assert_eq!(tokenizer.token_id(&spelled), Some(id as u32), "{token:?}");
        assert_eq!(tokenizer.token(id as u32), Some(spelled));
    }
    let place = |token: &str| tokens.iter().position(|t| t == token).unwrap() as u32;
    let ids = tokenizer
        .encode("<|im_start|>the!<tool>q<|im_end|>", false)
        .unwrap();
    assert_eq!(
        ids,
        ["<|im_start|>", "the", "!", "<tool>", "q", "<|im_end|>"].map(place)
    );
    for (token, special) in [
        ("<unk>", true),
        ("<|im_start|>", true),
        ("!", true),
        ("q", false),
        ("<tool>", false),
        ("[PAD]", false),
        ("<|end|>", true),
    ] {
        assert_eq!(tokenizer.is_special(place(token)), special, "{token}");
    }
    // Text by the file, and one of the tokens that end an answer.
    assert_eq!(read.warnings.len(), 1, "{:?}", read.warnings);
    assert!(
        read.warnings[0].contains("`<|end|>`"),
        "{:?}",
        read.warnings
    );
}

#[test]
fn without_kinds_all_are_text_and_without_a_name_the_guess_is_told() {
    let mut metadata = metadata(false);
    metadata.remove("tokenizer.ggml.pre");
    let read = GgufTokenizer::read(&metadata).unwrap();
    let guess = read.warnings.last().unwrap();
    assert!(
        guess.contains("`tokenizer.ggml.pre`") && guess.contains("`default`"),
        "{guess}"
    );
    let tokenizer = read.build().unwrap();
    let tokens = tokens(&metadata);
    assert!(!tokenizer.is_special(0) && !tokenizer.is_special(1));
    let the = tokens.iter().position(|token| token == "the").unwrap() as u32;
    assert_eq!(tokenizer.encode("the", false).unwrap(), [the]);
}

#[test]
fn vocabularies_that_cannot_be_right_are_refused() {
    let refused = |key: &str, change: &dyn Fn(&mut Vec<String>)| {
        let mut metadata = metadata(true);
        let Some(Value::Texts(texts)) = metadata.get_mut(key) else {
            panic!("{key}");
        };
        change(texts);
        GgufTokenizer::read(&metadata).unwrap_err().to_string()
    };
    let twice = refused("tokenizer.ggml.tokens", &|tokens| {
        tokens[7] = "th".to_owned()
    });
    assert!(
        twice.contains("found \"th\" as token 7 and as token"),
        "{twice}"
    );
    let merges = "tokenizer.ggml.merges";
    let unknown = refused(merges, &|merges| merges.push("t q".to_owned()));
    assert!(
        unknown.contains("whose union is one too, found t q"),
        "{unknown}"
    );
    let single = refused(merges, &|merges| merges.push("t".to_owned()));
    assert!(
        single.contains("two tokens with a space between"),
        "{single}"
    );
}

#[test]
fn sentencepiece_ids_are_places_too() {
    let pieces = [
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("a", -5.0, 1),
        ("<tool>", 0.0, 4),
        ("<0xC3>", 0.0, 6),
        ("<0xA9>", 0.0, 6),
        ("\u{2581}", -4.0, 1),
        ("\u{2581}a", -1.0, 1),
        ("<0x21>", 0.0, 6),
        ("<|im_end|>", 0.0, 3),
    ];
    let texts = pieces.iter().map(|(text, ..)| (*text).to_owned()).collect();
    let mut metadata = BTreeMap::from([
        (
            "tokenizer.ggml.model".to_owned(),
            Value::Text("llama".to_owned()),
        ),
        ("tokenizer.ggml.tokens".to_owned(), Value::Texts(texts)),
        (
            "tokenizer.ggml.scores".to_owned(),
            Value::Floats(pieces.iter().map(|(_, score, _)| *score).collect()),
        ),
        (
            "tokenizer.ggml.token_type".to_owned(),
            Value::Integers(pieces.iter().map(|(.., kind)| *kind).collect()),
        ),
    ]);
    let tokenizer = |metadata: &BTreeMap<String, Value>| {
        GgufTokenizer::read(metadata).unwrap().build().unwrap()
    };
    let built = tokenizer(&metadata);
    // A space before each stretch of text, and `<s>` before the whole, as llama.cpp does where the
    // file does not say.
    let ids = built.encode("a\u{e9}<tool>a!<|im_end|>", true).unwrap();
    assert_eq!(ids, [1, 7, 4, 5, 3, 7, 8, 9]);
    let key = "tokenizer.ggml.add_space_prefix".to_owned();
    metadata.insert(key, Value::Bool(false));
    let ids = tokenizer(&metadata).encode("a a", false).unwrap();
    assert_eq!(ids, [2, 7]);
}
