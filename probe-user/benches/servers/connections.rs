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

/// What was made.
pub(crate) struct Made {
    pub(crate) connections: f64,
    pub(crate) seconds: f64,
    pub(crate) resumed: f64,
}

impl Connections {
    /// To a port, so many at the same time, from processors (a mask, or 0).
    pub(crate) fn start(program: &Path, port: u16, at_once: usize, processors: u64) -> Self {
        let numbers = [u64::from(port), at_once as u64, processors];
        let arguments = numbers.map(|number| number.to_string());
        Self(Program::start(program, &arguments))
    }

    /// Makes connections for a time.
    pub(crate) fn make_for(&mut self, mode: Mode, milliseconds: u64) -> Made {
        self.make_until(mode, milliseconds, 0)
    }

    /// Makes so many.
    pub(crate) fn make(&mut self, mode: Mode, connections: u64) -> Made {
        self.make_until(mode, 0, connections)
    }

    fn make_until(&mut self, mode: Mode, milliseconds: u64, connections: u64) -> Made {
        self.0.tell(&format!("{} {milliseconds} {connections}", mode.name));
        let [connections, took, resumed] = lines(&mut self.0, 1)[0][..] else {
            panic!("three numbers");
        };
        Made { connections, seconds: took / 1e9, resumed }
    }
}
