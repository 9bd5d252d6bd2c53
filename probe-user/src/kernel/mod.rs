//! Everything that talks to the kernel through BPF.

pub mod attach;
mod batch;
pub mod btf;
pub mod events;
pub mod floor;
mod handshakes;
pub mod load;
pub mod mappings;
pub mod maps;
mod multi;
mod slots;
#[cfg(test)]
mod stack;
mod syscall;
mod table;

pub use self::{
    attach::{AttachError, LinkChoice},
    events::Lifecycle,
    load::{Kernel, LastLooks, LoadError, LoadOptions},
    mappings::{Mappings, MappingsError},
};
