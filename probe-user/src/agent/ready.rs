//! File descriptors that become readable.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// Has the runtime watch whether a file descriptor is readable. To be called within one.
///
/// # Errors
///
/// If it cannot be watched.
pub(super) fn watch<T: AsFd + AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the owner has one file descriptor (such as a ring buffer's map), which it
    // keeps open and does not exchange for another for as long as it exists;
    // the `AsyncFd` owns the owner.
    unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE) }.map_err(Into::into)
}

/// Waits until it is readable; for ever if it is not watched.
pub(super) async fn readable(events: &io::Result<AsyncFd<OwnedFd>>) {
    match events {
        Ok(events) => {
            if let Ok(mut guard) = events.readable().await {
                guard.clear_ready();
            }
        }
        // What comes is taken at the next tick all the same.
        Err(_) => std::future::pending().await,
    }
}
