//! How text is cut into words before its bytes are merged, by llama.cpp's names
//! (`tokenizer.ggml.pre`).
//!
//! A name has regular expressions that are applied one after the other: each cuts the pieces that
//! the previous one left into its matches and the text between them. Where llama.cpp writes a
//! model's own expression in another way, because its engine lacks something, this is the model's.

use crate::quoted::Quoted;

/// Bytes of an unknown name that are compared with the known ones.
const LONGEST: usize = 256;

/// How one model's text is cut into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PreTokenizer {
    /// llama.cpp's names for it, separated by spaces.
    names: &'static str,
    /// The regular expressions, applied in order.
    pub patterns: &'static [&'static str],
    /// Whether a word that is a token stays whole, whatever the merges are.
    pub ignore_merges: bool,
    /// Whether a text begins with the `bos` token by default.
    pub add_bos: bool,
    /// Whether text is brought into Unicode's normal form C first.
    pub nfc: bool,
}

impl PreTokenizer {
    const fn new(names: &'static str, patterns: &'static [&'static str]) -> Self {
        Self {
            names,
            patterns,
            ignore_merges: false,
            add_bos: false,
            nfc: false,
        }
    }

    const fn ignore_merges(self) -> Self {
        Self {
            ignore_merges: true,
            ..self
        }
    }

    const fn add_bos(self) -> Self {
        Self {
            add_bos: true,
            ..self
        }
    }

    const fn nfc(self) -> Self {
        Self { nfc: true, ..self }
    }

    /// The pre-tokenizer of a name.
    ///
    /// # Errors
    ///
    /// What is wrong with the name, with the nearest known one.
    pub(crate) fn named(name: &str) -> Result<&'static Self, String> {
        let mut names = KNOWN.iter().flat_map(Self::names);
        if let Some((_, found)) = names.find(|(known, _)| *known == name) {
            return Ok(found);
        }
        if let Some((_, reason)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
            return Err(format!("`{name}`, {reason}"));
        }
        // Comparing costs the product of the lengths.
        let start = &name[..name.floor_char_boundary(LONGEST)];
        let likeness = |known: &&str| strsim::jaro_winkler(start, known);
        let nearest = KNOWN
            .iter()
            .flat_map(Self::names)
            .map(|(known, _)| known)
            .max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        let nearest = nearest.unwrap_or(DEFAULT_NAME);
        let name = Quoted(name);
        Err(format!("`{name}`; the nearest known name is `{nearest}`"))
    }

    /// llama.cpp's name for these expressions, applied in this order, where it has one. Of several it is one that most
    /// programs know.
    pub(crate) fn name_of(
        patterns: &[String],
        ignore_merges: bool,
        nfc: bool,
    ) -> Option<&'static str> {
        let same = KNOWN.iter().filter(|known| {
            known.patterns == patterns && known.ignore_merges == ignore_merges && known.nfc == nfc
        });
        let names: Vec<&str> = same.flat_map(Self::names).map(|(name, _)| name).collect();
        let common = COMMON.iter().find(|name| names.contains(name));
        common.or(names.first()).copied()
    }

    fn names(&'static self) -> impl Iterator<Item = (&'static str, &'static Self)> {
        self.names.split(' ').map(move |name| (name, self))
    }
}

/// The name for files without one, as in llama.cpp.
pub(crate) const DEFAULT_NAME: &str = "default";

/// Names that are written before others for the same expressions.
const COMMON: [&str; 6] = [
    "llama-bpe",
    "qwen2",
    "smollm",
    "gpt-2",
    "smaug-bpe",
    "stablelm2",
];

/// GPT-2's words, which are also those of the tokenizers crate's ByteLevel.
pub(crate) const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Each digit is a word.
pub(crate) const DIGIT: &str = r"\p{N}";
pub(crate) const NUMBER: &str = r"\p{N}+";
const THREE_DIGITS: &str = "[0-9][0-9][0-9]";
const UP_TO_THREE_DIGITS: &str = r"\p{N}{1,3}";
const LINES: &str = r"[^\n]+|[\n]+";

