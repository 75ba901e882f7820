//! A tokenizer as GGUF metadata.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value as Json;

use super::error::GgufError;
use super::header::{GgufHeader, Value};
use super::metadata::TOKENS;
use super::tokenizer::{GgufTokenizer, KINDS, MERGES, MODEL, PRE, SCORES};
use super::writer::{Entries, header};
use crate::checkpoint::listing::first;
use crate::quoted::Quoted;
use crate::text::chat_template::ChatTemplates;
use crate::text::generation_config::GenerationConfig;
use crate::text::tokenizer::parts::{Cut, Parts};
use crate::text::tokenizer::pre_tokenizer::{DEFAULT_NAME, PreTokenizer};
use crate::text::tokenizer::sentencepiece::Prefix;
use crate::text::tokenizer::{LoadedTokenizer, Tokenizer};

/// Tokens that a warning names.
const NAMED: usize = 5;

/// Texts that have the same tokens in GGUF: words, numbers, contractions, white space, scripts, signs.
const SAMPLES: [&str; 4] = [
    "It's the 1234567th word, isn't it? We'LL see: 3,14 < 10^6!\n\n\n  \tindented();\r\n",
    "Caf\u{e9} \u{5149}\u{5b66} \u{304b}\u{306a} \u{c548}\u{b155} \u{41f}\u{440}\u{438}\u{432}\u{435}\u{442} \
     \u{645}\u{631}\u{62d}\u{628}\u{627} \u{928}\u{92e}\u{938}\u{94d}\u{924}\u{947}",
    "x = y++ / 2; // \u{201c}so\u{201d} \u{2014} \u{1f308}\u{200d}\u{1f469} $5 #tag @you https://a.b/c?d=e_f",
    "a  b   c    d          e\u{a0}f\u{2003}g   ",
];

fn unsupported(what: &'static str, found: impl Into<String>) -> GgufError {
    GgufError::Unsupported {
        what,
        found: found.into(),
    }
}

/// What is written of a tokenizer is read back, and what is read compared.
const OTHER: &str = "in GGUF, a tokenizer like this one";

/// Writes the tokenizer of a model whose embedding has `rows` into `entries`; returns warnings. `generation` names
/// the tokens that begin and end a text.
pub(crate) fn describe(
    loaded: &LoadedTokenizer,
    rows: usize,
    generation: &GenerationConfig,
    entries: &mut Entries,
) -> Result<Vec<String>, GgufError> {
    let tokenizer = &loaded.tokenizer;
    if tokenizer.vocab_size() > rows {
        let found = format!("{} tokens and {rows} rows", tokenizer.vocab_size());
        return Err(unsupported(
            "in GGUF, a tokenizer with tokens for which the embedding has no row",
            found,
        ));
    }
    let mut parts = tokenizer
        .parts()
        .map_err(|found| unsupported(OTHER, found))?;
    let mut warnings = Vec::new();
    let mut own = Entries::default();
    match &parts.cut {
        Cut::Words { patterns, nfc } => {
            let name = PreTokenizer::name_of(patterns, parts.ignore_merges, *nfc);
            let name = name.ok_or_else(|| {
                let of = |flag, name| if flag { name } else { "" };
                let (nfc, whole) = (
                    of(*nfc, " after NFC"),
                    of(parts.ignore_merges, " with ignore_merges"),
                );
                let what = "in GGUF, a way to cut text into words for which llama.cpp has no name";
                unsupported(what, format!("{}{nfc}{whole}", patterns.join(" and then ")))
            })?;
            let merges = parts.merges.iter().map(|pair| pair.join(" "));
            let merges: Vec<String> = merges.collect();
            own.text(MODEL, "gpt2");
            own.text(PRE, name);
            own.texts(MERGES, &merges);
        }
        Cut::Pieces(prefix) => {
            let scores = parts.scores().map_err(|found| unsupported(OTHER, found))?;
            let last = scores.iter().copied().fold(0.0, f32::min);
            let mut scores = scores;
            scores.resize(rows, last);
            own.text(MODEL, "llama");
            own.text(PRE, DEFAULT_NAME);
            own.floats(SCORES, &scores);
            own.flag("tokenizer.ggml.add_space_prefix", *prefix != Prefix::None);
            if matches!(prefix, Prefix::Always | Prefix::Start) {
                warnings.push(
                    "the file puts a space before every stretch of text; the tokenizer puts none before one that \
                     begins with a space, or behind a special token"
                        .into(),
                );
            }
        }
    }
    let names = names(&mut parts, rows);
    own.texts(TOKENS, &names);
    let kinds: Vec<i32> = (0..rows).map(|id| number(&parts, id)).collect();
    own.integers(KINDS, &kinds);
    special_tokens(loaded, generation, &mut own, &mut warnings)?;
    let added = parts.added.iter();
    let odd = added.filter(|token| token.lstrip || token.rstrip || token.single_word);
    let odd: Vec<String> = odd
        .map(|token| format!("`{}`", Quoted(&token.content)))
        .collect();
    if !odd.is_empty() {
        let what = match odd.len() {
            1 => "takes the white space beside it, or is a whole word only",
            _ => "take the white space beside them, or are whole words only",
        };
        let named = first(&odd, NAMED);
        warnings.push(format!("{named} {what}; the file cannot say so"));
    }
    compare(tokenizer, &parts, &own)?;
    entries.extend(own);
    Ok(warnings)
}

