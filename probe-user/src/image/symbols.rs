//! The function symbols of a file. Only what is asked for is compared: Node has
//! 150,000 of them, and a few dozen are of interest.

use object::{Object as _, ObjectSymbol as _, SymbolKind, read::elf::ElfFile64};

/// A function symbol that the file defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Address in the file's own address space.
    pub address: u64,
    /// Length in bytes, as the symbol table says; 0 if it does not.
    pub size: u64,
    /// Whether it is a symbol of one object file only (`static` in C): there can
    /// be other functions of that name.
    pub local: bool,
}

impl Symbol {
    /// Whether an address is inside of it.
    #[must_use]
    pub fn contains(&self, address: u64) -> bool {
        address.checked_sub(self.address).is_some_and(|distance| distance < self.size)
    }
}

/// All of them, in the order in which they win over others of the same name:
/// the dynamic symbols, which are what the linker binds to, then `.symtab`, where
/// the global ones win over those of one object file.
#[derive(Clone, Debug, Default)]
pub(super) struct Symbols {
    /// What is looked at first, with the symbol's place in that order; sorted.
    /// See [`fingerprint`].
    fingerprints: Vec<(u64, usize)>,
    addresses: Vec<u64>,
    rest: Vec<Rest>,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    size: u64,
    local: bool,
    /// Where the name stands in the file, without a version.
    name: u32,
    length: u32,
}

impl Symbols {
    /// Reads those of a file, whose bytes these are.
    pub(super) fn read(file: &ElfFile64<'_, object::LittleEndian>, data: &[u8]) -> Self {
        let mut symbols = Self::default();
        let global = file.symbols().filter(|symbol| !symbol.is_local());
        let local = file.symbols().filter(object::ObjectSymbol::is_local);
        for symbol in file.dynamic_symbols().chain(global).chain(local) {
            if symbol.kind() != SymbolKind::Text || symbol.is_undefined() || symbol.address() == 0 {
                continue;
            }
            let Ok(name) = symbol.name_bytes() else { continue };
            // GNU tools write `name@@VERSION` into .symtab.
            let length = memchr::memchr(b'@', name).unwrap_or(name.len());
            let name = &name[..length];
            // Where in the file, since the name is a piece of it.
            let at = (name.as_ptr() as usize).wrapping_sub(data.as_ptr() as usize);
            let (Ok(at), Ok(length)) = (u32::try_from(at), u32::try_from(length)) else {
                continue;
            };
            if length > 0 {
                symbols.fingerprints.push((fingerprint(name), symbols.rest.len()));
                symbols.addresses.push(symbol.address());
                symbols.rest.push(Rest {
                    size: symbol.size(),
                    local: symbol.is_local(),
                    name: at,
                    length,
                });
            }
        }
        symbols.fingerprints.sort_unstable();
        symbols
    }

    /// The first of a name; `data` is the file.
    pub(super) fn find(&self, data: &[u8], name: &str) -> Option<Symbol> {
        let wanted = fingerprint(name.as_bytes());
        let from = self.fingerprints.partition_point(|(fingerprint, _)| *fingerprint < wanted);
        let index = self.fingerprints[from..]
            .iter()
            .take_while(|(fingerprint, _)| *fingerprint == wanted)
            .map(|(_, index)| *index)
            .find(|index| self.name(data, *index) == Some(name))?;
        Some(self.symbol(index))
    }

    /// All of them, with their names; `data` is the file.
    pub(super) fn iter<'d>(&self, data: &'d [u8]) -> impl Iterator<Item = (&'d str, Symbol)> {
        (0..self.rest.len())
            .filter_map(move |index| Some((self.name(data, index)?, self.symbol(index))))
    }

    /// Those whose names end like this; `data` is the file.
    pub(super) fn ending_in<'d>(
        &self,
        data: &'d [u8],
        end: &'static str,
    ) -> impl Iterator<Item = (&'d str, Symbol)> {
        let ends = move |index: &usize| {
            self.name_bytes(data, *index).is_some_and(|name| name.ends_with(end.as_bytes()))
        };
        (0..self.rest.len())
            .filter(ends)
            .filter_map(move |index| Some((self.name(data, index)?, self.symbol(index))))
    }

    fn symbol(&self, index: usize) -> Symbol {
        let Rest { size, local, .. } = self.rest[index];
        Symbol { address: self.addresses[index], size, local }
    }

    /// Where the function begins that an address is inside of: the nearest.
    pub(super) fn start_of(&self, address: u64) -> Option<u64> {
        let symbols = (0..self.rest.len()).map(|index| self.symbol(index));
        symbols.filter(|symbol| symbol.contains(address)).map(|symbol| symbol.address).max()
    }

    /// The least of the names of what begins at an address; `data` is the file.
    pub(super) fn name_at<'d>(&self, data: &'d [u8], address: u64) -> Option<&'d str> {
        self.addresses
            .iter()
            .enumerate()
            .filter(|(_, at)| **at == address)
            .filter_map(|(index, _)| self.name(data, index))
            .filter(|name| self.find(data, name).is_some_and(|first| first.address == address))
            .min()
    }

    fn name<'d>(&self, data: &'d [u8], index: usize) -> Option<&'d str> {
        std::str::from_utf8(self.name_bytes(data, index)?).ok()
    }

    fn name_bytes<'d>(&self, data: &'d [u8], index: usize) -> Option<&'d [u8]> {
        let Rest { name, length, .. } = *self.rest.get(index)?;
        let from = name as usize;
        data.get(from..from.checked_add(length as usize)?)
    }
}

/// Differs for nearly all names of a file that differ, and costs nothing: the
/// length, and the ends, where names of C differ.
fn fingerprint(name: &[u8]) -> u64 {
    let word = |bytes: &[u8]| bytes.iter().fold(0, |word: u64, byte| word << 8 | u64::from(*byte));
    let first = word(&name[..name.len().min(8)]);
    let last = word(&name[name.len().saturating_sub(8)..]);
    first.rotate_left(29) ^ last ^ (name.len() as u64) << 57
}
