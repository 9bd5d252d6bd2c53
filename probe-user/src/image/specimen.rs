//! A small library for tests: functions as bytes, with their names.

use super::elf::Elf;

/// Size of an ELF file's header, of a program header, of a section header, and
/// of a symbol.
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;
const SYMBOL: usize = 24;
/// Where the functions begin.
const CODE: usize = 0x1000;
/// From one function to the next.
const STRIDE: usize = 0x100;

/// A function: its name, its bytes, and where in these the distance to which
/// other function stands.
pub(super) type Specimen = (&'static str, Vec<u8>, Vec<(usize, &'static str)>);

/// A shared library for x86-64, mapped at 0, with these functions.
pub(super) fn library(functions: &[Specimen]) -> Elf {
    Elf::parse(bytes(functions)).expect("it is an ELF file")
}

/// The same as an executable that is mapped where it says, so that its pointers
/// are words like any other.
pub(super) fn executable(functions: &[Specimen]) -> Elf {
    let mut file = bytes(functions);
    // ET_EXEC.
    file[16] = 2;
    Elf::parse(file).expect("it is an ELF file")
}

fn bytes(functions: &[Specimen]) -> Vec<u8> {
    let mut code = Vec::new();
    let mut names = vec![0];
    let mut symbols = vec![0; SYMBOL];
    for (i, (name, body, distances)) in functions.iter().enumerate() {
        assert!(body.len() <= STRIDE, "{name} is too long");
        let mut body = body.clone();
        for (at, target) in distances {
            let target = functions.iter().position(|(name, ..)| name == target);
            let target = target.expect("a function of the library") * STRIDE;
            let distance = target as i64 - (i * STRIDE + at + 4) as i64;
            body[*at..at + 4].copy_from_slice(&(distance as i32).to_le_bytes());
        }
        let address = (CODE + i * STRIDE) as u64;
        symbols.extend_from_slice(&(names.len() as u32).to_le_bytes());
        // STB_GLOBAL, STT_FUNC; in section 1.
        symbols.extend_from_slice(&[0x12, 0, 1, 0]);
        symbols.extend_from_slice(&address.to_le_bytes());
        symbols.extend_from_slice(&(body.len() as u64).to_le_bytes());
        names.extend_from_slice(name.as_bytes());
        names.push(0);
        code.extend_from_slice(&body);
        code.resize((i + 1) * STRIDE, 0xcc);
    }
    let symbols_at = CODE + code.len();
    let names_at = symbols_at + symbols.len();
    let sections_at = (names_at + names.len()).next_multiple_of(8);
    let mut file = Vec::new();
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // ET_DYN, EM_X86_64.
    file.extend_from_slice(&[3, 0, 62, 0, 1, 0, 0, 0]);
    words(&mut file, &[0, HEADER as u64, sections_at as u64]);
    file.extend_from_slice(&[0; 4]);
    for half in [HEADER, PROGRAM_HEADER, 1, SECTION_HEADER, 4, 3] {
        file.extend_from_slice(&(half as u16).to_le_bytes());
    }
    // PT_LOAD, readable and executable: the whole file.
    file.extend_from_slice(&[1, 0, 0, 0, 5, 0, 0, 0]);
    words(&mut file, &[0, 0, 0, sections_at as u64, sections_at as u64, 0x1000]);
    file.resize(CODE, 0);
    file.extend_from_slice(&code);
    file.extend_from_slice(&symbols);
    file.extend_from_slice(&names);
    file.resize(sections_at, 0);
    section(&mut file, 0, 0, 0, [0; 4]);
    // SHT_PROGBITS, allocated and executable.
    section(&mut file, 1, 6, CODE, [code.len(), 0, 16, 0]);
    // SHT_SYMTAB, with the names in section 3.
    section(&mut file, 2, 0, symbols_at, [symbols.len(), 3, 8, SYMBOL]);
    // SHT_STRTAB.
    section(&mut file, 3, 0, names_at, [names.len(), 0, 1, 0]);
    file
}

fn section(file: &mut Vec<u8>, kind: u32, flags: u64, at: usize, rest: [usize; 4]) {
    let [size, link, alignment, entry] = rest;
    let address = if flags == 0 { 0 } else { at };
    file.extend_from_slice(&0_u32.to_le_bytes());
    file.extend_from_slice(&kind.to_le_bytes());
    words(file, &[flags, address as u64, at as u64, size as u64]);
    file.extend_from_slice(&(link as u32).to_le_bytes());
    // The first symbol that is not local.
    file.extend_from_slice(&1_u32.to_le_bytes());
    words(file, &[alignment as u64, entry as u64]);
}

fn words(file: &mut Vec<u8>, words: &[u64]) {
    for word in words {
        file.extend_from_slice(&word.to_le_bytes());
    }
}
