//! Who calls whom: directly, by a tail call, or through the PLT.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Mnemonic};

use super::{code::flow, elf::Elf, gap::Gap, unwind::FunctionRanges};

/// Instructions of a PLT entry: `endbr64`, then the jump.
const PLT_ENTRY: usize = 3;

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
    let called = instructions.iter().any(|i| match i.flow_control() {
        FlowControl::Call | FlowControl::UnconditionalBranch => {
            let to = i.near_branch_target();
            to == target.address || import_called_at(elf, to) == Some(callee)
        }
        // Without a PLT: `call *callee@GOTPCREL(%rip)`.
        FlowControl::IndirectCall if i.is_ip_rel_memory_operand() => {
            elf.import_at(i.ip_rel_memory_address()) == Some(callee)
        }
        _ => false,
    });
    if called {
        return Ok(());
    }
    Err(Gap::NoCall { function: function.to_owned(), callee: callee.to_owned() })
}

/// The function that the PLT entry at an address leads to.
fn import_called_at(elf: &Elf, address: u64) -> Option<&str> {
    let mut decoder = Decoder::with_ip(64, elf.code(address)?, address, DecoderOptions::NONE);
    for _ in 0..PLT_ENTRY {
        let instruction = decoder.decode();
        if instruction.flow_control() == FlowControl::IndirectBranch {
            return elf.import_at(instruction.ip_rel_memory_address());
        }
        if instruction.mnemonic() != Mnemonic::Endbr64 {
            return None;
        }
    }
    None
}
