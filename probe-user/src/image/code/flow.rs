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

/// Instructions that are looked at for all computed jumps of a function, at most.
const MAX_STEPS_BACK: usize = 1 << 24;

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
            from_outside: vec![false; instructions.len()],
            instructions,
            range,
        };
        for target in outside {
            if function.range.contains(target) {
                function.enter(*target)?;
            }
        }
        let mut computed = Vec::new();
        for from in 0..function.instructions.len() {
            function.connect(from, &mut computed)?;
        }
        if function.enter_labels(source)?
            && let Some(&jump) = computed.first()
        {
            let at = function.instructions[jump].address;
            return Err(FlowProblem::UnknownJump(at));
        }
        function.connect_computed(&computed, source)?;
        Ok(function)
    }

    /// Where the function makes the address of a place in its own inside, whoever
    /// has that may jump there; what jumps by a distance from there is not known.
    /// Says whether there is one.
    fn enter_labels(&mut self, source: &dyn CodeSource) -> Result<bool, FlowProblem> {
        let processor = source.processor();
        let labels: Vec<u64> = self
            .instructions
            .iter()
            .filter_map(|instruction| processor.label(instruction))
            .filter(|label| self.range.contains(label) && *label != self.range.start)
            .collect();
        for label in &labels {
            self.enter(*label)?;
        }
        Ok(!labels.is_empty())
    }

    /// Notes that control comes to a place from code that is not looked at.
    fn enter(&mut self, target: u64) -> Result<(), FlowProblem> {
        let to = self.index(target).ok_or(FlowProblem::MisalignedTarget(target))?;
        self.from_outside[to] = true;
        Ok(())
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
            self.enter(target)?;
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
        let Some(&first) = jumps.first() else { return Ok(()) };
        if jumps.len() * self.instructions.len() > MAX_STEPS_BACK {
            return Err(FlowProblem::UnknownJump(self.instructions[first].address));
        }
        let tables = source.processor().tables(source, &self.instructions);
        let targets: Vec<u64> =
            tables.targets.into_iter().filter(|target| self.range.contains(target)).collect();
        for &from in jumps {
            let instruction = self.instructions[from];
            if self.is_tail_call(&instruction) {
                continue;
            }
            let too_many = jumps.len() * targets.len() > MAX_COMPUTED_EDGES;
            if targets.is_empty() || tables.endless || too_many {
                return Err(FlowProblem::UnknownJump(instruction.address));
            }
            for target in &targets {
                self.jump(from, *target)?;
            }
        }
        Ok(())
    }

    /// Whether a computed jump goes through a pointer: through a memory cell, or a
    /// register that was loaded from one. An entry of a jump table is picked by an
    /// index, or added to something. A pointer into this function is to a label,
    /// where control comes from outside whatever jumps there.
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
                Some(Effect::Load { width: 8, .. }) => true,
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

    /// What control passes from any of some places to a later one, if it comes there
    /// through one of these only, and for each time that it does so once.
    #[must_use]
    pub fn only_through(&self, places: &[u64], later: u64) -> Option<Vec<u64>> {
        let places: Vec<usize> = places.iter().map(|at| self.index(*at)).collect::<Option<_>>()?;
        let later = self.index(later)?;
        let between = self.back(later, &places)?;
        if between.iter().any(|at| *at == 0 || self.from_outside[*at]) {
            return None;
        }
        for place in places {
            self.back(place, &[later])?;
        }
        let passed = between.into_iter().filter(|at| *at != later);
        Some(passed.map(|at| self.instructions[at].address).collect())
    }

    /// The instructions from which control can come to a place without passing
    /// certain others, and the place; `None` if it can come from itself.
    fn back(&self, from: usize, stop: &[usize]) -> Option<BTreeSet<usize>> {
        let mut seen = BTreeSet::from([from]);
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            for &before in &self.predecessors[at] {
                if before == from {
                    return None;
                }
                if !stop.contains(&before) && seen.insert(before) {
                    open.push(before);
                }
            }
        }
        Some(seen)
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
mod tests;
