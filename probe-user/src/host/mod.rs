//! Facts of processes: which there are, what they map, what is in their memory.

mod census;
pub mod clock;
pub mod container;
pub mod discovery;
pub mod family;
pub mod files;
pub mod gather;
pub mod heap;
pub mod look;
pub mod maps;
pub mod memory;
pub mod page_frames;
pub mod process;
pub mod programs;
pub mod recognise;
pub mod unit;

pub use self::{
    discovery::{Discovery, News},
    gather::Gathered,
    heap::Heap,
    look::{Library, Look, MappedFile, ScanGap},
    memory::{LiveMemory, ProcessMemory},
    process::ProcessFacts,
    programs::Programs,
};
