//! The one place that reads a target's block.

use aya_ebpf::{
    EbpfContext as _,
    bindings::BPF_NOEXIST,
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_probe_read_user,
        generated::{
            bpf_get_attach_cookie, bpf_ktime_get_ns,
            bpf_probe_read_user as bpf_probe_read_user_bytes,
        },
    },
    programs::ProbeContext,
};
use aya_log_ebpf::warn;
use probe_common::{
    Action, BlockLayout, ContextKey, ContextRecord, EventKind, ExeId, Loss, MirroredBlock,
    NO_COUNTER, NO_FIELD, ProbeSpec, argument_flags, birth_flags, record_flags,
};

use crate::{
    argument, lifecycle,
    maps::{CONTEXTS, PROBE_SPECS, PROCESSES, count},
    task,
};

/// How often a value is written again because it changed meanwhile.
const SETTLE_ATTEMPTS: usize = 4;

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// The thread group that runs this program.
#[inline(always)]
pub fn current_tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// Handles the hit of any probe point.
#[inline(always)]
pub fn probe_hit(ctx: &ProbeContext) -> Option<()> {
    // SAFETY: the program's own context.
    let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    let Some(spec) = PROBE_SPECS.get(cookie as u32).filter(|spec| spec.image != 0) else {
        count(Loss::UnknownProbe);
        return None;
    };
    if spec.image == ProbeSpec::RETIRED {
        return None;
    }
    let address = argument::context_address(ctx, spec)?;
    let key = ContextKey { tgid: current_tgid(), pad: 0, address };

    if spec.action == Action::MirrorOrEnd as u8 && lifecycle::looked_at_end(spec, &key) {
        return Some(());
    }
    if let Some(record) = CONTEXTS.get_ptr_mut(key) {
        // SAFETY: a value of the map; it stays valid while this program runs.
        let record = unsafe { &mut *record };
        if record.flags & record_flags::ENDED == 0 {
            if record.image != spec.image {
                count(Loss::ForeignImage);
                return None;
            }
            record.hits += 1;
            return observe(record, address);
        }
        // The agent has not collected this one, and now its address is in use again.
        count(Loss::FinalOverwritten);
        let _ = CONTEXTS.remove(key);
    }
    if spec.argument & argument_flags::CREATES == 0 {
        return None;
    }
    if !create(spec, &key) {
        warn!(ctx, "no room for context {:x} of process {}", key.address, key.tgid);
    }
    Some(())
}

/// Brings a record up to date with the process that runs.
///
/// Two CPUs can do this for one context at the same time. Each reads the block
/// again after it has written, and writes again if it changed: whoever writes
/// last has seen, after the write, that the record says what the memory says,
/// and every later change comes with a probe of its own. So the record is right
/// when the context comes to rest, without a lock and without a copy per CPU.
#[inline(always)]
pub fn observe(record: &mut ContextRecord, address: u64) -> Option<()> {
    let mut written = false;
    for _ in 0..SETTLE_ATTEMPTS {
        let at = now();
        let (block, flags) = read_block(&record.layout, address)?;
        // Volatile, here and below: another CPU may write the same value.
        // SAFETY: the reference is valid; any bytes are a valid block.
        if written && same(unsafe { core::ptr::read_volatile(&raw const record.block) }, block) {
            return Some(());
        }
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(&raw mut record.block, block) };
        record.flags = flags;
        record.observed_ns = at;
        written = true;
    }
    count(Loss::Unsettled);
    Some(())
}

/// Compares word by word: `==` on the type becomes a loop over bytes.
#[inline(always)]
fn same(one: MirroredBlock, other: MirroredBlock) -> bool {
    let mut differences = (one.references ^ other.references) as u64;
    differences |= one.number ^ other.number;
    for (a, b) in one.counters.iter().zip(&other.counters) {
        differences |= (a ^ b) as u64;
    }
    differences == 0
}

/// Makes a record of a context; `false` if there is no room for it.
///
/// A function of its own, for a stack of its own.
#[inline(never)]
fn create(spec: &ProbeSpec, key: &ContextKey) -> bool {
    let mut record = EMPTY;
    if fill(&mut record, spec, key.address).is_none() {
        return true;
    }
    if record.flags & record_flags::REFERENCES_KNOWN != 0 && record.block.references == 0 {
        // It is dying, and has been reported: what happens on the way is no birth.
        return true;
    }
    let room = PROCESSES.insert(key.tgid, 1, 0);
    if room.is_ok() && CONTEXTS.insert(key, record, u64::from(BPF_NOEXIST)).is_ok() {
        lifecycle::send(EventKind::ContextBorn, record.born_ns, key, &record);
    }
    // Made here, or by another CPU just now: it is settled either way.
    let Some(record) = CONTEXTS.get_ptr_mut(key) else {
        count(Loss::ContextsFull);
        return false;
    };
    // SAFETY: a value of the map; it stays valid while this program runs.
    let _ = observe(unsafe { &mut *record }, key.address);
    true
}

