//! Pointers into code that stand in a file: to functions, and to labels inside
//! of them, which C has as `&&label` (gcc's "labels as values").
//!
//! A jump through such a pointer looks like a call of a method.

use std::ops::Range;

use object::{
    Object as _, ObjectSymbol as _, ObjectSymbolTable as _, RelocationTarget, elf,
    read::elf::{ElfFile64, FileHeader as _, ProgramHeader as _, SectionHeader as _},
};

use super::elf::Elf;

/// Bytes of a pointer, and of what it is aligned to.
const POINTER: usize = 8;

/// A pointer in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// Where it leads.
    pub target: u64,
    /// Where it stands.
    pub cell: u64,
}

/// All pointers of a file that lead into code: too many, but never too few.
///
/// In a file that can be mapped anywhere, the dynamic linker makes them all. In
/// an executable that cannot, they are words like any other.
#[derive(Clone, Debug, Default)]
pub struct Pointers(Vec<Pointer>);

impl Pointers {
    /// Reads the whole of a file.
    #[must_use]
    pub fn read(elf: &Elf) -> Self {
        let start = elf.executable_memory().map(|memory| memory.start).min();
        let end = elf.executable_memory().map(|memory| memory.end).max();
        // It was parsed before, so that it can be parsed again.
        let (Some(start), Some(end), Ok(file)) = (start, end, File64::parse(elf.data())) else {
            return Self::default();
        };
        let code = start..end;
        let mut pointers = made_by_the_linker(&file, &code);
        if file.elf_header().e_type(file.endian()) == elf::ET_EXEC {
            pointers.extend(words(&file, &code));
        }
        Self(pointers)
    }

    /// Those that lead into a piece of memory.
    pub fn leading_into(&self, piece: Range<u64>) -> impl Iterator<Item = Pointer> {
        self.0.iter().filter(move |pointer| piece.contains(&pointer.target)).copied()
    }
}

type File64<'d> = ElfFile64<'d, object::LittleEndian>;

/// What relocations make, with and without a symbol, and those that say no more
/// than where they are (`DT_RELR`).
fn made_by_the_linker(file: &File64<'_>, code: &Range<u64>) -> Vec<Pointer> {
    let symbols = file.dynamic_symbol_table();
    let relocations = file.dynamic_relocations().into_iter().flatten();
    let mut pointers: Vec<Pointer> = relocations
        .filter_map(|(cell, relocation)| {
            let from = match relocation.target() {
                RelocationTarget::Absolute => 0,
                RelocationTarget::Symbol(index) => {
                    symbols.as_ref()?.symbol_by_index(index).ok()?.address()
                }
                _ => return None,
            };
            let target = from.wrapping_add_signed(relocation.addend());
            code.contains(&target).then_some(Pointer { target, cell })
        })
        .collect();
    let endian = file.endian();
    for section in file.elf_section_table().iter() {
        for cell in section.relr(endian, file.data()).ok().flatten().into_iter().flatten() {
            let target = word_at(file, cell).filter(|target| code.contains(target));
            pointers.extend(target.map(|target| Pointer { target, cell }));
        }
    }
    pointers
}

fn word_at(file: &File64<'_>, address: u64) -> Option<u64> {
    loaded(file).find_map(|(_, start, bytes)| {
        let at = usize::try_from(address.checked_sub(start)?).ok()?;
        Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
    })
}

/// Words of all that is loaded. Constants stand among the code only where the
/// linker made no segment for them.
fn words(file: &File64<'_>, code: &Range<u64>) -> Vec<Pointer> {
    let is_code = |flags: elf::ProgramFlags| flags.contains(elf::PF_X);
    let has_constants =
        loaded(file).any(|(flags, ..)| !is_code(flags) && !flags.contains(elf::PF_W));
    let looked_at = loaded(file).filter(|(flags, ..)| !has_constants || !is_code(*flags));
    let (length, mut found) = (code.end.saturating_sub(code.start), Vec::new());
    for (_, start, bytes) in looked_at {
        let skipped = start.wrapping_neg() % POINTER as u64;
        let words = bytes.get(skipped as usize..).unwrap_or_default().as_chunks::<POINTER>().0;
        let first = start.wrapping_add(skipped);
        for (i, word) in words.iter().enumerate() {
            let target = u64::from_le_bytes(*word);
            if target.wrapping_sub(code.start) < length {
                found.push(Pointer { target, cell: first.wrapping_add((i * POINTER) as u64) });
            }
        }
    }
    found
}

/// What is loaded of a file: how, where, and its bytes.
fn loaded<'d>(file: &File64<'d>) -> impl Iterator<Item = (elf::ProgramFlags, u64, &'d [u8])> {
    let (endian, data) = (file.endian(), file.data());
    let loaded = file.elf_program_headers().iter();
    let loaded = loaded.filter(move |header| header.p_type(endian) == elf::PT_LOAD);
    loaded.filter_map(move |header| {
        let bytes = header.data(endian, data).ok()?;
        Some((header.p_flags(endian), header.p_vaddr(endian), bytes))
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn one() {}
    fn other() {}

    static FUNCTIONS: [fn(); 2] = [one, other];

    /// This program can be mapped anywhere, so that the dynamic linker makes them.
    #[test]
    fn pointers_of_this_program_are_found() {
        let elf = Elf::open(Path::new("/proc/self/exe")).expect("this program can be read");
        let all: Vec<Pointer> = Pointers::read(&elf).leading_into(0..u64::MAX).collect();
        for function in std::hint::black_box(&FUNCTIONS) {
            let cell = std::ptr::from_ref(function) as u64;
            let distance = cell.wrapping_sub(*function as usize as u64);
            let is_it = |p: &Pointer| p.cell.wrapping_sub(p.target) == distance;
            assert!(all.iter().any(is_it), "{distance:x}");
        }
    }
}
