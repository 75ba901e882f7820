//! A prefilled document on disk: one safetensors file for each rank.
//!
//! | in `rank-R-of-H.safetensors` | |
//! |---|---|
//! | `layers.{i}.key`, `layers.{i}.value` | `[batch, kv_heads, rows, head_dim]` of the rank's document rows, in the session's dtype |
//! | metadata `session` | JSON: the model's fingerprint, the plan, dtype, RoPE's context, an id that all ranks share |
//! | metadata `tokens` | the whole document's tokens, in decimal |
//! | metadata `sha256` | of the tensors' bytes in the order of the file |
//!
//! Files appear whole or not at all. Restoring refuses another model, files of different saves, and
//! files whose bytes are not those that were written.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::plan::PrefillPlan;
use super::session::{Prefilled, Session, SessionConfig};
use crate::checkpoint::{Checkpoint, FileError, WeightsError, encode};
use crate::hex::encode as hex;
use crate::model::{AttentionShape, CacheError, CausalLm, KvCache};

/// What the files call themselves; to be changed with what they hold.
const FORMAT: &str = "apb-session-1";

/// What all files of a session agree on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Agreed {
    format: String,
    /// Fingerprint of the model.
    model: String,
    plan: PrefillPlan,
    dtype: String,
    /// Tokens that the rotary frequencies were made for.
    context: usize,
    /// Hash of all of the above and the document.
    id: String,
}

/// The header of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    #[serde(flatten)]
    agreed: Agreed,
    rank: usize,
}

/// Why a session was not saved or restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SavedError {
    /// Nothing has been prefilled.
    #[error("there is no prefilled document to save")]
    NoDocument,
    /// A file cannot be written. Nothing is left behind.
    #[error(transparent)]
    Write(#[from] FileError),
    /// A file cannot be read, or is no safetensors file.
    #[error(transparent)]
    Read(#[from] WeightsError),
    /// The cache does not hold what the plan says.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The device could not give back its tensors.
    #[error("the device failed: {reason}")]
    Device {
        /// The backend's message.
        reason: String,
    },
    /// A folder without a session.
    #[error("{}: expected a saved session (rank-0-of-H.safetensors), found none; `apb session save` makes one", path.display())]
    NotASession {
        /// The folder.
        path: PathBuf,
    },
    /// A safetensors file of something else.
    #[error("{}: expected a saved session of format {FORMAT}, found {found}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The format it names.
        found: String,
    },
    /// Files of different saves in one folder.
    #[error("{}: belongs to another session than {}; save the document again into a folder of its own", path.display(), first.display())]
    Mixed {
        /// The file that differs.
        path: PathBuf,
        /// The file it differs from.
        first: PathBuf,
    },
    /// The session was prefilled by another model.
    #[error("{}: the session is of a model with fingerprint {expected}, found {found}; load the model it was saved with, or prefill again", path.display())]
    OtherModel {
        /// The folder.
        path: PathBuf,
        /// Fingerprint in the session.
        expected: String,
        /// Fingerprint of the model given.
        found: String,
    },
    /// The session was prefilled otherwise than asked for.
    #[error("{}: the session has {what} {expected}, asked for is {found}; leave the setting out, or prefill again", path.display())]
    OtherPlan {
        /// The folder.
        path: PathBuf,
        /// Method, ranks, anchor or passing.
        what: &'static str,
        /// In the session.
        expected: String,
        /// Asked for.
        found: String,
    },
    /// The bytes are not those that were written.
    #[error("{}: is damaged: {reason}; prefill the document again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Session {
    /// Saves what the ranks of this process hold into `folder`, one file for each rank; returns the
    /// bytes written. `model` is [`ModelSource::fingerprint`](crate::checkpoint::source::ModelSource::fingerprint).
    ///
    /// # Errors
    ///
    /// [`SavedError`] when nothing is prefilled or a file cannot be written.
    pub fn save(&self, folder: &Path, model: &str) -> Result<u64, SavedError> {
        self.prepare_save(folder, model)?.commit()
    }

    /// Writes the same under other names, which [`PreparedSave::commit`] makes the session's: several
    /// processes write first, and commit once all have written, the first of them last.
    ///
    /// # Errors
    ///
    /// As [`Self::save`].
    pub fn prepare_save(&self, folder: &Path, model: &str) -> Result<PreparedSave, SavedError> {
        let prefilled = self.prefilled.as_ref().ok_or(SavedError::NoDocument)?;
        let agreed = Agreed::of(prefilled, model, self.settings, self.model.dtype());
        std::fs::create_dir_all(folder).map_err(|source| FileError {
            path: folder.into(),
            source,
        })?;
        let mut prepared = PreparedSave {
            folder: folder.into(),
            world: prefilled.plan.ranks,
            files: Vec::new(),
            bytes: 0,
            complete: false,
        };
        let mut start = 0;
        for rank in self.ranks() {
            let rows = prefilled.plan.owned_len(rank);
            let header = Header {
                agreed: agreed.clone(),
                rank,
            };
            let path = folder.join(file_name(rank, prefilled.plan.ranks));
            prepared.files.push(path.clone());
            let path = partial(&path);
            prepared.bytes += self.save_rank(&path, prefilled, &header, start..start + rows)?;
            start += rows;
        }
        Ok(prepared)
    }

    fn save_rank(
        &self,
        path: &Path,
        prefilled: &Prefilled,
        header: &Header,
        rows: std::ops::Range<usize>,
    ) -> Result<u64, SavedError> {
        let layers = self.model.shape().layers;
        let names: Vec<String> = (0..layers)
            .flat_map(|layer| ["key", "value"].map(|what| format!("layers.{layer}.{what}")))
            .collect();
        // Twice through the cache, so that no second copy of it is prefilled: the hash stands in front.
        let mut hash = Sha256::new();
        let mut shape = [0; 4];
        for layer in 0..layers {
            let (key, value) = prefilled.document_rows(layer, rows.clone())?;
            shape = key.dims();
            hash.update(&host_bytes(key)?[..]);
            hash.update(&host_bytes(value)?[..]);
        }
        let dtype = DType::from(self.model.dtype());
        let byte_len = (shape.iter().product::<usize>() * dtype.size()) as u64;
        let tokens: Vec<String> = prefilled.document.iter().map(u32::to_string).collect();
        let metadata = json!({
            "session": json!(header).to_string(),
            "tokens": tokens.join(" "),
            "sha256": hex(&hash.finalize()),
        });
        let tensors = names.iter().map(|name| {
            (
                name.as_str(),
                header.agreed.dtype.as_str(),
                &shape[..],
                byte_len,
            )
        });
        let (front, data) = encode(metadata, tensors);
        let failed = |source| FileError {
            path: path.into(),
            source,
        };
        let mut file = BufWriter::new(File::create(path).map_err(failed)?);
        file.write_all(&front).map_err(failed)?;
        for layer in 0..layers {
            let (key, value) = prefilled.document_rows(layer, rows.clone())?;
            for tensor in [key, value] {
                file.write_all(&host_bytes(tensor)?).map_err(failed)?;
            }
        }
        let file = file
            .into_inner()
            .map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)?;
        Ok(front.len() as u64 + data)
    }
}

