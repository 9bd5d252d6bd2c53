//! Who calls whom: directly, by a tail call, or through the PLT.

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
/// can see it, and not a copy that the compiler made of it.
///
/// # Errors
///
/// If there is no such call, or one of the functions is not there.
pub fn expect(elf: &Elf, ranges: &FunctionRanges, function: &str, callee: &str) -> Result<(), Gap> {
    let symbol =
        |name: &str| elf.function(name).ok_or_else(|| Gap::NoSymbol { function: name.to_owned() });
    let (caller, target) = (symbol(function)?, symbol(callee)?);
    let instructions = ranges
        .containing(caller.address)
        .and_then(|range| flow::decode(elf, &range).ok())
        .unwrap_or_default();
    let called = instructions.iter().any(|instruction| match instruction.control {
        Control::Call(to) | Control::Jump(to) => {
            to == target.address || import_called_at(elf, to).as_deref() == Some(callee)
        }
        // Without a PLT: `call *callee@GOTPCREL(%rip)`.
        Control::CallThrough(Some(cell)) | Control::JumpThrough(Through::Cell(Some(cell))) => {
            elf.import_at(cell) == Some(callee)
        }
        _ => false,
    });
    if called {
        return Ok(());
    }
    Err(Gap::NoCall { function: function.to_owned(), callee: callee.to_owned() })
}
