//! Real tokenizers, which are too large to ship: `scripts/fetch-test-data` gets them.

use std::path::PathBuf;
use std::sync::OnceLock;

use burn_apb::text::chat_template::{ChatTemplate, RenderOptions};
use burn_apb::text::prompt::PromptTemplate;
use burn_apb::text::text_stream::TextStream;
use burn_apb::text::tokenizer::Tokenizer;

use super::chat_template::template;
use super::data;

/// A model's tokenizer, or `None` with a message where it is not there.
fn tokenizer(name: &str) -> Option<Tokenizer> {
    let path = data::find(
        "target/test-data/tokenizers",
        &format!("{name}/tokenizer.json"),
        Some("APB_TEST_TOKENIZERS"),
    )?;
    Some(Tokenizer::from_file(path).unwrap())
}

fn opticks() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/data/opticks.txt");
        std::fs::read_to_string(path).unwrap()
    })
}

/// `tokens` is what the Python package tokenizers 0.23.3 gives for the whole text.
fn round_trip(name: &str, vocab_size: usize, tokens: usize) {
    let Some(tokenizer) = tokenizer(name) else {
        return;
    };
    assert_eq!(tokenizer.vocab_size(), vocab_size);
    let ids = tokenizer.encode(opticks(), false).unwrap();
    assert_eq!(ids.len(), tokens);
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), opticks());

    let mixed = "Gr\u{f6}\u{df}e \u{5149}\u{5b66} \u{1f308}\u{1f469}\u{200d}\u{1f52c} \
                 \u{939}\u{93f}\u{928}\u{94d}\u{926}\u{940}\r\n\t x\u{2003}y 12345 <not|special>";
    let ids = tokenizer.encode(mixed, true).unwrap();
    let mut stream = TextStream::new(&tokenizer, true);
    let mut text = String::new();
    for id in ids {
        let piece = stream.push(id).unwrap();
        assert!(!piece.contains('\u{fffd}'), "{name}: {piece:?}");
        text += &piece;
    }
    text += &stream.finish().unwrap();
    assert_eq!(text, mixed, "{name}");
}

#[test]
fn qwen2_5_round_trips() {
    round_trip("qwen2.5", 151_665, 141_425);
}

#[test]
fn qwen3_round_trips() {
    round_trip("qwen3", 151_669, 141_425);
}

#[test]
fn llama3_1_round_trips() {
    round_trip("llama3.1", 128_256, 139_782);
}

#[test]
fn smollm2_round_trips() {
    round_trip("smollm2", 49_152, 145_451);
}

/// Each chapter-sized stretch of the text, however it begins and ends, with its question: the split
/// is exact unless the stretch begins with white space.
fn splits(name: &str) {
    let Some(tokenizer) = tokenizer(name) else {
        return;
    };
    let chat: ChatTemplate = template(name);
    let options = RenderOptions::default();
    let system = Some("Answer from the text.");
    let prompt = PromptTemplate::from_chat(&chat, system, &options).unwrap();
    for template in [prompt, PromptTemplate::plain()] {
        for (start, end) in [(0, 5000), (21_011, 23_456), (100_000, 100_777), (7, 8)] {
            let document = &opticks()[start..end];
            let question = "\nHow many colours has light?\n";
            let parts = template.parts(document, question).unwrap();
            let split = parts.split(&tokenizer, tokenizer.vocab_size()).unwrap();
            let whole = tokenizer.encode(&parts.text(), parts.add_special).unwrap();
            assert_eq!(split.ids(), whole, "{name}");
            let starts_clean = !parts.document.starts_with(char::is_whitespace);
            assert!(split.exact || !starts_clean, "{name}: {document:?}");
            if split.exact {
                let document = tokenizer.decode(&split.document, false).unwrap();
                assert_eq!(document, parts.document, "{name}");
                let query = tokenizer.decode(&split.query, false).unwrap();
                assert_eq!(query, "How many colours has light?", "{name}");
            }
            let again = template
                .split_query(&tokenizer, question, tokenizer.vocab_size())
                .unwrap();
            assert!(again.exact, "{name}");
            assert_eq!(
                (again.query, again.tail),
                (split.query, split.tail),
                "{name}"
            );
        }
    }
}

#[test]
fn prompts_split_for_qwen2_5() {
    splits("qwen2.5");
}

#[test]
fn prompts_split_for_qwen3() {
    splits("qwen3");
}

#[test]
fn prompts_split_for_llama3_1() {
    splits("llama3.1");
}

#[test]
fn prompts_split_for_smollm2() {
    splits("smollm2");
}
