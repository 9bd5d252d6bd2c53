//! The aarch64 interpreter and the flow analysis.
#![no_main]

use sslsess_fuzz::image::code::aarch64::Aarch64;

#[global_allocator]
static HEAP: sslsess_fuzz::heap::Bounded = sslsess_fuzz::heap::Bounded;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sslsess_fuzz::code::ask(&Aarch64, bytes));
