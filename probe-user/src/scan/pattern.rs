//! The marks of an `SSL_CTX` at the addresses of a process: what has them.

use std::io;

use crate::{host::ProcessMemory, image::Marks};

/// What pointers point to is at multiples of this: an `SSL_CTX`, a hash, an
/// `X509_STORE` all have pointers in them.
const ALIGNMENT: u64 = 8;

/// Words that are compared at once.
const GROUP: usize = 32;

/// The marks, with addresses of a process.
#[derive(Clone, Debug)]
pub struct Pattern {
    method: u64,
    references: u64,
    sessions: u64,
    cert_store: u64,
    store_references: u64,
    hash: (u64, u64),
    compare: (u64, u64),
    methods: Methods,
}

/// The objects that a method can be. A heap can be full of their addresses.
#[derive(Clone, Debug, Default)]
struct Methods {
    /// The lowest of their addresses.
    first: u64,
    /// From it to the highest.
    range: u64,
    /// For each aligned address from the lowest on, whether there is one. They are all
    /// in one segment of a library, 200 bytes each.
    at: Vec<bool>,
}

impl Methods {
    fn new(addresses: &[u64]) -> Self {
        let first = addresses.iter().copied().min().unwrap_or_default();
        let last = addresses.iter().copied().max().unwrap_or_default();
        let mut methods = Self { first, range: last - first, at: Vec::new() };
        for address in addresses.iter().filter(|address| is_pointer(**address)) {
            let number = ((address - first) / ALIGNMENT) as usize;
            if methods.at.len() <= number {
                methods.at.resize(number + 1, false);
            }
            methods.at[number] = true;
        }
        methods
    }

    /// Whether an address can be one: says no to nearly all that are none.
    fn are_near(&self, address: u64) -> bool {
        address.wrapping_sub(self.first) <= self.range
    }

    fn contain(&self, address: u64) -> bool {
        let number = address.wrapping_sub(self.first) / ALIGNMENT;
        is_pointer(address) && self.at.get(number as usize).is_some_and(|there| *there)
    }
}

/// A place that has the marks that an `SSL_CTX` has in itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where the `SSL_CTX` would begin.
    pub address: u64,
    /// What would be its hash of sessions.
    pub sessions: u64,
}

/// Whether a place is an `SSL_CTX` that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has all the marks.
    Context,
    /// It lacks one.
    Not,
    /// It has no `cert_store`, which would tell whether it lives.
    Unproven,
}

impl Pattern {
    /// The marks of a library that a process has so far from the file's addresses.
    #[must_use]
    pub fn at(marks: &Marks, base: u64) -> Self {
        let function = |field: u32, function: u64| (u64::from(field), base.wrapping_add(function));
        let methods: Vec<u64> =
            marks.methods.iter().map(|method| base.wrapping_add(*method)).collect();
        Self {
            method: marks.method.into(),
            references: marks.references.into(),
            sessions: marks.sessions.into(),
            cert_store: marks.cert_store.into(),
            store_references: marks.store_references.into(),
            hash: function(marks.hash, marks.session_hash),
            compare: function(marks.compare, marks.session_compare),
            methods: Methods::new(&methods),
        }
    }

    /// How many bytes of an `SSL_CTX` have marks.
    #[must_use]
    pub fn span(&self) -> usize {
        let pointers = self.method.max(self.sessions).max(self.cert_store) + 8;
        pointers.max(self.references + 4) as usize
    }

    /// The places in a piece of memory, which begins at an address, that have the
    /// marks that an `SSL_CTX` has in itself, and all of them in the piece.
    pub fn candidates(&self, bytes: &[u8], at: u64) -> impl Iterator<Item = Candidate> {
        let method = self.method as usize;
        let words = bytes.get(method..).unwrap_or_default().as_chunks::<8>().0;
        let near = |word: &[u8; 8]| self.methods.are_near(u64::from_ne_bytes(*word));
        // Nearly all of a large heap ends here: many words at once, without a branch.
        let groups = (0..)
            .zip(words.chunks(GROUP))
            .filter(move |(_, group)| group.iter().fold(false, |any, word| any | near(word)));
        groups
            .flat_map(|(number, group): (usize, _)| (number * GROUP..).zip(group))
            .filter(|(_, word)| self.methods.contain(u64::from_ne_bytes(**word)))
            .filter_map(move |(number, _)| {
                let start = number * ALIGNMENT as usize;
                self.candidate(bytes.get(start..)?, at.wrapping_add(start as u64))
            })
    }

