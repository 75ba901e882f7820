//! Which ranks each process drives.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// How ranks are dealt to the processes, each of which drives the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum RankOrder {
    /// Of `s` ranks a process, process `p` drives `p * s` to `p * s + s - 1`.
    #[default]
    InOrder,
    /// Back and forth: of two ranks for each of `P` processes, process `p` drives `p` and `2P - 1 - p`. Later ranks
    /// have more work under APB and a contiguous ring; a process with the first and the last balances that.
    Folded,
}

impl RankOrder {
    /// The name used on the command line and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::InOrder => "in-order",
            Self::Folded => "folded",
        }
    }

    /// The ranks of a process, one of `processes` that drive `each` of them; none where there is no such process.
    pub(super) fn ranks_of(self, process: usize, processes: usize, each: usize) -> Ranks {
        if process >= processes {
            return Ranks::from(0..0);
        }
        let gap = |between: usize| between.saturating_mul(2).saturating_add(1);
        match self {
            Self::InOrder => Ranks::from(process * each..(process + 1) * each),
            Self::Folded => Ranks {
                first: process,
                len: each,
                gaps: [gap(processes - 1 - process), gap(process)],
            },
        }
    }

    /// The process that drives a rank.
    pub(super) fn process_of(self, rank: usize, processes: usize, each: usize) -> usize {
        let (round, place) = (rank / processes, rank % processes);
        match self {
            Self::InOrder => rank / each,
            Self::Folded if round.is_multiple_of(2) => place,
            Self::Folded => processes - 1 - place,
        }
    }
}

/// The ranks that a process drives, in ascending order; an iterator over them, as a range is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ranks {
    first: usize,
    len: usize,
    /// From the first to the second, and from that to the third; these two alternate.
    gaps: [usize; 2],
}

impl Ranks {
    /// The lowest.
    pub fn first(&self) -> Option<usize> {
        (self.len > 0).then_some(self.first)
    }

    /// Whether a rank is among them.
    pub fn contains(&self, rank: usize) -> bool {
        self.index_of(rank).is_some()
    }

    /// How many of them are lower than a rank that is among them.
    pub(super) fn index_of(&self, rank: usize) -> Option<usize> {
        let [gap, next_gap] = self.gaps;
        let offset = rank.checked_sub(self.first)?;
        let both = gap.saturating_add(next_gap).max(1);
        let pairs = (offset / both).saturating_mul(2);
        let index = match offset % both {
            0 => pairs,
            rest if rest == gap => pairs.saturating_add(1),
            _ => return None,
        };
        (index < self.len).then_some(index)
    }
}

impl From<Range<usize>> for Ranks {
    fn from(ranks: Range<usize>) -> Self {
        Self {
            first: ranks.start,
            len: ranks.len(),
            gaps: [1; 2],
        }
    }
}

impl Iterator for Ranks {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let rank = self.first()?;
        self.first = rank.saturating_add(self.gaps[0]);
        self.len -= 1;
        self.gaps.reverse();
        Some(rank)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len, Some(self.len))
    }
}

impl ExactSizeIterator for Ranks {}

impl PartialEq for Ranks {
    fn eq(&self, other: &Self) -> bool {
        // The first three have both gaps between them.
        self.len == other.len && self.clone().take(3).eq(other.clone().take(3))
    }
}

impl Eq for Ranks {}

impl fmt::Display for Ranks {
    /// As in a sentence: `rank 3`, `ranks 4 to 7`, `ranks 0, 7, 8 and 15`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, len, .. } = *self;
        let last = first.saturating_add(len).saturating_sub(1);
        match len {
            0 => return f.write_str("no ranks"),
            1 => return write!(f, "rank {first}"),
            _ if self.index_of(last) == Some(len - 1) => {
                return write!(f, "ranks {first} to {last}");
            }
            _ => f.write_str("ranks ")?,
        }
        for (index, rank) in self.clone().enumerate() {
            let before = match index {
                0 => "",
                index if index == len - 1 => " and ",
                _ => ", ",
            };
            write!(f, "{before}{rank}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ORDERS: [RankOrder; 2] = [RankOrder::InOrder, RankOrder::Folded];

    #[test]
    fn ranks_are_dealt_in_order_or_back_and_forth() {
        let dealt = |order: RankOrder, processes: usize, each: usize| -> Vec<Vec<usize>> {
            let ranks = (0..processes).map(|process| order.ranks_of(process, processes, each));
            ranks.map(Iterator::collect).collect()
        };
        assert_eq!(dealt(RankOrder::InOrder, 3, 2), [[0, 1], [2, 3], [4, 5]]);
        assert_eq!(dealt(RankOrder::Folded, 3, 2), [[0, 5], [1, 4], [2, 3]]);
        assert_eq!(dealt(RankOrder::Folded, 2, 3), [[0, 3, 4], [1, 2, 5]]);
        for order in ORDERS {
            assert_eq!(dealt(order, 3, 1), [[0], [1], [2]]);
            assert_eq!(dealt(order, 1, 3), [[0, 1, 2]]);
            assert_eq!(order.ranks_of(3, 3, 2).first(), None);
        }
    }

    #[test]
    fn ranks_are_named_in_a_sentence() {
        let named = |process, processes, each| {
            let ranks = RankOrder::Folded.ranks_of(process, processes, each);
            ranks.to_string()
        };
        assert_eq!(named(3, 4, 1), "rank 3");
        assert_eq!(named(0, 4, 2), "ranks 0 and 7");
        assert_eq!(named(0, 4, 4), "ranks 0, 7, 8 and 15");
        assert_eq!(named(3, 4, 2), "ranks 3 to 4");
        assert_eq!(Ranks::from(4..8).to_string(), "ranks 4 to 7");
        assert_eq!(Ranks::from(0..0).to_string(), "no ranks");
    }

    #[test]
    fn numbers_of_any_size_do_not_overflow() {
        for order in ORDERS {
            let one = order.ranks_of(0, 1, usize::MAX);
            assert!(one.contains(usize::MAX - 1) && !one.contains(usize::MAX));
            assert_eq!(one, Ranks::from(0..usize::MAX));
            let last = usize::MAX - 1;
            assert_eq!(order.ranks_of(last, usize::MAX, 1).next(), Some(last));
            assert_eq!(order.process_of(last, usize::MAX, 1), last);
        }
    }

    proptest! {
        /// Every rank has one process, and a process as many ranks as every other, ascending.
        #[test]
        fn every_rank_is_driven_once(processes in 1usize..9, each in 1usize..7) {
            for order in ORDERS {
                let mut driven = vec![0; processes * each];
                for process in 0..processes {
                    let ranks = order.ranks_of(process, processes, each);
                    let listed: Vec<usize> = ranks.clone().collect();
                    prop_assert_eq!(ranks.len(), each);
                    prop_assert!(listed.is_sorted());
                    for (rank, driven) in driven.iter_mut().enumerate() {
                        let index = listed.iter().position(|listed| *listed == rank);
                        prop_assert_eq!(ranks.index_of(rank), index);
                        let mine = order.process_of(rank, processes, each) == process;
                        prop_assert_eq!(index.is_some(), mine);
                        *driven += usize::from(mine);
                    }
                }
                prop_assert_eq!(driven, vec![1; processes * each]);
            }
        }
    }
}
