//! What belongs to a model beside its weights, from a Hugging Face folder or a GGUF file alike.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::config::{ConfigError, QuantizationConfig};
use super::error::WeightsError;
use super::listing::listing;
use super::local::{LocalError, describe_folder, refuse_pointer};
use super::reader::Checkpoint;
use super::small::read_limited;
use crate::quoted::QuotePath;
use crate::size::size;
use crate::text::chat_template::ChatTemplateFiles;
use crate::text::json;
#[cfg(feature = "gguf")]
use crate::text::tokenizer::SpecialTokens;
use crate::text::tokenizer::{LoadedTokenizer, TokenizerError, TokenizerFiles};

/// The longest `config.json` or `generation_config.json` that is read, in bytes. As a tree a text takes up to 150 times
/// its length.
pub const MAX_CONFIG_LEN: u64 = 4 << 20;

/// The longest `tokenizer_config.json`, `special_tokens_map.json` or `added_tokens.json` that is read, in bytes.
const MAX_TOKENS_LEN: u64 = 16 << 20;

/// The longest chat template that is read, in bytes.
const MAX_TEMPLATE_LEN: u64 = 1 << 20;

/// The longest tokenizer that is read, in bytes. Those of Gemma and Llama 3 are 33 and 17 MiB.
pub const MAX_TOKENIZER_LEN: u64 = 64 << 20;

/// Why a model could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A folder that holds no model.
    #[error("{}: expected a model's folder with config.json, tokenizer.json and model.safetensors, found {found}", path.quoted())]
    NotAModel {
        /// The folder.
        path: PathBuf,
        /// What the folder holds.
        found: String,
    },
    /// A file that is no model by itself.
    #[error("{}: expected a model's folder or a .gguf file, found another file; give the folder that holds config.json", path.quoted())]
    NotAFolder {
        /// The file.
        path: PathBuf,
    },
    /// A model without a tokenizer that this crate reads.
    #[error("{}: expected tokenizer.json, or vocab.json with merges.txt, or tokenizer.model, found {found}; save it with transformers' `AutoTokenizer.from_pretrained(..).save_pretrained(..)`", path.quoted())]
    NoTokenizer {
        /// The folder.
        path: PathBuf,
        /// What the folder holds.
        found: String,
    },
    /// A file longer than any real one of its kind.
    #[error("{}: expected at most {}, found {found} bytes; this is not the file its name says", path.quoted(), size(*limit))]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The longest that is read, in bytes.
        limit: u64,
        /// Its length in bytes.
        found: u64,
    },
    /// Text that is not UTF-8.
    #[error("{}: expected UTF-8 text, found another encoding from byte {at} on; fetch the file again", path.quoted())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Where the text ends.
        at: usize,
    },
    /// A file that cannot be read.
    #[error("{}: cannot be read: {source}", path.quoted())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The tokenizer.
    #[error("{}: {source}", path.quoted())]
    Tokenizer {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong.
        source: Box<TokenizerError>,
    },
    /// A part of a hub cache, broken links or Git LFS pointers in place of a model.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// `config.json` was refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// A model's files: configuration, tokenizer, chat template, weights.
///
/// The configurations are kept as text, so that an error can name the line. Of a GGUF file they are
/// derived, in Hugging Face spelling.
#[derive(Debug, Clone)]
pub struct ModelSource {
    path: PathBuf,
    config: String,
    tokenizer_config: Option<String>,
    generation_config: Option<String>,
    chat_template: Option<String>,
    chat_template_json: Option<String>,
    additional_chat_templates: Vec<(String, String)>,
    checkpoint: Option<Checkpoint>,
}

