//! Reading machine code: bytes in, facts out, no I/O.
//!
//! - [`value`]: what a register or a memory cell can be known to hold.
//! - [`quotient`]: what a multiplication and shifts divide by.
//! - [`machine`]: registers, flags and memory made of such values.
//! - [`x86_64`]: what one instruction does to them.
//! - [`explore`]: follows a function along all its paths to what it returns.
//! - [`flow`]: a function's instructions, which leads to which, and which
//!   assignments of a register can reach a place.

pub mod explore;
pub mod flow;
pub mod machine;
pub mod quotient;
pub mod value;
pub mod x86_64;

/// The bytes that code can be read from: a file, or a test's table of bytes.
pub trait CodeSource {
    /// Executable bytes from an address on.
    fn code(&self, address: u64) -> Option<&[u8]>;
    /// A little-endian value of memory that never changes.
    fn constant(&self, address: u64, width: usize) -> Option<u64>;
    /// The function whose address the dynamic linker stores at an address.
    fn import_at(&self, address: u64) -> Option<&str>;
}

impl CodeSource for super::elf::Elf {
    fn code(&self, address: u64) -> Option<&[u8]> {
        self.code(address)
    }

    fn constant(&self, address: u64, width: usize) -> Option<u64> {
        self.constant(address, width)
    }

    fn import_at(&self, address: u64) -> Option<&str> {
        self.import_at(address)
    }
}
