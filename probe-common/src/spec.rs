use core::mem::size_of;

/// An offset that is not known, or does not apply.
pub const NO_FIELD: u32 = u32::MAX;

/// An `int` of the block that is no counter, or is not there.
pub const NO_COUNTER: u8 = u8::MAX;

/// A register that there is none.
pub const NO_REGISTER: u8 = u8::MAX;

/// The order of OpenSSL's block: all of [`COUNTERS`](crate::COUNTERS).
pub const OPENSSL_ORDER: [u8; 11] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];

/// Where the fields of an `SSL_CTX` are, as far as the kernel half needs them.
///
/// Byte offsets from the start of the `SSL_CTX`; [`NO_FIELD`] where unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BlockLayout {
    /// The first of the consecutive counters; meaningless if there are none.
    pub counters: u32,
    /// `references`.
    pub references: u32,
    /// `sessions`, the pointer to the internal cache's hash.
    pub sessions: u32,
    /// `num_items`, from the start of that hash.
    pub num_items: u32,
    /// Which [`Counter`](crate::Counter) each `int` of the block is, or
    /// [`NO_COUNTER`]. The kernel half carries it along, and does not look at it.
    pub order: [u8; 11],
    /// How many `int`s the block has: 11 in OpenSSL, 10 in AWS-LC, 0 in BoringSSL.
    pub count: u8,
}

const _: () = assert!(size_of::<BlockLayout>() == 28);

/// What a probe point does. A plain `u8` on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Action {
    /// Copy the block: a counter has changed.
    Mirror = 1,
    /// Copy the block, and if no reference is left, report the context's end.
    MirrorOrEnd = 2,
    /// Copy the block of a context that is met for the first time; of one that is
    /// known, only note that it is in use.
    Meet = 3,
}

/// Bits of [`ProbeSpec::argument`].
pub mod argument_flags {
    /// The register holds a connection; the context is what stands at
    /// `displacement` from it.
    pub const DEREFERENCE: u8 = 1 << 0;
    /// What is found is an `SSL_CTX` beyond doubt, and may make a new record.
    pub const CREATES: u8 = 1 << 1;
}

/// A general register of x86-64, in the order of its encoding.
///
/// A plain `u8` on the wire. The stack pointer is not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "a register's name is all there is to say")]
pub enum Register {
    Rax = 0,
    Rcx = 1,
    Rdx = 2,
    Rbx = 3,
    Rbp = 5,
    Rsi = 6,
    Rdi = 7,
    R8 = 8,
    R9 = 9,
    R10 = 10,
    R11 = 11,
    R12 = 12,
    R13 = 13,
    R14 = 14,
    R15 = 15,
}

/// A probe point, as data: the map `PROBE_SPECS`, selected by the probe's cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ProbeSpec {
    /// The image that this point belongs to; 0 means that there is no such point,
    /// [`RETIRED`](Self::RETIRED) that it is one no longer.
    pub image: u32,
    /// An [`Action`].
    pub action: u8,
    /// A [`Register`].
    pub register: u8,
    /// See [`argument_flags`].
    pub argument: u8,
    /// The [`Counter`](crate::Counter) that a hit follows an increment of, for
    /// certain and no other, or [`NO_COUNTER`].
    pub follows: u8,
    /// From what the register holds to the field that holds the context.
    pub displacement: i32,
    /// What a hit says of a handshake: a [`Moment`](crate::Moment).
    pub moment: u8,
    /// The register that holds the connection then, or [`NO_REGISTER`].
    pub connection: u8,
    /// Zero.
    pub pad: u16,
    /// Where the fields of the context are.
    pub layout: BlockLayout,
}

const _: () = assert!(size_of::<ProbeSpec>() == 44);

impl ProbeSpec {
    /// The `image` of a point whose probe is being removed: it does nothing.
    pub const RETIRED: u32 = u32::MAX;

    /// No point, or with [`RETIRED`](Self::RETIRED) one that does nothing.
    #[must_use]
    pub const fn empty(image: u32) -> Self {
        Self {
            image,
            action: 0,
            register: 0,
            argument: 0,
            follows: NO_COUNTER,
            displacement: 0,
            moment: 0,
            connection: NO_REGISTER,
            pad: 0,
            layout: BlockLayout {
                counters: 0,
                references: NO_FIELD,
                sessions: NO_FIELD,
                num_items: NO_FIELD,
                order: [NO_COUNTER; 11],
                count: 0,
            },
        }
    }
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: each of these is `repr(C)`, made of integers only, and has no
    // padding that is not a field: any bytes are a valid value.
    unsafe impl aya::Pod for super::ProbeSpec {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::ContextKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::ContextRecord {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::Inheritance {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::Fork {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::ConnectionKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::Handshake {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::TimesKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::Times {}
}
