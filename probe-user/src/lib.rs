//! `sslsess` shows the twelve `SSL_CTX_sess_*` values of every `SSL_CTX` of
//! every process of a Linux host, without touching the processes.
//!
//! Data flows one way: file -> layout -> probes -> maps -> registry -> snapshot
//! -> outputs. `docs/architecture.md` walks one number along it.

pub mod agent;
pub mod allocator;
pub mod cli;
pub mod commands;
pub mod context;
pub mod diagnosis;
pub mod export;
pub mod host;
pub mod image;
pub mod kernel;
pub mod preflight;
pub mod scan;
pub mod selftest;
pub mod snapshot;
