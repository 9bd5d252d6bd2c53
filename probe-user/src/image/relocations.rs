//! What the dynamic linker writes into a file's memory before the program runs,
//! and whether that stays there.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
};

use object::{
    Object as _, ObjectSymbol as _, ObjectSymbolTable as _, RelocationFlags, RelocationTarget, elf,
    read::elf::{FileHeader as _, ProgramHeader as _},
};

use super::elf::File64;

/// Bytes of a word that the dynamic linker writes.
const WORD: u64 = 8;

/// A function, or other symbol, whose address is written somewhere.
#[derive(Clone)]
struct Import {
    name: String,
    /// Whether nothing else is ever written there.
    stays: bool,
}

/// The dynamic relocations of one file.
#[derive(Clone, Default)]
pub(super) struct Relocations {
    imports: HashMap<u64, Import>,
    /// What stays, of what is written that lies in the file itself.
    pointers: HashMap<u64, u64>,
    /// Where segments that are never written otherwise are written.
    of_constants: BTreeSet<u64>,
}

/// What a relocation writes, as far as learning needs it. The numbers are
/// those of the System V ABI's supplements for x86-64 (table 4.9) and of the ELF
/// for the Arm 64-bit architecture (section 5.7.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The address of a symbol, in the table that only the linkers write. It is
    /// written when the file is loaded, or when the function is first called.
    Linkage,
    /// The address of a symbol, in the program's own data.
    Symbol,
    /// An address of the file itself.
    Relative,
    /// Something else: what a function answers, an offset in a thread's memory.
    Other,
}

fn kind(machine: elf::Machine, flags: RelocationFlags) -> Kind {
    let RelocationFlags::Elf { r_type } = flags else { return Kind::Other };
    match (machine, r_type) {
        (elf::EM_X86_64, elf::R_X86_64_GLOB_DAT | elf::R_X86_64_JUMP_SLOT)
        | (elf::EM_AARCH64, elf::R_AARCH64_GLOB_DAT | elf::R_AARCH64_JUMP_SLOT) => Kind::Linkage,
        (elf::EM_X86_64, elf::R_X86_64_64) | (elf::EM_AARCH64, elf::R_AARCH64_ABS64) => {
            Kind::Symbol
        }
        (elf::EM_X86_64, elf::R_X86_64_RELATIVE) | (elf::EM_AARCH64, elf::R_AARCH64_RELATIVE) => {
            Kind::Relative
        }
        _ => Kind::Other,
    }
}

impl Relocations {
    pub(super) fn read(file: &File64<'_>) -> Self {
        let endian = file.endian();
        let machine = file.elf_header().e_machine(endian);
        let memory = Memory::of(file);
        let symbols = file.dynamic_symbol_table();
        let mut read = Self::default();
        for (address, relocation) in file.dynamic_relocations().into_iter().flatten() {
            if memory.is_constant(address) {
                read.of_constants.insert(address);
            }
            let kind = kind(machine, relocation.flags());
            let stays = memory.is_constant(address) || memory.becomes_constant(address);
            match relocation.target() {
                RelocationTarget::Symbol(index) => {
                    let name = symbols
                        .as_ref()
                        .and_then(|table| table.symbol_by_index(index).ok())
                        .and_then(|symbol| symbol.name().ok());
                    let Some(name) = name else { continue };
                    let stays = relocation.addend() == 0
                        && (kind == Kind::Linkage || kind == Kind::Symbol && stays);
                    read.imports.insert(address, Import { name: name.to_owned(), stays });
                }
                RelocationTarget::Absolute if kind == Kind::Relative && stays => {
                    read.pointers.insert(address, relocation.addend() as u64);
                }
                _ => {}
            }
        }
        read
    }

    /// The name of the function whose address is written at an address, and stays.
    pub(super) fn import_at(&self, address: u64) -> Option<&str> {
        self.imports.get(&address).filter(|import| import.stays).map(|import| import.name.as_str())
    }

    /// Whether the address of this function is written anywhere.
    pub(super) fn imports(&self, name: &str) -> bool {
        self.imports.values().any(|import| import.name == name)
    }

    /// The address of the file itself that is written at an address, and stays.
    pub(super) fn pointer_at(&self, address: u64) -> Option<u64> {
        self.pointers.get(&address).copied()
    }

    /// Whether these bytes of a segment that is not writable are not those of
    /// the file (`DT_TEXTREL`).
    pub(super) fn change_constant(&self, address: u64, width: usize) -> bool {
        let from = address.saturating_sub(WORD - 1);
        self.of_constants.range(from..address.saturating_add(width as u64)).next().is_some()
    }
}

/// Which memory the running program can write.
struct Memory {
    loaded: Vec<(Range<u64>, bool)>,
    /// `PT_GNU_RELRO`: what cannot be written any more once the dynamic linker
    /// is done with the file.
    becoming_constant: Vec<Range<u64>>,
}

