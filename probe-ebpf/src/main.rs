//! The kernel half of `sslsess`: thin programs around functions that return.
//!
//! One uprobe program serves every probe point; what a point means is data
//! (`PROBE_SPECS`, selected by the probe's cookie). The tracepoint programs
//! take the last look at the contexts of a process that ends.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod argument;
mod barrier;
mod handshake;
mod lifecycle;
mod maps;
mod mirror;
mod task;

use aya_ebpf::{
    macros::{btf_tracepoint, uprobe},
    programs::{BtfTracePointContext, ProbeContext},
};

/// A probe point was hit: behind an increment, at a function's entry, or where
/// a context dies.
#[uprobe]
pub fn probe_point(ctx: ProbeContext) -> u32 {
    // What went wrong is counted where it went wrong.
    let _ = mirror::probe_hit(&ctx);
    0
}

/// A task exits. Since Linux 6.16 this comes before `exit_mm` and says whether
/// the whole thread group is dead.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn process_exit(ctx: BtfTracePointContext) -> i32 {
    let group_dead: u8 = ctx.arg::<u64>(1) as u8;
    if group_dead != 0 {
        lifecycle::process_ended();
    }
    0
}

/// A task exits, on a kernel that does not say whether it was the last one.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn thread_exit(_ctx: BtfTracePointContext) -> i32 {
    lifecycle::thread_ended();
    0
}

/// A process executed another program: its old memory is gone.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn process_exec(_ctx: BtfTracePointContext) -> i32 {
    lifecycle::process_executed();
    0
}

/// A process is about to execute another program (6.10): last look.
#[btf_tracepoint(function = "sched_prepare_exec")]
pub fn prepare_exec(_ctx: BtfTracePointContext) -> i32 {
    lifecycle::refresh_current();
    0
}

/// A process forked: the child has a copy of the parent's contexts.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn process_fork(ctx: BtfTracePointContext) -> i32 {
    lifecycle::process_forked(ctx.arg(0), ctx.arg(1));
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lends the tracing helpers to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
