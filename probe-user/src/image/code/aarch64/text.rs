//! An instruction as text.

use yaxpeax_arch::{Decoder as _, U8Reader};
use yaxpeax_arm::armv8::a64::InstDecoder;

use super::{
    facts,
    operation::{General, Operation},
};

/// The instruction at the start of a piece of code; places in the code are
/// given by their addresses, as GNU objdump does.
pub(super) fn of(code: &[u8], at: u64) -> String {
    let Some(word) = code.first_chunk::<4>() else { return String::new() };
    let text = InstDecoder::default()
        .decode(&mut U8Reader::new(word))
        .map_or_else(|_| format!(".inst {:#010x}", u32::from_le_bytes(*word)), |i| i.to_string());
    let mnemonic = text.split_whitespace().next().unwrap_or_default();
    let name = |register: General, width: u8| {
        let letter = if width == 8 { 'x' } else { 'w' };
        register.map_or_else(|| format!("{letter}zr"), |number| format!("{letter}{number}"))
    };
    match facts::operation(code, at) {
        Some(Operation::Jump(target) | Operation::Call(target) | Operation::JumpIf(_, target)) => {
            format!("{mnemonic} {target:#x}")
        }
        Some(Operation::JumpIfZero { register, width, target, .. }) => {
            format!("{mnemonic} {}, {target:#x}", name(register, width))
        }
        Some(Operation::JumpIfClear { register, bit, target, .. }) => {
            let width = if bit < 32 { 4 } else { 8 };
            format!("{mnemonic} {}, #{bit}, {target:#x}", name(register, width))
        }
        Some(Operation::Address { to, target }) => {
            format!("{mnemonic} {}, {target:#x}", name(to, 8))
        }
        Some(Operation::LoadFixed { to, address, width, signed }) => {
            let width = if signed { 8 } else { width };
            format!("{mnemonic} {}, {address:#x}", name(to, width))
        }
        _ => text,
    }
}
