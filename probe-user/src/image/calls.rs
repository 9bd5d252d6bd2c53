//! Who calls whom: directly, by a tail call, or through the PLT.

use std::collections::BTreeSet;

use super::{
    code::{
        explore::import_called_at,
        flow,
        instruction::{Control, Through},
    },
    elf::Elf,
    gap::Gap,
    unwind::FunctionRanges,
};

/// Makes sure that a function calls another one at its entry, where a probe
/// can see it, and not a copy that the compiler made of it. The call may stand
/// in a function that it calls, such as a destructor.
///
/// # Errors
///
/// If there is no such call, or one of the functions is not there.
pub fn expect(elf: &Elf, ranges: &FunctionRanges, function: &str, callee: &str) -> Result<(), Gap> {
    let symbol =
        |name: &str| elf.function(name).ok_or_else(|| Gap::NoSymbol { function: name.to_owned() });
    let (caller, target) = (symbol(function)?, symbol(callee)?);
    let called = Calls { elf, ranges, callee, target: target.address };
    if called.by(caller.address, PARTS, INNER) {
        return Ok(());
    }
    Err(Gap::NoCall { function: function.to_owned(), callee: callee.to_owned() })
}

/// How far a function is followed into parts of it that the compiler split off
/// (`SSL_CTX_free.part.0`): they are jumped to.
const PARTS: usize = 2;
/// How far it is followed into the functions of the same file that it calls: in
/// AWS-LC and BoringSSL `SSL_CTX_free` calls the destructor of `ssl_ctx_st`.
const INNER: usize = 1;

struct Calls<'e> {
    elf: &'e Elf,
    ranges: &'e FunctionRanges<'e>,
    callee: &'e str,
    target: u64,
}

impl Calls<'_> {
    /// Whether the function at an address, a part of it, or a function that it
    /// calls, calls the callee.
    fn by(&self, function: u64, parts: usize, inner: usize) -> bool {
        let Some(range) = self.ranges.containing(function) else { return false };
        let instructions = flow::decode(self.elf, &range).unwrap_or_default();
        let mut jumps = BTreeSet::new();
        let mut calls = BTreeSet::new();
        let called = instructions.iter().any(|instruction| match instruction.control {
            Control::Call(to) => {
                calls.insert(to);
                self.is_callee(to)
            }
            Control::Jump(to) | Control::Branch(to) => {
                if !range.contains(&to) {
                    jumps.insert(to);
                }
                self.is_callee(to)
            }
            // Without a PLT: `call *callee@GOTPCREL(%rip)`.
            Control::CallThrough(Some(cell)) | Control::JumpThrough(Through::Cell(Some(cell))) => {
                self.elf.import_at(cell) == Some(self.callee)
            }
            _ => false,
        });
        called
            || parts > 0
                && jumps
                    .into_iter()
                    .filter(|to| self.is_part(*to))
                    .any(|to| self.by(to, parts - 1, inner))
            || inner > 0
                && calls
                    .into_iter()
                    .filter_map(|to| self.own_function(to))
                    .any(|to| self.by(to, 0, inner - 1))
    }

    /// A tail call of a function that has a name of its own is not one of a part.
    fn is_part(&self, address: u64) -> bool {
        self.elf.function_name(address).is_none_or(|name| name.contains('.'))
    }

    /// The function of this file that a call leads to: also one that it calls
    /// through the PLT, so that another file may put its own in its place.
    fn own_function(&self, to: u64) -> Option<u64> {
        match import_called_at(self.elf, to) {
            Some(name) => self.elf.function(&name).map(|symbol| symbol.address),
            None => self.ranges.is_entry(to).then_some(to),
        }
    }

    fn is_callee(&self, to: u64) -> bool {
        to == self.target || import_called_at(self.elf, to).as_deref() == Some(self.callee)
    }
}
