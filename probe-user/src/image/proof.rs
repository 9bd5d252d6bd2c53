//! Proves that a context can be had at a place behind an increment, whatever
//! way leads there.

use std::collections::BTreeSet;

use super::{
    code::{
        flow::{Function, Origin},
        instruction::{Control, Effect, Instruction, Writes},
    },
    increments::IncrementSite,
    layout::Layout,
    point::Argument,
    sources::On,
};

/// Where the context comes from at an increment.
pub(super) struct ContextValue {
    creates: bool,
    base: usize,
    base_origins: BTreeSet<Origin>,
    /// The connection it was loaded from, if it was.
    loaded: Option<Loaded>,
}

struct Loaded {
    connection: usize,
    displacement: u32,
    connection_origins: BTreeSet<Origin>,
}

impl ContextValue {
    /// `agree`: that the base register holds a context is certain, since all
    /// increments are those of the sources, and this is one of them. What a
    /// field's place alone says of a pointer does not suffice: since 3.2, `ctx` is
    /// the second word of a connection, as it is of many other things.
    pub(super) fn at_increment(
        function: &Function,
        site: &IncrementSite,
        layout: &Layout,
        agree: bool,
    ) -> Self {
        let base_origins = function.reaching(site.base, site.base_at);
        let loaded = Loaded::by_all(function, &base_origins, layout);
        Self { creates: agree, base: site.base, base_origins, loaded }
    }

    /// On which context the increment is made, as the loads before it say.
    pub(super) fn on(&self, function: &Function, layout: &Layout) -> Option<On> {
        match &self.loaded {
            Some(loaded) if Some(loaded.displacement) == layout.ssl_to_ctx => Some(On::Chosen),
            Some(_) => Some(On::Session),
            None => {
                let given = self.base_origins.iter().all(|o| is_argument(function, *o));
                given.then_some(On::Given)
            }
        }
    }

    /// Whether both are loaded from the same field of what is, for certain, the same
    /// connection.
    pub(super) fn is_of_the_connection_of(&self, other: &Self) -> bool {
        let (Some(one), Some(other)) = (&self.loaded, &other.loaded) else { return false };
        one.displacement == other.displacement
            && one.connection_origins.len() == 1
            && one.connection_origins == other.connection_origins
    }

    /// How the context can be had at a place behind the increment, if whatever
    /// way leads there it is the same kind of thing.
    ///
    /// `passed` is what stands between the two: a loop can assign the register
    /// again with the same instruction, which is another context then; and what
    /// is to be loaded again must still be there.
    pub(super) fn available(
        &self,
        function: &Function,
        increment: u64,
        passed: &[Instruction],
        at: u64,
    ) -> Option<Argument> {
        let holds = |register, known: &BTreeSet<Origin>, typed| {
            holds(function, register, known, typed, increment, passed, at)
        };
        if holds(self.base, &self.base_origins, self.loaded.is_some()) {
            let creates = self.creates;
            return Some(Argument { register: self.base, dereference: None, creates });
        }
        let is_call =
            |i: &Instruction| matches!(i.control, Control::Call(_) | Control::CallThrough(_));
        let loaded = self.loaded.as_ref()?;
        // In libssl only `SSL_new` and `SSL_set_SSL_CTX` put a context into a
        // connection (ssl/ssl_lib.c, 1.1.1 to 4.0), so that it takes a call; of
        // what may be something else's code, nothing is known.
        let may_hit = |i: &Instruction| {
            i.writes.may_hit_pointer(loaded.connection, i64::from(loaded.displacement))
                || !self.creates && i.writes != Writes::Nothing
        };
        if passed.iter().any(|i| is_call(i) || may_hit(i)) {
            return None;
        }
        holds(loaded.connection, &loaded.connection_origins, false).then_some(Argument {
            register: loaded.connection,
            dereference: Some(loaded.displacement),
            creates: self.creates,
        })
    }
}

impl ContextValue {
    /// The register that holds the connection at a place behind the increment, if
    /// whatever way leads there it is the same one.
    pub(super) fn connection(
        &self,
        function: &Function,
        increment: u64,
        passed: &[Instruction],
        at: u64,
    ) -> Option<usize> {
        let Loaded { connection, connection_origins: known, .. } = self.loaded.as_ref()?;
        if holds(function, *connection, known, false, increment, passed, at) {
            return Some(*connection);
        }
        // An argument may have gone to another register, which is kept.
        let entry = BTreeSet::from([Origin::Entry]);
        let is_copy = |origin: &Origin| match origin {
            Origin::Assignment(copy) => matches!(
                function.at(*copy).map(|copy| copy.effect),
                Some(Effect::Copy { from, .. })
                    if from == *connection && function.reaching(from, *copy) == entry
            ),
            Origin::Entry | Origin::Outside => false,
        };
        let mut registers = 0..REGISTERS;
        let holds_it = |register: &usize| function.reaching(*register, at).iter().all(is_copy);
        registers.find(|register| *known == entry && holds_it(register))
    }
}

