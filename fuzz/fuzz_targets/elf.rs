//! The ELF reader, and the unwind table's.
#![no_main]

#[global_allocator]
static HEAP: sslsess_fuzz::heap::Bounded = sslsess_fuzz::heap::Bounded;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sslsess_fuzz::file::read(bytes));
