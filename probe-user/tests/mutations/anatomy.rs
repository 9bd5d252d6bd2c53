//! Where in a file the things are that can be damaged.

use object::{
    Architecture, Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind, elf,
    read::elf::{ElfFile64, FileHeader as _, ProgramHeader as _},
};

/// Bytes of an entry of a symbol table, and of a relocation with an addend.
pub(crate) const ENTRY: usize = 24;

/// A program header of a segment that is loaded.
pub(crate) struct Load {
    /// Where the header itself is.
    pub(crate) header: usize,
    pub(crate) address: u64,
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

pub(crate) struct Section {
    pub(crate) name: String,
    /// Where its header is.
    pub(crate) header: usize,
    pub(crate) offset: usize,
    pub(crate) size: usize,
}

pub(crate) struct Symbol {
    pub(crate) name: String,
    /// Where its entry is.
    pub(crate) entry: usize,
    pub(crate) address: u64,
    pub(crate) size: u64,
}

pub(crate) struct Anatomy {
    pub(crate) data: Vec<u8>,
    pub(crate) architecture: Architecture,
    pub(crate) loads: Vec<Load>,
    pub(crate) sections: Vec<Section>,
    /// Functions, of both tables.
    pub(crate) symbols: Vec<Symbol>,
    /// Where each entry of the dynamic linker's relocations is.
    pub(crate) relocations: Vec<usize>,
}

impl Anatomy {
    pub(crate) fn of(data: Vec<u8>) -> Result<Self, String> {
        let text = |error: object::Error| error.to_string();
        let file = ElfFile64::<object::LittleEndian>::parse(data.as_slice()).map_err(text)?;
        let endian = file.endian();
        let header = file.elf_header();
        let headers = header.e_phoff(endian) as usize;
        let header_size = usize::from(header.e_phentsize(endian));
        let loads = (0..)
            .zip(file.elf_program_headers())
            .filter(|(_, load)| load.p_type(endian) == elf::PT_LOAD)
            .map(|(i, load): (usize, _)| Load {
                header: headers + i * header_size,
                address: load.p_vaddr(endian),
                offset: load.p_offset(endian),
                size: load.p_filesz(endian),
            })
            .collect();
        let section_headers = header.e_shoff(endian) as usize;
        let section_header_size = usize::from(header.e_shentsize(endian));
        let sections: Vec<Section> = file
            .sections()
            .filter_map(|section| {
                let (offset, size) = section.file_range()?;
                Some(Section {
                    name: section.name().ok()?.to_owned(),
                    header: section_headers + section.index().0 * section_header_size,
                    offset: offset as usize,
                    size: size as usize,
                })
            })
            .collect();
        let within = |name: &str| sections.iter().find(|section| section.name == name);
        let mut symbols = Vec::new();
        let (dynamic, all) = (within(".dynsym"), within(".symtab"));
        let mut add =
            |table: Option<&Section>,
             symbol: object::read::elf::ElfSymbol64<'_, '_, object::LittleEndian>| {
                let (Some(table), Ok(name)) = (table, symbol.name()) else { return };
                if symbol.kind() == SymbolKind::Text && symbol.address() != 0 && !name.is_empty() {
                    symbols.push(Symbol {
                        name: name.split('@').next().unwrap_or(name).to_owned(),
                        entry: table.offset + symbol.index().0 * ENTRY,
                        address: symbol.address(),
                        size: symbol.size(),
                    });
                }
            };
        file.dynamic_symbols().for_each(|symbol| add(dynamic, symbol));
        file.symbols().for_each(|symbol| add(all, symbol));
        let relocations = [".rela.dyn", ".rela.plt"]
            .into_iter()
            .filter_map(within)
            .flat_map(|table| (0..table.size / ENTRY).map(|i| table.offset + i * ENTRY))
            .collect();
        let architecture = file.architecture();
        Ok(Self { architecture, loads, sections, symbols, relocations, data })
    }

    /// Where in the file an address stands.
    pub(crate) fn offset(&self, address: u64) -> Option<usize> {
        let load = self
            .loads
            .iter()
            .find(|load| address >= load.address && address - load.address < load.size)?;
        Some((address - load.address + load.offset) as usize)
    }

    /// The file's bytes from an address on.
    pub(crate) fn bytes(&self, address: u64) -> Option<&[u8]> {
        self.data.get(self.offset(address)?..)
    }

    pub(crate) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    pub(crate) fn symbol(&self, name: &str) -> Option<&Symbol> {
        self.symbols.iter().find(|symbol| symbol.name == name)
    }

    pub(crate) fn word(&self, at: usize) -> Option<u64> {
        Some(u64::from_le_bytes(self.data.get(at..at + 8)?.try_into().ok()?))
    }
}
