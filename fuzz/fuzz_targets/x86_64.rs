//! The x86-64 interpreter and the flow analysis.
#![no_main]

#[global_allocator]
static HEAP: sslsess_fuzz::heap::Bounded = sslsess_fuzz::heap::Bounded;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sslsess_fuzz::code::ask(bytes));
