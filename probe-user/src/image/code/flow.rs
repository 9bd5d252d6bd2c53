//! A function's instructions, which leads to which, and which assignments of a
//! register can reach a place.
//!
//! Everything errs to one side: an edge too many makes a proof fail, an edge
//! too few would make it wrong.

use std::{
    collections::{BTreeSet, HashSet},
    ops::Range,
};

use super::{
    CodeSource,
    instruction::{Control, Effect, Instruction, Through},
};

/// Bytes of a function at most; the largest of libcrypto has 100 KiB.
const MAX_FUNCTION: u64 = 1 << 20;

/// Edges out of the computed jumps of one function, at most.
const MAX_COMPUTED_EDGES: usize = 1 << 16;

/// Copies of a register that are followed back at most.
const COPIES: usize = 2;

/// Where a register's value at some place may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// From the function's caller.
    Entry,
    /// From the instruction at this address.
    Assignment(u64),
    /// From code that is not part of the function as it is known.
    Outside,
}

/// Why a function's flow of control is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowProblem {
    /// The bytes there are not an instruction, or it crosses the function's end.
    NotAnInstruction(u64),
    /// A jump leads into the middle of an instruction.
    MisalignedTarget(u64),
    /// A jump goes to an address that is computed in a way that is not known.
    UnknownJump(u64),
}

/// A function, decoded from its start to its end.
pub struct Function {
    range: Range<u64>,
    instructions: Vec<Instruction>,
    /// For each instruction, the instructions that can come before it.
    predecessors: Vec<Vec<usize>>,
    /// For each instruction, whether control can come from elsewhere.
    from_outside: Vec<bool>,
}

/// Decodes the instructions of a range, one behind the other.
///
/// # Errors
///
/// At the first thing that is not an instruction, or jumps in a way that is not known.
pub fn decode(
    source: &dyn CodeSource,
    range: &Range<u64>,
) -> Result<Vec<Instruction>, FlowProblem> {
    let code = source
        .code(range.start)
        .filter(|_| range.end - range.start <= MAX_FUNCTION)
        .and_then(|code| code.get(..(range.end - range.start) as usize))
        .ok_or(FlowProblem::NotAnInstruction(range.start))?;
    let mut instructions: Vec<Instruction> = Vec::with_capacity(code.len() / 4);
    for instruction in source.processor().decode(code, range.start) {
        let at = instructions.last().map_or(range.start, Instruction::end);
        let instruction = instruction.ok_or(FlowProblem::NotAnInstruction(at))?;
        instructions.push(match instruction.jump_target() {
            // What is there is looked at when it is its turn.
            Some(target) if range.contains(&target) => instruction,
            _ => source.processor().undisguised(source, instruction)?,
        });
    }
    Ok(instructions)
}

impl Function {
    /// Decodes a function and finds its edges.
    ///
    /// `outside` holds the addresses that code of other functions jumps to,
    /// among them `range.start` if it is a part of another function.
    ///
    /// # Errors
    ///
    /// If the function's flow of control cannot be known.
    pub fn new(
        source: &dyn CodeSource,
        range: Range<u64>,
        outside: &HashSet<u64>,
    ) -> Result<Self, FlowProblem> {
        let instructions = decode(source, &range)?;
        let mut function = Self {
            predecessors: vec![Vec::new(); instructions.len()],
            from_outside: instructions.iter().map(|i| outside.contains(&i.address)).collect(),
            instructions,
            range,
        };
        let mut computed = Vec::new();
        for from in 0..function.instructions.len() {
            function.connect(from, &mut computed)?;
        }
        function.connect_computed(&computed, source)?;
        Ok(function)
    }

    /// Adds the edges of an instruction; a computed jump is left for later.
    fn connect(&mut self, from: usize, computed: &mut Vec<usize>) -> Result<(), FlowProblem> {
        let falls = match self.instructions[from].control {
            Control::Jump(target) => {
                self.jump(from, target)?;
                false
            }
            Control::Branch(target) => {
                self.jump(from, target)?;
                true
            }
            Control::JumpThrough(_) => {
                computed.push(from);
                false
            }
            Control::Return | Control::Stop => false,
            Control::Call(target) => {
                self.call(target)?;
                true
            }
            Control::Next | Control::CallThrough(_) => true,
        };
        if falls && from + 1 < self.instructions.len() {
            self.predecessors[from + 1].push(from);
        }
        Ok(())
    }

