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

/// Parts of one function that are looked at: compilers make two or three.
const MAX_PARTS: usize = 4;

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
    let reaches = |control: &Control| match *control {
        Control::Call(to) | Control::Jump(to) => {
            to == target.address || import_called_at(elf, to).as_deref() == Some(callee)
        }
        // Without a PLT: `call *callee@GOTPCREL(%rip)`.
        Control::CallThrough(Some(cell)) | Control::JumpThrough(Through::Cell(Some(cell))) => {
            elf.import_at(cell) == Some(callee)
        }
        _ => false,
    };
    let mut starts = vec![caller.address];
    let mut looked_at = 0;
    while let Some(start) = starts.get(looked_at) {
        looked_at += 1;
        let Some(part) = ranges.containing(*start) else { continue };
        for instruction in flow::decode(elf, &part).unwrap_or_default() {
            if reaches(&instruction.control) {
                return Ok(());
            }
            // What the compiler split off (`SSL_CTX_free.part.0`) goes on there.
            if let Control::Jump(to) | Control::Branch(to) = instruction.control
                && !part.contains(&to)
                && !starts.contains(&to)
                && starts.len() < MAX_PARTS
            {
                starts.push(to);
            }
        }
    }
    Err(Gap::NoCall { function: function.to_owned(), callee: callee.to_owned() })
}
