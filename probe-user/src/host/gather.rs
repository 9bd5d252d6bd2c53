//! Many places of a process's memory in few steps.

use std::{collections::HashMap, io, ops::Range};

use super::ProcessMemory;

/// What some places held a moment ago: whoever asks for a part of one gets it from
/// here. What was not gathered is read when it is asked for.
pub struct Gathered<'m> {
    memory: &'m dyn ProcessMemory,
    bytes: Vec<u8>,
    /// Where in the bytes each place is, by process and address.
    places: HashMap<u32, Vec<(u64, Range<usize>)>>,
}

impl<'m> Gathered<'m> {
    /// Nothing yet.
    #[must_use]
    pub fn new(memory: &'m dyn ProcessMemory) -> Self {
        Self { memory, bytes: Vec::new(), places: HashMap::new() }
    }

    /// Reads these places of a process: addresses, each with a number of bytes. What
    /// cannot be read is left out.
    pub fn gather(&mut self, pid: u32, places: &[(u64, usize)]) {
        let mut wanted: Vec<(u64, usize)> = places.to_vec();
        wanted.sort_unstable();
        let mut wanted = &wanted[..];
        while !wanted.is_empty() {
            let start = self.bytes.len();
            let length: usize = wanted.iter().map(|(_, length)| length).sum();
            self.bytes.resize(start + length, 0);
            let read = self.memory.read_many(pid, wanted, &mut self.bytes[start..]);
            let mut at = start;
            let of_it = self.places.entry(pid).or_default();
            for (address, length) in &wanted[..read] {
                of_it.push((*address, at..at + length));
                at += length;
            }
            self.bytes.truncate(at);
            // Behind the one that could not be read, if any.
            wanted = wanted.get(read + 1..).unwrap_or_default();
        }
        if let Some(places) = self.places.get_mut(&pid) {
            places.sort_unstable_by_key(|(address, _)| *address);
        }
    }

    /// The bytes of one place that was gathered, if all of these are in it.
    fn find(&self, pid: u32, address: u64, length: usize) -> Option<&[u8]> {
        let places = self.places.get(&pid)?;
        let behind = places.partition_point(|(start, _)| *start <= address);
        let (start, range) = places.get(behind.checked_sub(1)?)?;
        let from = range.start + usize::try_from(address - start).ok()?;
        let to = from.checked_add(length)?;
        (to <= range.end).then(|| &self.bytes[from..to])
    }
}

impl ProcessMemory for Gathered<'_> {
    fn read(&self, pid: u32, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self.find(pid, address, buffer.len()) {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                Ok(())
            }
            None => self.memory.read(pid, address, buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Each byte is the low byte of its address; nothing from 0x2000 to 0x3000.
    #[derive(Default)]
    struct Memory(Cell<usize>);

    impl ProcessMemory for Memory {
        fn read(&self, _: u32, address: u64, buffer: &mut [u8]) -> io::Result<()> {
            self.0.set(self.0.get() + 1);
            if address + buffer.len() as u64 > 0x2000 && address < 0x3000 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for (byte, address) in buffer.iter_mut().zip(address..) {
                *byte = address as u8;
            }
            Ok(())
        }
    }

    #[test]
    fn what_is_gathered_is_read_once() {
        let memory = Memory::default();
        let mut gathered = Gathered::new(&memory);
        gathered.gather(7, &[(0x4000, 0x40), (0x1000, 0x40), (0x2100, 8), (0x1ffc, 8)]);
        let reads = memory.0.get();
        let mut two = [0; 2];
        for (address, expected) in
            [(0x1000, [0, 1]), (0x103e, [0x3e, 0x3f]), (0x4010, [0x10, 0x11])]
        {
            gathered.read(7, address, &mut two).expect("it was gathered");
            assert_eq!(two, expected);
        }
        assert_eq!(memory.0.get(), reads, "no other look at the memory");
        // Over the end of a place, and in another process.
        gathered.read(7, 0x103f, &mut two).expect("it can be read");
        gathered.read(8, 0x1000, &mut two).expect("it can be read");
        assert_eq!(memory.0.get(), reads + 2);
        assert!(gathered.read(7, 0x2100, &mut two).is_err());
        assert!(gathered.read(7, 0x1ffc, &mut [0; 8]).is_err(), "half of it is none");
    }
}
