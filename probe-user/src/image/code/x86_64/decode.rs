//! The neutral facts of an x86-64 instruction.

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, InstructionInfo, InstructionInfoFactory, Mnemonic,
    OpAccess, OpKind, Register, UsedMemory,
};

use super::{CONVENTION, general_register, whole_register};
use crate::image::{
    class::Class,
    code::instruction::{Control, Effect, Instruction, Through, Writes},
};

/// The instructions of a piece of code.
pub(super) struct Instructions<'c> {
    code: &'c [u8],
    start: u64,
    decoder: Decoder<'c>,
    info: InstructionInfoFactory,
    /// Whether the instruction before stored where a `ret` takes its address from.
    return_is_stored: bool,
    failed: bool,
}

impl<'c> Instructions<'c> {
    pub(super) fn new(code: &'c [u8], at: u64) -> Self {
        Self {
            code,
            start: at,
            decoder: Decoder::with_ip(64, code, at, DecoderOptions::NONE),
            info: InstructionInfoFactory::new(),
            return_is_stored: false,
            failed: false,
        }
    }
}

impl Iterator for Instructions<'_> {
    type Item = Option<Instruction>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || !self.decoder.can_decode() {
            return None;
        }
        let instruction = self.decoder.decode();
        if instruction.is_invalid() {
            self.failed = true;
            return Some(None);
        }
        let from = instruction.ip().wrapping_sub(self.start) as usize;
        let bytes = self.code.get(from..from + instruction.len()).unwrap_or_default();
        let control = match control(&instruction) {
            Control::Return if self.return_is_stored => Control::JumpThrough(Through::Other),
            control => control,
        };
        self.return_is_stored = stores_return(&instruction);
        let info = self.info.info(&instruction);
        Some(Some(Instruction {
            address: instruction.ip(),
            length: instruction.len() as u8,
            control,
            assigns: assigned(&instruction, info),
            effect: effect(&instruction),
            writes: writes(info),
            emulated: Class::of_x86_64(bytes).is_emulated(),
            // There is always an emulated one, or a function's entry.
            steppable: false,
        }))
    }
}

fn control(instruction: &iced_x86::Instruction) -> Control {
    let target = instruction.near_branch_target();
    let is_direct = instruction.op_count() == 1
        && matches!(instruction.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch32);
    let cell =
        || instruction.is_ip_rel_memory_operand().then(|| instruction.ip_rel_memory_address());
    match instruction.flow_control() {
        FlowControl::UnconditionalBranch if is_direct => Control::Jump(target),
        FlowControl::ConditionalBranch if is_direct => Control::Branch(target),
        FlowControl::Call if is_direct => Control::Call(target),
        FlowControl::Call | FlowControl::IndirectCall => Control::CallThrough(cell()),
        FlowControl::IndirectBranch => Control::JumpThrough(through(instruction, cell())),
        FlowControl::Return => Control::Return,
        FlowControl::Exception => Control::Stop,
        FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => {
            Control::JumpThrough(Through::Other)
        }
        // To where it goes on once it is aborted.
        FlowControl::XbeginXabortXend if instruction.mnemonic() == Mnemonic::Xbegin => {
            Control::Branch(target)
        }
        FlowControl::Next | FlowControl::Interrupt | FlowControl::XbeginXabortXend => Control::Next,
    }
}

/// Whether an instruction stores where a `ret` right behind it takes its address
/// from: a jump in disguise.
fn stores_return(instruction: &iced_x86::Instruction) -> bool {
    match instruction.mnemonic() {
        Mnemonic::Push => true,
        Mnemonic::Mov => {
            instruction.op0_kind() == OpKind::Memory
                && instruction.memory_base() == Register::RSP
                && instruction.memory_index() == Register::None
                && instruction.memory_displacement64() == 0
        }
        _ => false,
    }
}

fn through(jump: &iced_x86::Instruction, cell: Option<u64>) -> Through {
    match jump.op0_kind() {
        OpKind::Register => {
            general_register(jump.op0_register()).map_or(Through::Other, Through::Register)
        }
        OpKind::Memory if jump.memory_index() == Register::None => Through::Cell(cell),
        OpKind::Memory
            if jump.memory_base() == Register::None && jump.memory_index_scale() == 8 =>
        {
            Through::Table(jump.memory_displacement64())
        }
        _ => Through::Other,
    }
}

