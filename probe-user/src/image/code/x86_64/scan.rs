//! Where in x86-64 code something may stand, by its bytes alone: much faster
//! than decoding, and right in one direction only. What is not found is not
//! there; what is found may be the inside of another instruction.

use std::{cell::RefCell, collections::HashMap, ops::Range};

use memchr::{memchr_iter, memmem};

use super::tables::{self, MAX_ELSEWHERE, Table};
use crate::image::code::CodeSource;

/// How far a jump of two bytes reaches, from its start: forwards and backwards.
const SHORT_REACH: u64 = 2 + 0x80;

/// The prefix that cuts addresses to 32 bits.
const ADDRESS_SIZE: u8 = 0x67;

/// Entries of tables that are read at most in a piece of code; what names one more
/// is taken to lead there.
const MAX_ENTRIES: usize = 1 << 21;

/// Prefixes that an instruction has at most, as far as is looked for one.
const PREFIXES: usize = 14;

/// The prefix that makes a change of memory atomic.
const LOCK: u8 = 0xf0;

/// Places that are compared at once: few enough to be looked at again where one fits.
const AT_ONCE: usize = 64;

/// Locked `add` and `sub` of one, `inc`, `dec`, on memory at a distance from a
/// register that is in a range: the offsets of their prefixes.
pub(super) fn changes(code: &[u8], distances: &Range<i64>) -> Vec<u64> {
    memchr_iter(LOCK, code)
        .filter(|at| {
            let behind = &code[at + 1..];
            let prefixes = behind.iter().take(PREFIXES).take_while(|byte| is_prefix(**byte));
            let instruction = behind[prefixes.count()..].split_first();
            instruction.is_some_and(|(opcode, operand)| is_change(*opcode, operand, distances))
        })
        .map(|at| at as u64)
        .collect()
}

/// Whether a byte may stand between a prefix and the opcode: another one, or REX
/// (Intel's manual, volume 2, sections 2.1.1 and 2.2.1).
fn is_prefix(byte: u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | LOCK | 0xf2 | 0xf3)
}

/// Whether an opcode and what stands behind it changes by one (Intel's manual,
/// volume 2, table 2-2 for the operand).
fn is_change(opcode: u8, operand: &[u8], distances: &Range<i64>) -> bool {
    let Some((mod_rm, rest)) = operand.split_first() else { return false };
    // In ModRM stands which operation it is: inc and dec, or add and sub.
    let operations = if opcode == 0xff { [0, 1] } else { [0, 5] };
    if !operations.contains(&(mod_rm >> 3 & 7)) {
        return false;
    }
    let rest = if mod_rm & 7 == 4 { rest.get(1..).unwrap_or_default() } else { rest };
    let (distance, rest) = match (mod_rm >> 6, rest) {
        (0, rest) => (0, rest),
        (1, [byte, rest @ ..]) => (i64::from(byte.cast_signed()), rest),
        (2, [a, b, c, d, rest @ ..]) => (i64::from(i32::from_le_bytes([*a, *b, *c, *d])), rest),
        _ => return false,
    };
    let by_one = match (opcode, rest) {
        (0xff, _) | (0x83, [1 | 0xff, ..]) => true,
        (0x81, [a, b, c, d, ..]) => matches!(i32::from_le_bytes([*a, *b, *c, *d]), 1 | -1),
        _ => false,
    };
    by_one && distances.contains(&distance)
}

