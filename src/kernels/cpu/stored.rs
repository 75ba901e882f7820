//! The weight of a linear layer, as it is stored.

/// A weight's rows, as stored.
#[derive(Clone, Copy)]
pub(super) struct Stored<E> {
    pub ptr: *const E,
    /// Elements from a row to the next.
    pub stride: usize,
    pub d_input: usize,
    pub d_output: usize,
}

// SAFETY: only read through, and the tensor it borrows is shared memory.
unsafe impl<E: Sync> Send for Stored<E> {}
// SAFETY: as above.
unsafe impl<E: Sync> Sync for Stored<E> {}
