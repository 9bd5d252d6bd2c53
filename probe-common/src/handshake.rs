use core::mem::size_of;

use crate::ContextKey;

/// What a hit of a probe says of a handshake. A plain `u8` on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Moment {
    /// Nothing.
    None = 0,
    /// A client's has started.
    ClientStart = 1,
    /// A server's has started.
    ServerStart = 2,
    /// It is complete.
    Completion = 3,
}

/// Which end of a connection. A plain `u32` on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Side {
    /// The one that connects.
    Client = 0,
    /// The one that accepts.
    Server = 1,
}

impl Side {
    /// Both, in the order of their numbers.
    pub const BOTH: [Self; 2] = [Self::Client, Self::Server];

    /// Its name in metrics and in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// Which connection of which process: the key of the map `HANDSHAKES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ConnectionKey {
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// Zero.
    pub pad: u32,
    /// Address of the `SSL` in that process.
    pub address: u64,
}

const _: () = assert!(size_of::<ConnectionKey>() == 16);

/// A handshake that has started and is not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Handshake {
    /// When, nanoseconds of `CLOCK_MONOTONIC`.
    pub start_ns: u64,
    /// The address of the context that it started on.
    pub context: u64,
    /// `ContextRecord::born_ns` of that context.
    pub born_ns: u64,
    /// A [`Side`].
    pub side: u32,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<Handshake>() == 32);

/// Of which context, and on which side: the key of the map `TIMES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct TimesKey {
    /// The context.
    pub context: ContextKey,
    /// `ContextRecord::born_ns`: tells it from another one at its address.
    pub born_ns: u64,
    /// A [`Side`].
    pub side: u32,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<TimesKey>() == 32);

/// The longest times of all buckets but the last, in nanoseconds.
pub const BOUNDS_NS: [u64; 14] = [
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// How long the handshakes of a context took, from their start to their completion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Times {
    /// How many took no longer than the bound of each and longer than the one before;
    /// the last has all others.
    pub buckets: [u64; BOUNDS_NS.len() + 1],
    /// All of them together, nanoseconds.
    pub sum_ns: u64,
    /// Those that will never be complete: their connection has begun another one.
    pub abandoned: u64,
}

const _: () = assert!(size_of::<Times>() == 136);