/// General registers, of the processor that has more of them.
const REGISTERS: usize = 32;

/// Whether a register holds, at a place behind an increment, what it held there: one of
/// the known origins, and all of one kind.
fn holds(
    function: &Function,
    register: usize,
    known: &BTreeSet<Origin>,
    typed: bool,
    increment: u64,
    passed: &[Instruction],
    at: u64,
) -> bool {
    let origins = function.reaching(register, at);
    let of_one_kind = || {
        typed
            || is_straight(function, increment, at)
            || origins.iter().all(|o| is_argument(function, *o))
    };
    origins.is_subset(known)
        && !origins.contains(&Origin::Outside)
        && of_one_kind()
        && !passed.iter().any(|instruction| instruction.assigns(register))
}

impl Loaded {
    /// If every origin is a load of the same field of a connection.
    fn by_all(function: &Function, origins: &BTreeSet<Origin>, layout: &Layout) -> Option<Self> {
        let mut found: Option<Self> = None;
        for origin in origins {
            let Origin::Assignment(address) = *origin else { return None };
            let Effect::Load { base: Some(connection), displacement, width: 8, .. } =
                function.at(address)?.effect
            else {
                return None;
            };
            let displacement = u32::try_from(displacement).ok()?;
            let of_a_connection = [layout.ssl_to_ctx, layout.ssl_to_session_ctx];
            if !of_a_connection.contains(&Some(displacement)) {
                return None;
            }
            let reaching = function.reaching(connection, address);
            match &mut found {
                None => {
                    found = Some(Self { connection, displacement, connection_origins: reaching });
                }
                Some(one) => {
                    if (one.connection, one.displacement) != (connection, displacement) {
                        return None;
                    }
                    one.connection_origins.extend(reaching);
                }
            }
        }
        found
    }
}

/// Whether an origin is an argument of the function, as it was passed: the same
/// kind of thing on every path.
fn is_argument(function: &Function, origin: Origin) -> bool {
    match origin {
        Origin::Entry => true,
        Origin::Outside => false,
        Origin::Assignment(address) => {
            matches!(
                function.at(address).map(|copy| copy.effect),
                Some(Effect::Copy { from, .. })
                    if function.reaching(from, address) == BTreeSet::from([Origin::Entry])
            )
        }
    }
}