fn effect(instruction: &iced_x86::Instruction) -> Effect {
    let to = || {
        (instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Register)
            .then(|| general_register(instruction.op0_register()))
            .flatten()
    };
    let no_index = instruction.memory_index() == Register::None
        && instruction.segment_prefix() == Register::None;
    match instruction.mnemonic() {
        Mnemonic::Mov
            if instruction.op0_kind() == OpKind::Memory
                && instruction.op1_kind() == OpKind::Register
                && no_index =>
        {
            store(instruction).unwrap_or(Effect::Other)
        }
        Mnemonic::Mov if instruction.op1_kind() == OpKind::Register => {
            let from = instruction.op1_register();
            match (to(), general_register(from)) {
                (Some(to), Some(from_number)) if from.size() == 8 => {
                    Effect::Copy { to, from: from_number }
                }
                _ => Effect::Other,
            }
        }
        Mnemonic::Mov if instruction.op1_kind() == OpKind::Memory && no_index => {
            let Some(to) = to() else { return Effect::Other };
            let width = instruction.memory_size().size() as u8;
            if instruction.is_ip_rel_memory_operand() {
                let displacement = instruction.ip_rel_memory_address() as i64;
                return Effect::Load { to, base: None, displacement, width };
            }
            let displacement = instruction.memory_displacement64() as i64;
            match instruction.memory_base() {
                Register::None => Effect::Load { to, base: None, displacement, width },
                base => match whole_register(base) {
                    Some(base) => Effect::Load { to, base: Some(base), displacement, width },
                    None => Effect::Other,
                },
            }
        }
        Mnemonic::Lea if instruction.is_ip_rel_memory_operand() => {
            let target = instruction.ip_rel_memory_address();
            whole_register(instruction.op0_register())
                .map_or(Effect::Other, |to| Effect::Address { to, target })
        }
        Mnemonic::Inc | Mnemonic::Dec | Mnemonic::Add | Mnemonic::Sub
            if instruction.op0_kind() == OpKind::Memory && no_index =>
        {
            change(instruction).unwrap_or(Effect::Other)
        }
        _ => Effect::Other,
    }
}

fn store(instruction: &iced_x86::Instruction) -> Option<Effect> {
    let from = whole_register(instruction.op1_register())?;
    let base = whole_register(instruction.memory_base())?;
    Some(Effect::Store { from, base, displacement: instruction.memory_displacement64() as i64 })
}

fn change(instruction: &iced_x86::Instruction) -> Option<Effect> {
    if instruction.memory_size().size() != 4 {
        return None;
    }
    let base = whole_register(instruction.memory_base())?;
    let displacement = instruction.memory_displacement64() as i64;
    let amount = match instruction.mnemonic() {
        Mnemonic::Inc => 1,
        Mnemonic::Dec => -1,
        mnemonic => {
            let amount = match instruction.try_immediate(1).ok()? as u32 as i32 {
                1 => 1,
                -1 => -1,
                _ => return None,
            };
            if mnemonic == Mnemonic::Sub { -amount } else { amount }
        }
    };
    Some(Effect::Change { base, displacement, amount, atomic: instruction.has_lock_prefix() })
}

fn writes(info: &InstructionInfo) -> Writes {
    let beside_the_stack =
        |memory: &&UsedMemory| is_write(memory.access()) && memory.base() != Register::RSP;
    let mut written = info.used_memory().iter().filter(beside_the_stack);
    match (written.next(), written.next()) {
        (None, _) => Writes::Nothing,
        (Some(one), None) if one.index() == Register::None => {
            let width = one.memory_size().size();
            match (whole_register(one.base()), u16::try_from(width)) {
                (Some(base), Ok(width)) if width > 0 => {
                    Writes::At { base, displacement: one.displacement() as i64, width }
                }
                _ => Writes::Somewhere,
            }
        }
        _ => Writes::Somewhere,
    }
}

fn assigned(instruction: &iced_x86::Instruction, info: &InstructionInfo) -> u32 {
    let mut bits = 0;
    if matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall) {
        bits = CONVENTION.caller_saved.iter().fold(0, |bits, register| bits | 1 << register);
    }
    for used in info.used_registers() {
        if is_write(used.access())
            && let Some(number) = general_register(used.register())
        {
            bits |= 1 << number;
        }
    }
    bits
}

/// Whether an access may write.
pub(super) fn is_write(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
}
