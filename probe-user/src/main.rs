//! The binary: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    sslsess::allocator::give_back_large_buffers();
    sslsess::commands::run()
}
