//! Facts of processes: which there are, what they map, what is in their memory.

pub mod clock;
pub mod container;
pub mod discovery;
pub mod family;
pub mod memory;
pub mod process;
pub mod recognise;
pub mod unit;

pub use self::{
    discovery::{Discovery, Library, ScanGap},
    memory::{LiveMemory, ProcessMemory},
    process::ProcessFacts,
};