/// The files of one process's ranks, written but not yet part of a session. Dropped without
/// [`commit`](Self::commit) they are removed, and so are other processes' in the same folder.
#[derive(Debug)]
#[must_use = "dropped, it removes its files"]
pub struct PreparedSave {
    folder: PathBuf,
    world: usize,
    /// Their final names.
    files: Vec<PathBuf>,
    bytes: u64,
    complete: bool,
}

impl PreparedSave {
    /// Bytes written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives the files their names; returns the bytes they hold. Rank 0's file makes a session of
    /// them, so its process commits last.
    ///
    /// # Errors
    ///
    /// [`SavedError::Write`] when a file cannot be renamed.
    pub fn commit(mut self) -> Result<u64, SavedError> {
        for path in self.files.iter().rev() {
            std::fs::rename(partial(path), path).map_err(|source| FileError {
                path: path.clone(),
                source,
            })?;
        }
        self.complete = true;
        Ok(self.bytes)
    }
}

impl Drop for PreparedSave {
    fn drop(&mut self) {
        if !self.complete {
            discard_unfinished(&self.folder, self.world);
        }
    }
}

/// Removes what an unfinished save of `world` ranks left in a folder: files that were not committed
/// and, without rank 0's, those that were.
pub fn discard_unfinished(folder: &Path, world: usize) {
    let files = (0..world).map(|rank| folder.join(file_name(rank, world)));
    let finished = files.clone().next().is_some_and(|first| first.exists());
    for path in files {
        // Files that are absent, or that cannot be removed, are left.
        let _ = std::fs::remove_file(partial(&path));
        if !finished {
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// The name of a file until it is committed.
fn partial(path: &Path) -> PathBuf {
    path.with_extension("safetensors.partial")
}

/// A session on disk, its headers read.
#[derive(Debug)]
pub struct SavedSession {
    folder: PathBuf,
    agreed: Agreed,
    document: Vec<u32>,
    /// One file for each rank, in order.
    ranks: Vec<Checkpoint>,
}

impl SavedSession {
    /// Reads the headers of a session's files.
    ///
    /// # Errors
    ///
    /// [`SavedError`] when there is no session, a rank's file is missing, or files do not belong
    /// together.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, SavedError> {
        let folder = folder.as_ref();
        let world = world_size(folder).ok_or_else(|| SavedError::NotASession {
            path: folder.into(),
        })?;
        let mut ranks = Vec::new();
        let mut first: Option<(Header, Vec<u32>)> = None;
        for rank in 0..world {
            let path = folder.join(file_name(rank, world));
            let checkpoint = Checkpoint::open(&path)?;
            let (header, document) = read_header(&path, &checkpoint)?;
            let damaged = |reason: &str| SavedError::Damaged {
                path: path.clone(),
                reason: reason.into(),
            };
            if header.rank != rank || header.agreed.plan.ranks != world {
                return Err(damaged("its name and its header disagree about the rank"));
            }
            match &first {
                None => {
                    if header.agreed.id != header.agreed.hash(&document) {
                        return Err(damaged("its header is not the one that was written"));
                    }
                    first = Some((header, document));
                }
                Some((agreed, tokens)) => {
                    if agreed.agreed != header.agreed || *tokens != document {
                        return Err(SavedError::Mixed {
                            path,
                            first: folder.join(file_name(0, world)),
                        });
                    }
                }
            }
            ranks.push(checkpoint);
        }
        let (header, document) = first.ok_or_else(|| SavedError::NotASession {
            path: folder.into(),
        })?;
        Ok(Self {
            folder: folder.into(),
            agreed: header.agreed,
            document,
            ranks,
        })
    }

    /// How the document was prefilled.
    pub fn plan(&self) -> &PrefillPlan {
        &self.agreed.plan
    }

    /// The document's tokens.
    pub fn document(&self) -> &[u32] {
        &self.document
    }

    /// What keys and values are stored as.
    pub fn dtype(&self) -> Option<FloatDType> {
        [FloatDType::F32, FloatDType::F16, FloatDType::BF16]
            .into_iter()
            .find(|dtype| format!("{dtype:?}") == self.agreed.dtype)
    }

    /// Refuses a model by its fingerprint, before its weights are read.
    ///
    /// # Errors
    ///
    /// [`SavedError::OtherModel`].
    pub fn check_model(&self, fingerprint: &str) -> Result<(), SavedError> {
        match self.agreed.model == fingerprint {
            true => Ok(()),
            false => Err(SavedError::OtherModel {
                path: self.folder.clone(),
                expected: self.agreed.model.clone(),
                found: fingerprint.into(),
            }),
        }
    }

    /// Refuses a setting that the session was not prefilled with.
    ///
    /// # Errors
    ///
    /// [`SavedError::OtherPlan`].
    pub fn check_setting(
        &self,
        what: &'static str,
        expected: impl ToString,
        found: impl ToString,
    ) -> Result<(), SavedError> {
        let (expected, found) = (expected.to_string(), found.to_string());
        match expected == found {
            true => Ok(()),
            false => Err(SavedError::OtherPlan {
                path: self.folder.clone(),
                what,
                expected,
                found,
            }),
        }
    }

    /// The session as it was when it was saved, with room for `following` tokens behind the document.
    /// All its ranks are driven by this process.
    ///
    /// # Errors
    ///
    /// [`SavedError::Damaged`] when a file's bytes are not those that were written, or do not fit the
    /// model.
    pub fn restore(
        &self,
        model: Arc<dyn CausalLm>,
        following: usize,
    ) -> Result<Session, SavedError> {
        let dtype = self.dtype().ok_or_else(|| SavedError::Damaged {
            path: self.folder.join(file_name(0, self.ranks.len())),
            reason: format!("dtype `{}`", self.agreed.dtype),
        })?;
        self.check_setting("dtype", &self.agreed.dtype, format!("{:?}", model.dtype()))?;
        let plan = self.plan();
        let tokens = self.document.len();
        let (shape, device) = (model.shape(), model.device());
        let capacity = tokens + following;
        let mut cache = KvCache::new(shape, 1, capacity, dtype.into(), &device);
        for (rank, checkpoint) in self.ranks.iter().enumerate() {
            self.restore_rank(rank, checkpoint, shape, dtype, &device, &mut cache)?;
        }
        let settings = SessionConfig::new(capacity).with_context(self.agreed.context);
        let prefilled = Prefilled {
            document: self.document.clone(),
            plan: plan.clone(),
            local: tokens,
            cache,
            shared: None,
            following: 0,
        };
        Ok(Session::restored(model, settings, prefilled))
    }

    fn restore_rank(
        &self,
        rank: usize,
        checkpoint: &Checkpoint,
        model: AttentionShape,
        dtype: FloatDType,
        device: &Device,
        cache: &mut KvCache,
    ) -> Result<(), SavedError> {
        let damaged = |reason: String| SavedError::Damaged {
            path: checkpoint.path().into(),
            reason,
        };
        let rows = self.plan().owned_len(rank);
        let shape = [1, model.kv_heads, rows, model.head_dim];
        let mut hash = Sha256::new();
        for layer in 0..model.layers {
            let mut read = |what: &str| {
                let name = format!("layers.{layer}.{what}");
                let info = checkpoint.info(&name);
                if info.is_none_or(|info| info.shape != shape) {
                    return Err(damaged(format!("{name}: expected shape {shape:?}")));
                }
                hash.update(checkpoint.stored_bytes(&name).unwrap_or_default());
                let bytes = checkpoint
                    .tensor(&name, dtype)?
                    .into_bytes()
                    .map_err(|error| damaged(error.to_string()))?;
                let data = TensorData::from_bytes(bytes, shape, dtype.into());
                Ok(Tensor::<4>::from_data(data, (device, dtype.into())))
            };
            let (key, value) = (read("key")?, read("value")?);
            cache
                .append(layer, key, value)
                .map_err(|full| damaged(full.to_string()))?;
        }
        let expected = checkpoint.metadata().get("sha256");
        match expected == Some(&hex(&hash.finalize())) {
            true => Ok(()),
            false => Err(damaged("its bytes are not those that were written".into())),
        }
    }
}

impl Agreed {
    fn of(prefilled: &Prefilled, model: &str, settings: SessionConfig, dtype: FloatDType) -> Self {
        let mut agreed = Self {
            format: FORMAT.into(),
            model: model.into(),
            plan: prefilled.plan.clone(),
            dtype: format!("{dtype:?}"),
            context: settings.context(),
            id: String::new(),
        };
        agreed.id = agreed.hash(&prefilled.document);
        agreed
    }

    /// Hash of everything but the id, and of the document.
    fn hash(&self, document: &[u32]) -> String {
        let named = Self {
            id: String::new(),
            ..self.clone()
        };
        let mut hash = Sha256::new();
        hash.update(json!(named).to_string());
        for token in document {
            hash.update(token.to_le_bytes());
        }
        hex(&hash.finalize())
    }
}

fn file_name(rank: usize, world: usize) -> String {
    format!("rank-{rank}-of-{world}.safetensors")
}

/// The number of ranks that the files of a folder speak of; the smallest, should there be several.
fn world_size(folder: &Path) -> Option<usize> {
    let entries = std::fs::read_dir(folder).ok()?;
    let worlds = entries.filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        let world = name
            .strip_prefix("rank-0-of-")?
            .strip_suffix(".safetensors")?;
        world.parse::<usize>().ok().filter(|world| *world > 0)
    });
    worlds.min()
}