impl ModelSource {
    /// Opens a Hugging Face folder, a `.gguf` file (of a split model, any of its parts), or a folder
    /// with one GGUF model and no `config.json`.
    ///
    /// Of a folder, only the small text files are read; weights and tokenizer are opened by
    /// [`Self::checkpoint`] and [`Self::tokenizer`].
    ///
    /// # Errors
    ///
    /// No such path; a folder without `config.json` (what it holds is listed); a text file that is
    /// too long or not UTF-8; a GGUF file that does not hold or is not a Llama or Qwen.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SourceError> {
        let snapshot = describe_folder(path.as_ref())?;
        if let Some(snapshot) = &snapshot {
            tracing::info!("{}", snapshot.note);
        }
        let path = snapshot.as_ref().map_or(path.as_ref(), |found| &found.path);
        if path.is_dir() {
            return Self::folder(path);
        }
        if !path.exists() {
            return Err(WeightsError::NotFound { path: path.into() }.into());
        }
        if !is_gguf(path) {
            return Err(SourceError::NotAFolder { path: path.into() });
        }
        Self::gguf(path)
    }

    fn folder(path: &Path) -> Result<Self, SourceError> {
        let read = |name: &str, limit| text(&path.join(name), limit);
        let Some(config) = read("config.json", MAX_CONFIG_LEN)? else {
            #[cfg(feature = "gguf")]
            if let Some(file) = super::gguf::find(path)? {
                return Self::gguf(&file);
            }
            return Err(SourceError::NotAModel {
                path: path.into(),
                found: listing(path),
            });
        };
        Ok(Self {
            path: path.into(),
            config,
            tokenizer_config: read("tokenizer_config.json", MAX_TOKENS_LEN)?,
            generation_config: read("generation_config.json", MAX_CONFIG_LEN)?,
            chat_template: read("chat_template.jinja", MAX_TEMPLATE_LEN)?,
            chat_template_json: read("chat_template.json", MAX_TEMPLATE_LEN)?,
            additional_chat_templates: additional_chat_templates(path)?,
            checkpoint: None,
        })
    }

    #[cfg(feature = "gguf")]
    fn gguf(path: &Path) -> Result<Self, SourceError> {
        let checkpoint = Checkpoint::open(path)?;
        let gguf = checkpoint
            .gguf()
            .ok_or_else(|| SourceError::NotAFolder { path: path.into() })?;
        let wrong = |source| WeightsError::Gguf {
            path: path.into(),
            source,
        };
        Ok(Self {
            path: path.into(),
            config: gguf.config().map_err(wrong)?.to_string(),
            tokenizer_config: Some(gguf.tokenizer_config().map_err(wrong)?.to_string()),
            generation_config: Some(gguf.generation_config().to_string()),
            // They are in the tokenizer's configuration.
            chat_template: None,
            chat_template_json: None,
            additional_chat_templates: Vec::new(),
            checkpoint: Some(checkpoint),
        })
    }

    #[cfg(not(feature = "gguf"))]
    fn gguf(path: &Path) -> Result<Self, SourceError> {
        Err(WeightsError::NoGguf { path: path.into() }.into())
    }

    /// The folder or file this was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `config.json`.
    pub fn config(&self) -> &str {
        &self.config
    }

    /// `tokenizer_config.json`.
    pub fn tokenizer_config(&self) -> Option<&str> {
        self.tokenizer_config.as_deref()
    }

    /// `generation_config.json`.
    pub fn generation_config(&self) -> Option<&str> {
        self.generation_config.as_deref()
    }

    /// The texts that hold chat templates.
    pub fn chat_templates(&self) -> ChatTemplateFiles<'_> {
        ChatTemplateFiles {
            jinja: self.chat_template.as_deref(),
            additional: &self.additional_chat_templates,
            tokenizer_config: self.tokenizer_config.as_deref(),
            chat_template_json: self.chat_template_json.as_deref(),
        }
    }

    /// The tokenizer, from whichever of its files there are; see
    /// [`TokenizerFiles`]. Of a GGUF file, from its metadata.
    ///
    /// # Errors
    ///
    /// None of the files that a tokenizer is built from; a file too long to be a tokenizer's, or that
    /// is not what its name says; of a GGUF file, a vocabulary that cannot be expressed.
    pub fn tokenizer(&self) -> Result<LoadedTokenizer, SourceError> {
        let of_path = |source: TokenizerError| SourceError::Tokenizer {
            path: self.path.clone(),
            source: Box::new(source),
        };
        #[cfg(feature = "gguf")]
        if let Some(gguf) = self.checkpoint.as_ref().and_then(Checkpoint::gguf) {
            let tokenizer = gguf.tokenizer().map_err(|source| WeightsError::Gguf {
                path: self.path.clone(),
                source,
            })?;
            let config = self.tokenizer_config.as_deref().unwrap_or("{}");
            let config = serde_json::from_str(config).unwrap_or_default();
            return Ok(LoadedTokenizer {
                tokenizer: tokenizer.build().map_err(of_path)?,
                special_tokens: SpecialTokens::from_config(&config).unwrap_or_default(),
                warnings: tokenizer.warnings,
            });
        }
        let read = |name: &str, limit| text(&self.path.join(name), limit);
        let tokenizer_json = read("tokenizer.json", MAX_TOKENIZER_LEN)?;
        let (vocab, merges, model) = match tokenizer_json {
            Some(_) => (None, None, None),
            None => (
                read("vocab.json", MAX_TOKENIZER_LEN)?,
                read("merges.txt", MAX_TOKENIZER_LEN)?,
                bytes(&self.path.join("tokenizer.model"), MAX_TOKENIZER_LEN)?,
            ),
        };
        if tokenizer_json.is_none() && model.is_none() && (vocab.is_none() || merges.is_none()) {
            return Err(SourceError::NoTokenizer {
                path: self.path.clone(),
                found: listing(&self.path),
            });
        }
        let added = read("added_tokens.json", MAX_TOKENS_LEN)?;
        let special = read("special_tokens_map.json", MAX_TOKENS_LEN)?;
        let config = json::from_str::<serde_json::Value>(&self.config).unwrap_or_default();
        TokenizerFiles {
            tokenizer_json: tokenizer_json.as_deref().map(str::as_bytes),
            tokenizer_config: self.tokenizer_config.as_deref(),
            added_tokens: added.as_deref(),
            special_tokens_map: special.as_deref(),
            vocab_json: vocab.as_deref(),
            merges_txt: merges.as_deref(),
            tokenizer_model: model.as_deref(),
            model_type: config.get("model_type").and_then(|name| name.as_str()),
        }
        .load()
        .map_err(of_path)
    }

    /// The weights; see [`Checkpoint::open`]. Where `config.json` says that they are quantised (by GPTQ, AWQ,
    /// compressed-tensors or as FP8), the tensors that a weight consists of are one in blocks.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::open`]; [`SourceError::Config`] for a quantisation that is not read, and
    /// [`WeightsError::Quantized`] for tensors that do not go together.
    pub fn checkpoint(&self) -> Result<Checkpoint, SourceError> {
        match &self.checkpoint {
            Some(checkpoint) => Ok(checkpoint.clone()),
            None => {
                let stored = Checkpoint::open(&self.path)?;
                Ok(match QuantizationConfig::of_config(&self.config)? {
                    None => stored,
                    Some(quantization) => stored.resolve(&quantization)?,
                })
            }
        }
    }

    /// The tensors as they are stored, where quantised weights consist of several.
    pub(super) fn stored(&self) -> Result<Checkpoint, SourceError> {
        match &self.checkpoint {
            Some(checkpoint) => Ok(checkpoint.clone()),
            None => Ok(Checkpoint::open(&self.path)?),
        }
    }
}