/// The texts of all tokens; rows without a token get names of their own.
fn names(parts: &mut Parts, rows: usize) -> Vec<String> {
    let known: HashSet<String> = parts.tokens.iter().flatten().cloned().collect();
    let name = |id: usize| {
        parts.tokens.get(id).cloned().flatten().unwrap_or_else(|| {
            let mut name = format!("[PAD{id}]");
            while known.contains(&name) {
                name.push('_');
            }
            name
        })
    };
    (0..rows).map(name).collect()
}

/// The number of a token's kind.
fn number(parts: &Parts, id: usize) -> i32 {
    /// That of a token which is never used.
    const UNUSED: i32 = 5;
    match parts.tokens.get(id) {
        Some(Some(_)) => parts.kinds[id].number(),
        _ => UNUSED,
    }
}

/// The tokens that begin and end a text.
fn special_tokens(
    loaded: &LoadedTokenizer,
    generation: &GenerationConfig,
    entries: &mut Entries,
    warnings: &mut Vec<String>,
) -> Result<(), GgufError> {
    let tokenizer = &loaded.tokenizer;
    let key = |name: &str| format!("tokenizer.ggml.{name}_token_id");
    let named = |name: &str| {
        let text = loaded.special_tokens.get(name)?;
        tokenizer.token_id(text)
    };
    let (before, behind) = surroundings(tokenizer)?;
    let mut bos = named("bos_token").or(generation.bos_token_id);
    let mut eos = named("eos_token").or(generation.eos_token_ids.first().copied());
    for (added, token, name) in [(before, &mut bos, "begins"), (behind, &mut eos, "ends")] {
        match (added, *token) {
            (Some(added), Some(token)) if added != token => {
                let what = "in GGUF, a tokenizer that puts another token around a text than the one that is named";
                return Err(unsupported(
                    what,
                    format!("{added} {name} a text, and {token} is named"),
                ));
            }
            (Some(added), _) => *token = Some(added),
            (None, _) => {}
        }
    }
    let ids = [
        ("bos", bos),
        ("eos", eos),
        ("unknown", named("unk_token")),
        ("padding", named("pad_token")),
    ];
    for (name, id) in ids {
        if let Some(id) = id {
            entries.integer(key(name), id);
        }
    }
    entries.flag("tokenizer.ggml.add_bos_token", before.is_some());
    entries.flag("tokenizer.ggml.add_eos_token", behind.is_some());
    // Further ends; llama.cpp also knows the usual ones by their texts.
    let others = generation
        .eos_token_ids
        .iter()
        .filter(|&&id| Some(id) != eos);
    let mut others: Vec<u32> = others.copied().collect();
    others.sort_by_key(|&id| tokenizer.token(id).as_deref() == Some("<|eom_id|>"));
    for (name, &id) in ["eot", "eom"].into_iter().zip(&others) {
        entries.integer(key(name), id);
    }
    for &id in others.iter().skip(2) {
        warnings.push(format!(
            "the file has three tokens that end an answer at most, and no place for {id}"
        ));
    }
    Ok(())
}