/// Jumps and branches into ranges that are sorted: the addresses of their
/// opcodes. Also of what computes the address of a table that leads there.
pub(super) fn jumps(
    source: &dyn CodeSource,
    code: &[u8],
    address: u64,
    into: &[Range<u64>],
) -> Vec<u64> {
    let (Some(first), Some(last)) = (into.first(), into.last()) else { return Vec::new() };
    let around = first.start..last.end;
    let is_hit = |target: u64| {
        around.contains(&target) && crate::image::jumps::containing(into, target).is_some()
    };
    let mut found = Vec::new();
    // The place that a 32-bit distance leads to, which stands at the end of an
    // instruction.
    let near = |at: usize| -> Option<u64> {
        let distance = i32::from_le_bytes(*code.get(at..)?.first_chunk()?);
        Some(address.wrapping_add(at as u64 + 4).wrapping_add_signed(i64::from(distance)))
    };
    // `jmp`, `jcc`
    for at in distances_into(code, address, &around) {
        let length = match &code[..at] {
            [.., 0xe9] => 1,
            [.., 0x0f, 0x80..=0x8f] => 2,
            _ => continue,
        };
        if near(at).is_some_and(is_hit) {
            found.push(address.wrapping_add((at - length) as u64));
        }
    }
    found.extend(short_jumps(code, address, into));
    let tables = RefCell::new(Tables {
        source,
        is_hit: &is_hit,
        known: HashMap::new(),
        entries_left: MAX_ENTRIES,
    });
    // `lea label(%rip),%reg`, or of a table of distances. One of addresses is not
    // looked for by who makes its own: each of them is a pointer.
    let leads_there =
        |made: u64| is_hit(made) || tables.borrow_mut().lead_there(tables::distances(made));
    let named_leads_there = |at: u64| tables.borrow_mut().lead_there(tables::named(at));
    for at in memchr_iter(0x8d, code) {
        if code.get(at + 1).is_some_and(|mod_rm| mod_rm & 0xc7 == 5)
            && let Some(made) = near(at + 2)
            && (leads_there(made) || is_cut(code, at) && leads_there(made & 0xffff_ffff))
        {
            found.push(address.wrapping_add(at as u64));
        }
    }
    // `jmp *table(,%reg,8)`
    for at in memmem::find_iter(code, &[0xff, 0x24]) {
        if let Some([sib, rest @ ..]) = code.get(at + 2..)
            && sib & 0xc7 == 0xc5
            && let Some(named) = rest.first_chunk().map(|bytes| i32::from_le_bytes(*bytes))
            && (named_leads_there(i64::from(named).cast_unsigned())
                || is_cut(code, at) && named_leads_there(u64::from(named.cast_unsigned())))
        {
            found.push(address.wrapping_add(at as u64));
        }
    }
    found
}

/// Where 32 bits stand that, as a distance from behind them, may lead into a range
/// of addresses: the low halves are compared.
///
/// Few do, in a large file. So many places are compared at once, without a branch
/// for each, which the compiler makes vector instructions of.
fn distances_into<'c>(
    code: &'c [u8],
    address: u64,
    range: &Range<u64>,
) -> impl Iterator<Item = usize> + 'c {
    let (start, length) = (range.start, range.end - range.start);
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    let blocks = (0..code.len()).step_by(4 * AT_ONCE).flat_map(|block| block..block + 4);
    blocks.flat_map(move |first| {
        let words = code.get(first..).unwrap_or_default().as_chunks::<4>().0;
        let words = &words[..words.len().min(AT_ONCE)];
        let behind = address.wrapping_add(first as u64 + 4).wrapping_sub(start) as u32;
        let leads_there = move |i: usize| {
            let distance = u32::from_le_bytes(words[i]);
            behind.wrapping_add(4 * i as u32).wrapping_add(distance) <= length
        };
        let any = (0..words.len()).fold(false, |any, i| any | leads_there(i));
        let looked_at = if any { 0..words.len() } else { 0..0 };
        looked_at.filter(move |i| leads_there(*i)).map(move |i| first + 4 * i)
    })
}

/// Whether the opcode at an offset may have the prefix that cuts addresses.
fn is_cut(code: &[u8], at: usize) -> bool {
    code[at.saturating_sub(PREFIXES)..at].contains(&ADDRESS_SIZE)
}

/// `jmp`, `jcc`, `loop` and `jrcxz` of two bytes, around each range.
fn short_jumps(code: &[u8], address: u64, into: &[Range<u64>]) -> Vec<u64> {
    let mut found = Vec::new();
    for range in into {
        let before = range.start.saturating_sub(SHORT_REACH)..range.start;
        let behind = range.end..range.end.saturating_add(SHORT_REACH);
        for at in before.chain(behind) {
            let offset = at.checked_sub(address).and_then(|offset| usize::try_from(offset).ok());
            let Some([opcode, distance, ..]) = offset.and_then(|offset| code.get(offset..)) else {
                continue;
            };
            let target = at.wrapping_add(2).wrapping_add_signed(i64::from(distance.cast_signed()));
            if matches!(opcode, 0xeb | 0x70..=0x7f | 0xe0..=0xe3) && range.contains(&target) {
                found.push(at);
            }
        }
    }
    found
}

/// Jump tables as [`super::tables`] reads them, without the functions that they
/// belong to: they may seem longer than they are.
struct Tables<'s> {
    source: &'s dyn CodeSource,
    is_hit: &'s dyn Fn(u64) -> bool,
    /// Those that were read further than the first entry.
    known: HashMap<Table, bool>,
    /// What may still be read of such.
    entries_left: usize,
}

