//! What a file is by its content, whatever it is called: OpenSSL may be linked
//! statically into an executable or into another library.
//!
//! Every file that a process executes is looked at, once, so a look must cost
//! little: of most files it reads the section headers and the names in
//! `.dynsym`, and never the code.

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

/// No file has longer symbol tables; one that says so is not believed.
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
    Some(Recognised {
        libssl: OF_LIBSSL.into_iter().all(|name| symbols.define(name)),
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
