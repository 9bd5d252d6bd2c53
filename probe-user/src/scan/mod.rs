//! Finds the contexts of a process in its memory, without any traffic: those
//! that are idle since before the agent came.
//!
//! Nothing is found by likeness. An `SSL_CTX` is what has all of the marks
//! (`image::marks`), and is the only one that has its hash of sessions: if two
//! places claim one hash, one of them is a copy of the bytes, and neither is
//! shown before a probe has said which. The same holds for all that was found if
//! not all of the memory was looked at.
//!
//! - [`pattern`]: the marks, at the addresses of a process.
//! - [`target`]: a process, and the patterns of the library in it.
//! - [`claims`]: which places claim which hash, and who of them owns it.
//! - [`walk`]: reads the memory.
//! - [`worker`]: a thread that does it, one process after the other.

pub mod claims;
pub mod pattern;
pub mod target;
pub mod walk;
pub mod worker;

pub use self::{
    claims::Contested,
    target::Target,
    walk::{Found, Walked},
    worker::{Progress, Worker},
};
