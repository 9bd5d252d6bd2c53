//! Which places in a function the code of other functions jumps to.
//!
//! A function is looked at with all the rest of the file in mind, but the rest
//! is not decoded for it: what cannot jump there, as its bytes tell, is passed over.
//! What may jump there, and is in no function that is known or in one that does not
//! decode, is taken for an instruction.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Range,
    rc::Rc,
};

use super::{
    code::{
        flow,
        instruction::{Control, Instruction},
    },
    elf::Elf,
    pointers::Pointers,
    unwind::FunctionRanges,
};

/// Entries of the tables of all functions that are read at most, in one pass.
const MAX_ENTRIES: usize = 1 << 23;

/// Bytes of an instruction at most, of any processor.
const LONGEST: usize = 15;

/// Jumps into functions, from elsewhere in the file.
pub struct Jumps<'e> {
    elf: &'e Elf,
    functions: &'e FunctionRanges<'e>,
    pointers: OnceCell<Pointers>,
    /// By the start of the function; `None`: there are too many to tell.
    known: BTreeMap<u64, Option<HashSet<u64>>>,
    /// Functions that will be asked for.
    expected: Vec<Range<u64>>,
}

impl<'e> Jumps<'e> {
    /// Nothing is looked for yet.
    #[must_use]
    pub fn new(elf: &'e Elf, functions: &'e FunctionRanges) -> Self {
        let (pointers, known, expected) = (OnceCell::new(), BTreeMap::new(), Vec::new());
        Self { elf, functions, pointers, known, expected }
    }

    /// Says that functions will be asked for: the next pass over the file looks for
    /// the jumps into these too.
    pub fn expect(&mut self, functions: impl IntoIterator<Item = Range<u64>>) {
        self.expected.extend(functions);
    }

    /// The addresses in a function that code of another one jumps to, or that
    /// somebody has a pointer to: not its start, where a jump is a call, unless it
    /// is a part of another function. `None`: the file has too much in it to tell.
    pub fn into_function(&mut self, function: &Range<u64>) -> Option<&HashSet<u64>> {
        if !self.known.contains_key(&function.start) {
            self.look_for(std::slice::from_ref(function));
        }
        self.known.get(&function.start)?.as_ref()
    }

    /// Looks for the jumps into several functions at once, which takes one pass
    /// over the file, if any is new.
    pub fn look_for(&mut self, into: &[Range<u64>]) {
        let is_known = |range: &Range<u64>| self.known.contains_key(&range.start);
        if into.iter().all(is_known) {
            return;
        }
        let mut ranges = std::mem::take(&mut self.expected);
        ranges.extend_from_slice(into);
        ranges.retain(|range| !is_known(range));
        ranges.sort_unstable_by_key(|range| range.start);
        ranges.dedup();
        let mut into = Into { elf: self.elf, ranges, decoded: HashMap::new() };
        let mut targets = self.of_code(&mut into);
        if let Some(targets) = &mut targets {
            targets.extend(self.of_pointers(&mut into));
            targets.retain(|target| !self.functions.is_entry(*target));
        }
        for range in into.ranges {
            let within = |targets: &BTreeSet<u64>| targets.range(range.clone()).copied().collect();
            self.known.insert(range.start, targets.as_ref().map(within));
        }
    }

    /// Where code jumps to in some functions, but for each function's own jumps;
    /// `None` if that is too much to look at.
    fn of_code(&self, into: &mut Into<'_>) -> Option<BTreeSet<u64>> {
        let mut found = Found { targets: BTreeSet::new(), entries_left: MAX_ENTRIES };
        let candidates = self.possible(&into.ranges);
        let mut alone = candidates.outside;
        for (start, (end, addresses)) in candidates.functions {
            match flow::decode(self.elf, &(start..end)) {
                Ok(instructions) => found.add(into, &(start..end), &instructions)?,
                Err(_) => alone.extend(addresses),
            }
        }
        // What is there is not known, so that it can be an instruction; but not
        // one that leads into the middle of another.
        for at in alone {
            let code = self.elf.code(at).unwrap_or_default();
            let code = code.get(..LONGEST).unwrap_or(code);
            let Some(instruction) = self.elf.processor().decode(code, at).next().flatten() else {
                continue;
            };
            let leads = [instruction.jump_target(), self.elf.processor().label(&instruction)];
            if leads.into_iter().flatten().all(|target| into.may_begin_at(target)) {
                found.add(into, &(at..instruction.end()), &[instruction])?;
            }
        }
        Some(found.targets)
    }

