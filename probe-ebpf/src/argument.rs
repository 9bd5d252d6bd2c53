//! Which register or field holds the context.

use core::{arch::asm, mem::offset_of};

use aya_ebpf::{bindings::pt_regs, helpers::bpf_probe_read_user, programs::ProbeContext};
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
/// Each is loaded by an instruction of its own: of a `match` over the fields LLVM
/// makes a load at a computed offset, which the verifier refuses.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub fn register(ctx: &ProbeContext, number: u8) -> u64 {
    macro_rules! load {
        ($field:ident) => {{
            let value: u64;
            // SAFETY: the kernel hands the program a valid `pt_regs`.
            unsafe {
                asm!(
                    "{value} = *(u64 *)({regs} + {offset})",
                    value = out(reg) value,
                    regs = in(reg) ctx.regs,
                    offset = const offset_of!(pt_regs, $field),
                );
            }
            value
        }};
    }
    match number {
        0 => load!(rax),
        1 => load!(rcx),
        2 => load!(rdx),
        3 => load!(rbx),
        5 => load!(rbp),
        6 => load!(rsi),
        7 => load!(rdi),
        8 => load!(r8),
        9 => load!(r9),
        10 => load!(r10),
        11 => load!(r11),
        12 => load!(r12),
        13 => load!(r13),
        14 => load!(r14),
        15 => load!(r15),
        _ => 0,
    }
}
