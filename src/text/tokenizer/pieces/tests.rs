use super::TextPiece::{Literal, Template};
use super::*;
use crate::text::tokenizer::samples;
use proptest::prelude::*;

const END: u32 = 300;
const START: u32 = 261;

/// Each token with the text that it stands for.
fn encoded(tokenizer: &Tokenizer, pieces: &[TextPiece<'_>]) -> Vec<(u32, String)> {
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
    let told = encoded(&tokenizer, &pieces);
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
        assert!(
            encoded(&tokenizer, &pieces)
                .iter()
                .all(|(id, _)| *id != END)
        );
    }
    let pieces = [Template("<|e"), Template("nd|>")];
    assert_eq!(encoded(&tokenizer, &pieces), [(END, "<|end|>".to_owned())]);
}

#[test]
fn named_tokens_are_control_tokens_too() {
    let json = samples::byte_level().inner.to_string(false).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&json).unwrap();
    json["added_tokens"][1]["special"] = false.into();
    let make = || Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap();
    let pieces = [Literal("a<|end|>"), Template("<|end|>")];
    let ends = |tokenizer: &Tokenizer| {
        let told = encoded(tokenizer, &pieces);
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
    assert_eq!(
        encoded(&tokenizer, &clean)[0],
        (END, "<|end|>  ".to_owned())
    );
    let spelled = [Template("<|end|>"), Literal("  a<s>")];
    let told = encoded(&tokenizer, &spelled);
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

/// Also that the time does not grow with the number of marks, which would be minutes here.
#[test]
fn a_mark_is_one_that_the_text_does_not_use() {
    assert_eq!(free_mark("a"), Some(FIRST_MARK));
    assert_eq!(free_mark("\u{fdd0}\u{fdd2}"), Some('\u{fdd1}'));
    let mut text = "a".repeat(64 << 20);
    text.extend(FIRST_MARK..='\u{fdef}');
    text.extend('\u{f0000}'..'\u{ffffd}');
    assert_eq!(free_mark(&text), Some('\u{ffffd}'));
    text.push('\u{ffffd}');
    assert_eq!(free_mark(&text), None);
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
            prop_assert!(controls.iter().all(|own| is_of_template(own, &stretches)));
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
