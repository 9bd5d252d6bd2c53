//! What is known, in the forms in which it is wanted.

pub mod explain;
pub mod handshakes;
pub mod metrics;
pub mod table;
pub mod targets;
pub mod web;
pub mod why;
