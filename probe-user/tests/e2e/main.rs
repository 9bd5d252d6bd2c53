//! End to end: the agent's binary, real BPF in the real kernel, real libssl in
//! real programs, compared with what these programs say of their own counters.

mod bad_input;
mod builds;
mod bundled;
mod churn;
mod containers;
mod discovery;
mod explain;
mod groups;
mod handshakes;
mod idle;
mod lifetimes;
mod load;
mod nginx;
mod node;
mod prometheus;
mod races;
mod relatives;
mod scenarios;
mod settings;
mod settling;
mod stripped;
mod support;
mod targets;
mod verbs;
mod why;