/// The files of `additional_chat_templates/`, by their names without `.jinja`.
fn additional_chat_templates(folder: &Path) -> Result<Vec<(String, String)>, SourceError> {
    let folder = folder.join("additional_chat_templates");
    let failed = |source| SourceError::Io {
        path: folder.clone(),
        source,
    };
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut templates = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let name = path.file_stem().and_then(|name| name.to_str());
        if let (Some(name), true) = (name, path.extension().is_some_and(|e| e == "jinja"))
            && let Some(template) = text(&path, MAX_TEMPLATE_LEN)?
        {
            templates.push((name.to_owned(), template));
        }
    }
    Ok(templates)
}

/// Whether a file is GGUF by its name or by its first bytes.
fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    // Only of a regular file: a pipe would wait for a writer.
    let mut begins = || {
        path.is_file()
            && File::open(path)
                .and_then(|mut file| file.read_exact(&mut magic))
                .is_ok()
            && &magic == b"GGUF"
    };
    path.extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
        || begins()
}

/// The text of a file, at most `limit` bytes of it; `None` if there is no such file.
fn text(path: &Path, limit: u64) -> Result<Option<String>, SourceError> {
    let Some(bytes) = bytes(path, limit)? else {
        return Ok(None);
    };
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|error| SourceError::NotUtf8 {
            path: path.into(),
            at: error.utf8_error().valid_up_to(),
        })
}

