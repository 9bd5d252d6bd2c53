//! The memory of other processes.

use std::io::{self, IoSliceMut};

use nix::{
    errno::Errno,
    sys::uio::{RemoteIoVec, process_vm_readv},
    unistd::Pid,
};

use super::process::live_thread;

/// Reads the memory of a process. A read is whole or it is an error: there is
/// no zero that stands for "could not read".
pub trait ProcessMemory {
    /// Fills a buffer from an address.
    ///
    /// # Errors
    ///
    /// If any byte of it cannot be read.
    fn read(&self, pid: u32, address: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// Reads with `process_vm_readv`: the process is not stopped and notices nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct LiveMemory;

impl ProcessMemory for LiveMemory {
    fn read(&self, pid: u32, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        let len = buffer.len();
        let base = usize::try_from(address).map_err(io::Error::other)?;
        let pid = Pid::from_raw(pid.cast_signed());
        let from = [RemoteIoVec { base, len }];
        let read = match process_vm_readv(pid, &mut [IoSliceMut::new(buffer)], &from) {
            // The main thread may be gone, and the others not.
            Err(Errno::ESRCH) => {
                let thread = live_thread(pid.as_raw().cast_unsigned()).ok_or(Errno::ESRCH)?;
                let thread = Pid::from_raw(thread.cast_signed());
                process_vm_readv(thread, &mut [IoSliceMut::new(buffer)], &from)?
            }
            other => other?,
        };
        if read == len { Ok(()) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) }
    }
}
