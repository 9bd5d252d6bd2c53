use core::mem::size_of;

/// The eleven counters that `SSL_CTX` keeps, in the order in which they stand
/// in its `stats` (`ssl/ssl_local.h`, OpenSSL 1.1.1 to 4.0). The relatives keep
/// this order, with those left out that they do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Counter {
    /// `sess_connect`: handshakes started as a client.
    Connect = 0,
    /// `sess_connect_renegotiate`: renegotiations started as a client.
    ConnectRenegotiate = 1,
    /// `sess_connect_good`: handshakes finished as a client.
    ConnectGood = 2,
    /// `sess_accept`: handshakes started as a server.
    Accept = 3,
    /// `sess_accept_renegotiate`: renegotiations started as a server.
    AcceptRenegotiate = 4,
    /// `sess_accept_good`: handshakes finished as a server.
    AcceptGood = 5,
    /// `sess_miss`: sessions that were proposed and not found.
    Misses = 6,
    /// `sess_timeout`: sessions that were proposed and had expired.
    Timeouts = 7,
    /// `sess_cache_full`: sessions removed because the cache was full.
    CacheFull = 8,
    /// `sess_hit`: sessions that were reused.
    Hits = 9,
    /// `sess_cb_hit`: sessions that an external cache gave back.
    CbHits = 10,
}

/// Every counter, in the order in which OpenSSL keeps them.
pub const COUNTERS: [Counter; 11] = [
    Counter::Connect,
    Counter::ConnectRenegotiate,
    Counter::ConnectGood,
    Counter::Accept,
    Counter::AcceptRenegotiate,
    Counter::AcceptGood,
    Counter::Misses,
    Counter::Timeouts,
    Counter::CacheFull,
    Counter::Hits,
    Counter::CbHits,
];

impl Counter {
    /// The counter of this number, if there is one.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        if (raw as usize) < COUNTERS.len() { Some(COUNTERS[raw as usize]) } else { None }
    }

    /// The name of the manual page `SSL_CTX_sess_number(3)`, as JSON and metrics use it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::ConnectRenegotiate => "connect_renegotiate",
            Self::ConnectGood => "connect_good",
            Self::Accept => "accept",
            Self::AcceptRenegotiate => "accept_renegotiate",
            Self::AcceptGood => "accept_good",
            Self::Misses => "misses",
            Self::Timeouts => "timeouts",
            Self::CacheFull => "cache_full",
            Self::Hits => "hits",
            Self::CbHits => "cb_hits",
        }
    }
}

/// A copy of what an `SSL_CTX` says of itself, taken in one go.
///
/// Each counter is read whole; the eleven together are not one atomic read,
/// as they are not for the process itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MirroredBlock {
    /// The counters as they stand: which one each is, `BlockLayout::order` says.
    /// C `int`s: they wrap.
    pub counters: [i32; 11],
    /// `references`; only meaningful with `record_flags::REFERENCES_KNOWN`.
    pub references: i32,
    /// Items in the internal session cache; only meaningful with
    /// `record_flags::NUMBER_KNOWN`.
    pub number: u64,
}

const _: () = assert!(size_of::<MirroredBlock>() == 56);
