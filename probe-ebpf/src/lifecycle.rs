//! Ends of contexts and processes, and forks.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_for_each_map_elem};
use probe_common::{
    ContextKey, ContextRecord, EventKind, Fork, Inheritance, LifecycleEvent, Loss, MirroredBlock,
    ProbeSpec, birth_flags, record_flags,
};

use crate::{
    maps::{CONTEXTS, FORKS, INHERITED, LAST_ENDED, LIFECYCLE, PROCESSES, count},
    mirror::{self, current_tgid, now},
    task::{self, Task},
};

/// Sends one event; says whether there was room.
#[inline(always)]
pub fn send(kind: EventKind, at_ns: u64, key: &ContextKey, record: &ContextRecord) -> bool {
    let Some(mut entry) = LIFECYCLE.reserve::<LifecycleEvent>(0) else {
        count(Loss::RingFull);
        return false;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the entry is as long as an event, and all of it is written.
    unsafe {
        begin(event, kind, at_ns, key);
        let to = (&raw mut (*event).record).cast::<u64>();
        let from = (&raw const *record).cast::<u64>();
        for word in 0..WORDS {
            to.add(word).write_volatile(from.add(word).read_volatile());
        }
    }
    entry.submit(0);
    true
}

/// A record is made of them.
const WORDS: usize = size_of::<ContextRecord>() / 8;

/// Writes all of an event but its record. In place, and volatile: what is written as a
/// whole is put together on the stack first, which has no room for it.
///
/// # Safety
///
/// `event` can be written.
#[inline(always)]
unsafe fn begin(event: *mut LifecycleEvent, kind: EventKind, at_ns: u64, key: &ContextKey) {
    // SAFETY: the caller's.
    unsafe {
        (&raw mut (*event).kind).write_volatile(kind as u32);
        (&raw mut (*event).pad).write_volatile(0);
        (&raw mut (*event).at_ns).write_volatile(at_ns);
        (&raw mut (*event).key.tgid).write_volatile(key.tgid);
        (&raw mut (*event).key.pad).write_volatile(key.pad);
        (&raw mut (*event).key.address).write_volatile(key.address);
    }
}

/// Sends an event that is about a process only.
#[inline(always)]
fn send_process(kind: EventKind, tgid: u32) {
    let Some(mut entry) = LIFECYCLE.reserve::<LifecycleEvent>(0) else {
        count(Loss::RingFull);
        return;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the entry is as long as an event, and all of it is written.
    unsafe {
        core::ptr::write_bytes(event.cast::<u64>(), 0, size_of::<LifecycleEvent>() / 8);
        (*event).kind = kind as u32;
        (*event).at_ns = now();
        (*event).key.tgid = tgid;
    }
    entry.submit(0);
}

/// What a look at a context has found whose cache is being flushed.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Flushed {
    /// It lives on.
    Lives,
    /// Its last reference has gone, or it could not be read: that is said, or noted.
    Ended,
    /// Its last reference has gone, and it was used without anybody having seen it.
    EndedUnknown,
}

/// A context's cache is being flushed. If that is since its last reference has
/// gone, and nothing is freed yet: reports the end, if there is a record of it.
///
/// Where the agent cannot be told, the values stay in the map, marked as final:
/// it finds them when it next reads the map.
#[inline(never)]
pub fn look_at_flushed(spec: &ProbeSpec, key: &ContextKey) -> Flushed {
    let at = now();
    let known = CONTEXTS.get_ptr_mut(key);
    let Some((block, flags)) = mirror::read_block(&spec.layout, key.address) else {
        count(Loss::EndUnread);
        if let Some(record) = known {
            // SAFETY: a value of the map; it stays valid while this program runs.
            unsafe { (*record).flags |= record_flags::UNSURE };
        }
        return Flushed::Ended;
    };
    if flags & record_flags::REFERENCES_KNOWN == 0 || block.references != 0 {
        return Flushed::Lives;
    }
    let thread = bpf_get_current_pid_tgid();
    let Some(record) = known else {
        // SAFETY: the value is compared at once.
        let reported = unsafe { LAST_ENDED.get(thread) } == Some(&key.address);
        // Seen for the first time in its last moment: its values are as good
        // as any. One that was never used says nothing.
        if !reported && !is_unused(&block) {
            let _ = LAST_ENDED.insert(thread, key.address, 0);
            return Flushed::EndedUnknown;
        }
        return Flushed::Ended;
    };
    // SAFETY: a value of the map; it stays valid while this program runs.
    let record = unsafe { &mut *record };
    if record.image != spec.image {
        count(Loss::ForeignImage);
    } else if record.flags & record_flags::ENDED == 0 {
        let _ = LAST_ENDED.insert(thread, key.address, 0);
        record.block = block;
        record.flags = flags;
        record.observed_ns = at;
        record.hits += 1;
        finish(EventKind::ContextFreed, at, key, record);
    }
    Flushed::Ended
}

/// Reports the end of a context that has no record.
#[inline(never)]
pub fn report_unknown(spec: &ProbeSpec, key: &ContextKey) {
    let Some(mut entry) = LIFECYCLE.reserve::<LifecycleEvent>(0) else {
        count(Loss::RingFull);
        return;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the entry is as long as an event, and all of it is written; any bytes are
    // a record.
    let filled = unsafe {
        begin(event, EventKind::ContextFreed, now(), key);
        let words = (&raw mut (*event).record).cast::<u64>();
        for word in 0..WORDS {
            words.add(word).write_volatile(0);
        }
        mirror::fill(&mut (*event).record, spec, key.address)
    };
    if filled.is_some() {
        entry.submit(0);
    } else {
        entry.discard(0);
    }
}

#[inline(always)]
fn is_unused(block: &MirroredBlock) -> bool {
    let mut any = block.number;
    for counter in block.counters {
        any |= u64::from(counter as u32);
    }
    any == 0
}

/// What a walk over the map does with the contexts of one process.
#[repr(C)]
struct Walk {
    tgid: u32,
    /// For a fork: the child.
    child: u32,
    child_start_ns: u64,
}

type Visit = extern "C" fn(*mut c_void, *const ContextKey, *mut ContextRecord, *mut Walk) -> i64;

/// Visits every context of every process; the visitor picks its own.
#[inline(always)]
fn for_each_context(visit: Visit, walk: &mut Walk) {
    // SAFETY: the map, a function of the shape that the kernel expects for a
    // hash, and a context that lives on this stack until the walk ends.
    unsafe {
        bpf_for_each_map_elem(
            (&raw const CONTEXTS).cast_mut().cast(),
            visit as *mut c_void,
            core::ptr::from_mut(walk).cast(),
            0,
        );
    }
}

/// The current process ends, and its memory is still there (6.16).
#[inline(always)]
pub fn process_ended() {
    let tgid = current_tgid();
    if PROCESSES.get_ptr(tgid).is_none() {
        return;
    }
    for_each_context(end_by_exit, &mut Walk { tgid, child: 0, child_start_ns: 0 });
    let _ = PROCESSES.remove(tgid);
}

extern "C" fn end_by_exit(
    _map: *mut c_void,
    key: *const ContextKey,
    record: *mut ContextRecord,
    walk: *mut Walk,
) -> i64 {
    // SAFETY: the kernel hands over the map's key and value, and our `Walk`.
    let (key, record, walk) = unsafe { (&*key, &mut *record, &*walk) };
    if key.tgid != walk.tgid || record.flags & record_flags::ENDED != 0 {
        return 0;
    }
    let at = now();
    let kind = match mirror::read_block(&record.layout, key.address) {
        Some((block, flags)) => {
            record.block = block;
            record.flags = flags | record.flags & record_flags::FOUND | record_flags::LAST;
            record.observed_ns = at;
            EventKind::ExitFinal
        }
        None => EventKind::ExitMirrored,
    };
    finish(kind, at, key, record);
    0
}

/// Reports an end, and forgets the context or marks it.
#[inline(always)]
fn finish(kind: EventKind, at: u64, key: &ContextKey, record: &mut ContextRecord) {
    if send(kind, at, key, record) {
        let key = *key;
        let _ = CONTEXTS.remove(key);
    } else {
        record.flags |= record_flags::ENDED;
    }
}

/// A thread of the current process ends, on a kernel that tells no more.
#[inline(always)]
pub fn thread_ended() {
    let tgid = current_tgid();
    if PROCESSES.get_ptr(tgid).is_some() {
        send_process(EventKind::ThreadExit, tgid);
    }
}

/// The current process executed another program.
#[inline(always)]
pub fn process_executed() {
    let tgid = current_tgid();
    if PROCESSES.get_ptr(tgid).is_some() {
        for_each_context(end_by_exec, &mut Walk { tgid, child: 0, child_start_ns: 0 });
        let _ = PROCESSES.remove(tgid);
    }
    send_process(EventKind::ProcessExec, tgid);
}

extern "C" fn end_by_exec(
    _map: *mut c_void,
    key: *const ContextKey,
    record: *mut ContextRecord,
    walk: *mut Walk,
) -> i64 {
    // SAFETY: the kernel hands over the map's key and value, and our `Walk`.
    let (key, record, walk) = unsafe { (&*key, &mut *record, &*walk) };
    if key.tgid == walk.tgid && record.flags & record_flags::ENDED == 0 {
        finish(EventKind::ExecMirrored, now(), key, record);
    }
    0
}

/// Looks at every context of the current process once more.
#[inline(always)]
pub fn refresh_current() {
    let tgid = current_tgid();
    if PROCESSES.get_ptr(tgid).is_some() {
        for_each_context(refresh, &mut Walk { tgid, child: 0, child_start_ns: 0 });
    }
}

extern "C" fn refresh(
    _map: *mut c_void,
    key: *const ContextKey,
    record: *mut ContextRecord,
    walk: *mut Walk,
) -> i64 {
    // SAFETY: the kernel hands over the map's key and value, and our `Walk`.
    let (key, record, walk) = unsafe { (&*key, &mut *record, &*walk) };
    if key.tgid == walk.tgid && record.flags & record_flags::ENDED == 0 {
        // No probe has seen it.
        let found = record.flags & record_flags::FOUND;
        let alone = task::is_alone();
        // Gone, until it is read again.
        record.flags &= !record_flags::LAST;
        let read = mirror::observe(record, key.address, 0).is_some();
        // What other threads count from here on, nobody sees.
        let last = if read && alone { record_flags::LAST } else { 0 };
        // From here on the address can be the next program's.
        record.flags |= record_flags::UNSURE | found | last;
    }
    0
}

/// The current process made a child. Runs in the parent, before the child does.
#[inline(always)]
pub fn process_forked(parent: Task, child: Task) {
    let _ = inherit(parent, child);
}

#[inline(always)]
fn inherit(parent: Task, child: Task) -> Option<()> {
    let tgid = current_tgid();
    // A thread has the parent's contexts, not a copy; so has, until it execs,
    // the child of a vfork.
    let child_tgid = task::tgid(child)?;
    if child_tgid == tgid || task::memory(parent)? == task::memory(child)? {
        return None;
    }
    let child_start_ns = task::process_start(child)?;
    let forker_start_ns = task::process_start(parent)?;
    let fork = Fork { child_start_ns, forker_start_ns, at_ns: now(), forker: tgid, pad: 0 };
    let _ = FORKS.insert(child_tgid, fork, 0);
    PROCESSES.get_ptr(tgid)?;
    PROCESSES.insert(child_tgid, 1, 0).ok()?;
    for_each_context(inherit_one, &mut Walk { tgid, child: child_tgid, child_start_ns });
    Some(())
}

extern "C" fn inherit_one(
    _map: *mut c_void,
    key: *const ContextKey,
    record: *mut ContextRecord,
    walk: *mut Walk,
) -> i64 {
    // SAFETY: the kernel hands over the map's key and value, and our `Walk`.
    let (key, record, walk) = unsafe { (&*key, &*record, &*walk) };
    if key.tgid != walk.tgid || record.flags & record_flags::ENDED != 0 {
        return 0;
    }
    let at = now();
    let Some((block, flags)) = mirror::read_block(&record.layout, key.address) else {
        return 0;
    };
    let mut inherited = *record;
    inherited.process_start_ns = walk.child_start_ns;
    inherited.born_ns = at;
    inherited.observed_ns = at;
    inherited.hits = 0;
    inherited.hit_ns = 0;
    inherited.block = block;
    inherited.flags = flags | record.flags & record_flags::FOUND;
    inherited.birth = birth_flags::FORKED | birth_flags::FORKED_KNOWN;
    let child = ContextKey { tgid: walk.child, pad: 0, address: key.address };
    // First what was inherited: who finds the record finds this too.
    let share = Inheritance { born_ns: at, counters: block.counters, pad: 0 };
    let (child_key, share, record) = (&child, &share, &inherited);
    if INHERITED.insert(child_key, share, 0).is_err()
        || CONTEXTS.insert(child_key, record, 0).is_err()
    {
        count(Loss::ContextsFull);
        return 0;
    }
    send(EventKind::ContextBorn, at, &child, &inherited);
    0
}
