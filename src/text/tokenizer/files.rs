//! A tokenizer from the files of a Hugging Face folder, put together as transformers does.
//!
//! `tokenizer.json` comes first. Added and special tokens that are only in the files beside it are
//! added to it: from `added_tokens_decoder` in `tokenizer_config.json` or, where there is none, from
//! `special_tokens_map.json` and `added_tokens.json`. A folder without `tokenizer.json` has
//! `vocab.json` with `merges.txt`, or `tokenizer.model`.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::{Map, Value as Json};
use tokenizers::AddedToken;

use super::added_tokens::{AddedTokens, CONFIG, NAMED, check_added, object, tokens_to_add, warn};
use super::byte_level::ByteLevel;
use super::class::Class;
use super::special::SpecialTokens;
use super::vocabulary::{Base, around};
use super::{Tokenizer, TokenizerError, guard, model_file, tiktoken};
use crate::quoted::Quoted;

/// The content of a folder's files, as far as they are there.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokenizerFiles<'a> {
    /// `tokenizer.json`.
    pub tokenizer_json: Option<&'a [u8]>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a str>,
    /// `added_tokens.json`.
    pub added_tokens: Option<&'a str>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<&'a str>,
    /// `vocab.json`.
    pub vocab_json: Option<&'a str>,
    /// `merges.txt`.
    pub merges_txt: Option<&'a str>,
    /// `tokenizer.model`.
    pub tokenizer_model: Option<&'a [u8]>,
    /// `model_type` of `config.json`, for folders that do not name their tokenizer's class.
    pub model_type: Option<&'a str>,
}

/// A tokenizer with its special tokens and warnings.
#[derive(Debug)]
pub struct LoadedTokenizer {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// Its special tokens by name.
    pub special_tokens: SpecialTokens,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

impl TokenizerFiles<'_> {
    /// Builds the tokenizer.
    ///
    /// # Errors
    ///
    /// A [`TokenizerError`]: none of the files that a tokenizer is built from; a file that is not
    /// what its name promises; a kind of tokenizer that is not built here.
    pub fn load(&self) -> Result<LoadedTokenizer, TokenizerError> {
        let config = self.tokenizer_config.map(|text| object(text, CONFIG));
        let config = config.transpose()?.unwrap_or_default();
        let mut warnings = Vec::new();
        let (mut inner, base, defaults) = match self.tokenizer_json {
            Some(bytes) => {
                let mut inner = Tokenizer::from_bytes(bytes)?;
                let text = std::str::from_utf8(bytes).unwrap_or_default();
                let byte_level = text.contains("\"ByteLevel\"");
                let class = Class::of(&config, self.model_type, byte_level);
                if let Some(class) = class {
                    if !class.apply(&mut inner.inner, &config)? {
                        warnings.push(format!(
                            "tokenizer.json is no BPE and is read as it stands, not as \
                             transformers' class {class:?} would make it"
                        ));
                    }
                    inner = inner.renewed()?;
                }
                (inner, None, class.map(Class::defaults).unwrap_or_default())
            }
            None => {
                let base = self.base(&config)?;
                let inner = Tokenizer::from_bytes(base.json.to_string().as_bytes())?;
                let defaults = base.defaults.clone();
                (inner, Some(base), defaults)
            }
        };
        let existing = inner.inner.get_added_tokens_decoder();
        let existing: BTreeMap<u32, AddedToken> = existing.into_iter().collect();
        let mut added_tokens = AddedTokens::read(
            &config,
            self.special_tokens_map,
            self.added_tokens,
            &existing,
            &mut warnings,
        )?;
        // A name that the configuration gives `null` stays without a token.
        for (name, text) in &defaults {
            if !config.contains_key(*name) {
                added_tokens.named.set_default(name, text);
            }
        }
        if let Some(base) = &base {
            if !base.extra.is_empty() {
                added_tokens.named.extra = Some(base.extra.clone());
            }
            for (_, token) in &mut added_tokens.added {
                token.normalized &= !base.raw_added;
            }
        }
        let tokens = tokens_to_add(&added_tokens, &existing);
        let special_tokens = added_tokens.named;
        let adds_some = !tokens.is_empty();
        let backend = &mut inner.inner;
        if adds_some {
            let texts = existing.values().chain(&tokens);
            let texts: HashSet<&str> = texts.map(|token| token.content.as_str()).collect();
            check_added(texts)?;
            guard(|| backend.add_tokens(tokens)).map_err(|message| TokenizerError::Content {
                file: CONFIG,
                message,
            })?;
        }
        let elsewhere = added_tokens.added.iter().filter_map(|(id, token)| {
            let found = backend.token_to_id(&token.content);
            (found != Some(*id)).then(|| {
                let found = found.map_or("none".to_owned(), |found| found.to_string());
                format!(
                    "`{}` has the id {id} by the files and gets {found}, as in transformers: the \
                     vocabulary has other tokens up to there",
                    Quoted(&token.content)
                )
            })
        });
        warn(&mut warnings, elsewhere, |count| {
            format!("{count} more tokens get other ids than the files give them")
        });
        let mut tokenizer = if adds_some { inner.renewed()? } else { inner };
        if let Some(base) = base {
            tokenizer.surround_by(&config, &special_tokens, base.bare)?;
        }
        Ok(LoadedTokenizer {
            tokenizer,
            special_tokens,
            warnings,
        })
    }

