//! What a file is by its content, whatever it is called: OpenSSL may be linked
//! statically into an executable or into another library.
//!
//! Every file that a process executes is looked at, once, so a look must cost
//! little: of most files it reads the section headers, the names in `.dynsym`,
//! and the constants for a text in them, and never the code.

use std::{
    cell::OnceCell,
    fs::File,
    io::{Read as _, Seek as _},
};

use memchr::memmem;
use object::{
    LittleEndian, elf,
    read::{
        ReadCache,
        elf::{FileHeader, SectionHeader as _, SectionTable, Sym as _},
    },
};

use crate::image::stripped;

/// No file has longer symbol tables, or more constants; one that says so is not believed.
const MAX_TABLE_BYTES: u64 = 256 << 20;

/// Functions that every libssl defines, OpenSSL's and its relatives'.
const OF_LIBSSL: [&str; 2] = ["SSL_CTX_new", "SSL_CTX_free"];

/// The function of libcrypto that counts the items of a hash (`crypto/lhash`,
/// since 1.1.0).
const OF_LIBCRYPTO: &str = "OPENSSL_LH_num_items";

/// What a file defines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recognised {
    /// A libssl.
    pub libssl: bool,
    /// The part of libcrypto on which the number of sessions depends.
    pub libcrypto: bool,
}

/// Looks at an open regular file. What is no ELF file, is damaged, or is for a
/// big-endian processor, is nothing that is known.
#[must_use]
pub fn recognise(file: &File) -> Recognised {
    match class(file) {
        Some(elf::ELFCLASS64) => by_symbols::<elf::FileHeader64<LittleEndian>>(file),
        // Nothing can be learnt of it, but it can be said what it is.
        Some(elf::ELFCLASS32) => by_symbols::<elf::FileHeader32<LittleEndian>>(file),
        _ => None,
    }
    .unwrap_or_default()
}

/// The class of an ELF file; of a file that is none, nothing else is read.
fn class(mut file: &File) -> Option<elf::FileClass> {
    let mut ident = [0; 5];
    file.rewind().ok()?;
    file.read_exact(&mut ident).ok()?;
    let [magic @ .., class] = ident;
    (magic == elf::ELFMAG).then_some(elf::FileClass(class))
}

fn by_symbols<H: FileHeader<Endian = LittleEndian>>(file: &File) -> Option<Recognised> {
    let data = &ReadCache::new(file);
    let header = H::parse(data).ok()?;
    let sections = header.sections(LittleEndian, data).ok()?;
    let symbols = Symbols::<H> { data, sections, dynamic: OnceCell::new(), all: OnceCell::new() };
    let named = OF_LIBSSL.into_iter().all(|name| symbols.define(name));
    Some(Recognised {
        libssl: named || symbols.is_suspected(),
        libcrypto: symbols.define(OF_LIBCRYPTO),
    })
}

type Data<'d> = &'d ReadCache<&'d File>;

/// The symbol tables of a file, each read when it is needed.
struct Symbols<'d, H: FileHeader> {
    data: Data<'d>,
    sections: SectionTable<'d, H, Data<'d>>,
    dynamic: OnceCell<Option<Table<'d, H>>>,
    all: OnceCell<Option<Table<'d, H>>>,
}

/// One symbol table.
struct Table<'d, H: FileHeader> {
    symbols: &'d [H::Sym],
    strings: &'d [u8],
}

impl<'d, H: FileHeader<Endian = LittleEndian>> Symbols<'d, H> {
    /// Whether the file defines a function. What it imports it does not define,
    /// so `.symtab` is read for what `.dynsym` does not mention.
    fn define(&self, name: &str) -> bool {
        [(&self.dynamic, elf::SHT_DYNSYM), (&self.all, elf::SHT_SYMTAB)]
            .into_iter()
            .find_map(|(table, kind)| {
                table.get_or_init(|| self.table(kind)).as_ref()?.defines(name)
            })
            .unwrap_or(false)
    }

    /// Whether the file may have a libssl in it that it does not name: by a text
    /// among its constants. Only learning it tells.
    fn is_suspected(&self) -> bool {
        let endian = LittleEndian;
        let constants =
            self.sections.section_by_name(endian, b".rodata").map(|(_, section)| section);
        constants
            .filter(|section| section.sh_size(endian).into() <= MAX_TABLE_BYTES)
            .and_then(|section| section.data(endian, self.data).ok())
            .is_some_and(stripped::names_a_source_file)
    }

    fn table(&self, kind: elf::SectionType) -> Option<Table<'d, H>> {
        let endian = LittleEndian;
        let section = self.sections.iter().find(|section| section.sh_type(endian) == kind)?;
        let strings = self.sections.section(section.link(endian)).ok()?;
        let small = |section: &H::SectionHeader| section.sh_size(endian).into() <= MAX_TABLE_BYTES;
        if !small(section) || !small(strings) {
            return None;
        }
        let strings = strings.data(endian, self.data).ok()?;
        // The symbols themselves matter only if one can have such a name.
        let named = OF_LIBSSL.into_iter().chain([OF_LIBCRYPTO]);
        let symbols = if named.into_iter().any(|name| offsets(strings, name).next().is_some()) {
            section.data_as_array(endian, self.data).ok()?
        } else {
            &[]
        };
        Some(Table { symbols, strings })
    }
}

