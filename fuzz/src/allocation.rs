//! What a decoder allocates, counted by the allocator itself.
//!
//! The counts are those of the thread, so targets may run side by side. What a thread frees for another is taken off its
//! own count, never below zero: a target is measured too high rather than too low.

#![allow(unsafe_code, reason = "a global allocator cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, with a count for each thread of the bytes that it has now and of the most that it ever had.
struct Counting;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

// A thread that ends frees its thread-locals last; what it does then is not counted.
fn count(change: impl FnOnce(usize) -> usize) {
    let _ = NOW.try_with(|now| {
        now.set(change(now.get()));
        PEAK.try_with(|peak| peak.set(peak.get().max(now.get())))
    });
}

// SAFETY: every call is passed on unchanged; `realloc` is the default one, so old and new bytes count together.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(|now| now.saturating_add(layout.size()));
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(|now| now.saturating_add(layout.size()));
        // SAFETY: as above. Zeroed memory stays untouched until it is used, as without the count.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(|now| now.saturating_sub(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `f` and returns the most bytes that this thread had allocated meanwhile, beyond what it had before.
pub fn peak_bytes(f: impl FnOnce()) -> usize {
    let before = NOW.get();
    PEAK.set(before);
    f();
    PEAK.get() - before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_counted_and_not_the_sum() {
        let peak = peak_bytes(|| {
            for _ in 0..10 {
                std::hint::black_box(vec![1u8; 100_000]);
            }
        });
        assert!((100_000..200_000).contains(&peak), "{peak}");
        let untouched = peak_bytes(|| drop(std::hint::black_box(vec![0u8; 1 << 33])));
        assert!(untouched >= 1 << 33, "memory counts when it is asked for, not when it is used");
    }
}