    /// Whoever has a pointer into a function may jump there; but one that stands
    /// in a table of the function itself is only for the jump that names the table.
    fn of_pointers(&self, into: &mut Into<'_>) -> Vec<u64> {
        let (Some(first), Some(last)) = (into.ranges.first(), into.ranges.last()) else {
            return Vec::new();
        };
        let pointers = self.pointers.get_or_init(|| Pointers::read(self.elf));
        let mut tables: HashMap<u64, Vec<Range<u64>>> = HashMap::new();
        let mut targets = Vec::new();
        for pointer in pointers.leading_into(first.start..last.end) {
            let Some(function) = into.function(pointer.target) else { continue };
            let tables = tables.entry(function.start).or_insert_with(|| {
                self.elf.processor().tables(self.elf, &into.instructions(&function)).cells
            });
            if !tables.iter().any(|cells| cells.contains(&pointer.cell)) {
                targets.push(pointer.target);
            }
        }
        targets
    }

    /// What may jump into one of these functions: all, where the bytes do not tell.
    fn possible(&self, into: &[Range<u64>]) -> Candidates {
        let mut candidates = Candidates::default();
        if into.is_empty() {
            return candidates;
        }
        for (address, code) in self.elf.executable() {
            let processor = self.elf.processor();
            let Some(found) = processor.possible_jumps(self.elf, code, address, into) else {
                let all = self.functions.iter().map(|f| (f.start, (f.end, Vec::new()))).collect();
                return Candidates { functions: all, outside: Vec::new() };
            };
            for at in found {
                match self.functions.containing(at) {
                    Some(function) => {
                        let known = candidates.functions.entry(function.start);
                        known.or_insert((function.end, Vec::new())).1.push(at);
                    }
                    None => candidates.outside.push(at),
                }
            }
        }
        candidates
    }
}

/// Where there may be jumps.
#[derive(Default)]
struct Candidates {
    /// By the start of a function: its end, and the addresses in it.
    functions: BTreeMap<u64, (u64, Vec<u64>)>,
    /// Those in no function that is known.
    outside: Vec<u64>,
}

/// The functions that are jumped into.
struct Into<'e> {
    elf: &'e Elf,
    /// Sorted.
    ranges: Vec<Range<u64>>,
    decoded: HashMap<u64, Rc<[Instruction]>>,
}

impl Into<'_> {
    fn function(&self, address: u64) -> Option<Range<u64>> {
        containing(&self.ranges, address).cloned()
    }

    /// None, if the function does not decode: it is unfit for probes then.
    fn instructions(&mut self, function: &Range<u64>) -> Rc<[Instruction]> {
        let known = self.decoded.entry(function.start);
        let decode = || flow::decode(self.elf, function).unwrap_or_default().into();
        Rc::clone(known.or_insert_with(decode))
    }

    /// Whether an instruction may begin at an address: not in the middle of another.
    fn may_begin_at(&mut self, address: u64) -> bool {
        self.function(address).is_none_or(|function| {
            let instructions = self.instructions(&function);
            instructions.binary_search_by_key(&address, |i| i.address).is_ok()
        })
    }
}

/// Where jumps lead.
struct Found {
    targets: BTreeSet<u64>,
    entries_left: usize,
}

impl Found {
    /// Adds where instructions lead to from their range; `None` if that is too
    /// much to look at.
    fn add(
        &mut self,
        into: &mut Into<'_>,
        range: &Range<u64>,
        instructions: &[Instruction],
    ) -> Option<()> {
        let processor = into.elf.processor();
        let made = |i: &Instruction| [i.jump_target(), processor.label(i)];
        let direct = instructions.iter().flat_map(made).flatten();
        let elsewhere = |target: &u64| !range.contains(target) && into.function(*target).is_some();
        self.targets.extend(direct.filter(elsewhere));
        let computes = |i: &Instruction| matches!(i.control, Control::JumpThrough(_));
        // The jump that an instruction in the unknown belongs to is not known.
        if instructions.len() > 1 && !instructions.iter().any(computes) {
            return Some(());
        }
        let tables = processor.tables(into.elf, instructions);
        self.entries_left = self.entries_left.checked_sub(tables.entries)?;
        if tables.endless {
            return None;
        }
        let elsewhere = tables.targets.into_iter().filter(elsewhere).collect::<Vec<_>>();
        // What leads into the middle of an instruction is of another table, which
        // stands behind this one.
        self.targets.extend(elsewhere.into_iter().filter(|t| into.may_begin_at(*t)));
        Some(())
    }
}

