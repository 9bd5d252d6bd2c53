//! `sslsess` shows the twelve `SSL_CTX_sess_*` values of every `SSL_CTX` of
//! every process of a Linux host, without touching the processes.
//!
//! Data flows one way: file -> layout -> probes -> maps -> registry -> snapshot
//! -> outputs. `docs/architecture.md` walks one number along it.

pub mod image;