impl<H: FileHeader<Endian = LittleEndian>> Table<'_, H> {
    /// Whether a function of this name is defined; `None` if it is not mentioned.
    fn defines(&self, name: &str) -> Option<bool> {
        let offsets: Vec<u32> = offsets(self.strings, name).collect();
        let named = |symbol: &&H::Sym| offsets.contains(&symbol.st_name(LittleEndian));
        let defined = |symbol: &H::Sym| {
            symbol.st_type() == elf::STT_FUNC && !symbol.is_undefined(LittleEndian)
        };
        self.symbols.iter().filter(named).map(defined).reduce(|one, other| one || other)
    }
}

/// Where a name can begin in a table of strings: it may be the end of a longer
/// one there.
fn offsets<'s>(strings: &'s [u8], name: &'s str) -> impl Iterator<Item = u32> + 's {
    memmem::find_iter(strings, name.as_bytes())
        .filter(move |at| strings.get(at + name.len()) == Some(&0))
        .filter_map(|at| u32::try_from(at).ok())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// What an ELF file with these symbols is: no code, one table of symbols.
    struct Sample {
        class: elf::FileClass,
        table: elf::SectionType,
        names: &'static [u8],
        /// Where each name begins, and whether it is defined.
        symbols: &'static [(u32, bool)],
    }

    impl Sample {
        fn recognised(&self) -> Recognised {
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(&self.bytes()).expect("it can be written");
            recognise(&file)
        }

        fn wide(&self) -> bool {
            self.class == elf::ELFCLASS64
        }

        /// A number as wide as an address.
        fn word(&self, value: u64) -> Vec<u8> {
            let bytes = value.to_le_bytes();
            bytes[..if self.wide() { 8 } else { 4 }].to_vec()
        }

        fn bytes(&self) -> Vec<u8> {
            let header_size = if self.wide() { 64 } else { 52 };
            let symbols: Vec<u8> = self.symbols.iter().flat_map(|s| self.symbol(*s)).collect();
            let strings_at = header_size + symbols.len();
            let sections_at = (strings_at + self.names.len()).next_multiple_of(8);
            let section_size: u16 = if self.wide() { 64 } else { 40 };
            let mut file = b"\x7fELF".to_vec();
            file.extend([self.class.0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            file.extend([3, 0, 62, 0, 1, 0, 0, 0]);
            file.extend([self.word(0), self.word(0), self.word(sections_at as u64)].concat());
            file.extend([0; 4]);
            for half in [header_size as u16, 0, 0, section_size, 3, 2] {
                file.extend(half.to_le_bytes());
            }
            file.extend(symbols);
            file.extend(self.names);
            file.resize(sections_at, 0);
            let symbols_size = (strings_at - header_size) as u64;
            file.extend(self.section(elf::SectionType(0), 0, 0, 0));
            file.extend(self.section(self.table, header_size as u64, symbols_size, 2));
            let strings = self.names.len() as u64;
            file.extend(self.section(elf::SHT_STRTAB, strings_at as u64, strings, 0));
            file
        }

        fn symbol(&self, (name, defined): (u32, bool)) -> Vec<u8> {
            let info = [0x12, 0, u8::from(defined), 0];
            let name = name.to_le_bytes();
            if self.wide() {
                [&name[..], &info, &[0; 16]].concat()
            } else {
                [&name[..], &[0; 8], &info].concat()
            }
        }

        fn section(&self, kind: elf::SectionType, at: u64, size: u64, link: u32) -> Vec<u8> {
            let [at, size, zero] = [at, size, 0].map(|value| self.word(value));
            let kind = kind.0.to_le_bytes();
            let link = link.to_le_bytes();
            [&[0; 4][..], &kind, &zero, &zero, &at, &size, &link, &[0; 4], &zero, &zero].concat()
        }
    }

    const NAMES: &[u8] = b"\0SSL_CTX_new\0my_SSL_CTX_free\0OPENSSL_LH_num_items\0";
    const NEW: u32 = 1;
    /// The end of another name.
    const FREE: u32 = 16;
    const NUM_ITEMS: u32 = 29;

    const LIBSSL: Sample = Sample {
        class: elf::ELFCLASS64,
        table: elf::SHT_DYNSYM,
        names: NAMES,
        symbols: &[(NEW, true), (FREE, true), (NUM_ITEMS, false)],
    };

    #[test]
    fn a_libssl_imports_from_its_libcrypto() {
        let is = Recognised { libssl: true, libcrypto: false };
        assert_eq!(LIBSSL.recognised(), is);
        assert_eq!(Sample { class: elf::ELFCLASS32, ..LIBSSL }.recognised(), is);
    }

    #[test]
    fn openssl_can_be_static_and_not_exported() {
        let symbols = &[(NEW, true), (FREE, true), (NUM_ITEMS, true)];
        let linked = Sample { table: elf::SHT_SYMTAB, symbols, ..LIBSSL };
        assert_eq!(linked.recognised(), Recognised { libssl: true, libcrypto: true });
    }

    #[test]
    fn a_program_that_uses_a_libssl_is_none() {
        let symbols = &[(NEW, false), (FREE, false)];
        assert_eq!(Sample { symbols, ..LIBSSL }.recognised(), Recognised::default());
        // One that has only half of it, and one with a name that ends like it.
        let symbols = &[(NEW, true), (FREE - 3, true)];
        assert_eq!(Sample { symbols, ..LIBSSL }.recognised(), Recognised::default());
    }

    #[test]
    fn damage_is_nothing_that_is_known() {
        let whole = LIBSSL.bytes();
        for length in 0..whole.len() {
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(&whole[..length]).expect("it can be written");
            assert_eq!(recognise(&file), Recognised::default(), "{length} bytes");
        }
    }
}
