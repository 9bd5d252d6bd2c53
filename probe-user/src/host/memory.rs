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

    /// Fills a buffer with what stands at these addresses, each with a number of bytes,
    /// one behind the other. Ends before the first that cannot be read wholly; says how
    /// many were.
    fn read_many(&self, pid: u32, places: &[(u64, usize)], buffer: &mut [u8]) -> usize {
        let mut rest = buffer;
        for (read, (address, length)) in places.iter().enumerate() {
            let Some((place, behind)) = rest.split_at_mut_checked(*length) else { return read };
            if self.read(pid, *address, place).is_err() {
                return read;
            }
            rest = behind;
        }
        places.len()
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

    fn read_many(&self, pid: u32, places: &[(u64, usize)], buffer: &mut [u8]) -> usize {
        let mut rest = buffer;
        let mut done = 0;
        for places in places.chunks(IOV_MAX) {
            let wanted: usize = places.iter().map(|(_, length)| length).sum();
            let Some((some, behind)) = rest.split_at_mut_checked(wanted) else { break };
            let read = vectored(pid, places, some).unwrap_or(0);
            if read < wanted {
                return done + whole(places, read);
            }
            done += places.len();
            rest = behind;
        }
        done
    }
}

/// How many places one call may name (include/uapi/linux/uio.h, `UIO_MAXIOV`).
const IOV_MAX: usize = 1024;

/// Reads several places; says how many bytes, up to the first that cannot be read.
fn vectored(pid: u32, places: &[(u64, usize)], buffer: &mut [u8]) -> io::Result<usize> {
    let from: Vec<RemoteIoVec> = places
        .iter()
        .map(|(address, len)| Ok(RemoteIoVec { base: usize::try_from(*address)?, len: *len }))
        .collect::<Result<_, std::num::TryFromIntError>>()
        .map_err(io::Error::other)?;
    let read = |pid: u32, buffer: &mut [u8]| {
        process_vm_readv(Pid::from_raw(pid.cast_signed()), &mut [IoSliceMut::new(buffer)], &from)
    };
    match read(pid, buffer) {
        // The main thread may be gone, and the others not.
        Err(Errno::ESRCH) => {
            let thread = live_thread(pid).ok_or(Errno::ESRCH)?;
            read(thread, buffer).map_err(io::Error::from)
        }
        other => other.map_err(io::Error::from),
    }
}

/// How many of the places are within the first so many bytes.
fn whole(places: &[(u64, usize)], bytes: usize) -> usize {
    let ends = places.iter().scan(0, |end, (_, length)| {
        *end += length;
        Some(*end)
    });
    ends.take_while(|end| *end <= bytes).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_places_of_this_process_are_read_up_to_one_that_cannot_be() {
        let here: Vec<u64> = (0..3000).collect();
        let address = |n: usize| std::ptr::from_ref(&here[n]) as u64;
        let mut places: Vec<(u64, usize)> = (0..3000).map(|n| (address(n), 8)).collect();
        let pid = std::process::id();
        let mut buffer = vec![0; 8 * places.len()];
        assert_eq!(LiveMemory.read_many(pid, &places, &mut buffer), 3000);
        let words = buffer.as_chunks::<8>().0;
        assert!(words.iter().zip(&here).all(|(w, n)| u64::from_ne_bytes(*w) == *n));
        places[2000].0 = 8;
        assert_eq!(LiveMemory.read_many(pid, &places, &mut buffer), 2000);
        assert_eq!(LiveMemory.read_many(u32::MAX >> 1, &places, &mut buffer), 0);
    }
}
