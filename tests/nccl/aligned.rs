//! Memory that begins on a cache line, in every process.
//!
//! Products of few rows add up from where a vector begins in a weight, so that their last bits would depend on where a
//! process has its memory.

use std::alloc::{GlobalAlloc, Layout, System};

/// Bytes of a cache line, and of the widest vector.
const LINE: usize = 64;

/// The system's allocator, with every request aligned to a line.
struct Aligned;

#[global_allocator]
static ALLOCATOR: Aligned = Aligned;

/// The same for every request of a size and an alignment: memory is freed as it was allocated.
fn in_lines(layout: Layout) -> Layout {
    layout.align_to(LINE).unwrap_or(layout)
}

// SAFETY: every call is handed to the system's allocator, with an alignment that is larger, if anything.
unsafe impl GlobalAlloc for Aligned {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        unsafe { System.alloc(in_lines(layout)) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        unsafe { System.alloc_zeroed(in_lines(layout)) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, in_lines(layout)) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        unsafe { System.realloc(at, in_lines(layout), size) }
    }
}