    fn jump(&mut self, from: usize, target: u64) -> Result<(), FlowProblem> {
        if self.range.contains(&target) {
            let to = self.index(target).ok_or(FlowProblem::MisalignedTarget(target))?;
            self.predecessors[to].push(from);
        }
        Ok(())
    }

    /// What a function calls in its own inside, and not at its start, is entered
    /// there in a way that is not looked at.
    fn call(&mut self, target: u64) -> Result<(), FlowProblem> {
        if self.range.contains(&target) && target != self.range.start {
            let to = self.index(target).ok_or(FlowProblem::MisalignedTarget(target))?;
            self.from_outside[to] = true;
        }
        Ok(())
    }

    /// Adds the edges of computed jumps: to every place that any table of the
    /// function leads to. Without a table, each must be a tail call for certain.
    fn connect_computed(
        &mut self,
        jumps: &[usize],
        source: &dyn CodeSource,
    ) -> Result<(), FlowProblem> {
        if jumps.is_empty() {
            return Ok(());
        }
        let targets: Vec<u64> = source
            .processor()
            .table_targets(source, &self.instructions)
            .into_iter()
            .filter(|target| self.range.contains(target))
            .collect();
        for &from in jumps {
            let instruction = self.instructions[from];
            if self.is_tail_call(&instruction) {
                continue;
            }
            let too_many = jumps.len() * targets.len() > MAX_COMPUTED_EDGES;
            if targets.is_empty() || too_many {
                return Err(FlowProblem::UnknownJump(instruction.address));
            }
            for target in &targets {
                self.jump(from, *target)?;
            }
        }
        Ok(())
    }

    /// Whether a computed jump goes through a pointer to a function: through a
    /// memory cell, or a register that was loaded from one. An entry of a jump
    /// table is picked by an index, or added to something.
    fn is_tail_call(&self, jump: &Instruction) -> bool {
        match jump.control {
            Control::JumpThrough(Through::Cell(_)) => true,
            Control::JumpThrough(Through::Register(register)) => {
                self.is_loaded(register, jump.address, COPIES)
            }
            _ => false,
        }
    }

    /// Whether all that a register can hold at a place was loaded from memory
    /// cells, and at most copied since.
    fn is_loaded(&self, register: usize, at: u64, copies: usize) -> bool {
        self.reaching(register, at).into_iter().all(|origin| match origin {
            Origin::Assignment(address) => match self.at(address).map(|i| i.effect) {
                Some(Effect::Load { .. }) => true,
                Some(Effect::Copy { from, .. }) => {
                    copies > 0 && self.is_loaded(from, address, copies - 1)
                }
                _ => false,
            },
            Origin::Entry | Origin::Outside => false,
        })
    }

    /// All of them, in order.
    #[must_use]
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// The instruction that begins at an address.
    #[must_use]
    pub fn at(&self, address: u64) -> Option<&Instruction> {
        self.index(address).map(|index| &self.instructions[index])
    }

    /// Whether `before` is the only instruction from which control comes to `after`.
    #[must_use]
    pub fn only_follows(&self, before: u64, after: u64) -> bool {
        let (Some(before), Some(after)) = (self.index(before), self.index(after)) else {
            return false;
        };
        after != 0 && !self.from_outside[after] && self.predecessors[after] == [before]
    }

    fn index(&self, address: u64) -> Option<usize> {
        self.instructions.binary_search_by_key(&address, |i| i.address).ok()
    }

    /// Every assignment of a register that can reach a place before the
    /// instruction there is executed, along any path.
    #[must_use]
    pub fn reaching(&self, register: usize, address: u64) -> BTreeSet<Origin> {
        let mut origins = BTreeSet::new();
        let Some(start) = self.index(address) else {
            origins.insert(Origin::Outside);
            return origins;
        };
        let mut seen = vec![false; self.instructions.len()];
        let mut open = vec![start];
        while let Some(at) = open.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            if self.from_outside[at] {
                origins.insert(Origin::Outside);
            }
            if at == 0 {
                origins.insert(Origin::Entry);
            }
            for &before in &self.predecessors[at] {
                if self.instructions[before].assigns(register) {
                    origins.insert(Origin::Assignment(self.instructions[before].address));
                } else {
                    open.push(before);
                }
            }
        }
        // No path at all leads there: whatever executes it is not known.
        if origins.is_empty() {
            origins.insert(Origin::Outside);
        }
        origins
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::code::{processor::Processor, x86_64::X86_64};

