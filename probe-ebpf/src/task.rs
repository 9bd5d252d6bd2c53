//! The few fields of `task_struct` that identify a process.
//!
//! Their offsets come from the kernel's own BTF, which the agent reads before
//! it loads the programs. They are constants in read-only data, so the verifier
//! sees typed accesses at known offsets: no `bpf_probe_read_kernel`, which
//! lockdown refuses, and an offset that does not fit is refused at load time.

use aya_ebpf::helpers::generated::bpf_get_current_task_btf;

#[unsafe(no_mangle)]
static TASK_GROUP_LEADER: u32 = 0;
#[unsafe(no_mangle)]
static TASK_START_BOOTTIME: u32 = 0;
#[unsafe(no_mangle)]
static TASK_TGID: u32 = 0;
#[unsafe(no_mangle)]
static TASK_MM: u32 = 0;

/// A `struct task_struct *` that the verifier knows as one.
pub type Task = *const u8;

macro_rules! offset {
    ($name:ident) => {{
        // SAFETY: a static of this program; volatile because the agent writes
        // another value into the object before it is loaded.
        let offset = unsafe { core::ptr::read_volatile(&raw const $name) };
        if offset == 0 {
            return None;
        }
        offset as usize
    }};
}

/// Reads a field of a task.
///
/// # Safety
///
/// `task` comes from the kernel as a typed pointer, and `offset` from its BTF:
/// the verifier checks both.
#[inline(always)]
unsafe fn field<T>(task: Task, offset: usize) -> T {
    // SAFETY: see above.
    unsafe { core::ptr::read_volatile(task.add(offset).cast::<T>()) }
}

/// When the current thread group's leader started, in nanoseconds of
/// `CLOCK_BOOTTIME`: what `/proc/PID/stat` shows in ticks.
#[inline(always)]
pub fn current_process_start() -> Option<u64> {
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task_btf() } as Task;
    process_start(task)
}

/// As [`current_process_start`], of another task.
#[inline(always)]
pub fn process_start(task: Task) -> Option<u64> {
    let (leader, start) = (offset!(TASK_GROUP_LEADER), offset!(TASK_START_BOOTTIME));
    // SAFETY: typed by the kernel, offsets from its BTF.
    unsafe { Some(field::<u64>(field::<Task>(task, leader), start)) }
}

/// The thread group id, in the initial pid namespace.
#[inline(always)]
pub fn tgid(task: Task) -> Option<u32> {
    let offset = offset!(TASK_TGID);
    // SAFETY: typed by the kernel, offset from its BTF.
    Some(unsafe { field::<u32>(task, offset) })
}

/// The address of the memory descriptor, for comparing only.
#[inline(always)]
pub fn memory(task: Task) -> Option<u64> {
    let offset = offset!(TASK_MM);
    // SAFETY: typed by the kernel, offset from its BTF.
    Some(unsafe { field::<u64>(task, offset) })
}
