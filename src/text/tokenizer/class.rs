//! transformers' tokenizer classes that cut text in a way of their own.
//!
//! Such a class takes vocabulary, merges and post-processor from `tokenizer.json` and leaves what
//! has for white space and words. Which class a folder has follows from `tokenizer_class`
//! and, as in `AutoTokenizer`, from the model's type.

use serde_json::{Map, Value as Json};
use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::ModelWrapper;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;

use super::byte_level;
use super::pre_tokenizer::PreTokenizer;
use super::sentencepiece::Prefix;
use super::vocabulary::Steps;
use super::{TokenizerError, guard};

/// A class of transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// `LlamaTokenizer`: SentencePiece pieces.
    Llama,
    /// `Qwen2Tokenizer`: byte-level, digits one by one.
    Qwen2,
    /// `GPT2Tokenizer`: byte-level.
    Gpt2,
}

impl Class {
    /// The class that transformers takes, `None` where the file alone decides. `byte_level` is
    /// whether the folder has a `tokenizer.json` with a byte-level part.
    pub(super) fn of(
        config: &Map<String, Json>,
        model_type: Option<&str>,
        byte_level: bool,
    ) -> Option<Self> {
        let named = config.get("tokenizer_class").and_then(Json::as_str);
        let named = named.map(|name| name.strip_suffix("Fast").unwrap_or(name));
        match (model_type, named) {
            // Many folders of Qwen2 models name another class, which is ignored.
            (Some("qwen2"), _) | (Some("qwen3"), None) => Some(Self::Qwen2),
            (Some("mistral"), _) => None,
            (_, Some("LlamaTokenizer")) if !byte_level => Some(Self::Llama),
            (_, Some("Qwen2Tokenizer")) => Some(Self::Qwen2),
            (_, Some("GPT2Tokenizer")) => Some(Self::Gpt2),
            _ => None,
        }
    }

    /// How the class cuts text into words; `None` for SentencePiece.
    pub(super) fn words(self) -> Option<&'static PreTokenizer> {
        let name = match self {
            Self::Llama => return None,
            Self::Qwen2 => "qwen2",
            Self::Gpt2 => "gpt-2",
        };
        PreTokenizer::named(name).ok()
    }

    /// How the class prepares text and puts it together again.
    pub(super) fn steps(self, config: &Map<String, Json>) -> Steps {
        let flag = |name: &str| config.get(name).and_then(Json::as_bool);
        let prefixed = flag("add_prefix_space");
        match self.words() {
            Some(words) => byte_level::steps(words, prefixed.unwrap_or(false)),
            None if prefixed == Some(false) => Prefix::None.steps(),
            None if flag("legacy") == Some(true) => Prefix::Always.steps(),
            None => Prefix::Start.steps(),
        }
    }

    /// The special tokens of the class where no file names others.
    pub(super) fn defaults(self) -> Vec<(&'static str, String)> {
        const END: &str = "<|endoftext|>";
        let names = match self {
            Self::Llama => [
                ("unk_token", "<unk>"),
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
            ],
            Self::Qwen2 => [("unk_token", END), ("eos_token", END), ("pad_token", END)],
            Self::Gpt2 => [("unk_token", END), ("bos_token", END), ("eos_token", END)],
        };
        names.map(|(name, text)| (name, text.to_owned())).to_vec()
    }

    /// Makes a tokenizer cut text as the class does; `false` for one that is no BPE, which stays as
    /// it is.
    pub(super) fn apply(
        self,
        inner: &mut tokenizers::Tokenizer,
        config: &Map<String, Json>,
    ) -> Result<bool, TokenizerError> {
        let ModelWrapper::BPE(model) = inner.get_model() else {
            return Ok(false);
        };
        let mut model = model.clone();
        model.dropout = None;
        model.unk_token = None;
        model.fuse_unk = self == Self::Llama;
        model.byte_fallback = self == Self::Llama;
        model.ignore_merges = false;
        inner.with_model(model);
        let steps = self.steps(config);
        let normalizer: Option<NormalizerWrapper> = part(steps.normalizer)?;
        guard(|| inner.with_normalizer(normalizer).map(|_| ())).map_err(TokenizerError::parse)?;
        inner.with_pre_tokenizer(part::<Option<PreTokenizerWrapper>>(steps.pre_tokenizer)?);
        inner.with_decoder(part::<Option<DecoderWrapper>>(steps.decoder)?);
        Ok(true)
    }
}

/// A part of a `tokenizer.json`.
fn part<T: serde::de::DeserializeOwned>(json: Json) -> Result<T, TokenizerError> {
    serde_json::from_value(json).map_err(TokenizerError::parse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_class_follows_from_its_name_and_the_models_type() {
        let class = |name: Json, model_type: &str, byte_level: bool| {
            let config = json!({ "tokenizer_class": name });
            Class::of(config.as_object().unwrap(), Some(model_type), byte_level)
        };
        let llama = || json!("LlamaTokenizerFast");
        assert_eq!(class(llama(), "llama", false), Some(Class::Llama));
        assert_eq!(class(llama(), "llama", true), None);
        assert_eq!(class(llama(), "mistral", false), None);
        assert_eq!(class(llama(), "qwen2", true), Some(Class::Qwen2));
        assert_eq!(class(json!("PreTrainedTokenizerFast"), "qwen3", true), None);
        assert_eq!(class(Json::Null, "qwen3", true), Some(Class::Qwen2));
        assert_eq!(
            class(json!("GPT2Tokenizer"), "llama", true),
            Some(Class::Gpt2)
        );
        assert_eq!(class(Json::Null, "llama", false), None);
    }
}
