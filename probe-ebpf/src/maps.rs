//! The maps, and the one way to count what they could not take.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use probe_common::{
    ConnectionKey, ContextKey, ContextRecord, Fork, Handshake, Inheritance, Loss, ProbeSpec, Times,
    TimesKey,
};

/// Live contexts. A plain hash: see `mirror::observe` for how two CPUs share a
/// value without a lock. The agent sets the real bound when it loads.
#[map]
pub static CONTEXTS: HashMap<ContextKey, ContextRecord> = HashMap::with_max_entries(65_536, 0);

/// Processes with a record in [`CONTEXTS`]: the exits and forks that matter.
#[map]
pub static PROCESSES: HashMap<u32, u32> = HashMap::with_max_entries(65_536, 0);

/// Probe points by cookie.
#[map]
pub static PROBE_SPECS: Array<ProbeSpec> = Array::with_max_entries(16_384, 0);

/// What forks gave to children. The agent takes it out when it meets the context.
#[map]
pub static INHERITED: HashMap<ContextKey, Inheritance> = HashMap::with_max_entries(65_536, 0);

/// Who forked whom, of the last forks.
#[map]
pub static FORKS: LruHashMap<u32, Fork> = LruHashMap::with_max_entries(16_384, 0);

/// The context whose end each thread reported last. A library that is seen
/// through two mounts has two probes at the place where contexts end, and a
/// callback can lead there twice: the end is reported once.
#[map]
pub static LAST_ENDED: LruHashMap<u64, u64> = LruHashMap::with_max_entries(4096, 0);

/// Handshakes that have started and are not complete. The agent makes room where
/// handshakes are timed.
#[map]
pub static HANDSHAKES: HashMap<ConnectionKey, Handshake> = HashMap::with_max_entries(1, 0);

/// How long handshakes took. As above.
#[map]
pub static TIMES: HashMap<TimesKey, Times> = HashMap::with_max_entries(1, 0);

/// Births and deaths, to the agent. A multiple of every page size there is.
#[map]
pub static LIFECYCLE: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// How often each [`Loss`] happened.
#[map]
pub static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(Loss::ALL.len() as u32, 0);

/// Counts a loss.
#[inline(always)]
pub fn count(loss: Loss) {
    if let Some(n) = LOSSES.get_ptr_mut(loss as u32) {
        // SAFETY: the map's value for this CPU; a preempting program on the
        // same CPU can lose one count, which the agent only compares with 0.
        unsafe { *n += 1 };
    }
}
