//! Who calls whom: directly, by a tail call, or through the PLT.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Mnemonic};

use super::{code::flow, elf::Elf, gap::Gap, unwind::FunctionRanges};

/// Instructions of a PLT entry: `endbr64`, then the jump.
const PLT_ENTRY: usize = 3;

/// Makes sure that a function calls another one at its entry, where a probe
/// can see it, and not a copy that the compiler made of it. The call may stand
/// in a function of the same file that it calls, such as a destructor.
///
/// # Errors
///
/// If there is no such call, or one of the functions is not there.
pub fn expect(elf: &Elf, ranges: &FunctionRanges, function: &str, callee: &str) -> Result<(), Gap> {
    let symbol =
        |name: &str| elf.function(name).ok_or_else(|| Gap::NoSymbol { function: name.to_owned() });
    let (caller, target) = (symbol(function)?, symbol(callee)?);
    let is_callee = |call: &Called| match call {
        Called::Address(address) => *address == target.address,
        Called::Import(name) => name == callee,
    };
    let direct = made_by(elf, ranges, caller.address);
    let called = direct.iter().any(is_callee)
        || direct.iter().any(|call| {
            let through = match call {
                Called::Address(address) => Some(*address),
                // One that this file defines itself, and calls as anybody may.
                Called::Import(name) => elf.function(name).map(|symbol| symbol.address),
            };
            through.is_some_and(|address| {
                ranges.is_entry(address) && made_by(elf, ranges, address).iter().any(is_callee)
            })
        });
    if called {
        return Ok(());
    }
    Err(Gap::NoCall { function: function.to_owned(), callee: callee.to_owned() })
}

/// What an instruction calls.
enum Called {
    Address(u64),
    Import(String),
}

/// The calls, and the tail calls, that the function at an address makes.
fn made_by(elf: &Elf, ranges: &FunctionRanges, address: u64) -> Vec<Called> {
    let Some(range) = ranges.containing(address) else { return Vec::new() };
    let instructions = flow::decode(elf, &range).unwrap_or_default();
    instructions
        .iter()
        .filter_map(|i| match i.flow_control() {
            FlowControl::Call | FlowControl::UnconditionalBranch => {
                let to = i.near_branch_target();
                let import = import_called_at(elf, to).map(|name| Called::Import(name.to_owned()));
                import.or_else(|| (!range.contains(&to)).then_some(Called::Address(to)))
            }
            // Without a PLT: `call *callee@GOTPCREL(%rip)`.
            FlowControl::IndirectCall if i.is_ip_rel_memory_operand() => {
                Some(Called::Import(elf.import_at(i.ip_rel_memory_address())?.to_owned()))
            }
            _ => None,
        })
        .collect()
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
