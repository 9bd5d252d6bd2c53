//! How long handshakes take: from the probe behind their start to the one behind
//! their completion.

use aya_ebpf::programs::ProbeContext;
use probe_common::{
    BOUNDS_NS, ConnectionKey, ContextKey, ContextRecord, Handshake, Loss, Moment, ProbeSpec, Side,
    Times, TimesKey,
};

use crate::{
    argument, barrier,
    maps::{HANDSHAKES, TIMES, count},
};

/// `BPF_NOEXIST` (include/uapi/linux/bpf.h).
const IF_NEW: u64 = 1;

/// No handshake yet.
static NONE: Times = Times { buckets: [0; BOUNDS_NS.len() + 1], sum_ns: 0, abandoned: 0 };

/// A handshake has started on a context, or is complete, at a time of `CLOCK_MONOTONIC`.
/// (What the record says of it may be of another thread's hit by now.)
///
/// A function of its own, for a stack of its own.
#[inline(never)]
pub fn note(
    ctx: &ProbeContext,
    spec: &ProbeSpec,
    key: &ContextKey,
    record: &ContextRecord,
    at: u64,
) {
    let address = argument::register(ctx, spec.connection);
    let connection = ConnectionKey { tgid: key.tgid, pad: 0, address };
    // SAFETY: the value is read at once; one that is removed meanwhile is that of
    // another program on the same connection, which libssl does not allow.
    let begun = unsafe { HANDSHAKES.get(connection) };
    if spec.moment == Moment::Completion as u8 {
        // Else it started before there were probes, or was complete before: a place
        // behind both completions is passed by clients too.
        if let Some(begun) = begun {
            let took = at.wrapping_sub(begun.start_ns);
            let side = begun.side;
            let _ = HANDSHAKES.remove(connection);
            complete(key, record.born_ns, side, took);
        }
        return;
    }
    if let Some(Handshake { context, born_ns, side, .. }) = begun {
        let context = ContextKey { tgid: key.tgid, pad: 0, address: *context };
        abandon(context, *born_ns, *side);
    }
    let server = spec.moment == Moment::ServerStart as u8;
    let side = if server { Side::Server } else { Side::Client } as u32;
    let begun =
        Handshake { start_ns: at, context: key.address, born_ns: record.born_ns, side, pad: 0 };
    if HANDSHAKES.insert(connection, begun, 0).is_err() {
        count(Loss::TimesFull);
    }
}

#[inline(always)]
fn complete(key: &ContextKey, born_ns: u64, side: u32, took: u64) {
    let Some(times) = times(*key, born_ns, side) else { return };
    let mut bucket = 0;
    for bound in BOUNDS_NS {
        if took > bound {
            bucket += 1;
        }
    }
    // SAFETY: a value of the map; the bucket is one that there is.
    unsafe {
        let buckets = (&raw mut (*times).buckets).cast::<u64>();
        barrier::add(buckets.add(bucket & 0xf), 1);
        barrier::add(&raw mut (*times).sum_ns, took);
    }
}

#[inline(always)]
fn abandon(context: ContextKey, born_ns: u64, side: u32) {
    if let Some(times) = times(context, born_ns, side) {
        // SAFETY: a value of the map.
        unsafe { barrier::add(&raw mut (*times).abandoned, 1) };
    }
}

/// Where the times of a context are.
#[inline(always)]
fn times(context: ContextKey, born_ns: u64, side: u32) -> Option<*mut Times> {
    let key = TimesKey { context, born_ns, side, pad: 0 };
    if let Some(known) = TIMES.get_ptr_mut(key) {
        return Some(known);
    }
    // From where it is: the stack has little room.
    let none: &Times = &NONE;
    // Made here, or by another CPU just now.
    let _ = TIMES.insert(key, none, IF_NEW);
    let made = TIMES.get_ptr_mut(key);
    if made.is_none() {
        count(Loss::TimesFull);
    }
    made
}