    struct Bytes(u64, &'static [u8]);

    impl CodeSource for Bytes {
        fn processor(&self) -> &'static dyn Processor {
            &X86_64
        }
        fn code(&self, address: u64) -> Option<&[u8]> {
            self.1.get(usize::try_from(address.checked_sub(self.0)?).ok()?..)
        }
        fn constant(&self, address: u64, width: usize) -> Option<u64> {
            let bytes = self.code(address)?.get(..width)?;
            Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
        }
        fn import_at(&self, _: u64) -> Option<&str> {
            None
        }
    }

    fn function(bytes: &'static [u8], outside: &[u64]) -> Result<Function, FlowProblem> {
        let range = 0x1000..0x1000 + bytes.len() as u64;
        let outside = outside.iter().copied().collect();
        Function::new(&Bytes(0x1000, bytes), range, &outside)
    }

    /// 1000: mov %rdi,%rax / 1003: test %esi,%esi / 1005: je 100a /
    /// 1007: mov %rdx,%rax / 100a: ret
    const FORK: &[u8] = &[0x48, 0x89, 0xf8, 0x85, 0xf6, 0x74, 0x03, 0x48, 0x89, 0xd0, 0xc3];

    #[test]
    fn both_ways_of_a_fork_reach_the_join() {
        let function = function(FORK, &[]).expect("it decodes");
        let origins: Vec<_> = function.reaching(0, 0x100a).into_iter().collect();
        assert_eq!(origins, [Origin::Assignment(0x1000), Origin::Assignment(0x1007)]);
        assert_eq!(function.reaching(7, 0x100a).into_iter().collect::<Vec<_>>(), [Origin::Entry]);
    }

    #[test]
    fn a_jump_from_another_function_is_an_unknown_origin() {
        let function = function(FORK, &[0x100a]).expect("it decodes");
        assert!(function.reaching(7, 0x100a).contains(&Origin::Outside));
        assert!(!function.reaching(7, 0x1007).contains(&Origin::Outside));
    }

    #[test]
    fn a_jump_into_an_instruction_is_refused() {
        // 1000: je 1003 / 1002: mov %rdi,%rax (1003 is in its middle) / 1005: ret
        let bytes = &[0x74, 0x01, 0x48, 0x89, 0xf8, 0xc3];
        assert_eq!(function(bytes, &[]).err(), Some(FlowProblem::MisalignedTarget(0x1003)));
    }

    #[test]
    fn a_call_assigns_what_the_abi_lets_it_change() {
        // 1000: call 1005 / 1005: ret
        let function = function(&[0xe8, 0, 0, 0, 0, 0xc3], &[]).expect("it decodes");
        assert!(function.reaching(7, 0x1005).contains(&Origin::Assignment(0x1000)));
        assert!(!function.reaching(3, 0x1005).contains(&Origin::Assignment(0x1000)));
    }

    #[test]
    fn a_computed_jump_that_is_no_tail_call_is_refused() {
        // 1000: add %rdx,%rax / 1003: jmp *%rax
        let bytes = &[0x48, 0x01, 0xd0, 0xff, 0xe0];
        assert_eq!(function(bytes, &[]).err(), Some(FlowProblem::UnknownJump(0x1003)));
    }

    #[test]
    fn a_jump_through_a_method_is_a_tail_call() {
        // 1000: mov 0x88(%rax),%rax / 1007: jmp *%rax
        let bytes = &[0x48, 0x8b, 0x80, 0x88, 0, 0, 0, 0xff, 0xe0];
        assert!(function(bytes, &[]).is_ok());
    }

    #[test]
    fn a_part_of_another_function_has_no_caller_of_its_own() {
        let function = function(FORK, &[0x1000]).expect("it decodes");
        assert!(function.reaching(7, 0x100a).contains(&Origin::Outside));
    }

    #[test]
    fn a_jump_through_a_table_that_is_not_found_is_refused() {
        // jmp *0x2000(,%rax,8)
        let bytes = &[0xff, 0x24, 0xc5, 0x00, 0x20, 0x00, 0x00];
        assert_eq!(function(bytes, &[]).err(), Some(FlowProblem::UnknownJump(0x1000)));
    }

    /// Where a register may come from at a place of a function with something
    /// behind it.
    fn origins(bytes: &'static [u8], length: u64, register: usize, at: u64) -> Vec<Origin> {
        let range = 0x1000..0x1000 + length;
        let function = Function::new(&Bytes(0x1000, bytes), range, &HashSet::new());
        function.expect("it is fit").reaching(register, at).into_iter().collect()
    }

