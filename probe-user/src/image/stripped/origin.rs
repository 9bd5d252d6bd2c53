//! Where the value of a register comes from, over all paths through a function.

use std::collections::BTreeSet;

use iced_x86::{Code, Decoder, DecoderOptions, Mnemonic, OpKind, Register};

use crate::image::{
    code::{
        flow::{Function, Origin},
        instruction::{Effect, Instruction},
        x86_64::general_register,
    },
    elf::Elf,
};

/// Copies of a value that are followed at most: a compiler makes a few.
const MAX_FOLLOWED: usize = 256;

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
    let search = search(elf, function, register, at);
    match Vec::from_iter(search.found).as_slice() {
        [one] => *one,
        _ => Held::Other,
    }
}

/// The first of the loads of pointers from memory that make what a register
/// holds before the instruction at an address.
pub(super) fn loaded_at(elf: &Elf, function: &Function, register: usize, at: u64) -> Option<u64> {
    search(elf, function, register, at).loads.first().copied()
}

fn search<'f>(elf: &'f Elf, function: &'f Function, register: usize, at: u64) -> Search<'f> {
    let (found, loads) = Default::default();
    let mut search = Search { elf, function, open: vec![(register, at)], found, loads };
    let mut seen = BTreeSet::new();
    while let Some((register, at)) = search.open.pop() {
        if !seen.insert((register, at)) {
            continue;
        }
        if seen.len() > MAX_FOLLOWED {
            search.found.insert(Held::Other);
            break;
        }
        search.follow(register, at);
    }
    search
}

struct Search<'f> {
    elf: &'f Elf,
    function: &'f Function,
    /// Registers and places that are to be followed.
    open: Vec<(usize, u64)>,
    found: BTreeSet<Held>,
    /// The addresses of the loads that [`Held::Field`] was found at.
    loads: BTreeSet<u64>,
}

impl Search<'_> {
    /// Follows a register back to where its value was made, through copies to
    /// other registers and to the stack.
    fn follow(&mut self, register: usize, at: u64) {
        let stack_pointer = self.elf.processor().convention().stack_pointer;
        for origin in self.function.reaching(register, at) {
            let address = match origin {
                Origin::Entry => {
                    self.found.insert(Held::Entry(register));
                    continue;
                }
                Origin::Outside => {
                    self.found.insert(Held::Other);
                    continue;
                }
                Origin::Assignment(address) => address,
            };
            let held = match self.function.at(address).map(|instruction| instruction.effect) {
                Some(Effect::Copy { to, from }) if to == register => {
                    self.open.push((from, address));
                    continue;
                }
                Some(Effect::Load { to, base: Some(base), displacement, width: 8 })
                    if to == register && base == stack_pointer =>
                {
                    match stores(self.elf, self.function, displacement) {
                        Some(stores) => {
                            self.open.extend(stores);
                            continue;
                        }
                        None => Held::Other,
                    }
                }
                Some(Effect::Load { to, base: Some(_), displacement, width: 8 })
                    if to == register =>
                {
                    self.loads.insert(address);
                    u32::try_from(displacement).map_or(Held::Other, Held::Field)
                }
                _ => constant(self.elf, address).map_or(Held::Other, Held::Constant),
            };
            self.found.insert(held);
        }
    }
}

/// The instructions that put a register into a slot of the stack: its number,
/// and where they are; `None` if anything else writes there, or nothing does.
fn stores(elf: &Elf, function: &Function, slot: i64) -> Option<Vec<(usize, u64)>> {
    let mut stores = Vec::new();
    for at in function.instructions() {
        let code = elf.code(at.address)?;
        let instruction = Decoder::with_ip(64, code, at.address, DecoderOptions::NONE).decode();
        let is_there = instruction.op_count() > 0
            && instruction.op0_kind() == OpKind::Memory
            && instruction.memory_base() == Register::RSP
            && instruction.memory_displacement64() as i64 == slot;
        if !is_there || matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test) {
            continue;
        }
        if instruction.code() != Code::Mov_rm64_r64 {
            return None;
        }
        stores.push((general_register(instruction.op1_register())?, at.address));
    }
    (!stores.is_empty()).then_some(stores)
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
        Mnemonic::Or if whole => instruction.try_immediate(1).ok().filter(|c| *c == u64::MAX),
        _ => None,
    }
}

/// Whether an instruction compares a pointer in memory with NULL: the register
/// that its address is counted from, and the distance.
pub(super) fn compared_with_null(elf: &Elf, at: &Instruction) -> Option<(usize, u32)> {
    let address = at.address;
    let code = elf.code(address)?;
    // `cmpq $0, …`: REX.W, opcode 0x83 or 0x81.
    if !matches!(code, [0x48..=0x4f, 0x83 | 0x81, ..]) {
        return None;
    }
    let instruction = Decoder::with_ip(64, code, address, DecoderOptions::NONE).decode();
    let is_null = matches!(instruction.code(), Code::Cmp_rm64_imm8 | Code::Cmp_rm64_imm32)
        && instruction.op0_kind() == OpKind::Memory
        && instruction.immediate32to64() == 0
        && instruction.memory_index() == Register::None;
    let base = general_register(instruction.memory_base())?;
    is_null.then_some((base, u32::try_from(instruction.memory_displacement64()).ok()?))
}
