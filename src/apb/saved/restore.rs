//! Reading a saved session.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, FloatDType, TensorData};
use sha2::{Digest, Sha256};

use super::error::SavedError;
use super::folder::{RankFile, world_size};
use super::{Agreed, FORMAT, Header};
use crate::apb::plan::PrefillPlan;
use crate::apb::session::{Prefilled, Session, SessionConfig};
use crate::checkpoint::Checkpoint;
use crate::hex::encode as hex;
use crate::kernels::BlockFormat;
use crate::model::{AttentionShape, CachedRows, CausalLm, KvCache, KvDType};
use crate::size::size;

/// The longest description of a session that is read, in bytes.
const MAX_SESSION_LEN: usize = 1 << 20;

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
    /// together, those of another number of ranks included.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, SavedError> {
        let folder = folder.as_ref();
        let world = world_size(folder)?;
        let mut ranks = Vec::new();
        let mut first: Option<(Header, Vec<u32>)> = None;
        for rank in 0..world {
            let path = RankFile { rank, world }.path(folder);
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
                            first: RankFile { rank: 0, world }.path(folder),
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
    pub fn dtype(&self) -> Option<KvDType> {
        KvDType::ALL
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

    /// Refuses a model whose hidden rows are of another dtype than when the session was saved.
    ///
    /// # Errors
    ///
    /// [`SavedError::OtherPlan`].
    pub fn check_dtype(&self, model: FloatDType) -> Result<(), SavedError> {
        let Agreed {
            dtype, model_dtype, ..
        } = &self.agreed;
        let expected = model_dtype.as_ref().unwrap_or(dtype);
        self.check_setting("dtype", expected, format!("{model:?}"))
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
            path: RankFile {
                rank: 0,
                world: self.ranks.len(),
            }
            .path(&self.folder),
            reason: format!("dtype `{}`", self.agreed.dtype),
        })?;
        self.check_dtype(model.dtype())?;
        let plan = self.plan();
        let tokens = self.document.len();
        let (shape, device) = (model.shape(), model.device());
        let capacity = tokens.saturating_add(following);
        let mut cache = KvCache::new(shape, 1, capacity, dtype, &device)?;
        for (rank, checkpoint) in self.ranks.iter().enumerate() {
            self.restore_rank(rank, checkpoint, shape, dtype, &device, &mut cache)?;
        }
        let settings = SessionConfig::new(capacity)
            .with_context(self.agreed.context)
            .with_kv_dtype(dtype);
        let prefilled = Prefilled {
            document: self.document.clone(),
            plan: plan.clone(),
            local: tokens,
            cache,
            shared: None,
            followed: Vec::new(),
        };
        Ok(Session::restored(model, settings, prefilled))
    }

    fn restore_rank(
        &self,
        rank: usize,
        checkpoint: &Checkpoint,
        model: AttentionShape,
        dtype: KvDType,
        device: &Device,
        cache: &mut KvCache,
    ) -> Result<(), SavedError> {
        let damaged = |reason: String| SavedError::Damaged {
            path: checkpoint.path().into(),
            reason,
        };
        let rows = self.plan().owned_len(rank);
        let row = dtype.row(model.head_dim);
        let row = row.ok_or_else(|| damaged(format!("{dtype} for other heads")))?;
        let shape = [1, model.kv_heads, rows, row];
        let mut hash = Sha256::new();
        for layer in 0..model.layers {
            let mut read = |what: &str| {
                let name = format!("layers.{layer}.{what}");
                let info = checkpoint.info(&name);
                if info.is_none_or(|info| info.shape != shape) {
                    return Err(damaged(format!("{name}: expected shape {shape:?}")));
                }
                let bytes = checkpoint.stored_bytes(&name).unwrap_or_default();
                hash.update(bytes);
                let Some(float) = dtype.float() else {
                    let found = info.map_or(String::new(), |info| info.stored.to_string());
                    if found != "U8" {
                        return Err(damaged(format!("{name}: expected U8, found {found}")));
                    }
                    if let Some(block) = BlockFormat::Q8_0.first_not_finite(bytes) {
                        let reason = format!("{name}: the scale of block {block} is not finite");
                        return Err(damaged(reason));
                    }
                    return Ok(TensorData::new(bytes.to_vec(), shape));
                };
                Ok(checkpoint.read(&name, float)?)
            };
            let rows = CachedRows::from_data([read("key")?, read("value")?], dtype, device);
            cache
                .append_rows(layer, rows)
                .map_err(|full| damaged(full.to_string()))?;
        }
        let expected = checkpoint.metadata().get("sha256");
        match expected == Some(&hex(&hash.finalize())) {
            true => Ok(()),
            false => Err(damaged("its bytes are not those that were written".into())),
        }
    }
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
    let header = parse(session).map_err(format)?;
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

/// Reads the description of a session; otherwise says what it is.
fn parse(session: &str) -> Result<Header, String> {
    match session.len() > MAX_SESSION_LEN {
        true => Err(format!(
            "a description of {} bytes, of which at most {} are read",
            session.len(),
            size(MAX_SESSION_LEN as u64)
        )),
        false => serde_json::from_str(session).map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_description_is_not_read() {
        let refused = |len: usize| parse(&" ".repeat(len)).unwrap_err();
        assert!(refused(MAX_SESSION_LEN).contains("EOF"));
        assert_eq!(
            refused(MAX_SESSION_LEN + 1),
            "a description of 1048577 bytes, of which at most 1 MiB are read"
        );
    }
}