const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// As Qwen2, without English contractions.
const UFAKZEKA: &str =
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const BAILING_MOE: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const EXAONE_MOE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+";

/// As Qwen2, with digits in threes.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const MINICPM5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// As Llama 3, with white space in runs of powers of two.
const JAIS2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}";

/// Words by upper and lower case.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const YOUTU_SCRIPTS: &str = "[\u{ac00}-\u{d7a3}\u{3131}-\u{318e}]+|[\u{ff01}\u{2026}\u{201c}\u{201d}\u{2018}\u{2019}\u{2014}\u{ff1a}\u{ff1b}\u{ff0c}\u{3001}-\u{303f}\u{fe30}-\u{fe4f}]+|[\u{3105}-\u{312f}]+|[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
const YOUTU: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// As GPT-4o, with Han characters in words of their own.
const KIMI_K2: &str = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const DEEPSEEK_V3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const SPARK: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"##;
/// Han characters and kana.
const CHINESE_AND_JAPANESE: &str = "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
const NEWLINE: &str = r"[\r\n]";
const DEEPSEEK_HAN_AND_HANGUL: &str = "[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+";
const DEEPSEEK_PUNCTUATION: &str =
    "\\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+";
/// Letters that have an upper and a lower case.
const DEEPSEEK_LETTERS: &str = "\\s?[A-Za-z\
    \u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\u{295}-\
    \u{2af}\u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\
    \u{38c}\u{38e}-\u{3a1}\u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}\
    \u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\
    \u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\
    \u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\
    \u{1f7d}\u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\
    \u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\
    \u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}\u{2126}\u{2128}\
    \u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\
    \u{2183}\u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\
    \u{a640}-\u{a66d}\u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}\u{a78b}-\u{a78e}\
    \u{ab70}-\u{abbf}\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\
    \u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\
    \u{10cf2}\u{118a0}-\u{118df}\u{1e900}-\u{1e943}]+";

/// Three digits from the right.
const DIGITS_FROM_THE_RIGHT: &str = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))";
const TINY_AYA_DIGITS: &str = r"\d{1,3}(?=(?:\d{3})*\b)";
const SUPERBPE_DIGITS: &str = r"(?=(\d{3})+(?!\d))";
const AFMOE_SCRIPTS: &str = "[\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}\u{f900}-\u{faff}\u{3040}-\u{309f}\u{30a0}-\u{30ff}\u{ff65}-\u{ff9f}\u{2f00}-\u{2fdf}\u{e40}-\u{e7f}\u{e80}-\u{eff}\u{1780}-\u{17ff}\u{1000}-\u{109f}\u{aa60}-\u{aa7f}\u{a9e0}-\u{a9ff}\u{ac00}-\u{d7af}\u{1100}-\u{11ff}]+";