    fn candidate(&self, bytes: &[u8], address: u64) -> Option<Candidate> {
        let field = |offset: u64| bytes.get(offset as usize..)?.first_chunk();
        let references = i32::from_ne_bytes(*bytes.get(self.references as usize..)?.first_chunk()?);
        let sessions = u64::from_ne_bytes(*field(self.sessions)?);
        let is = references > 0 && is_pointer(sessions);
        is.then_some(Candidate { address, sessions })
    }

    /// Whether what is at an address is a hash of sessions.
    pub fn is_hash(&self, memory: &dyn ProcessMemory, pid: u32, address: u64) -> bool {
        let has = |(field, function): (u64, u64)| {
            let read = memory.read_u64(pid, address.wrapping_add(field));
            read.is_ok_and(|read| read == function)
        };
        has(self.compare) && has(self.hash)
    }

    /// Whether what is at an address is an `SSL_CTX` that lives. What cannot be
    /// read is none.
    pub fn judge(&self, memory: &dyn ProcessMemory, pid: u32, address: u64) -> Verdict {
        self.read(memory, pid, address).unwrap_or(Verdict::Not)
    }

    fn read(&self, memory: &dyn ProcessMemory, pid: u32, address: u64) -> io::Result<Verdict> {
        let field = |offset: u64| memory.read_u64(pid, address.wrapping_add(offset));
        let references = memory.read_i32(pid, address.wrapping_add(self.references))?;
        let is = references > 0
            && self.methods.contain(field(self.method)?)
            && self.is_hash(memory, pid, field(self.sessions)?);
        if !is {
            return Ok(Verdict::Not);
        }
        let cert_store = field(self.cert_store)?;
        if cert_store == 0 {
            return Ok(Verdict::Unproven);
        }
        let count = memory.read_i32(pid, cert_store.wrapping_add(self.store_references))?;
        Ok(if is_pointer(cert_store) && count > 0 { Verdict::Context } else { Verdict::Not })
    }

    /// The hash of sessions of what is at an address.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn sessions_of(
        &self,
        memory: &dyn ProcessMemory,
        pid: u32,
        address: u64,
    ) -> io::Result<u64> {
        memory.read_u64(pid, address.wrapping_add(self.sessions))
    }
}

