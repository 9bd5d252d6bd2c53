//! What is true of every live context, whatever it does.
//!
//! Only what the sources prove for every release, and while other threads
//! count: a value that breaks it was not read from where it stands. (Relations
//! between counters are none of that. The eleven are not read at one moment;
//! a servername callback makes `accept_good` count on one context and `accept`
//! on another; each counter wraps.)

use std::fmt;

use super::reconstruct::Observation;

/// Bytes of a node of the hash (`crypto/lhash/lhash_local.h`, 1.1.1 to 4.0: two
/// pointers and the hash value), of which every item needs one.
const HASH_NODE: u64 = 24;

/// The end of a process's address space, on x86-64 and aarch64, where it does
/// not ask for more.
const ADDRESS_SPACE: u64 = 1 << 48;

/// A value that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contradiction {
    /// Fewer than no references.
    References(i32),
    /// More sessions than memory has room for.
    Number(u64),
}

impl Contradiction {
    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::References(_) => "references",
            Self::Number(_) => "number",
        }
    }
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::References(count) => write!(
                f,
                "the int that SSL_CTX_up_ref counts in says {count} references, and SSL_CTX_free \
                 leaves none that lives with less than 1"
            ),
            Self::Number(number) => write!(
                f,
                "the field that OPENSSL_LH_num_items returns says {number} sessions, and the \
                 address space has room for less than {} nodes of a hash",
                ADDRESS_SPACE / HASH_NODE
            ),
        }
    }
}

/// What of an observation cannot be.
///
/// No reference at all is no contradiction: the context is just ending.
#[must_use]
pub fn contradiction(seen: &Observation) -> Option<Contradiction> {
    if let Some(references) = seen.references.filter(|references| *references < 0) {
        return Some(Contradiction::References(references));
    }
    if let Some(number) = seen.number.filter(|number| *number >= ADDRESS_SPACE / HASH_NODE) {
        return Some(Contradiction::Number(number));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Source;

    fn seen(references: i32, number: u64) -> Observation {
        Observation {
            counters: [Some(-1); 11],
            number: Some(number),
            references: Some(references),
            source: Source::Memory,
            at_ns: 0,
        }
    }

    #[test]
    fn a_context_that_ends_contradicts_nothing() {
        assert_eq!(contradiction(&seen(0, 0)), None);
        assert_eq!(contradiction(&seen(i32::MAX, 1 << 40)), None);
    }

    #[test]
    fn a_pointer_is_no_number_of_sessions() {
        let pointer = 0x7f12_3456_7890;
        assert_eq!(contradiction(&seen(1, pointer)), Some(Contradiction::Number(pointer)));
    }

    #[test]
    fn there_are_never_fewer_than_no_references() {
        assert_eq!(contradiction(&seen(-1, 0)), Some(Contradiction::References(-1)));
        let unknown = Observation { references: None, ..seen(-1, 0) };
        assert_eq!(contradiction(&unknown), None);
    }
}
