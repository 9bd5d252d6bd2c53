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
