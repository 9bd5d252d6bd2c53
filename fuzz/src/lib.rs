//! What the fuzz targets share.
//!
//! The code under test is one module of `probe-user`, compiled here by itself:
//! libFuzzer looks at a counter per branch after every input, and with all that
//! the agent is made of (an HTTP server, a runtime, aya) that would be most of
//! the work.

pub mod code;
pub mod file;
pub mod heap;
#[path = "../../probe-user/src/image/mod.rs"]
pub mod image;
