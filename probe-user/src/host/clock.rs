//! The clocks of the kernel half, in terms of the wall clock.

use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};

/// Length of a tick in `/proc/PID/stat`: `USER_HZ` is 100 on x86-64 and arm64.
const NANOSECONDS_PER_TICK: u64 = 10_000_000;

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock of `bpf_ktime_get_ns`.
#[must_use]
pub fn monotonic_ns() -> u64 {
    // Cannot fail for this clock; 0 would be "before everything".
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// Nanoseconds of `CLOCK_BOOTTIME`, the clock of a process's start.
#[must_use]
pub fn boottime_ns() -> u64 {
    // Cannot fail for this clock.
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// The wall-clock time of a moment of `CLOCK_MONOTONIC`.
#[must_use]
pub fn wall_clock(monotonic: u64) -> Timestamp {
    let ago = SignedDuration::from_nanos(monotonic_ns().wrapping_sub(monotonic) as i64);
    let now = Timestamp::now();
    now.checked_sub(ago).unwrap_or(now)
}

/// A process's start as `/proc/PID/stat` shows it, from nanoseconds of
/// `CLOCK_BOOTTIME` (fs/proc/array.c: `nsec_to_clock_t`).
#[must_use]
pub fn start_ticks(start_boottime_ns: u64) -> u64 {
    start_boottime_ns / NANOSECONDS_PER_TICK
}

/// The earliest moment that `/proc/PID/stat` shows so, in nanoseconds of
/// `CLOCK_BOOTTIME`: what a process's start is known as in user space.
#[must_use]
pub fn start_ns(start_time_ticks: u64) -> u64 {
    start_time_ticks.saturating_mul(NANOSECONDS_PER_TICK)
}
