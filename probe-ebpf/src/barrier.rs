//! Atomic additions that are full barriers, which the compiler does not offer for BPF.

use core::arch::asm;

/// Adds to a number; returns what it was. Nothing that stands before it in the program
/// happens after it, and nothing that stands behind it before.
///
/// # Safety
///
/// The number must be there, and may be changed by others in this way only.
#[inline(always)]
pub unsafe fn add(number: *mut u64, summand: u64) -> u64 {
    let mut value = summand;
    // SAFETY: the caller's. The kernel takes it for an instruction that returns what was
    // there, and these are fully ordered (Documentation/bpf/linux-notes.rst).
    unsafe {
        asm!(
            "{value} = atomic_fetch_add((u64 *)({number} + 0), {value})",
            number = in(reg) number,
            value = inout(reg) value,
        );
    }
    value
}