    /// The tokenizer of a folder without `tokenizer.json`.
    fn base(&self, config: &Map<String, Json>) -> Result<Base, TokenizerError> {
        let class = Class::of(config, self.model_type, false);
        if let (Some(vocab), Some(merges)) = (self.vocab_json, self.merges_txt)
            && (self.tokenizer_model.is_none() || class.is_some_and(|class| class != Class::Llama))
        {
            return vocab_and_merges(vocab, merges, class, config);
        }
        let Some(bytes) = self.tokenizer_model else {
            return Err(TokenizerError::NoFiles);
        };
        if tiktoken::is_tiktoken(bytes) {
            return tiktoken::base(bytes, config);
        }
        model_file::base(bytes, class, config)
    }
}

impl LoadedTokenizer {
    /// A warning that names the tokens for which an embedding of so many rows has none; a prompt
    /// with one of them is refused.
    pub fn beyond(&self, rows: usize) -> Option<String> {
        if self.tokenizer.vocab_size() <= rows {
            return None;
        }
        // Ids may have gaps of any size.
        let ids = self.tokenizer.inner.get_vocab(true).into_values();
        let beyond: BTreeSet<u32> = ids.filter(|&id| id as usize >= rows).collect();
        let named = beyond.iter().filter_map(|&id| self.tokenizer.token(id));
        let named = named
            .take(NAMED)
            .map(|token| format!("`{}`", Quoted(&token)));
        let named = named.collect::<Vec<_>>().join(", ");
        Some(format!(
            "{} tokens are beyond the {rows} rows of the embedding and cannot be used: {named}{}",
            beyond.len(),
            if beyond.len() > NAMED { ", .." } else { "" }
        ))
    }
}

impl Tokenizer {
    /// The tokenizer with what follows from its tokens found anew.
    fn renewed(mut self) -> Result<Self, TokenizerError> {
        let post_processor = self.post_processor.take();
        let mut renewed = Self::from_inner(self.inner)?;
        renewed.post_processor = post_processor;
        Ok(renewed)
    }

    /// Puts `bos_token` and `eos_token` around a text by `add_bos_token` and `add_eos_token`.
    /// Of a folder with `tokenizer.json`, transformers ignores both flags.
    fn surround_by(
        &mut self,
        config: &Map<String, Json>,
        special: &SpecialTokens,
        bare: bool,
    ) -> Result<(), TokenizerError> {
        let flag = |name: &str| config.get(name).and_then(Json::as_bool);
        let (before, behind) = (flag("add_bos_token"), flag("add_eos_token"));
        if before.is_none() && behind.is_none() && !bare {
            return Ok(());
        }
        let bos = special.bos().filter(|_| before == Some(true));
        let eos = special.eos().filter(|_| behind == Some(true));
        let [bos, eos] = [bos, eos].map(|text| Some((self.token_id(text?)? as usize, text?)));
        let json = around(bos, eos);
        self.post_processor = serde_json::from_value(json).map_err(TokenizerError::parse)?;
        Ok(())
    }
}

/// The tokenizer of `vocab.json` and `merges.txt`, whose class defines how text is cut into words.
fn vocab_and_merges<'a>(
    vocab: &str,
    merges: &'a str,
    class: Option<Class>,
    config: &Map<String, Json>,
) -> Result<Base, TokenizerError> {
    let Some((class, words)) = class.and_then(|class| Some((class, class.words()?))) else {
        let class = config.get("tokenizer_class").and_then(Json::as_str);
        return Err(TokenizerError::Unsupported {
            file: "vocab.json",
            what: format!(
                "a tokenizer_class other than Qwen2Tokenizer and GPT2Tokenizer ({})",
                Quoted(class.unwrap_or("none named"))
            ),
        });
    };
    let mut pairs: Vec<[&'a str; 2]> = Vec::new();
    for line in merges.lines().filter(|line| !line.starts_with("#version")) {
        match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => pairs.push([left, right]),
            None if line.is_empty() => {}
            _ => {
                return Err(TokenizerError::Content {
                    file: "merges.txt",
                    message: format!(
                        "expected two tokens with a space between, found {:?}",
                        Quoted(line)
                    ),
                });
            }
        }
    }
    let prefix = config.get("add_prefix_space").and_then(Json::as_bool);
    let byte_level = ByteLevel {
        vocab: object(vocab, "vocab.json")?,
        merges: pairs,
        added_tokens: Vec::new(),
        words: *words,
        add_prefix_space: prefix.unwrap_or(false),
        post_processor: Json::Null,
    };
    Ok(Base {
        json: byte_level.json(),
        defaults: class.defaults(),
        bare: true,
        ..Base::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenizer::samples;

    #[test]
    fn tokens_without_a_row_are_named() {
        let loaded = LoadedTokenizer {
            tokenizer: samples::byte_level(),
            special_tokens: SpecialTokens::default(),
            warnings: Vec::new(),
        };
        assert_eq!(loaded.beyond(301), None);
        assert_eq!(
            loaded.beyond(300).unwrap(),
            "1 tokens are beyond the 300 rows of the embedding and cannot be used: `<|end|>`"
        );
    }
}