/// The content of a file, at most `limit` bytes; `None` if there is no such file.
fn bytes(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, SourceError> {
    let failed = |source| SourceError::Io {
        path: path.into(),
        source,
    };
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if !metadata.is_file() {
        return Err(WeightsError::NotAFile {
            path: path.into(),
            found: "a folder, device or pipe",
        }
        .into());
    }
    if metadata.len() > limit {
        return Err(SourceError::TooLarge {
            path: path.into(),
            limit,
            found: metadata.len(),
        });
    }
    refuse_pointer(path)?;
    read_limited(path, limit).map(Some).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    #[test]
    fn reads_the_texts_of_a_folder() {
        let config: &[u8] = br#"{"chat_template":"in the config"}"#;
        let dir = folder(&[("config.json", b"{}"), ("tokenizer_config.json", config)]);
        let source = ModelSource::open(dir.path()).unwrap();
        assert_eq!(source.config(), "{}");
        assert_eq!(source.tokenizer_config().map(str::as_bytes), Some(config));
        assert_eq!(source.chat_templates().jinja, None);
        assert_eq!(source.generation_config(), None);

        std::fs::write(dir.path().join("chat_template.jinja"), "in the file").unwrap();
        let more = dir.path().join("additional_chat_templates");
        std::fs::create_dir(&more).unwrap();
        std::fs::write(more.join("rag.jinja"), "another").unwrap();
        std::fs::write(more.join("notes.txt"), "none").unwrap();
        let source = ModelSource::open(dir.path()).unwrap();
        assert_eq!(source.chat_templates().jinja, Some("in the file"));
        let additional = [("rag".to_owned(), "another".to_owned())];
        assert_eq!(source.chat_templates().additional, additional);
    }

    #[test]
    fn says_what_is_wrong_with_a_folder() {
        let missing = ModelSource::open("/nowhere/at/all");
        assert!(matches!(
            missing,
            Err(SourceError::Weights(WeightsError::NotFound { .. }))
        ));

        let dir = folder(&[("notes.txt", b"x")]);
        let error = ModelSource::open(dir.path()).unwrap_err();
        assert!(matches!(error, SourceError::NotAModel { .. }));
        assert!(
            error.to_string().contains("config.json") && error.to_string().contains("notes.txt"),
            "{error}"
        );
        let file = ModelSource::open(dir.path().join("notes.txt"));
        assert!(matches!(file, Err(SourceError::NotAFolder { .. })));

        let dir = folder(&[("config.json", b"{\"a\": \"\xff\"}")]);
        assert!(matches!(
            ModelSource::open(dir.path()),
            Err(SourceError::NotUtf8 { at: 7, .. })
        ));

        for (name, named) in [
            ("vocab.json", "vocab.json"),
            ("tokenizer.model", "tokenizer.model"),
        ] {
            let dir = folder(&[("config.json", b"{}"), (name, b"x")]);
            let source = ModelSource::open(dir.path()).unwrap();
            let error = source.tokenizer().unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn refuses_a_file_beyond_the_limit_without_reading_it() {
        for (name, limit, shown) in [
            ("config.json", MAX_CONFIG_LEN, "4 MiB"),
            ("generation_config.json", MAX_CONFIG_LEN, "4 MiB"),
            ("tokenizer_config.json", MAX_TOKENS_LEN, "16 MiB"),
            ("chat_template.jinja", MAX_TEMPLATE_LEN, "1 MiB"),
        ] {
            let dir = folder(&[("config.json", b"{}")]);
            let file = std::fs::File::create(dir.path().join(name)).unwrap();
            file.set_len(limit + 1).unwrap();
            let error = ModelSource::open(dir.path()).unwrap_err();
            assert!(matches!(error, SourceError::TooLarge { .. }), "{error}");
            assert!(error.to_string().contains(shown), "{error}");
        }
        for (name, limit) in [
            ("tokenizer.json", MAX_TOKENIZER_LEN),
            ("added_tokens.json", MAX_TOKENS_LEN),
        ] {
            let dir = folder(&[("config.json", b"{}"), ("tokenizer.json", b"{}")]);
            let source = ModelSource::open(dir.path()).unwrap();
            let file = std::fs::File::create(dir.path().join(name)).unwrap();
            file.set_len(limit + 1).unwrap();
            let error = source.tokenizer().unwrap_err();
            assert!(matches!(error, SourceError::TooLarge { .. }), "{error}");
        }
    }
}
