//! `bpf(2)`, for what aya does not do.

use std::io;

use aya_obj::generated::bpf_cmd;
use nix::libc;

/// Calls `bpf(2)`; returns what it returns.
///
/// # Safety
///
/// `attr` must have the layout of the command's part of `union bpf_attr`
/// (include/uapi/linux/bpf.h), and its pointers must be good for what the command
/// does with them.
pub(super) unsafe fn bpf<T>(command: bpf_cmd, attr: &mut T) -> io::Result<libc::c_long> {
    let attr = std::ptr::from_mut(attr);
    // SAFETY: the caller's; the kernel reads and writes `size_of::<T>()` bytes at most.
    let returned =
        unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_int, attr, size_of::<T>()) };
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}
