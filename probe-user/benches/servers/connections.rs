//! The client that makes connections (`programs/connections.c`).

use std::path::Path;

use crate::{lines, program::Program};

/// How connections are made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode {
    /// As the program knows it.
    pub(crate) name: &'static str,
    /// As people do.
    pub(crate) what: &'static str,
    /// As Python, Node and curl know it.
    pub(crate) version: &'static str,
    pub(crate) resumed: bool,
}

pub(crate) const FULL_13: Mode =
    Mode { name: "full13", what: "TLS 1.3, full", version: "1.3", resumed: false };
pub(crate) const RESUMED_13: Mode =
    Mode { name: "resumed13", what: "TLS 1.3, resumed", version: "1.3", resumed: true };
pub(crate) const FULL_12: Mode =
    Mode { name: "full12", what: "TLS 1.2, full", version: "1.2", resumed: false };
pub(crate) const RESUMED_12: Mode =
    Mode { name: "resumed12", what: "TLS 1.2, resumed", version: "1.2", resumed: true };

pub(crate) struct Connections(Program);

impl Connections {
    /// To a port.
    pub(crate) fn start(program: &Path, port: u16) -> Self {
        Self(Program::start(program, &[port.to_string()]))
    }

    /// Makes so many, one after the other; says how many were resumed.
    pub(crate) fn make(&mut self, mode: Mode, connections: u64) -> f64 {
        self.0.tell(&format!("{} {connections}", mode.name));
        let [resumed] = lines(&mut self.0, 1)[0][..] else { panic!("one number") };
        resumed
    }
}
