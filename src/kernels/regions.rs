//! Which keys a query row sees.

use core::ops::Range;

use super::KernelError;

/// The parts of an attention problem whose keys are laid out `[passing | anchor | local]`.
///
/// Row `i` of `seq_q` stands at key `p = i + seq_kv - seq_q` (aligned bottom-right), so queries may
/// be fewer than keys: a later chunk of a prefill, or one row of decoding. It sees
///
/// | row | passing keys | anchor keys | local keys |
/// |---|---|---|---|
/// | anchor row, `p < passing + anchor` | none | `<= p` if causal, else all | as anchor keys |
/// | local row | all | all `<= p` if causal, else all | `<= p` if causal, else all |
///
/// With `passing` and `anchor` zero and `causal` true this is ordinary causal attention; with
/// `causal` false every row sees every key.
///
/// # References
///
/// APB, arXiv 2502.12085: local rows attend to what earlier hosts passed, anchor rows do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Regions {
    /// Keys at the front that came from other hosts; anchor rows skip them.
    pub passing: usize,
    /// Keys, and rows, of the anchor, which stand between the passing and the local ones.
    pub anchor: usize,
    /// Whether a row sees only keys up to its own position.
    pub causal: bool,
}

impl Regions {
    /// Ordinary causal attention, aligned bottom-right.
    pub const fn causal() -> Self {
        Self {
            passing: 0,
            anchor: 0,
            causal: true,
        }
    }

    /// Every row sees every key.
    pub const fn full() -> Self {
        Self {
            passing: 0,
            anchor: 0,
            causal: false,
        }
    }

    /// Checks that the regions divide `seq_q` rows and `seq_kv` keys.
    ///
    /// # Errors
    ///
    /// [`KernelError::Regions`] when passing and anchor keys exceed the keys, or when there are more
    /// rows than keys to stand at while regions are named.
    pub fn validate(&self, seq_q: usize, seq_kv: usize) -> Result<(), KernelError> {
        let refuse = |reason| {
            Err(KernelError::Regions {
                passing: self.passing,
                anchor: self.anchor,
                seq_q,
                seq_kv,
                reason,
            })
        };
        let named = match self.passing.checked_add(self.anchor) {
            Some(named) if named <= seq_kv => named,
            _ => return refuse("passing and anchor together exceed the keys"),
        };
        // Without anchor rows or a causal limit the rows' positions do not matter.
        let positions_matter = named > 0 && (self.causal || self.anchor > 0);
        if positions_matter && seq_q > seq_kv - self.passing {
            return refuse("there are more rows than anchor and local keys");
        }
        Ok(())
    }

    /// The keys that `row` of `seq_q` sees among `seq_kv`; empty when it sees none.
    ///
    /// The regions must have passed [`validate`](Self::validate).
    pub fn visible_keys(&self, row: usize, seq_q: usize, seq_kv: usize) -> Range<usize> {
        // Keys up to and including the row's own position.
        let end = row.saturating_add(1).saturating_add(seq_kv);
        let end = end.saturating_sub(seq_q);
        let anchor_row = self.anchor > 0 && end <= self.passing.saturating_add(self.anchor);
        let start = if anchor_row { self.passing } else { 0 };
        let end = if self.causal { end.min(seq_kv) } else { seq_kv };
        start..end.max(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_every_region() {
        let regions = Regions {
            passing: 3,
            anchor: 2,
            causal: true,
        };
        let rows: Vec<_> = (0..4).map(|row| regions.visible_keys(row, 4, 7)).collect();
        assert_eq!(rows, [3..4, 3..5, 0..6, 0..7]);
    }

    #[test]
    fn fewer_rows_than_keys_align_at_the_end() {
        let regions = Regions::causal();
        assert_eq!(regions.visible_keys(0, 1, 10), 0..10);
        assert_eq!(regions.visible_keys(1, 4, 10), 0..8);
        let tail = Regions {
            passing: 3,
            anchor: 4,
            causal: true,
        };
        assert_eq!(tail.visible_keys(0, 3, 9), 3..7);
        assert_eq!(tail.visible_keys(1, 3, 9), 0..8);
    }

    #[test]
    fn more_rows_than_keys_leave_rows_without_keys() {
        let regions = Regions::causal();
        assert!(regions.validate(5, 2).is_ok());
        assert!(regions.visible_keys(2, 5, 2).is_empty());
        assert_eq!(regions.visible_keys(3, 5, 2), 0..1);
        assert_eq!(Regions::full().visible_keys(0, 5, 2), 0..2);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let regions = |passing, anchor, causal| Regions {
            passing,
            anchor,
            causal,
        };
        assert!(regions(usize::MAX, 1, true).validate(1, 8).is_err());
        assert!(regions(5, 4, true).validate(1, 8).is_err());
        assert!(regions(5, 2, true).validate(4, 8).is_err());
        assert!(regions(5, 0, true).validate(4, 8).is_err());
        assert!(regions(5, 0, false).validate(4, 8).is_ok());
        assert!(regions(5, 3, true).validate(3, 8).is_ok());
    }
}
