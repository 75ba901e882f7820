//! Which keys a row sees, as four numbers a kernel can evaluate.

use cubecl::prelude::*;

use crate::kernels::Regions;

/// [`Regions`] against a problem's lengths, reduced to what a kernel compares.
///
/// Row `i` sees the keys `first(i)..end(i)`, where `first` never grows with the row and `end` never
/// shrinks. So a run of rows sees at most what its last row sees, and every one of them sees what its
/// first row sees: two evaluations bound a whole tile of rows.
#[derive(CubeType, CubeLaunch, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visible {
    /// Query rows.
    pub seq_q: u32,
    /// Keys.
    pub seq_kv: u32,
    /// Keys that anchor rows skip.
    pub passing: u32,
    /// Rows, from 0, that are anchor rows.
    pub anchor_rows: u32,
    /// Row `i` sees keys below `i + 1 + diagonal`; at least `seq_kv` where attention is not causal.
    pub diagonal: i32,
}

impl Visible {
    /// The longest sequences that the kernels' 32-bit positions hold.
    pub const MAX_SEQ: usize = 1 << 29;

    /// Reduces validated `regions`; `None` when a length exceeds [`MAX_SEQ`](Self::MAX_SEQ).
    pub fn new(regions: Regions, seq_q: usize, seq_kv: usize) -> Option<Self> {
        if seq_q > Self::MAX_SEQ || seq_kv > Self::MAX_SEQ {
            return None;
        }
        let anchor_end = regions.passing + regions.anchor;
        let anchor_rows = match regions.anchor {
            0 => 0,
            _ => (anchor_end + seq_q).saturating_sub(seq_kv).min(seq_q),
        };
        let diagonal = if regions.causal {
            seq_kv as i32 - seq_q as i32
        } else {
            seq_kv as i32
        };
        Some(Self {
            seq_q: seq_q as u32,
            seq_kv: seq_kv as u32,
            passing: regions.passing as u32,
            anchor_rows: anchor_rows as u32,
            diagonal,
        })
    }

    /// As a kernel's argument.
    pub fn launch(self) -> VisibleLaunch {
        VisibleLaunch::new(
            self.seq_q,
            self.seq_kv,
            self.passing,
            self.anchor_rows,
            self.diagonal,
        )
    }
}

#[cube]
impl Visible {
    /// The first key that `row` sees.
    pub fn first(&self, row: u32) -> u32 {
        select(row < self.anchor_rows, self.passing, 0u32)
    }

    /// The end of the keys that `row` sees.
    pub fn end(&self, row: u32) -> u32 {
        let end = max(i32::cast_from(row) + 1i32 + self.diagonal, 0i32);
        min(u32::cast_from(end), self.seq_kv)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel evaluates, on the host.
    fn keys(visible: Visible, row: u32) -> core::ops::Range<usize> {
        let first = if row < visible.anchor_rows {
            visible.passing
        } else {
            0
        };
        let end = (row as i32 + 1 + visible.diagonal).max(0) as u32;
        first as usize..end.min(visible.seq_kv).max(first) as usize
    }

    #[test]
    fn equals_the_regions_and_is_monotone() {
        let mut compared = 0;
        for (seq_q, seq_kv) in [(1, 9), (5, 9), (9, 9), (7, 4), (3, 0)] {
            for passing in 0..=seq_kv {
                for anchor in 0..=seq_kv - passing {
                    for causal in [true, false] {
                        let regions = Regions {
                            passing,
                            anchor,
                            causal,
                        };
                        if regions.validate(seq_q, seq_kv).is_err() {
                            continue;
                        }
                        let visible = Visible::new(regions, seq_q, seq_kv).expect("short");
                        let rows: Vec<_> = (0..seq_q as u32).map(|r| keys(visible, r)).collect();
                        for (row, found) in rows.iter().enumerate() {
                            assert_eq!(*found, regions.visible_keys(row, seq_q, seq_kv));
                            compared += 1;
                        }
                        assert!(rows.windows(2).all(|two| two[1].start <= two[0].start));
                        assert!(rows.windows(2).all(|two| two[1].end >= two[0].end));
                    }
                }
            }
        }
        assert!(compared > 500);
    }

    #[test]
    fn lengths_beyond_the_positions_are_refused() {
        assert!(Visible::new(Regions::causal(), 1, 1 << 29).is_some());
        assert!(Visible::new(Regions::causal(), 1, (1 << 29) + 1).is_none());
    }
}