/// Words end at white space and at the usual full stops.
const BLOOM: &str = " ?[^(\\s|.,!?\u{2026}\u{3002}\u{ff0c}\u{3001}\u{964}\u{6d4}\u{60c})]+";
const FALCON_PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|`]+";
const DEFAULT_PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|]+";

/// Every name. Those of one entry are separated by spaces.
const KNOWN: &[PreTokenizer] = &[
    PreTokenizer::new(
        "a.x-4.0 exaone4 gigachat gpt-2 granite-docling jais jina-de jina-es \
         jina-v2-de jina-v2-es mellum modern-bert phi-2 trillion",
        &[GPT2],
    ),
    PreTokenizer::new(
        "afmoe",
        &[DIGITS_FROM_THE_RIGHT, AFMOE_SCRIPTS, DEEPSEEK_V3],
    ),
    PreTokenizer::new("bailingmoe bailingmoe2 llada-moe", &[BAILING_MOE]),
    PreTokenizer::new("bloom gpt3-finnish poro-chat", &[BLOOM]),
    PreTokenizer::new(
        "chameleon",
        &[
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            DIGIT,
            r"[\p{P}!-/:-@\[-`{-~]",
            GPT2,
        ],
    )
    .add_bos(),
    PreTokenizer::new("chatglm-bpe dbrx smaug-bpe", &[LLAMA3]),
    PreTokenizer::new(
        "codeshell exaone mellum2 minerva-7b refact smollm starcoder",
        &[DIGIT, GPT2],
    ),
    PreTokenizer::new("cohere2moe tiny_aya", &[TINY_AYA_DIGITS, GPT4O]),
    PreTokenizer::new("command-r", &[DIGIT, GPT2]).nfc(),
    PreTokenizer::new(
        "deepseek-coder",
        &[
            NEWLINE,
            r"\s?\p{L}+",
            r"\s?\p{P}+",
            DEEPSEEK_HAN_AND_HANGUL,
            DIGIT,
        ],
    ),
    PreTokenizer::new(
        "deepseek-llm",
        &[
            NEWLINE,
            DEEPSEEK_LETTERS,
            DEEPSEEK_PUNCTUATION,
            r"\s+$",
            DEEPSEEK_HAN_AND_HANGUL,
            NUMBER,
        ],
    ),
    PreTokenizer::new("deepseek-r1-qwen f2llmv2 qwen2", &[QWEN2]).nfc(),
    PreTokenizer::new(
        "deepseek-v3 hunyuan-dense hy_v4 joyai-llm",
        &[UP_TO_THREE_DIGITS, CHINESE_AND_JAPANESE, DEEPSEEK_V3],
    ),
    PreTokenizer::new(
        "default",
        &[DEFAULT_PUNCTUATION, GPT2, NUMBER, THREE_DIGITS],
    ),
    PreTokenizer::new("exaone-moe", &[EXAONE_MOE]),
    PreTokenizer::new("falcon", &[FALCON_PUNCTUATION, GPT2, THREE_DIGITS]),
    PreTokenizer::new(
        "falcon-h1 falcon3 jina-v5-nano lfm2 llama-bpe llama-v3 llama3 midm-2.0 pixtral",
        &[LLAMA3],
    )
    .ignore_merges()
    .add_bos(),
    PreTokenizer::new("glm4 glm5", &[LLAMA3]).ignore_merges(),
    PreTokenizer::new("gpt-4o kanana2 llama4 minimax-m2 talkie", &[GPT4O]),
    PreTokenizer::new("granite-embed-multi-97m", &[GPT4O]).ignore_merges(),
    PreTokenizer::new("grok-2 hunyuan kormo megrez solar-open stablelm2", &[QWEN2]),
    PreTokenizer::new("jais-2", &[JAIS2]),
    PreTokenizer::new("kimi-k2", &[KIMI_K2]),
    PreTokenizer::new("laguna", &[LINES, QWEN2]),
    PreTokenizer::new("minicpm5", &[UP_TO_THREE_DIGITS, MINICPM5]).ignore_merges(),
    PreTokenizer::new("mpt olmo", &[GPT2]).nfc(),
    PreTokenizer::new("qwen35", &[QWEN35]).nfc(),
    PreTokenizer::new("seed-coder", &[SEED_CODER]),
    PreTokenizer::new(
        "spark2_5",
        &[UP_TO_THREE_DIGITS, CHINESE_AND_JAPANESE, SPARK, DIGIT],
    ),
    PreTokenizer::new("superbpe", &[NUMBER, SUPERBPE_DIGITS]),
    PreTokenizer::new("tekken", &[TEKKEN])
        .ignore_merges()
        .add_bos(),
    PreTokenizer::new("ufakzeka", &[UFAKZEKA]),
    PreTokenizer::new("viking", &[BLOOM, DIGIT]),
    PreTokenizer::new("youtu", &[YOUTU_SCRIPTS, YOUTU]).ignore_merges(),
];

