//! Which probes say more than that a context is there: that the process has just
//! added one to one counter of it, and to no other since its last hit.

use super::{
    code::{
        flow::Function,
        instruction::{Control, Instruction},
    },
    increments::IncrementSite,
    layout::Layout,
    proof::ContextValue,
    sources::On,
};

/// An increment and the probe behind it, in one function; or one that has no probe.
pub(super) struct Placed<'f> {
    pub(super) function: &'f Function,
    pub(super) site: &'f IncrementSite,
    pub(super) probe: Option<u64>,
    pub(super) context: ContextValue,
}

impl Placed<'_> {
    /// On which context the increment is made.
    pub(super) fn on(&self, layout: &Layout) -> Option<On> {
        self.context.on(self.function, layout)
    }

    /// The register that holds the connection where the probe stands.
    pub(super) fn connection(&self) -> Option<usize> {
        let passed = way(self)?.passed;
        let passed: Option<Vec<Instruction>> =
            passed.into_iter().map(|at| self.function.at(at).copied()).collect();
        self.context.connection(self.function, self.site.address, &passed?, self.probe?)
    }
}

/// What is executed from an increment to its probe.
struct Way {
    passed: Vec<u64>,
    /// Whether something is called, which may count too.
    calls: bool,
}

/// For each, whether a hit of the probe that makes a record means that this
/// increment was made since the last one, once, and no other that has not hit its
/// own probe yet.
pub(super) fn certain(placed: &[Placed<'_>]) -> Vec<bool> {
    let ways: Vec<Option<Way>> = placed.iter().map(way).collect();
    let alone: Vec<bool> = (0..placed.len()).map(|one| is_alone(placed, &ways, one)).collect();
    let only = |one: &Placed<'_>| {
        let passed = |probe| one.function.only_through(&[one.site.address], probe);
        one.probe.and_then(passed).is_some()
    };
    let straight: Vec<bool> =
        placed.iter().zip(&alone).map(|(one, alone)| *alone && only(one)).collect();
    // The other ways to it may lead past a probe that has made the record already.
    let late = |one: &Placed<'_>| {
        let made = placed.iter().zip(&straight).filter(|(other, straight)| {
            **straight
                && other.site.function == one.site.function
                && other.context.is_of_the_connection_of(&one.context)
        });
        let mut places: Vec<u64> = made.filter_map(|(other, _)| other.probe).collect();
        places.push(one.site.address);
        let passed = one.probe.and_then(|probe| one.function.only_through(&places, probe));
        passed.is_some_and(|passed| !passed.iter().any(|at| calls(one.function, *at)))
    };
    placed
        .iter()
        .zip(straight.iter().zip(&alone))
        .map(|(one, (straight, alone))| *straight || *alone && late(one))
        .collect()
}

/// Whether no other increment is made before the probe of this one is hit, and
/// this one not before the probe of another.
fn is_alone(placed: &[Placed<'_>], ways: &[Option<Way>], one: usize) -> bool {
    let apart = |way: &Option<Way>, other: &Placed<'_>| {
        way.as_ref().is_some_and(|way| !way.calls && !way.passed.contains(&other.site.address))
    };
    placed[one].site.amount == 1
        && (0..placed.len()).all(|other| {
            let same = placed[other].site.address == placed[one].site.address;
            let before_its_probe =
                || placed[other].probe.is_none() || apart(&ways[other], &placed[one]);
            same && ways[one].as_ref().is_some_and(|way| !way.calls)
                || !same && apart(&ways[one], &placed[other]) && before_its_probe()
        })
}

fn calls(function: &Function, at: u64) -> bool {
    function.at(at).is_none_or(|instruction| {
        matches!(instruction.control, Control::Call(_) | Control::CallThrough(_))
    })
}