/// The tokens that are put before and behind a text.
fn surroundings(tokenizer: &Tokenizer) -> Result<(Option<u32>, Option<u32>), GgufError> {
    const TEXT: &str = "a";
    let encode = |special| {
        let encoded = tokenizer.encode(TEXT, special);
        encoded.map_err(|error| unsupported(OTHER, error.to_string()))
    };
    let (plain, whole) = (encode(false)?, encode(true)?);
    let more = || {
        let what = "in GGUF, a tokenizer that puts more than a token before and one behind a text";
        unsupported(what, format!("{whole:?} for {plain:?}"))
    };
    let added = whole.len().checked_sub(plain.len()).ok_or_else(more)?;
    // A tokenizer without a token for it drops the text.
    if plain.is_empty() {
        return Err(more());
    }
    let starts = whole.windows(plain.len()).take(2);
    let at = starts.enumerate().find(|(_, window)| *window == plain);
    match (at, added) {
        (Some((0, _)), 0) => Ok((None, None)),
        (Some((1, _)), 1) => Ok((Some(whole[0]), None)),
        (Some((0, _)), 1) => Ok((None, whole.last().copied())),
        (Some((1, _)), 2) => Ok((Some(whole[0]), whole.last().copied())),
        _ => Err(more()),
    }
}

/// Refuses what reads back as another tokenizer.
fn compare(tokenizer: &Tokenizer, parts: &Parts, entries: &Entries) -> Result<(), GgufError> {
    let read = GgufTokenizer::read(&metadata(entries)?)?;
    let same_merges = || {
        let read = read.json["model"]["merges"].as_array();
        let pair = |pair: &Json| Some([pair[0].as_str()?.to_owned(), pair[1].as_str()?.to_owned()]);
        let read: Option<HashSet<[String; 2]>> = read?.iter().map(pair).collect();
        Some(read? == parts.merges.iter().cloned().collect())
    };
    if matches!(parts.cut, Cut::Pieces(_)) && same_merges() != Some(true) {
        let found = "there are other ways to make its pieces than its merges";
        return Err(unsupported(OTHER, found));
    }
    let wrong = |error: &dyn std::fmt::Display| unsupported(OTHER, error.to_string());
    let built = read.build().map_err(|error| wrong(&error))?;
    let mut texts: Vec<String> = SAMPLES.map(str::to_owned).to_vec();
    // What GGUF has no word for was warned of.
    let plain =
        |token: &&tokenizers::AddedToken| !(token.lstrip || token.rstrip || token.single_word);
    if !matches!(parts.cut, Cut::Pieces(Prefix::Always | Prefix::Start)) {
        let added = parts.added.iter().filter(plain);
        texts.extend(added.map(|token| format!("one{0}two {0} {0}\n", token.content)));
    }
    for text in &texts {
        let encode = |tokenizer: &Tokenizer| {
            let encoded = tokenizer.encode(text, true);
            encoded.map_err(|error| wrong(&error))
        };
        if encode(tokenizer)? != encode(&built)? {
            return Err(unsupported(OTHER, format!("other tokens for {text:?}")));
        }
    }
    Ok(())
}

/// Metadata as they will be read.
fn metadata(entries: &Entries) -> Result<BTreeMap<String, Value>, GgufError> {
    Ok(GgufHeader::parse(&header(entries, &[]))?.metadata)
}

/// Writes chat templates into `entries`.
pub(crate) fn chat_templates(templates: &ChatTemplates, entries: &mut Entries) {
    const KEY: &str = "tokenizer.chat_template";
    let mut others = Vec::new();
    for name in templates.names() {
        let source = templates.source(name).unwrap_or_default();
        if name == "default" {
            entries.text(KEY, source);
        } else {
            entries.text(format!("{KEY}.{name}"), source);
            others.push(name);
        }
    }
    if !others.is_empty() {
        entries.texts("tokenizer.chat_templates", &others);
    }
}