fn read_header(path: &Path, checkpoint: &Checkpoint) -> Result<(Header, Vec<u32>), SavedError> {
    let format = |found: String| SavedError::Format {
        path: path.into(),
        found,
    };
    let metadata = checkpoint.metadata();
    let session = metadata
        .get("session")
        .ok_or_else(|| format("other tensors".into()))?;
    let header: Header = serde_json::from_str(session).map_err(|e| format(e.to_string()))?;
    if header.agreed.format != FORMAT {
        return Err(format(format!("`{}`", header.agreed.format)));
    }
    let damaged = |reason: String| SavedError::Damaged {
        path: path.into(),
        reason,
    };
    let tokens = metadata
        .get("tokens")
        .map(String::as_str)
        .unwrap_or_default();
    let document = tokens
        .split_ascii_whitespace()
        .map(str::parse)
        .collect::<Result<Vec<u32>, _>>()
        .map_err(|e| damaged(format!("its tokens: {e}")))?;
    let plan = &header.agreed.plan;
    if document.is_empty() || document.len() != plan.tokens {
        return Err(damaged(format!(
            "it holds {} tokens of a document of {}",
            document.len(),
            plan.tokens
        )));
    }
    Ok((header, document))
}

/// A tensor's elements as they are stored.
fn host_bytes(tensor: Tensor<4>) -> Result<burn::tensor::Bytes, SavedError> {
    let data = tensor.try_into_data().map_err(|e| SavedError::Device {
        reason: e.to_string(),
    })?;
    Ok(data.into_bytes())
}