/// Names that llama.cpp has and that are no byte-level BPE of a Llama or Qwen model.
const REFUSED: &[(&str, &str)] = &[
    ("gemma4", NOT_BYTE_LEVEL),
    ("granite-embed-multi-311m", NOT_BYTE_LEVEL),
    ("jina-v1-en", ENCODER),
    ("jina-v2-code", ENCODER),
    ("roberta-bpe", ENCODER),
    ("sarvam-moe", NOT_BYTE_LEVEL),
    ("whitespace", NOT_BYTE_LEVEL),
];
const NOT_BYTE_LEVEL: &str = "which merges characters and not bytes";
const ENCODER: &str = "of an encoder, which ends a text with a separator";

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::{
        OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _,
        SplitDelimiterBehavior,
    };

    fn words(name: &str, text: &str) -> Vec<String> {
        let mut pieces = PreTokenizedString::from(text);
        for &pattern in PreTokenizer::named(name).unwrap().patterns {
            let pattern = SplitPattern::Regex(pattern.to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).unwrap();
            split.pre_tokenize(&mut pieces).unwrap();
        }
        let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        pieces
            .into_iter()
            .map(|(word, ..)| word.to_owned())
            .collect()
    }

    #[test]
    fn every_name_is_listed_once() {
        let names: Vec<&str> = KNOWN
            .iter()
            .flat_map(PreTokenizer::names)
            .map(|(name, _)| name)
            .collect();
        let distinct: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
        assert_eq!(names.len() + REFUSED.len(), 91);
    }

    /// A name is written by which the same expressions are read.
    #[test]
    fn every_entry_has_a_name_to_be_written_with() {
        for known in KNOWN {
            let patterns: Vec<String> = known.patterns.iter().map(|&p| p.to_owned()).collect();
            let name = PreTokenizer::name_of(&patterns, known.ignore_merges, known.nfc).unwrap();
            let read = PreTokenizer::named(name).unwrap();
            let of = |words: &PreTokenizer| (words.patterns, words.ignore_merges, words.nfc);
            assert_eq!(of(read), of(known), "{name}");
        }
        let name =
            |pattern: &str, whole| PreTokenizer::name_of(&[pattern.to_owned()], whole, false);
        assert_eq!(name(LLAMA3, true), Some("llama-bpe"));
        assert_eq!(name(GPT2, false), Some("gpt-2"));
        assert_eq!(name("x", false), None);
    }

    #[test]
    fn every_expression_compiles_and_loses_nothing() {
        let text = "It's 1234567 words\u{2003}und 3,14 \u{5149}\u{5b66}\u{304b}\u{ac00} \
                    HTTPServer \u{e9}e\u{301}\r\n\r\n\t  x=y++; \u{1f308}\u{200d} end   ";
        for (name, _) in KNOWN.iter().flat_map(PreTokenizer::names) {
            assert_eq!(words(name, text).concat(), text, "{name}");
        }
    }

    #[test]
    fn digits_are_cut_as_the_model_cuts_them() {
        for (name, cut) in [
            ("qwen2", &["1", "2", "3", "4", "5", "6", "7"][..]),
            ("llama-bpe", &["123", "456", "7"]),
            ("gpt-2", &["1234567"]),
            ("afmoe", &["1", "234", "567"]),
            ("tiny_aya", &["1", "234", "567"]),
            ("superbpe", &["1", "234", "567"]),
            ("falcon", &["123", "456", "7"]),
            ("deepseek-v3", &["123", "456", "7"]),
        ] {
            assert_eq!(words(name, "1234567"), cut, "{name}");
        }
    }

    #[test]
    fn case_and_scripts_cut_words() {
        assert_eq!(words("tekken", "HTTPServer's"), ["HTTPServer", "'s"]);
        assert_eq!(words("gpt-4o", "HTTPServer's"), ["HTTPServer's"]);
        assert_eq!(words("tekken", "fooBar"), ["foo", "Bar"]);
        assert_eq!(words("llama-bpe", "fooBar"), ["fooBar"]);
        assert_eq!(
            words("kimi-k2", "ab\u{5149}\u{5b66}"),
            ["ab", "\u{5149}\u{5b66}"]
        );
    }

    #[test]
    fn an_unknown_name_suggests_the_nearest() {
        let error = PreTokenizer::named("lama-bpe").unwrap_err();
        assert_eq!(error, "`lama-bpe`; the nearest known name is `llama-bpe`");
        let error = PreTokenizer::named("gemma4").unwrap_err();
        assert!(error.contains("characters and not bytes"), "{error}");
    }
}