/// A record of nothing.
pub const EMPTY: ContextRecord = ContextRecord {
    process_start_ns: 0,
    born_ns: 0,
    observed_ns: 0,
    hits: 0,
    block: MirroredBlock { counters: [0; 11], references: 0, number: 0 },
    image: 0,
    flags: 0,
    comm: [0; 16],
    layout: BlockLayout {
        counters: 0,
        references: 0,
        sessions: 0,
        num_items: 0,
        order: [0; 11],
        count: 0,
    },
    birth: 0,
    exe: ExeId { inode: 0, changed_s: 0, changed_ns: 0, device: 0 },
};

/// Makes it the record of a context that is seen for the first time. In place: a
/// record that is returned is there twice, and the stack has room for one.
#[inline(always)]
pub fn fill(record: &mut ContextRecord, spec: &ProbeSpec, address: u64) -> Option<()> {
    let at = now();
    (record.block, record.flags) = read_block(&spec.layout, address)?;
    record.process_start_ns = task::current_process_start().unwrap_or(0);
    record.born_ns = at;
    record.observed_ns = at;
    record.hits = 1;
    record.image = spec.image;
    record.comm = bpf_get_current_comm().unwrap_or([0; 16]);
    record.layout = spec.layout;
    record.birth = task::current_birth();
    if spec.follows != NO_COUNTER {
        record.birth |= (u32::from(spec.follows) + 1) << birth_flags::COUNTED_SHIFT;
    }
    task::current_exe(&mut record.exe);
    Some(())
}

/// Reads what an `SSL_CTX` of the current process says of itself, and which of
/// the optional fields could be read (`record_flags`).
#[inline(always)]
pub fn read_block(layout: &BlockLayout, address: u64) -> Option<(MirroredBlock, u32)> {
    let mut block = MirroredBlock { counters: [0; 11], references: 0, number: 0 };
    let mut flags = 0;
    let counters = address.wrapping_add(u64::from(layout.counters));
    if layout.count == 11 && layout.references == layout.counters + 44 {
        // Where they stand in every build of OpenSSL seen: one read for both.
        let both: [i32; 12] = read(counters)?;
        block.counters.copy_from_slice(&both[..11]);
        block.references = both[11];
        flags |= record_flags::REFERENCES_KNOWN;
    } else {
        read_counters(&mut block.counters, counters, layout.count)?;
        if layout.references != NO_FIELD {
            block.references = read(address.wrapping_add(u64::from(layout.references)))?;
            flags |= record_flags::REFERENCES_KNOWN;
        }
    }
    if layout.sessions != NO_FIELD && layout.num_items != NO_FIELD {
        // The counters are no less known if this is not.
        if let Some(number) = read_number(layout, address) {
            block.number = number;
            flags |= record_flags::NUMBER_KNOWN;
        }
    }
    Some((block, flags))
}

/// Reads the first `ints` of the counters, and leaves the others as they are.
#[inline(always)]
fn read_counters(counters: &mut [i32; 11], address: u64, ints: u8) -> Option<()> {
    // The verifier has to see that no more than the block is written.
    let bytes = u32::from(ints).min(11) * 4;
    if bytes == 0 {
        return Some(());
    }
    // SAFETY: the destination is at least as long; the helper checks the address.
    let failed = unsafe {
        bpf_probe_read_user_bytes(counters.as_mut_ptr().cast(), bytes, address as *const _)
    };
    if failed != 0 {
        count(Loss::ReadFailed);
        return None;
    }
    Some(())
}

#[inline(always)]
fn read_number(layout: &BlockLayout, address: u64) -> Option<u64> {
    let sessions: u64 = read(address.wrapping_add(u64::from(layout.sessions)))?;
    // `OPENSSL_LH_num_items(NULL)` is 0 (crypto/lhash/lhash.c).
    if sessions == 0 {
        return Some(0);
    }
    read(sessions.wrapping_add(u64::from(layout.num_items)))
}

#[inline(always)]
fn read<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address itself; a bad one is an `Err`.
    let value = unsafe { bpf_probe_read_user(address as *const T) };
    if value.is_err() {
        count(Loss::ReadFailed);
    }
    value.ok()
}
