//! Everything that talks to the kernel through BPF.

pub mod attach;
pub mod btf;
pub mod events;
pub mod load;
pub mod maps;

pub use self::{
    attach::AttachError,
    events::Lifecycle,
    load::{Kernel, LoadError, LoadOptions},
};