/// Of ranges that are sorted and do not overlap, the one that contains an address.
#[must_use]
pub fn containing(ranges: &[Range<u64>], address: u64) -> Option<&Range<u64>> {
    let after = ranges.partition_point(|range| range.start <= address);
    ranges.get(after.checked_sub(1)?).filter(|range| range.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::specimen::{Specimen, executable, library};

    /// 1000: mov 0x8(%rdi),%rax / 1004: lock addl $1,0x98(%rax) / 100c: jmp 100f /
    /// 100e: nop / 100f: ret
    const COUNTS: &[u8] =
        &[0x48, 0x8b, 0x47, 0x08, 0xf0, 0x83, 0x80, 0x98, 0, 0, 0, 1, 0xeb, 0x01, 0x90, 0xc3];

    fn specimen(body: &[u8]) -> Specimen {
        ("", body.to_vec(), Vec::new())
    }

    /// What is known to lead into the first function, with another piece at 1100;
    /// `known`: the ranges that the unwind table has besides.
    fn into_first(first: &[u8], other: &[u8], known: &[(u64, u64)]) -> Vec<u64> {
        let elf = library(&[specimen(first), specimen(other)]);
        jumps_in(&elf, first, known)
    }

    fn jumps_in(elf: &Elf, first: &[u8], known: &[(u64, u64)]) -> Vec<u64> {
        let function = 0x1000..0x1000 + first.len() as u64;
        let mut ranges: Vec<_> = known.iter().map(|(start, end)| *start..*end).collect();
        ranges.push(function.clone());
        let ranges = FunctionRanges::of(&ranges);
        let mut jumps = Jumps::new(elf, &ranges);
        let found = jumps.into_function(&function).expect("it is little");
        let mut found: Vec<u64> = found.iter().copied().collect();
        found.sort_unstable();
        found
    }

    /// 1100: mov %rsi,%rax / 1103: jmp 100c
    const FOREIGN: &[u8] = &[0x48, 0x89, 0xf0, 0xe9, 0x04, 0xff, 0xff, 0xff];

    #[test]
    fn a_jump_from_code_that_is_not_known_is_one() {
        assert_eq!(into_first(COUNTS, FOREIGN, &[]), [0x100c]);
        // Ranges that overlap are none.
        assert_eq!(into_first(COUNTS, FOREIGN, &[(0x1100, 0x1108), (0x1104, 0x1108)]), [0x100c]);
    }

    #[test]
    fn what_is_expected_is_looked_for_in_the_pass_for_another() {
        let elf = library(&[specimen(COUNTS), specimen(FOREIGN)]);
        let (first, other) = (0x1000..0x1010, 0x1100..0x1108);
        let ranges = FunctionRanges::of(&[first.clone(), other.clone()]);
        let mut jumps = Jumps::new(&elf, &ranges);
        jumps.expect([first]);
        jumps.look_for(&[]);
        assert!(jumps.known.is_empty(), "it takes no pass by itself");
        jumps.look_for(&[other]);
        assert_eq!(jumps.known.get(&0x1000), Some(&Some(HashSet::from([0x100c]))));
    }

    #[test]
    fn a_jump_from_a_function_that_does_not_decode_is_one() {
        // 1108: (bad)
        let undecodable = [FOREIGN, &[0x06]].concat();
        assert_eq!(into_first(COUNTS, &undecodable, &[(0x1100, 0x1109)]), [0x100c]);
    }

    #[test]
    fn what_may_be_a_jump_is_none_if_it_leads_into_an_instruction() {
        // 1103: jmp 100d
        let mut foreign = FOREIGN.to_vec();
        foreign[4] = 0x05;
        assert!(into_first(COUNTS, &foreign, &[]).is_empty());
        // What is one for certain makes the function unfit.
        assert_eq!(into_first(COUNTS, &foreign, &[(0x1100, 0x1108)]), [0x100d]);
    }

    #[test]
    fn a_function_that_is_jumped_into_in_the_middle_of_an_instruction_is_unfit() {
        let elf = library(&[specimen(COUNTS)]);
        let unfit = flow::Function::new(&elf, 0x1000..0x1010, &HashSet::from([0x100d]));
        assert_eq!(unfit.err(), Some(flow::FlowProblem::MisalignedTarget(0x100d)));
    }

    #[test]
    fn who_has_the_address_of_a_label_may_jump_there() {
        // 1100: lea 100c(%rip),%rax / 1107: ret
        let takes = &[0x48, 0x8d, 0x05, 0x05, 0xff, 0xff, 0xff, 0xc3];
        assert_eq!(into_first(COUNTS, takes, &[(0x1100, 0x1108)]), [0x100c]);
        // 1100: .quad 100c
        let words = specimen(&0x100c_u64.to_le_bytes());
        let elf = executable(&[specimen(COUNTS), words]);
        assert_eq!(jumps_in(&elf, COUNTS, &[]), [0x100c]);
    }

    #[test]
    fn what_stands_in_a_function_s_own_table_is_for_its_own_jump() {
        // 1000: jmp *1100(,%rax,8) / 1007: nop / 1008: ret
        let first = &[0xff, 0x24, 0xc5, 0, 0x11, 0, 0, 0x90, 0xc3];
        let words = |words: &[u64]| {
            specimen(&words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>())
        };
        // 1100: .quad 1007, 1008; then .quad -1, 1007 too
        let elf = executable(&[specimen(first), words(&[0x1007, 0x1008])]);
        assert!(jumps_in(&elf, first, &[]).is_empty());
        let elf = executable(&[specimen(first), words(&[0x1007, 0x1008, u64::MAX, 0x1007])]);
        assert_eq!(jumps_in(&elf, first, &[]), [0x1007]);
    }
}