impl Tables<'_> {
    /// Whether an entry of a table leads into the ranges, or may: one that goes on
    /// for very long may do so further behind.
    fn lead_there(&mut self, table: Table) -> bool {
        // Most of what an address is made of is no table.
        match self.leads_there(table, 0) {
            Some(answer) => answer,
            None => match self.known.get(&table) {
                Some(answer) => *answer,
                None => {
                    let answer = self.read(table);
                    self.known.insert(table, answer);
                    answer
                }
            },
        }
    }

    fn read(&mut self, table: Table) -> bool {
        for i in 1..MAX_ELSEWHERE {
            let Some(left) = self.entries_left.checked_sub(1) else { return true };
            self.entries_left = left;
            if let Some(answer) = self.leads_there(table, i) {
                return answer;
            }
        }
        true
    }

    /// Whether a table leads into the ranges, as far as one entry tells.
    fn leads_there(&self, table: Table, entry: usize) -> Option<bool> {
        match table.entry(self.source, entry) {
            Some(target) if (self.is_hit)(target) => Some(true),
            Some(target) if self.source.code(target).is_some() => None,
            _ => Some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, path::Path};

    use super::*;
    use crate::image::{
        Elf,
        code::{
            flow,
            instruction::{Control, Effect, Instruction},
        },
        unwind::FunctionRanges,
    };

    /// What decoding finds in the whole of this program, its bytes tell too.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn nothing_that_decoding_finds_is_missed() {
        let elf = Elf::open(Path::new("/proc/self/exe")).expect("this program can be read");
        let ranges = FunctionRanges::read(&elf);
        let into: Vec<Range<u64>> = ranges.iter().step_by(11).cloned().collect();
        let distances = i64::MIN..i64::MAX;
        let (mut jumped, mut changed) = (Vec::new(), Vec::new());
        for (address, code) in elf.executable() {
            jumped.extend(jumps(&elf, code, address, &into));
            changed.extend(changes(code, &distances).into_iter().map(|at| address + at));
        }
        jumped.sort_unstable();
        changed.sort_unstable();
        let is_in = |found: &[u64], instruction: &Instruction| {
            let first = found.partition_point(|at| *at < instruction.address);
            found.get(first).is_some_and(|at| *at < instruction.end())
        };
        let leads_there = |target: u64| crate::image::jumps::containing(&into, target).is_some();
        let mut seen_tables = 0;
        for range in ranges.iter() {
            let Ok(instructions) = flow::decode(&elf, range) else { continue };
            for instruction in &instructions {
                let jump = instruction.jump_target().filter(|target| !range.contains(target));
                if jump.is_some_and(leads_there) {
                    assert!(is_in(&jumped, instruction), "{instruction:x?}");
                }
                let change = matches!(instruction.effect, Effect::Change { displacement, atomic, .. }
                    if atomic && distances.contains(&displacement));
                if change {
                    assert!(is_in(&changed, instruction), "{instruction:x?}");
                }
            }
            if !instructions.iter().any(|i| matches!(i.control, Control::JumpThrough(_))) {
                continue;
            }
            let targets = tables::read(&elf, &instructions).targets;
            // Pointers to functions look like a table too.
            let within = |t: u64| leads_there(t) && !ranges.is_entry(t);
            if targets.into_iter().any(|t| !range.contains(&t) && within(t)) {
                seen_tables += 1;
                let first = jumped.partition_point(|at| *at < range.start);
                assert!(jumped.get(first).is_some_and(|at| *at < range.end), "{range:x?}");
            }
        }
        assert!(seen_tables > 0, "a program of this size has switches");
    }

    /// Bytes that are code and constants at once, and how often a constant was read.
    struct Bytes(Vec<u8>, Cell<usize>);
    impl CodeSource for Bytes {
        fn processor(&self) -> &'static dyn crate::image::code::processor::Processor {
            &super::super::X86_64
        }
        fn code(&self, address: u64) -> Option<&[u8]> {
            self.0.get(usize::try_from(address.checked_sub(0x1000)?).ok()?..)
        }
        fn constant(&self, address: u64, width: usize) -> Option<u64> {
            self.1.set(self.1.get() + 1);
            let bytes = self.code(address)?.get(..width)?;
            Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
        }
        fn import_at(&self, _: u64) -> Option<&str> {
            None
        }
    }

    #[test]
    fn jumps_and_tables_are_found_by_their_bytes() {
        // 1000: jmp 1020 / 1005: jne 1020 / 100b: lea 1018(%rip),%rdx / 1012: jmp *%rax /
        // 1018: the table: 1022 / 101e: jmp 1020 / 1020: ret / 1022: ret
        let code: &[u8] = &[
            0xe9, 0x1b, 0, 0, 0, 0x0f, 0x85, 0x15, 0, 0, 0, 0x48, 0x8d, 0x15, 0x06, 0, 0, 0, 0xff,
            0xe0, 0x90, 0x90, 0x90, 0x90, 0x0a, 0, 0, 0, 0x90, 0x90, 0xeb, 0x00, 0xc3, 0x90, 0xc3,
        ];
        let source = Bytes(code.to_vec(), Cell::default());
        let into = |range: Range<u64>| jumps(&source, code, 0x1000, &[range]);
        let mut found = into(0x1020..0x1023);
        found.sort_unstable();
        assert_eq!(found, [0x1000, 0x1005, 0x100c, 0x101e]);
        assert!(into(0x1030..0x1040).is_empty());
    }

    /// So many `lea 1000+table(%rip),%rdx`, each a table of its own or all one, and
    /// 2048 distances of 0 behind them, which lead from each table to itself.
    fn looked_at(count: usize, apart: bool) -> (usize, usize) {
        let mut code = Vec::new();
        for i in 0..count {
            let table = 7 * count + if apart { 4 * (i % 1024) } else { 0 };
            code.extend([0x48, 0x8d, 0x15]);
            code.extend(((table - 7 * (i + 1)) as u32).to_le_bytes());
        }
        code.resize(code.len() + 8192, 0);
        let source = Bytes(code.clone(), Cell::default());
        let into = 0x10_0000..0x10_0010;
        let found = jumps(&source, &code, 0x1000, std::slice::from_ref(&into));
        (found.len(), source.1.get())
    }

    #[test]
    fn a_table_is_read_once_whoever_names_it() {
        let (_, reads) = looked_at(40_000, false);
        assert!(reads < 40_000 * 4, "{reads}");
    }

    #[test]
    fn what_is_too_much_to_read_is_taken_for_a_hit() {
        let (found, reads) = looked_at(40_000, true);
        assert!(found == 40_000 && reads < 2 * MAX_ENTRIES, "{found} {reads}");
    }

    #[test]
    fn changes_are_found_by_their_bytes() {
        let forms: [&[u8]; 6] = [
            // lock addl $1,0x8c(%rax)
            &[0xf0, 0x83, 0x80, 0x8c, 0, 0, 0, 1],
            // lock incl 0x90(%r14)
            &[0xf0, 0x41, 0xff, 0x86, 0x90, 0, 0, 0],
            // lock subl $1,0x78(%r12)
            &[0xf0, 0x41, 0x83, 0x6c, 0x24, 0x78, 1],
            // lock addl $1,0x7c(%rdi), with an immediate of four bytes
            &[0xf0, 0x81, 0x47, 0x7c, 1, 0, 0, 0],
            // lock decl 0x84(%rcx)
            &[0xf0, 0xff, 0x89, 0x84, 0, 0, 0],
            // xrelease lock decl %ds:0x84(%rcx)
            &[0xf0, 0xf3, 0x3e, 0xff, 0x89, 0x84, 0, 0, 0],
        ];
        for form in forms {
            assert_eq!(changes(form, &(0x78..0xa4)), [0], "{form:x?}");
            assert!(changes(form, &(0xa4..0xa8)).is_empty(), "{form:x?}");
            assert!(changes(&form[1..], &(0x78..0xa4)).is_empty(), "{form:x?} is not locked");
        }
    }

    #[test]
    fn distances_are_found_wherever_they_stand() {
        // One leads to 5000, and no other that stands there does.
        let found = |code: &[u8], range| Vec::from_iter(distances_into(code, 0x1000, &range));
        for (length, at) in [(4, 0), (5, 1), (263, 259), (600, 255), (600, 256), (600, 596)] {
            let mut code = vec![0xcc; length];
            code[at..at + 4].copy_from_slice(&(0x4000 - at as i32 - 4).to_le_bytes());
            assert_eq!(found(&code, 0x5000..0x5001), [at], "{length}");
            assert!(found(&code, 0x5001..0x5002).is_empty());
        }
        assert!(found(&[0; 3], 0..u64::MAX).is_empty());
        assert_eq!(found(&[0; 5], 0..u64::MAX), [0, 1]);
    }
}
