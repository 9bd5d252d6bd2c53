//! All entries of a hash map in a few steps: `BPF_MAP_LOOKUP_BATCH` (Linux 5.6).
//!
//! Key by key it takes two steps for each, and a key that is removed meanwhile makes
//! the kernel begin anew. Here it goes from bucket to bucket and copies each under its
//! lock: an entry that is there all the time is met once.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd as _},
};

use aya::Pod;
use aya_obj::generated::bpf_cmd;

use super::syscall::bpf;

/// Entries that one step brings.
const STEP: usize = 4096;

/// What `bpf(2)` takes for the command.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

const _: () = assert!(size_of::<Batch>() == 56);

/// The entries of a hash map with these keys and values.
///
/// # Errors
///
/// If the kernel cannot do it, or the map is none.
pub(super) fn entries<K: Pod, V: Pod>(map: impl AsFd) -> io::Result<Vec<(K, V)>> {
    let map_fd = map.as_fd().as_raw_fd().cast_unsigned();
    let mut found = Vec::new();
    // Of a hash map: the number of the next bucket.
    let (mut from, mut to) = (0_u32, 0_u32);
    let mut room = STEP;
    let mut first = true;
    loop {
        let mut keys: Vec<MaybeUninit<K>> = Vec::with_capacity(room);
        let mut values: Vec<MaybeUninit<V>> = Vec::with_capacity(room);
        let mut attr = Batch {
            in_batch: if first { 0 } else { std::ptr::from_ref(&from) as u64 },
            out_batch: std::ptr::from_mut(&mut to) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: room as u32,
            map_fd,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the layout is the command's. The kernel writes at most `count` keys and
        // values, of the sizes that the map was made with, which are those of `K` and `V`
        // (aya compares them as it makes a typed map); there is room for as many. The two
        // numbers outlive the call.
        let done = unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) };
        let (end, count) = match done {
            Ok(_) => (false, attr.count as usize),
            // No bucket is left.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => {
                (true, attr.count as usize)
            }
            // One bucket has more than there is room for.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOSPC) => {
                room *= 2;
                continue;
            }
            Err(error) => return Err(error),
        };
        // SAFETY: the kernel says that it has written as many, and there is room for them;
        // any bytes are a value of a `Pod`.
        unsafe {
            keys.set_len(count.min(room));
            values.set_len(count.min(room));
            found.extend(
                keys.iter().zip(&values).map(|(k, v)| (k.assume_init_read(), v.assume_init_read())),
            );
        }
        if end {
            return Ok(found);
        }
        first = false;
        from = to;
    }
}
