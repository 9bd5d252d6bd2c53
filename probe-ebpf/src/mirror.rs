//! The one place that reads a target's block.

use core::{
    ffi::c_void,
    mem::{MaybeUninit, offset_of},
};

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
    Action, BlockLayout, ContextKey, ContextRecord, EventKind, ExeId, Loss, MirroredBlock, Moment,
    NO_COUNTER, NO_FIELD, ProbeSpec, argument_flags, birth_flags, record_flags,
};

use crate::{
    argument, barrier, handshake,
    lifecycle::{self, Flushed},
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
    let key = &ContextKey { tgid: current_tgid(), pad: 0, address };

    if spec.action == Action::MirrorOrEnd as u8 {
        match lifecycle::look_at_flushed(spec, key) {
            Flushed::Lives => {}
            Flushed::Ended => return Some(()),
            Flushed::EndedUnknown => {
                lifecycle::report_unknown(spec, key);
                return Some(());
            }
        }
    }
    let mut known = CONTEXTS.get_ptr_mut(key);
    if let Some(record) = known {
        // SAFETY: a value of the map; it stays valid while this program runs.
        if unsafe { (*record).flags } & record_flags::ENDED != 0 {
            // The agent has not collected this one, and now its address is in use again.
            count(Loss::FinalOverwritten);
            let _ = CONTEXTS.remove(key);
            known = None;
        }
    }
    let record = match known {
        Some(record) => record,
        None => {
            if spec.argument & argument_flags::CREATES == 0 || !create(spec, key) {
                return None;
            }
            // Made here, or by another CPU just now.
            let Some(record) = CONTEXTS.get_ptr_mut(key) else {
                count(Loss::ContextsFull);
                warn!(ctx, "no room for context {:x} of process {}", key.address, key.tgid);
                return None;
            };
            record
        }
    };
    // SAFETY: a value of the map; it stays valid while this program runs.
    let record = unsafe { &mut *record };
    if record.image != spec.image {
        count(Loss::ForeignImage);
        return None;
    }
    let at = now();
    record.hit_ns = at;
    if spec.moment != Moment::None as u8 {
        handshake::note(ctx, spec, key, record, at);
    }
    // What is not clear about a record, the look at the context clears up.
    let unclear = record.flags & (record_flags::FOUND | record_flags::UNSURE) != 0;
    if spec.action == Action::Meet as u8 && !unclear {
        // SAFETY: the map's value.
        unsafe { barrier::add(&raw mut record.hits, 1) };
        return Some(());
    }
    observe_hit(record, address);
    Some(())
}

/// [`observe`] for a hit, as a function of its own, for a stack of its own: before Linux
/// 6.13 all that are called one inside the other have 512 bytes together.
#[inline(never)]
fn observe_hit(record: &mut ContextRecord, address: u64) {
    // What went wrong is counted where it went wrong.
    let _ = observe(record, address, 1);
}

/// Brings a record up to date with the process that runs, and counts a hit, or none.
///
/// Two CPUs can do this for one context at the same time. Each counts its hit, reads
/// the block, writes it, and does so again if there was another hit meanwhile. Whoever
/// counts last reads every change that a probe came with, since all of these came
/// before their hits were counted; and whoever writes something older sees, after that
/// write, that somebody has counted since. So the record is right when the context
/// comes to rest, without a lock and without a copy per CPU. To count is a barrier:
/// what is written before it is there for all before what stands behind it is read.
#[inline(always)]
pub fn observe(record: &mut ContextRecord, address: u64, hit: u64) -> Option<()> {
    let hits = &raw mut record.hits;
    // SAFETY: the map's value, here and below; any bytes are valid ones.
    let mut turn = unsafe { barrier::add(hits, hit) } + hit;
    for _ in 0..SETTLE_ATTEMPTS {
        let at = now();
        let flags = mirror(record, address)?;
        // SAFETY: as above.
        unsafe {
            core::ptr::write_volatile(&raw mut record.flags, flags);
            core::ptr::write_volatile(&raw mut record.observed_ns, at);
        }
        // SAFETY: as above.
        let last = unsafe { barrier::add(hits, 0) };
        if last == turn {
            return Some(());
        }
        turn = last;
    }
    count(Loss::Unsettled);
    Some(())
}