/// The way from the increment to the probe: it does not fork, or there would be no
/// probe. `None`: there is none.
fn way(placed: &Placed<'_>) -> Option<Way> {
    let Placed { function, site, probe, .. } = placed;
    let mut way = Way { passed: Vec::new(), calls: false };
    let mut at = function.at(site.address)?.end();
    let probe = (*probe)?;
    while at != probe {
        let instruction =
            function.at(at).filter(|_| way.passed.len() < function.instructions().len())?;
        way.passed.push(at);
        at = match instruction.control {
            Control::Next => instruction.end(),
            Control::Call(_) | Control::CallThrough(_) => {
                way.calls = true;
                instruction.end()
            }
            Control::Jump(target) => target,
            _ => return None,
        };
    }
    Some(way)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use probe_common::Counter;

    use super::*;
    use crate::image::code::specimen::Bytes;

    /// For each increment and its probe, whether a hit is certain to follow it.
    fn certain_at(bytes: &'static [u8], placed: &[(u64, u64)]) -> Vec<bool> {
        let range = 0x1000..0x1000 + bytes.len() as u64;
        let function =
            Function::new(&Bytes::new(bytes), range.clone(), &HashSet::new()).expect("it decodes");
        let sites: Vec<IncrementSite> = placed
            .iter()
            .map(|(increment, _)| IncrementSite {
                counter: Counter::Hits,
                amount: 1,
                address: *increment,
                function: range.clone(),
                base: 0,
                base_at: *increment,
            })
            .collect();
        let layout = Layout { ssl_to_ctx: Some(8), ..Layout::default() };
        let placed: Vec<Placed<'_>> = sites
            .iter()
            .zip(placed)
            .map(|(site, (_, probe))| Placed {
                function: &function,
                site,
                probe: Some(*probe),
                context: ContextValue::at_increment(&function, site, &layout, true),
            })
            .collect();
        certain(&placed)
    }

    /// 1000: nop / 1001: lock addl $1,0x90(%rax) / 1009: nop / 100a: nop / 100b: ret
    const STRAIGHT: &[u8] = &[0x90, 0xf0, 0x83, 0x80, 0x90, 0, 0, 0, 1, 0x90, 0x90, 0xc3];

    #[test]
    fn a_probe_right_behind_an_increment_follows_it() {
        assert_eq!(certain_at(STRAIGHT, &[(0x1001, 0x1009)]), [true]);
        assert_eq!(certain_at(STRAIGHT, &[(0x1001, 0x100a)]), [true]);
        // Reached from the entry without it.
        assert_eq!(certain_at(STRAIGHT, &[(0x1001, 0x1000)]), [false]);
    }

    /// 1000: test %edi,%edi / 1002: je 100c / 1004: lock addl $1,0x90(%rax) /
    /// 100c: nop / 100d: ret
    #[test]
    fn a_probe_that_is_also_reached_without_it_does_not() {
        let bytes = &[0x85, 0xff, 0x74, 0x08, 0xf0, 0x83, 0x80, 0x90, 0, 0, 0, 1, 0x90, 0xc3];
        assert_eq!(certain_at(bytes, &[(0x1004, 0x100c)]), [false]);
    }

    /// 1000: nop / 1001: lock addl $1,0x90(%rax) / 1009: lock addl $1,0x94(%rax) /
    /// 1011: nop / 1012: ret
    #[test]
    fn two_increments_before_the_first_probe_are_not_told_apart() {
        let bytes = &[
            0x90, 0xf0, 0x83, 0x80, 0x90, 0, 0, 0, 1, 0xf0, 0x83, 0x80, 0x94, 0, 0, 0, 1, 0x90,
            0xc3,
        ];
        assert_eq!(certain_at(bytes, &[(0x1001, 0x1011), (0x1009, 0x1011)]), [false, false]);
        // The first has its probe before the second is made.
        assert_eq!(certain_at(bytes, &[(0x1001, 0x1009), (0x1009, 0x1011)]), [true, true]);
    }

    /// 1000: nop / 1001: lock addl $1,0x90(%rax) / 1009: dec %edi / 100b: jne 1001 /
    /// 100d: nop / 100e: ret
    #[test]
    fn an_increment_in_a_loop_may_be_made_more_than_once() {
        let bytes = &[0x90, 0xf0, 0x83, 0x80, 0x90, 0, 0, 0, 1, 0xff, 0xcf, 0x75, 0xf4, 0x90, 0xc3];
        assert_eq!(certain_at(bytes, &[(0x1001, 0x100d)]), [false]);
        assert_eq!(certain_at(bytes, &[(0x1001, 0x100b)]), [true]);
    }

    /// 1000: nop / 1001: lock addl $1,0x90(%rax) / 1009: call 1010 / 100e: nop / 100f: ret
    #[test]
    fn what_is_called_in_between_may_count_too() {
        let bytes = &[0x90, 0xf0, 0x83, 0x80, 0x90, 0, 0, 0, 1, 0xe8, 0x02, 0, 0, 0, 0x90, 0xc3];
        assert_eq!(certain_at(bytes, &[(0x1001, 0x100e)]), [false]);
        assert_eq!(certain_at(bytes, &[(0x1001, 0x1009)]), [true]);
    }

    /// gcc 12 -O2 of `if (!s->reneg) s->ctx->a++; else s->ctx->b++;` and more:
    /// 1000: mov 8(%rbx),%rax / 1004: cmpl $0,16(%rbx) / 1008: jne 1016 /
    /// 100a: lock addl $1,0x90(%rax) / 1012: nop / 1013: je 1015 / 1015: ret /
    /// 1016: lock addl $1,0x94(%rax) / 101e: jmp 1012
    #[test]
    fn a_way_past_a_probe_that_has_made_the_record_does_not_count() {
        let bytes = &[
            0x48, 0x8b, 0x43, 0x08, 0x83, 0x7b, 0x10, 0, 0x75, 0x0c, 0xf0, 0x83, 0x80, 0x90, 0, 0,
            0, 1, 0x90, 0x74, 0x00, 0xc3, 0xf0, 0x83, 0x80, 0x94, 0, 0, 0, 1, 0xeb, 0xf2,
        ];
        let (one, other) = ((0x100a, 0x1013), (0x1016, 0x101e));
        assert_eq!(certain_at(bytes, &[one, other]), [true, true]);
        // The other has its probe where both have come together.
        assert_eq!(certain_at(bytes, &[one, (0x1016, 0x1013)]), [false, false]);
        assert_eq!(certain_at(bytes, &[one]), [false]);
    }
}
