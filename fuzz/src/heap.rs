//! Bounds the heap of the code under test.
//!
//! libFuzzer's own memory (its corpus, its tables) comes from C++ and is not
//! counted here, so the bound is on what one input costs and on nothing else.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    process::abort,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// What one input may have on the heap at any moment, in bytes.
pub const LIMIT: usize = 64 << 20;

/// Bytes that are allocated now.
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, with a bound; what goes beyond it ends the process,
/// which libFuzzer takes for a crash and keeps the input of.
#[derive(Debug)]
pub struct Bounded;

impl Bounded {
    fn take(bytes: usize) {
        if ALLOCATED.fetch_add(bytes, Relaxed) + bytes > LIMIT {
            // Freed for the message, which needs a little.
            ALLOCATED.store(0, Relaxed);
            eprintln!("the input needs more than {LIMIT} bytes of heap");
            abort();
        }
    }
}

// SAFETY: everything is passed on to the system's allocator as it came; only
// the sizes are added up on the way.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::take(layout.size());
        // SAFETY: the caller's promise about `layout` is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::take(layout.size());
        // SAFETY: the caller's promise about `layout` is the system's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::take(size);
        ALLOCATED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promises are the system's, which made the block.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the system made the block, with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}
