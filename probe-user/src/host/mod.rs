//! Facts of processes: which there are, what they map, what is in their memory.

pub mod clock;
pub mod discovery;
pub mod family;
pub mod memory;
pub mod process;

pub use self::{
    discovery::{Library, ScanGap, scan},
    memory::{LiveMemory, ProcessMemory},
    process::ProcessFacts,
};
