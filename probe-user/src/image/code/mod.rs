//! Reading machine code: bytes in, facts out, no I/O.
//!
//! - [`value`]: what a register or a memory cell can be known to hold.
//! - [`quotient`]: what a multiplication and shifts divide by.
//! - [`loads`]: which instruction loaded which of them.
//! - [`machine`]: registers, flags and memory made of such values.
//! - [`frames`]: whose memory on the stack it is, and who may know its address.
//! - [`processor`]: what differs between processors, behind one interface.
//! - [`x86_64`], [`aarch64`]: what their instructions do, and the neutral facts of them.
//! - [`instruction`]: those facts.
//! - [`explore`]: follows a function along all its paths to what it returns.
//! - [`flow`]: a function's instructions, which leads to which, and which
//!   assignments of a register can reach a place.

pub mod aarch64;
#[cfg(test)]
mod bounds;
#[cfg(test)]
mod calls;
pub mod explore;
pub mod flow;
#[cfg(test)]
mod forks;
pub mod frames;
pub mod history;
pub mod instruction;
pub mod loads;
pub mod machine;
pub mod processor;
pub mod quotient;
#[cfg(test)]
pub(in crate::image) mod specimen;
pub mod value;
pub mod x86_64;

use self::processor::Processor;

/// The bytes that code can be read from: a file, or a test's table of bytes.
pub trait CodeSource {
    /// The processor that the code is for.
    fn processor(&self) -> &'static dyn Processor;
    /// Executable bytes from an address on.
    fn code(&self, address: u64) -> Option<&[u8]>;
    /// A little-endian value of memory that never changes.
    fn constant(&self, address: u64, width: usize) -> Option<u64>;
    /// The function whose address the dynamic linker stores at an address.
    fn import_at(&self, address: u64) -> Option<&str>;
    /// The name of the function that an address is inside of, as far as symbols tell.
    fn function_containing(&self, _address: u64) -> Option<&str> {
        None
    }
}

impl CodeSource for super::elf::Elf {
    fn processor(&self) -> &'static dyn Processor {
        self.processor()
    }

    fn code(&self, address: u64) -> Option<&[u8]> {
        self.code(address)
    }

    fn constant(&self, address: u64, width: usize) -> Option<u64> {
        self.constant(address, width)
    }

    fn import_at(&self, address: u64) -> Option<&str> {
        self.import_at(address)
    }

    fn function_containing(&self, address: u64) -> Option<&str> {
        self.function_containing(address)
    }
}
