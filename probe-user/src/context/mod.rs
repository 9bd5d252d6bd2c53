//! Facts of contexts: their life, their values, and sums that survive them.

pub mod choice;
mod ended;
mod generations;
pub mod groups;
pub mod growth;
pub mod handshakes;
pub mod invariants;
pub mod life;
pub mod reconstruct;
pub mod registry;
pub mod settings;
pub mod widen;

pub use self::{
    choice::Choice,
    growth::{Growth, Unwatched},
    handshakes::{Handshakes, SideHandshakes},
    invariants::Contradiction,
    life::{Begins, Context, Origin, State},
    reconstruct::{Observation, Source},
    registry::Registry,
    settings::Settings,
};
