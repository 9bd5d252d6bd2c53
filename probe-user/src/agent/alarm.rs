//! When the agent has something to do though nothing has happened.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    time::{Duration, Instant},
};

use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;

use super::ready::watch;

/// Rings once at each time that it is set to.
///
/// A timer of the runtime's wakes its thread when it is set, when the runtime's wheel of
/// timers has turned close to it, and when it is due: three times, of an agent that ought
/// to sleep.
pub(super) struct Alarm {
    timer: TimerFd,
    rings: AsyncFd<OwnedFd>,
    set: Option<Instant>,
}

impl Alarm {
    /// One that is not set. To be called within a runtime.
    ///
    /// # Errors
    ///
    /// If there are no file descriptors left.
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let rings = watch(timer.as_fd().try_clone_to_owned()?)?;
        Ok(Self { timer, rings, set: None })
    }

    /// Has it ring at this time and no other; at once, if it has passed.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub(super) fn set(&mut self, at: Instant) -> io::Result<()> {
        if self.set != Some(at) {
            // None at all would switch it off.
            let left = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
            self.timer.set(Expiration::OneShot(left.into()), TimerSetTimeFlags::empty())?;
            self.set = Some(at);
        }
        Ok(())
    }

    /// Waits until it rings.
    pub(super) async fn rings(&mut self) {
        match self.rings.readable().await {
            Ok(mut ready) => {
                // Whether it has rung, the time says: it may have been set anew since then.
                let _ = self.timer.wait();
                ready.clear_ready();
                self.set = None;
            }
            Err(_) => std::future::pending().await,
        }
    }
}
