//! Aligned working memory that a thread keeps from call to call.

use std::cell::RefCell;

/// One cache line, which is also the widest vector.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line(#[allow(dead_code)] [f32; LINE]);

/// Floats of a cache line.
pub(super) const LINE: usize = 16;

thread_local! {
    static KEPT: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Working memory of this thread, which gets it back when this is dropped.
pub(super) struct Scratch<const N: usize> {
    /// The areas, each on a cache line of its own. What they hold is not specified.
    pub areas: [*mut f32; N],
    memory: Vec<Line>,
}

impl<const N: usize> Scratch<N> {
    /// Areas of the given lengths in floats.
    #[inline]
    pub(super) fn new(lengths: [usize; N]) -> Self {
        let lines = lengths.map(|length| length.div_ceil(LINE));
        let total = lines.iter().sum();
        // Taken, not borrowed: a thread that comes here while it has some takes what it had the last time it did so.
        let mut memory = KEPT.with_borrow_mut(Vec::pop).unwrap_or_default();
        if memory.len() < total {
            memory.clear();
            memory.resize(total, Line([0.0; LINE]));
        }
        let mut next = memory.as_mut_ptr().cast::<f32>();
        let areas = lines.map(|lines| {
            let area = next;
            next = next.wrapping_add(lines * LINE);
            area
        });
        Self { areas, memory }
    }
}

impl<const N: usize> Drop for Scratch<N> {
    fn drop(&mut self) {
        let memory = core::mem::take(&mut self.memory);
        KEPT.with_borrow_mut(|kept| kept.push(memory));
    }
}
