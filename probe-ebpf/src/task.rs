//! The few fields of `task_struct` that identify a process and its program.
//!
//! Their offsets come from the kernel's own BTF, which the agent reads before
//! it loads the programs. They are constants in read-only data, so the verifier
//! sees typed accesses at known offsets: no `bpf_probe_read_kernel`, which
//! lockdown refuses, and an offset that does not fit is refused at load time.

use aya_ebpf::helpers::generated::bpf_get_current_task_btf;
use probe_common::{ExeId, birth_flags};

#[unsafe(no_mangle)]
static TASK_GROUP_LEADER: u32 = 0;
#[unsafe(no_mangle)]
static TASK_START_BOOTTIME: u32 = 0;
#[unsafe(no_mangle)]
static TASK_TGID: u32 = 0;
#[unsafe(no_mangle)]
static TASK_MM: u32 = 0;
#[unsafe(no_mangle)]
static TASK_SIGNAL: u32 = 0;
#[unsafe(no_mangle)]
static SIGNAL_THREADS: u32 = 0;
#[unsafe(no_mangle)]
static TASK_FLAGS: u32 = 0;
#[unsafe(no_mangle)]
static MM_EXE_FILE: u32 = 0;
#[unsafe(no_mangle)]
static FILE_INODE: u32 = 0;
#[unsafe(no_mangle)]
static INODE_NUMBER: u32 = 0;
#[unsafe(no_mangle)]
static INODE_SUPER: u32 = 0;
#[unsafe(no_mangle)]
static INODE_CTIME: u32 = 0;
#[unsafe(no_mangle)]
static INODE_CTIME_NS: u32 = 0;
#[unsafe(no_mangle)]
static SUPER_DEVICE: u32 = 0;

/// `PF_FORKNOEXEC` (include/linux/sched.h): "forked but didn't exec".
const FORKED_WITHOUT_EXEC: u32 = 0x40;

/// What of an inode's nanoseconds is time: above it, since 6.13, stands whether
/// somebody has asked (include/linux/fs.h, `I_CTIME_QUERIED`).
const NANOSECONDS: u32 = (1 << 30) - 1;

/// A `struct task_struct *` that the verifier knows as one; or what is found
/// through it.
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

/// Whether the current process is known to have no thread but this one.
#[inline(always)]
pub fn is_alone() -> bool {
    threads() == Some(1)
}

#[inline(always)]
fn threads() -> Option<u32> {
    let (in_task, in_signal) = (offset!(TASK_SIGNAL), offset!(SIGNAL_THREADS));
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task_btf() } as Task;
    // SAFETY: typed by the kernel, offsets from its BTF.
    Some(unsafe { field::<u32>(field::<Task>(task, in_task), in_signal) })
}

/// Writes down what the current process executes, if that can be learnt.
#[inline(always)]
pub fn current_exe(exe: &mut ExeId) -> Option<()> {
    let (in_task, in_mm, in_file) = (offset!(TASK_MM), offset!(MM_EXE_FILE), offset!(FILE_INODE));
    let (number, super_block) = (offset!(INODE_NUMBER), offset!(INODE_SUPER));
    let (seconds, nanoseconds) = (offset!(INODE_CTIME), offset!(INODE_CTIME_NS));
    let device = offset!(SUPER_DEVICE);
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task_btf() } as Task;
    // SAFETY: typed by the kernel, offsets from its BTF.
    unsafe {
        let mm: Task = there(field(task, in_task))?;
        let file: Task = there(field(mm, in_mm))?;
        let inode: Task = there(field(file, in_file))?;
        let super_block: Task = there(field(inode, super_block))?;
        exe.inode = field(inode, number);
        exe.changed_s = field(inode, seconds);
        exe.changed_ns = field::<u32>(inode, nanoseconds) & NANOSECONDS;
        exe.device = field(super_block, device);
    }
    Some(())
}

#[inline(always)]
fn there(pointer: Task) -> Option<Task> {
    if pointer.is_null() { None } else { Some(pointer) }
}

/// What there is to say of the current process as a record is made
/// (`birth_flags`).
#[inline(always)]
pub fn current_birth() -> u32 {
    flags_of_leader().map_or(0, |flags| {
        let forked = if flags & FORKED_WITHOUT_EXEC != 0 { birth_flags::FORKED } else { 0 };
        forked | birth_flags::FORKED_KNOWN
    })
}

#[inline(always)]
fn flags_of_leader() -> Option<u32> {
    let (leader, flags) = (offset!(TASK_GROUP_LEADER), offset!(TASK_FLAGS));
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task_btf() } as Task;
    // SAFETY: typed by the kernel, offsets from its BTF.
    Some(unsafe { field::<u32>(field::<Task>(task, leader), flags) })
}
