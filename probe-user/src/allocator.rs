//! How the C library's allocator is to behave.

/// Buffers from this size on are given back when they are freed.
#[cfg(target_env = "gnu")]
const LARGE: nix::libc::c_int = 1 << 20;

/// Has large buffers given back to the system as soon as they are freed. Left to
/// itself, glibc takes the size of each that is freed, up to 32 MiB, for the size
/// that it had better keep: the names of one large executable would stay for good.
pub fn give_back_large_buffers() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number in the allocator, under the allocator's own lock.
    unsafe {
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Gives back what was freed in pieces: learning a large program takes hundreds of MiB,
/// and the allocator keeps them for the next time.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: any thread may call it at any time: it takes the allocator's own locks, and
    // touches nothing that is in use (malloc_trim(3)).
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
