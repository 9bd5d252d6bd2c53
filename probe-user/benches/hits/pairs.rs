//! What makes one hit dearer than another: the instruction under the probe, and where
//! the context is; and which of it the builds of libssl have.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use probe_common::Action;
use sslsess::image::{Class, point::ProbePoint};

use crate::libraries::{label, learn};

/// What the kernel emulates on this processor.
pub(crate) const EMULATED: [Class; 5] =
    [Class::Nop, Class::Jmp, Class::Jcc, Class::Call, Class::Push];

/// Where the context is when a probe is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// A register.
    Register,
    /// The connection, which a register holds: one more read.
    Connection,
}

impl Place {
    pub(crate) const ALL: [Self; 2] = [Self::Register, Self::Connection];

    /// As the program's functions begin.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Connection => "connection",
        }
    }

    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Register => "the context in a register",
            Self::Connection => "the context read from the connection",
        }
    }
}

/// The two together.
pub(crate) type Pair = (Class, Place);

/// A library, and what its probes are.
pub(crate) struct Build {
    pub(crate) label: String,
    /// Those of all probes that copy counters.
    pub(crate) pairs: BTreeSet<Pair>,
}

impl Build {
    /// Of these files. What cannot be learnt has no probes, and is said.
    pub(crate) fn all(files: &[PathBuf]) -> Vec<Self> {
        files.iter().filter_map(|file| Self::of(file)).collect()
    }

    fn of(file: &Path) -> Option<Self> {
        let label = label(file);
        match learn(file) {
            Ok(image) => {
                let points = image.plan.points.iter();
                let pairs = points
                    .filter(|point| matches!(point.action, Action::Mirror | Action::Meet))
                    .map(pair);
                Some(Self { label, pairs: pairs.collect() })
            }
            Err(why) => {
                println!("{label}: {why}");
                None
            }
        }
    }
}

fn pair(point: &ProbePoint) -> Pair {
    let read = point.argument.dereference.is_some();
    (point.class, if read { Place::Connection } else { Place::Register })
}
