//! Aligned working memory that a thread keeps from call to call.

use std::cell::Cell;

/// One cache line, which is also the widest vector.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// Floats of a cache line.
pub(super) const LINE: usize = 16;

thread_local! {
    static KEPT: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Runs `work` with pointers to areas of the given lengths in floats, each on a cache line of its own.
/// What they hold is not specified.
#[inline]
pub(super) fn with<const N: usize, T>(
    lengths: [usize; N],
    work: impl FnOnce([*mut f32; N]) -> T,
) -> T {
    let lines = lengths.map(|length| length.div_ceil(LINE));
    let total = lines.iter().sum();
    // Taken, not borrowed: should a thread come here twice, it works with fresh memory.
    let mut kept = KEPT.take();
    if kept.len() < total {
        kept.clear();
        kept.resize(total, Line([0.0; LINE]));
    }
    let mut next = kept.as_mut_ptr().cast::<f32>();
    let areas = lines.map(|lines| {
        let area = next;
        next = next.wrapping_add(lines * LINE);
        area
    });
    let result = work(areas);
    KEPT.set(kept);
    result
}
