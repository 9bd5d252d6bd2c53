//! Facts of contexts: their life, their values, and sums that survive them.

pub mod groups;
pub mod growth;
pub mod invariants;
pub mod reconstruct;
pub mod registry;
pub mod settings;
pub mod widen;

pub use self::{
    growth::{Growth, Unwatched},
    invariants::Contradiction,
    reconstruct::{Observation, Source},
    registry::{Context, Registry, State},
    settings::Settings,
};