/// Makes a record of a context, if there is room for it and nobody else makes one;
/// `false` if there is to be none.
///
/// A function of its own, for a stack of its own.
#[inline(never)]
fn create(spec: &ProbeSpec, key: &ContextKey) -> bool {
    let mut record = EMPTY;
    if fill(&mut record, spec, key.address).is_none() {
        return false;
    }
    if record.flags & record_flags::REFERENCES_KNOWN != 0 && record.block.references == 0 {
        // It is dying, and has been reported: what happens on the way is no birth.
        return false;
    }
    // In the map, this hit is counted when the context is observed.
    record.hits = 0;
    let room = PROCESSES.insert(key.tgid, 1, 0);
    // By reference: by value, it would be on the stack twice.
    let made = &record;
    if room.is_ok() && CONTEXTS.insert(key, made, u64::from(BPF_NOEXIST)).is_ok() {
        record.hits = 1;
        record.hit_ns = record.born_ns;
        lifecycle::send(EventKind::ContextBorn, record.born_ns, key, &record);
    }
    true
}

/// A record of nothing.
pub const EMPTY: ContextRecord = ContextRecord {
    process_start_ns: 0,
    born_ns: 0,
    observed_ns: 0,
    hits: 0,
    hit_ns: 0,
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

/// A part of an `SSL_CTX` as it is in every build of OpenSSL seen, 1.1.1 to 4.0.
#[repr(C)]
struct Usual {
    sessions: u64,
    between: [u64; 8],
    /// The eleven counters, and `references`: as in [`MirroredBlock`].
    counted: [u64; COUNTED],
}

/// Words of [`MirroredBlock`] before `number`.
const COUNTED: usize = offset_of!(MirroredBlock, number) / 8;

impl Usual {
    /// Whether the contexts of an image are like this.
    #[inline(always)]
    fn is(layout: &BlockLayout) -> bool {
        let first = layout.sessions.wrapping_add(offset_of!(Self, counted) as u32);
        layout.count == 11
            && layout.counters == first
            && layout.references == first.wrapping_add(44)
            && layout.num_items != NO_FIELD
    }
}

/// Writes down what a context says of itself, in as few reads as can be (what a read
/// costs, it hardly costs by the byte). Says which of the optional fields are known.
#[inline(always)]
fn mirror(record: &mut ContextRecord, address: u64) -> Option<u32> {
    // Volatile, as another CPU may write at the same time; word by word, in place, since
    // copies of copies are most of the instructions otherwise.
    let words = (&raw mut record.block).cast::<u64>();
    let layout = &record.layout;
    let mut usual = MaybeUninit::<Usual>::uninit();
    if Usual::is(layout) {
        let from = address.wrapping_add(u64::from(layout.sessions)) as *const c_void;
        let to = usual.as_mut_ptr();
        // SAFETY: the destination is as long; the helper checks the address.
        let failed =
            unsafe { bpf_probe_read_user_bytes(to.cast(), size_of::<Usual>() as u32, from) };
        if failed == 0 {
            // SAFETY: it was read just now.
            let (sessions, counted) = unsafe { ((*to).sessions, &(*to).counted) };
            let number = number_in(layout, sessions);
            for (word, value) in counted.iter().enumerate() {
                // SAFETY: the block has as many words; any bytes are a valid block.
                unsafe { words.add(word).write_volatile(*value) };
            }
            // SAFETY: as above.
            unsafe { words.add(COUNTED).write_volatile(number.unwrap_or(0)) };
            let known = if number.is_some() { record_flags::NUMBER_KNOWN } else { 0 };
            return Some(record_flags::REFERENCES_KNOWN | known);
        }
    }
    let flags = read_apart(record, address);
    (flags != UNREAD).then_some(flags)
}

/// No flags.
const UNREAD: u32 = u32::MAX;

/// [`read_block`] into a record, as a function of its own, for a stack of its own. Says
/// which of the optional fields are known, or [`UNREAD`].
#[inline(never)]
fn read_apart(record: &mut ContextRecord, address: u64) -> u32 {
    let Some((block, flags)) = read_block(&record.layout, address) else { return UNREAD };
    // SAFETY: the map's value; any bytes are a valid block.
    unsafe { core::ptr::write_volatile(&raw mut record.block, block) };
    flags
}

/// Reads what an `SSL_CTX` of the current process says of itself, and which of
/// the optional fields could be read (`record_flags`).
#[inline(always)]
pub fn read_block(layout: &BlockLayout, address: u64) -> Option<(MirroredBlock, u32)> {
    let mut block = MirroredBlock { counters: [0; 11], references: 0, number: 0 };
    let mut flags = 0;
    let counters = address.wrapping_add(u64::from(layout.counters));
    if layout.count == 11 && layout.references == layout.counters + 44 {
        // One read for both.
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
    number_in(layout, read(address.wrapping_add(u64::from(layout.sessions)))?)
}

/// The number of items in a hash.
#[inline(always)]
fn number_in(layout: &BlockLayout, sessions: u64) -> Option<u64> {
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
