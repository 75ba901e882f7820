//! Rows that follow the document: a question, or a token just generated.

use burn::tensor::{DType, Device, Tensor};

use crate::apb::cancel::CancelToken;
use crate::apb::error::SessionError;
use crate::kernels::{AttentionOutput, Regions, merge, on_workers};
use crate::model::{ForwardError, KvCache, LayerAttention, Projections, join_heads};
use crate::ranks::RankGroup;

/// A pass of rows that follow the document over the layers: they attend to the keys and values that
/// every process holds, and the partial results are merged.
///
/// The process that drives the last rank, the owner, appends the new rows to its cache and alone masks
/// causally.
pub struct QueryPass<'a> {
    group: &'a mut RankGroup,
    cache: &'a mut KvCache,
    /// Document rows of this process.
    local: usize,
    /// The cache of the document's rows, where it is shared with other sessions: `cache` holds what follows.
    shared: Option<&'a KvCache>,
    cancel: CancelToken,
    attended: Option<Tensor<3>>,
}

impl<'a> QueryPass<'a> {
    /// A pass over `cache`, whose first `local` rows are the document's.
    pub fn new(group: &'a mut RankGroup, cache: &'a mut KvCache, local: usize) -> Self {
        Self {
            group,
            cache,
            local,
            shared: None,
            cancel: CancelToken::new(),
            attended: None,
        }
    }

    /// The same with the document's rows in a cache that several sessions read; the pass's own cache holds
    /// only the rows that follow.
    pub fn with_shared(mut self, document: Option<&'a KvCache>) -> Self {
        self.shared = document;
        self
    }

    /// The same, ended with [`SessionError::Cancelled`] once `token` is cancelled.
    pub fn with_cancel(mut self, token: CancelToken) -> Self {
        self.cancel = token;
        self
    }

    /// What this process's rows of a layer give.
    fn attend_own(
        &mut self,
        layer: usize,
        projections: Projections,
    ) -> Result<AttentionOutput, SessionError> {
        let Projections {
            query, key, value, ..
        } = projections;
        let document = |cache: &KvCache, query: Tensor<4>| -> Result<_, SessionError> {
            let rows = cache.rows(layer, 0..self.local);
            let rows = rows.map_err(ForwardError::from)?;
            Ok(rows.attend(query, Regions::full())?)
        };
        if !self.group.owns_last() {
            return document(self.cache, query);
        }
        let before = match self.shared {
            Some(cache) => Some(in_f32(document(cache, query.clone())?)),
            None => None,
        };
        let appended = self.cache.append(layer, key, value);
        let held = appended.map_err(ForwardError::from)?;
        let own = held.attend(query, Regions::causal())?;
        match before {
            None => Ok(own),
            Some(before) => Ok(merge([before, in_f32(own)])?),
        }
    }
}

/// Partial results are merged in f32.
fn in_f32(part: AttentionOutput) -> AttentionOutput {
    AttentionOutput {
        out: part.out.cast(DType::F32),
        lse: part.lse,
    }
}

impl LayerAttention for QueryPass<'_> {
    type Error = SessionError;

    fn push(
        &mut self,
        layer: usize,
        _index: usize,
        projections: Projections,
    ) -> Result<(), SessionError> {
        self.poll()?;
        self.group.at_layer(Some(layer));
        let dtype = projections.query.dtype();
        let mine = self.attend_own(layer, projections)?;
        let attended = match self.group.processes() {
            1 => mine,
            _ => {
                let parts = self.group.gather_processes(pack_partial(mine))?;
                merge(parts.into_iter().map(unpack_partial))?
            }
        };
        self.attended = Some(join_heads(attended.out.cast(dtype)));
        Ok(())
    }

    fn attend(&mut self, _layer: usize) -> Result<Option<Vec<Tensor<3>>>, SessionError> {
        Ok(self.attended.take().map(|rows| vec![rows]))
    }

    fn poll(&self) -> Result<(), SessionError> {
        self.group.check()?;
        match self.cancel.is_cancelled() {
            true => Err(SessionError::Cancelled { done: 0, total: 0 }),
            false => Ok(()),
        }
    }

    fn compute<T: Send>(&mut self, device: &Device, work: impl FnOnce(&mut Self) -> T + Send) -> T {
        match self.group.shares_workers() {
            true => work(self),
            false => on_workers(device, || work(self)),
        }
    }
}

impl Drop for QueryPass<'_> {
    fn drop(&mut self) {
        self.group.at_layer(None);
    }
}

/// A partial result as one f32 tensor `[batch, heads, seq, head_dim + 1]`, its lse last.
fn pack_partial(part: AttentionOutput) -> Tensor<4> {
    let lse = part.lse.cast(DType::F32).unsqueeze_dim(3);
    Tensor::cat(vec![part.out.cast(DType::F32), lse], 3)
}

fn unpack_partial(packed: Tensor<4>) -> AttentionOutput {
    let [batch, heads, seq, width] = packed.dims();
    let part = |range| packed.clone().slice([0..batch, 0..heads, 0..seq, range]);
    AttentionOutput {
        out: part(0..width - 1),
        lse: part(width - 1..width).squeeze_dim(3),
    }
}