/// Whether the only way to a place is from an increment, one instruction after
/// the other.
fn is_straight(function: &Function, increment: u64, at: u64) -> bool {
    let mut here = increment;
    while here != at {
        let Some(instruction) = function.at(here) else { return false };
        let next = instruction.end();
        // The increment itself may be a call of an outlined addition, or the end of
        // a loop that adds.
        let falls = instruction.control == Control::Next
            || here == increment
                && matches!(instruction.control, Control::Call(_) | Control::Branch(_));
        if !falls || !function.only_follows(here, next) {
            return false;
        }
        here = next;
    }
    true
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use probe_common::Counter;

    use super::*;
    use crate::image::code::specimen::Bytes;

    const RAX: usize = 0;

    /// How the context of the increment at one place can be had at another one,
    /// with all that stands between them passed.
    fn at(bytes: &'static [u8], increment: u64, at: u64, agree: bool) -> Option<Argument> {
        let range = 0x1000..0x1000 + bytes.len() as u64;
        let function =
            Function::new(&Bytes::new(bytes), range.clone(), &HashSet::new()).expect("it decodes");
        let site = IncrementSite {
            counter: Counter::Misses,
            amount: 1,
            address: increment,
            function: range,
            base: RAX,
            base_at: increment,
        };
        let layout = Layout { ssl_to_ctx: Some(8), ..Layout::default() };
        let context = ContextValue::at_increment(&function, &site, &layout, agree);
        let between = |i: &&Instruction| i.address > increment && i.address < at;
        let passed: Vec<Instruction> =
            function.instructions().iter().filter(between).copied().collect();
        context.available(&function, increment, &passed, at)
    }

    /// gcc 12 -O2 of `do c->misses++; while ((s = s->next) && (c = s->ctx))`, rotated:
    /// 1000: mov 8(%rdi),%rax / 1004: test %rax,%rax / 1007: je 101d /
    /// 1009: lock addl $1,0x90(%rax) / 1011: mov (%rdi),%rdi / 1014: mov 8(%rdi),%rax /
    /// 1018: test %rax,%rax / 101b: jne 1009 / 101d: ret
    #[test]
    fn in_a_loop_the_register_holds_the_next_context() {
        let bytes = &[
            0x48, 0x8b, 0x47, 0x08, 0x48, 0x85, 0xc0, 0x74, 0x14, 0xf0, 0x83, 0x80, 0x90, 0, 0, 0,
            1, 0x48, 0x8b, 0x3f, 0x48, 0x8b, 0x47, 0x08, 0x48, 0x85, 0xc0, 0x75, 0xec, 0xc3,
        ];
        assert_eq!(at(bytes, 0x1009, 0x101b, true), None);
        let there = at(bytes, 0x1009, 0x1011, true).expect("nothing has changed yet");
        assert_eq!((there.register, there.dereference), (RAX, None));
    }

    /// 1000: mov 8(%rbx),%rax / 1004: lock addl $1,0x90(%rax) /
    /// 100c: mov %rsi,DISTANCE(%rbx) / 1010: xor %eax,%eax / 1012: ret
    macro_rules! stores {
        ($distance:literal) => {
            &[
                0x48, 0x8b, 0x43, 0x08, 0xf0, 0x83, 0x80, 0x90, 0, 0, 0, 1, 0x48, 0x89, 0x73,
                $distance, 0x31, 0xc0, 0xc3,
            ]
        };
    }

    #[test]
    fn what_is_loaded_again_must_still_be_there() {
        const RBX: usize = 3;
        assert_eq!(at(stores!(8), 0x1004, 0x1012, true), None, "it is overwritten");
        assert_eq!(at(stores!(12), 0x1004, 0x1012, true), None, "a half of it is");
        let other = at(stores!(16), 0x1004, 0x1012, true).expect("another field is");
        assert_eq!((other.register, other.dereference, other.creates), (RBX, Some(8), true));
        // In a function that may be anybody's, no store is known.
        assert_eq!(at(stores!(16), 0x1004, 0x1012, false), None);
    }

    /// gcc 12 -O2 of `tls_finish_handshake`, 3.5: 1000: mov %rdi,%rbx / 1003: mov 8(%rdi),%rax /
    /// 1007: xor %edi,%edi / 1009: lock addl $1,0x90(%rax) / 1011: nop / 1012: ret
    #[test]
    fn a_connection_is_found_in_the_register_that_keeps_it() {
        const CODE: &[u8] = &[
            0x48, 0x89, 0xfb, 0x48, 0x8b, 0x47, 0x08, 0x31, 0xff, 0xf0, 0x83, 0x80, 0x90, 0, 0, 0,
            1, 0x90, 0xc3,
        ];
        assert_eq!(connection(CODE), Some(3));
        // mov %rsi,%rbx: that is something else.
        let mut other = CODE.to_vec();
        other[1..3].copy_from_slice(&[0x89, 0xf3]);
        assert_eq!(connection(other), None);
        // xor %ebx,%ebx: it is not kept.
        let mut lost = CODE.to_vec();
        lost[8] = 0xdb;
        assert_eq!(connection(lost.clone()), Some(7), "it is where it was");
        lost[7..9].copy_from_slice(&[0x31, 0xff]);
        lost[17] = 0x5b;
        assert_eq!(connection(lost), Some(3), "the pop comes behind the probe");
    }

    /// The register with the connection behind the increment at 0x1009.
    fn connection(bytes: impl Into<Vec<u8>>) -> Option<usize> {
        let range = 0x1000..0x1013;
        let function =
            Function::new(&Bytes::new(bytes), range.clone(), &HashSet::new()).expect("it decodes");
        let site = IncrementSite {
            counter: Counter::AcceptGood,
            amount: 1,
            address: 0x1009,
            function: range,
            base: RAX,
            base_at: 0x1009,
        };
        let layout = Layout { ssl_to_ctx: Some(8), ..Layout::default() };
        let context = ContextValue::at_increment(&function, &site, &layout, true);
        context.connection(&function, site.address, &[], 0x1011)
    }

    /// The second word of any object is where a connection of 3.2 has its context.
    #[test]
    fn the_place_of_a_field_makes_no_context() {
        let there = at(stores!(16), 0x1004, 0x100c, false).expect("it is in its register");
        assert!(!there.creates);
    }
}
