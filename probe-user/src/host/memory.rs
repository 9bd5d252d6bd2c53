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

    /// Fills the beginning of a buffer with as much as can be read from an
    /// address on; says how much that is, which is at least a byte.
    ///
    /// # Errors
    ///
    /// If not even the first byte can be read.
    fn read_some(&self, pid: u32, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.read(pid, address, buffer).map(|()| buffer.len())
    }

    /// A pointer.
    ///
    /// # Errors
    ///
    /// If any byte of it cannot be read.
    fn read_u64(&self, pid: u32, address: u64) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.read(pid, address, &mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// An `int`.
    ///
    /// # Errors
    ///
    /// If any byte of it cannot be read.
    fn read_i32(&self, pid: u32, address: u64) -> io::Result<i32> {
        let mut bytes = [0; 4];
        self.read(pid, address, &mut bytes)?;
        Ok(i32::from_ne_bytes(bytes))
    }
}

/// Reads with `process_vm_readv`: the process is not stopped and notices nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct LiveMemory;

impl ProcessMemory for LiveMemory {
    fn read(&self, pid: u32, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        let len = buffer.len();
        let read = self.read_some(pid, address, buffer)?;
        if read == len { Ok(()) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) }
    }

    fn read_some(&self, pid: u32, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
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
        if read > 0 { Ok(read) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) }
    }
}