impl Memory {
    fn of(file: &File64<'_>) -> Self {
        let endian = file.endian();
        let mut memory = Self { loaded: Vec::new(), becoming_constant: Vec::new() };
        for header in file.elf_program_headers() {
            let start = header.p_vaddr(endian);
            let range = start..start.saturating_add(header.p_memsz(endian));
            match header.p_type(endian) {
                elf::PT_LOAD => {
                    memory.loaded.push((range, header.p_flags(endian).contains(elf::PF_W)));
                }
                elf::PT_GNU_RELRO => memory.becoming_constant.push(range),
                _ => {}
            }
        }
        memory
    }

    fn is_constant(&self, address: u64) -> bool {
        let found = self.loaded.iter().find(|(range, _)| holds_word(range, address));
        found.is_some_and(|(_, writable)| !writable)
    }

    fn becomes_constant(&self, address: u64) -> bool {
        self.becoming_constant.iter().any(|range| holds_word(range, address))
    }
}

fn holds_word(range: &Range<u64>, address: u64) -> bool {
    range.contains(&address) && range.end - address >= WORD
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use crate::image::elf::Elf;

    /// Pointers that the dynamic linker fills in, each in a way of its own.
    const SOURCE: &str = r#"
        int other(void);
        static int own(void) { return 2; }
        static int (*choose(void))(void) { return own; }
        __attribute__((ifunc("choose"), visibility("hidden"))) int chosen(void);
        static __thread int of_thread = 3;
        static int use(void) { return other() + chosen() + ++of_thread; }

        int (*to_own)(void) = own;
        int (*const const_to_own)(void) = own;
        int (*to_other)(void) = other;
        int (*const const_to_other)(void) = other;
        int (*const const_past_other)(void) = (int (*)(void))((char *)other + 4);
        int (*to_use)(void) = use;
        __asm__(".section .rodata; .globl in_text; in_text: .quad own; .text");
    "#;

    struct Library {
        elf: Elf,
        symbols: String,
        relocations: String,
    }

    /// Builds it for the machine that the test runs on.
    fn library(binding: &str) -> Library {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        fs::write(path.join("library.c"), SOURCE).expect("its source");
        let run = |script: &str| {
            let output = Command::new("sh").args(["-ec", script]).current_dir(path).output();
            let output = output.expect("sh runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).expect("it prints text")
        };
        run(&format!("cc -O1 -fPIC -shared library.c -o l.so -Wl,-z,relro,-z,notext,-z,{binding}"));
        Library {
            elf: Elf::open(&path.join("l.so")).expect("it is an ELF file"),
            symbols: run("nm l.so"),
            relocations: run("readelf -rW l.so"),
        }
    }

    impl Library {
        fn symbol(&self, name: &str) -> u64 {
            let mut lines = self.symbols.lines().filter_map(|line| line.rsplit_once(' '));
            let (line, _) = lines.find(|(_, one)| *one == name).expect("it is in the table");
            u64::from_str_radix(line.split(' ').next().unwrap_or(""), 16).expect("its address")
        }

        /// Where there are relocations of a type, whose names are cut in the list.
        fn relocated(&self, kind: &str) -> Vec<u64> {
            let of_kind = self.relocations.lines().filter(|line| line.contains(kind));
            let addresses = of_kind.filter_map(|line| line.split_whitespace().next());
            let found: Vec<_> =
                addresses.map(|text| u64::from_str_radix(text, 16).expect("an address")).collect();
            assert!(!found.is_empty(), "there is a {kind}");
            found
        }
    }

    #[test]
    fn what_the_program_can_write_is_not_known() {
        let library = library("lazy");
        let (elf, at) = (&library.elf, |name| library.symbol(name));
        assert_eq!(elf.constant(at("const_to_own"), 8), Some(at("own")));
        assert_eq!(elf.constant(at("to_own"), 8), None);
        assert_eq!(elf.import_at(at("const_to_other")), Some("other"));
        assert_eq!(elf.import_at(at("to_other")), None);
        assert!(elf.imports("other"));
    }

    #[test]
    fn an_address_inside_of_a_function_is_not_the_function() {
        let library = library("lazy");
        assert_eq!(library.elf.import_at(library.symbol("const_past_other")), None);
    }

    #[test]
    fn only_addresses_are_pointers() {
        for binding in ["now", "lazy"] {
            let library = library(binding);
            for kind in ["_IRELATIV", "_DTPMOD"] {
                for at in library.relocated(kind) {
                    assert_eq!(library.elf.constant(at, 8), None, "{kind}");
                    assert_eq!(library.elf.import_at(at), None, "{kind}");
                }
            }
            let names = library.relocated("_JUMP_SLO").into_iter();
            let names: Vec<_> = names.map(|at| library.elf.import_at(at)).collect();
            assert!(names.contains(&Some("other")), "{binding}: {names:?}");
        }
    }

    #[test]
    fn what_is_relocated_is_not_as_it_is_in_the_file() {
        let library = library("now");
        let at = library.symbol("in_text");
        assert_eq!(library.elf.constant(at, 8), Some(library.symbol("own")));
        assert_eq!(library.elf.constant(at, 4), None);
        assert_eq!(library.elf.constant(at + 4, 4), None);
    }
}