fn is_pointer(value: u64) -> bool {
    value != 0 && value.is_multiple_of(ALIGNMENT)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Memory of which a test writes the words, at an address of its own.
    #[derive(Clone)]
    pub(in crate::scan) struct Words(pub(in crate::scan) u64, pub(in crate::scan) Vec<u8>);

    impl ProcessMemory for Words {
        fn read(&self, _: u32, address: u64, buffer: &mut [u8]) -> io::Result<()> {
            let gone = || io::Error::from(io::ErrorKind::UnexpectedEof);
            let from = address.checked_sub(self.0).ok_or_else(gone)? as usize;
            let bytes = self.1.get(from..).and_then(|bytes| bytes.get(..buffer.len()));
            buffer.copy_from_slice(bytes.ok_or_else(gone)?);
            Ok(())
        }
    }

    impl Words {
        pub(in crate::scan) fn write(&mut self, address: u64, value: u64) {
            let from = (address - self.0) as usize;
            self.1[from..from + 8].copy_from_slice(&value.to_ne_bytes());
        }

        fn found(&self, pattern: &Pattern) -> Vec<u64> {
            pattern.candidates(&self.1, self.0).map(|candidate| candidate.address).collect()
        }
    }

    pub(in crate::scan) const HEAP: u64 = 0x10_0000;
    pub(in crate::scan) const CONTEXT: u64 = HEAP + 0x100;
    pub(in crate::scan) const HASH: u64 = HEAP + 0x400;
    const STORE: u64 = HEAP + 0x500;
    const BASE: u64 = 0x7f00_0000_0000;

    pub(in crate::scan) fn pattern() -> Pattern {
        let marks = Marks {
            method: 0x8,
            methods: vec![0x5000, 0x5100],
            references: 0xa4,
            sessions: 0x30,
            hash: 0x10,
            session_hash: 0x1000,
            compare: 0x8,
            session_compare: 0x1100,
            cert_store: 0x28,
            store_references: 0x90,
            ..Marks::default()
        };
        Pattern::at(&marks, BASE)
    }

    /// A heap with one context in it.
    pub(in crate::scan) fn heap() -> Words {
        let mut heap = Words(HEAP, vec![0; 0x1000]);
        make(&mut heap, CONTEXT, HASH);
        heap.write(HASH + 0x8, BASE + 0x1100);
        heap.write(HASH + 0x10, BASE + 0x1000);
        heap.write(STORE + 0x90, 1);
        heap
    }

    /// The words of an `SSL_CTX`, its hash and its store, at these addresses.
    pub(in crate::scan) fn words(context: u64, hash: u64, store: u64) -> [(u64, u64); 7] {
        [
            (context + 0x8, BASE + 0x5100),
            (context + 0x28, store),
            (context + 0x30, hash),
            (context + 0xa0, 1 << 32),
            (hash + 0x8, BASE + 0x1100),
            (hash + 0x10, BASE + 0x1000),
            (store + 0x90, 1),
        ]
    }

    /// An `SSL_CTX`, with one reference.
    pub(in crate::scan) fn make(heap: &mut Words, at: u64, hash: u64) {
        heap.write(at + 0x8, BASE + 0x5100);
        heap.write(at + 0x28, STORE);
        heap.write(at + 0x30, hash);
        heap.write(at + 0xa0, 1 << 32);
    }

    #[test]
    fn a_context_is_found() {
        assert_eq!(heap().found(&pattern()), [CONTEXT]);
        assert_eq!(pattern().judge(&heap(), 1, CONTEXT), Verdict::Context);
    }

    /// Each of the marks is looked at: whatever lacks one is nothing.
    #[test]
    fn what_lacks_one_mark_is_no_context() {
        let lacking = [
            ("a method", CONTEXT + 0x8, BASE + 0x5008),
            ("a reference", CONTEXT + 0xa0, 0),
            ("a positive number of references", CONTEXT + 0xa0, 0xffff_ffff << 32),
            ("a hash", CONTEXT + 0x30, 0),
            ("a hash that can be read", CONTEXT + 0x30, 0x9000),
            ("what sessions are hashed with", HASH + 0x10, BASE + 0x1008),
            ("what sessions are compared with", HASH + 0x8, BASE + 0x1000),
            ("a store that is held", STORE + 0x90, 0),
            ("a store that can be read", CONTEXT + 0x28, 0x9000),
        ];
        for (what, at, value) in lacking {
            let mut heap = heap();
            heap.write(at, value);
            assert_eq!(pattern().judge(&heap, 1, CONTEXT), Verdict::Not, "without {what}");
        }
        let mut heap = heap();
        heap.write(CONTEXT + 0x28, 0);
        assert_eq!(pattern().judge(&heap, 1, CONTEXT), Verdict::Unproven);
    }

    /// A freed one has no references: it does not even come so far as to be judged.
    #[test]
    fn what_was_freed_is_no_candidate() {
        let mut heap = heap();
        heap.write(CONTEXT + 0xa0, 0);
        assert!(heap.found(&pattern()).is_empty());
    }

    #[test]
    fn methods_alone_are_nothing() {
        let mut heap = heap();
        for at in (0x600..0xf00).step_by(8) {
            heap.write(HEAP + at, BASE + 0x5000);
        }
        let found = heap.found(&pattern());
        assert!(found.len() > 100, "each looks like one in itself");
        let judged = found.into_iter().filter(|at| pattern().judge(&heap, 1, *at) != Verdict::Not);
        assert_eq!(Vec::from_iter(judged), [CONTEXT]);
    }

    #[test]
    fn the_end_of_a_piece_cuts_a_context() {
        let heap = heap();
        let end = (CONTEXT - HEAP) as usize + pattern().span();
        let found = |end: usize| pattern().candidates(&heap.1[..end], HEAP).count();
        assert_eq!((found(end), found(end - 1)), (1, 0));
    }

    #[test]
    fn another_address_of_the_library_is_another_pattern() {
        let other = Pattern { methods: Methods::new(&[BASE + 0x6000]), ..pattern() };
        assert!(heap().found(&other).is_empty());
    }
}
