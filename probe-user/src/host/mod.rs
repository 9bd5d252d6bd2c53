//! Facts of processes: which there are, what they map, what is in their memory.

pub mod clock;
pub mod container;
pub mod discovery;
pub mod family;
pub mod heap;
pub mod memory;
pub mod process;
pub mod recognise;
pub mod unit;

pub use self::{
    discovery::{Discovery, Library, ScanGap},
    heap::Heap,
    memory::{LiveMemory, ProcessMemory},
    process::ProcessFacts,
};
