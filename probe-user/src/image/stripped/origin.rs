//! Where the value of a register comes from, over all paths through a function.

use std::collections::BTreeSet;

use iced_x86::{Code, Decoder, DecoderOptions, Mnemonic, OpKind, Register};

use crate::image::{
    code::{
        flow::{Function, Origin},
        instruction::Effect,
        x86_64::general_register,
    },
    elf::Elf,
};

/// Copies from register to register that are followed.
const COPIES: usize = 8;

/// What a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Held {
    /// What the register of this number held when the function was entered.
    Entry(usize),
    /// A pointer that was loaded from this distance behind another pointer.
    Field(u32),
    /// A number.
    Constant(u64),
    /// Something else.
    Other,
}

/// What a register holds before the instruction at an address, if it is the
/// same along all paths.
pub(super) fn held(elf: &Elf, function: &Function, register: usize, at: u64) -> Held {
    let mut all = BTreeSet::new();
    collect(elf, function, register, at, COPIES, &mut all);
    match Vec::from_iter(all).as_slice() {
        [one] => *one,
        _ => Held::Other,
    }
}

fn collect(
    elf: &Elf,
    function: &Function,
    register: usize,
    at: u64,
    copies: usize,
    all: &mut BTreeSet<Held>,
) {
    for origin in function.reaching(register, at) {
        let address = match origin {
            Origin::Entry => {
                all.insert(Held::Entry(register));
                continue;
            }
            Origin::Outside => {
                all.insert(Held::Other);
                continue;
            }
            Origin::Assignment(address) => address,
        };
        match function.at(address).map(|instruction| instruction.effect) {
            Some(Effect::Copy { to, from }) if to == register && copies > 0 => {
                collect(elf, function, from, address, copies - 1, all);
            }
            Some(Effect::Load { to, base: Some(_), displacement, width: 8 }) if to == register => {
                all.insert(u32::try_from(displacement).map_or(Held::Other, Held::Field));
            }
            _ => {
                all.insert(constant(elf, address).map_or(Held::Other, Held::Constant));
            }
        }
    }
}

/// What a `mov` of a constant, or an `xor` or `sub` of a register with itself,
/// makes of it.
fn constant(elf: &Elf, address: u64) -> Option<u64> {
    let code = elf.code(address)?;
    let instruction = Decoder::with_ip(64, code, address, DecoderOptions::NONE).decode();
    if instruction.op_count() != 2 || instruction.op0_kind() != OpKind::Register {
        return None;
    }
    let whole = instruction.op0_register().size() >= 4;
    match instruction.mnemonic() {
        Mnemonic::Mov if whole && instruction.op1_kind() != OpKind::Register => {
            instruction.try_immediate(1).ok()
        }
        Mnemonic::Xor | Mnemonic::Sub
            if whole
                && instruction.op1_kind() == OpKind::Register
                && instruction.op0_register() == instruction.op1_register() =>
        {
            Some(0)
        }
        // `or $-1, %eax`, for size.
        _ if instruction.code() == Code::Or_rm32_imm8 && instruction.immediate32() == u32::MAX => {
            Some(u64::from(u32::MAX))
        }
        _ => None,
    }
}

/// Whether an instruction compares a pointer in memory with NULL: the register
/// that its address is counted from, and the distance.
pub(super) fn compared_with_null(elf: &Elf, address: u64) -> Option<(usize, u32)> {
    let code = elf.code(address)?;
    let instruction = Decoder::with_ip(64, code, address, DecoderOptions::NONE).decode();
    let is_null = matches!(instruction.code(), Code::Cmp_rm64_imm8 | Code::Cmp_rm64_imm32)
        && instruction.op0_kind() == OpKind::Memory
        && instruction.immediate32to64() == 0
        && instruction.memory_index() == Register::None;
    let base = general_register(instruction.memory_base())?;
    is_null.then_some((base, u32::try_from(instruction.memory_displacement64()).ok()?))
}