    /// -mindirect-branch=thunk, gcc 12; the table and the thunk stand behind it.
    #[test]
    fn a_jump_through_a_thunk_leads_where_its_table_does() {
        // 1000: lea 1015(%rip),%rdx / 1007: movslq (%rdx,%rsi,4),%rax /
        // 100b: add %rdx,%rax / 100e: jmp 101d /
        // 1010: mov 0x8(%rdi),%rax / 1014: ret / 1015: the table: 1010, 1014
        // 101d: call 1029 / 1022: pause; lfence; jmp 1022 / 1029: mov %rax,(%rsp) / 102d: ret
        let bytes = &[
            0x48, 0x8d, 0x15, 0x0e, 0, 0, 0, 0x48, 0x63, 0x04, 0xb2, 0x48, 0x01, 0xd0, 0xeb, 0x0d,
            0x48, 0x8b, 0x47, 0x08, 0xc3, 0xfb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xe8,
            0x07, 0, 0, 0, 0xf3, 0x90, 0x0f, 0xae, 0xe8, 0xeb, 0xf9, 0x48, 0x89, 0x04, 0x24, 0xc3,
        ];
        let either = [Origin::Assignment(0x100b), Origin::Assignment(0x1010)];
        assert_eq!(origins(bytes, 0x15, 0, 0x1014), either);
        // 101d: lfence; jmp *%rax
        let mut lfence = bytes[..0x1d].to_vec();
        lfence.extend([0x0f, 0xae, 0xe8, 0xff, 0xe0]);
        assert_eq!(origins(lfence.leak(), 0x15, 0, 0x1014), either);
    }

    /// -mindirect-branch=thunk-inline, gcc 12; the table stands behind it.
    #[test]
    fn a_jump_through_a_thunk_within_leads_where_its_table_does() {
        // 1000: lea 1024(%rip),%rdx / 1007: movslq (%rdx,%rsi,4),%rax / 100b: add %rdx,%rax /
        // 100e: call 101a / 1013: pause; lfence; jmp 1013 / 101a: mov %rax,(%rsp) / 101e: ret
        // 101f: mov 0x8(%rdi),%rax / 1023: ret / 1024: the table: 101f, 1023
        let bytes = &[
            0x48, 0x8d, 0x15, 0x1d, 0, 0, 0, 0x48, 0x63, 0x04, 0xb2, 0x48, 0x01, 0xd0, 0xe8, 0x07,
            0, 0, 0, 0xf3, 0x90, 0x0f, 0xae, 0xe8, 0xeb, 0xf9, 0x48, 0x89, 0x04, 0x24, 0xc3, 0x48,
            0x8b, 0x47, 0x08, 0xc3, 0xfb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        ];
        let either = [Origin::Assignment(0x100b), Origin::Assignment(0x101f)];
        assert_eq!(origins(bytes, 0x24, 0, 0x1023), either);
    }

    #[test]
    fn a_return_to_what_was_just_stored_is_a_computed_jump() {
        // 1000: mov %rax,(%rsp) / 1004: ret; 1000: push %rax / 1001: ret
        let stored = &[0x48, 0x89, 0x04, 0x24, 0xc3];
        assert_eq!(function(stored, &[]).err(), Some(FlowProblem::UnknownJump(0x1004)));
        assert_eq!(function(&[0x50, 0xc3], &[]).err(), Some(FlowProblem::UnknownJump(0x1001)));
    }

    #[test]
    fn what_a_function_calls_within_is_entered_from_elsewhere() {
        // 1000: call 1006 / 1005: ret / 1006: mov %rdi,%rax / 1009: ret
        let bytes = &[0xe8, 0x01, 0, 0, 0, 0xc3, 0x48, 0x89, 0xf8, 0xc3];
        let function = function(bytes, &[]).expect("it decodes");
        assert!(function.reaching(7, 0x1009).contains(&Origin::Outside));
    }

    #[test]
    fn a_branch_to_a_thunk_is_refused() {
        // 1000: je 1003 / 1002: ret; 1003: jmp *%rax
        let bytes = &[0x74, 0x01, 0xc3, 0xff, 0xe0];
        let function = Function::new(&Bytes(0x1000, bytes), 0x1000..0x1003, &HashSet::new());
        assert_eq!(function.err(), Some(FlowProblem::UnknownJump(0x1000)));
    }
}
