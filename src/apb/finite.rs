//! Where a model's numbers stop being numbers: found in the cache, after the fact.
//!
//! NaN and infinity reach everything behind them, so that it is enough to look at the end: at the last layer's keys and
//! values after a prefill, and at the logits of every token. Only when these are broken are the other layers looked at.
//!
//! What comes back from a device is worth nothing, finite or not, where a rank was lost meanwhile: an exchange may end
//! without what it was to bring.

use super::error::{NotFinitePlace, SessionError};
use super::session::{Prefilled, Session};
use crate::model::{BrokenRow, ForwardError};

impl Session {
    /// Refuses a prefilled document whose last keys or values are not finite.
    pub(super) fn check_prefilled(&self) -> Result<(), SessionError> {
        let Some(prefilled) = &self.prefilled else {
            return Ok(());
        };
        let layers = self.model.shape().layers;
        let last = layers.saturating_sub(1)..layers;
        let broken = prefilled.cache.first_not_finite(last, 0..prefilled.local);
        let broken = broken.map_err(ForwardError::from)?;
        self.group.check()?;
        match broken {
            None => Ok(()),
            Some(_) => Err(self.not_finite()?),
        }
    }

    /// Refuses logits that are not finite; those of tokens that a model rules out itself may be negative infinity.
    pub(super) fn check_logits(&self, logits: &[f32]) -> Result<(), SessionError> {
        self.group.check()?;
        let is_broken = |x: &f32| x.is_nan() || *x == f32::INFINITY;
        match logits.iter().any(is_broken) {
            false => Ok(()),
            true => Err(self.not_finite()?),
        }
    }

    /// The error for numbers that are not finite, with the first place that the cache shows. Ranks of other processes
    /// look at theirs.
    fn not_finite(&self) -> Result<SessionError, SessionError> {
        let mut found = None;
        if let Some(prefilled) = &self.prefilled {
            let layers = 0..self.model.shape().layers;
            let document = match &prefilled.shared {
                Some(shared) => shared.first_not_finite(layers.clone(), 0..prefilled.local),
                None => prefilled
                    .cache
                    .first_not_finite(layers.clone(), 0..prefilled.local),
            };
            let base = prefilled.base();
            // Of several processes one holds what follows the document.
            let following = match self.group.owns_last() {
                true => base..base + prefilled.followed.len(),
                false => base..base,
            };
            let following = prefilled.cache.first_not_finite(layers, following);
            let document = document.map_err(ForwardError::from)?.map(|row| {
                let (rank, token) = self.place_of(prefilled, row.row);
                (row, rank, token)
            });
            let following = following.map_err(ForwardError::from)?.map(|row| {
                let rank = prefilled.plan.ranks.saturating_sub(1);
                (row, rank, prefilled.plan.tokens + row.row - base)
            });
            let all = document.into_iter().chain(following);
            found = all.min_by_key(|(row, _, token)| (row.layer, *token));
        }
        Ok(SessionError::NotFinite {
            place: found.map_or(NotFinitePlace::Logits, |(row, rank, token)| {
                place(row, rank, token)
            }),
            dtype: self.model.dtype(),
        })
    }

    /// The rank that owns a row of this process's cache, and the row's token.
    fn place_of(&self, prefilled: &Prefilled, row: usize) -> (usize, usize) {
        let mut rest = row;
        for rank in self.group.ranks() {
            for owned in prefilled.plan.owned(rank) {
                if rest < owned.len() {
                    return (rank, owned.start + rest);
                }
                rest -= owned.len();
            }
        }
        (self.group.ranks().first().unwrap_or_default(), row)
    }
}

/// The layer that made a row: the one before, where nothing of the row is finite.
fn place(BrokenRow { layer, whole, .. }: BrokenRow, rank: usize, token: usize) -> NotFinitePlace {
    match (whole, layer.checked_sub(1)) {
        (true, None) => NotFinitePlace::Embedding { rank, token },
        (true, Some(layer)) => NotFinitePlace::Layer { layer, rank, token },
        (false, _) => NotFinitePlace::Layer { layer, rank, token },
    }
}
