//! Which register or field holds the context.

use aya_ebpf::{helpers::bpf_probe_read_user, programs::ProbeContext};
use probe_common::{ProbeSpec, argument_flags};

/// The address of the context that a probe point is about; `None` if the field
/// could not be read, or there is none.
#[inline(always)]
pub fn context_address(ctx: &ProbeContext, spec: &ProbeSpec) -> Option<u64> {
    let base = register(ctx, spec.register);
    let address = if spec.argument & argument_flags::DEREFERENCE != 0 {
        let field = base.wrapping_add(spec.displacement as i64 as u64);
        // SAFETY: the helper checks the address itself; a bad one is an `Err`.
        unsafe { bpf_probe_read_user(field as *const u64) }.ok()?
    } else {
        base
    };
    (address != 0).then_some(address)
}

/// What a general register held.
///
/// Every register is read before one is chosen: of a `match` over the fields
/// LLVM makes a load at a computed offset, which the verifier refuses.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
fn register(ctx: &ProbeContext, number: u8) -> u64 {
    macro_rules! read {
        ($($field:ident),*) => {
            // SAFETY: the kernel hands the program a valid `pt_regs`.
            unsafe { ($(core::ptr::read_volatile(&raw const (*ctx.regs).$field)),*) }
        };
    }
    let (rax, rcx, rdx, rbx, rbp, rsi, rdi) = read!(rax, rcx, rdx, rbx, rbp, rsi, rdi);
    let (r8, r9, r10, r11, r12, r13, r14, r15) = read!(r8, r9, r10, r11, r12, r13, r14, r15);
    match number {
        0 => rax,
        1 => rcx,
        2 => rdx,
        3 => rbx,
        5 => rbp,
        6 => rsi,
        7 => rdi,
        8 => r8,
        9 => r9,
        10 => r10,
        11 => r11,
        12 => r12,
        13 => r13,
        14 => r14,
        15 => r15,
        _ => 0,
    }
}
