//! One ELF file, as far as learning from it needs: symbols, mapped bytes,
//! imports, build id. No interpretation of code.

use std::{collections::HashMap, fs::File, ops::Range, path::Path, sync::Arc};

use object::{
    Object as _, ObjectSection as _, elf,
    read::elf::{ElfFile64, FileHeader as _, ProgramHeader as _},
};

use super::{
    code::processor::{self, Processor},
    file::read_whole,
    relocations::Relocations,
    symbols::Symbols,
};

pub use super::{
    file::{ElfError, open},
    symbols::Symbol,
};

/// A `PT_LOAD` segment.
#[derive(Clone, Copy, Debug)]
struct Segment {
    address: u64,
    file_offset: u64,
    file_size: u64,
    memory_size: u64,
    executable: bool,
    writable: bool,
}

/// One ELF file, in memory.
#[derive(Clone)]
pub struct Elf {
    data: Arc<Vec<u8>>,
    processor: &'static dyn Processor,
    segments: Vec<Segment>,
    functions: Symbols,
    /// By names that were learnt from elsewhere.
    more_functions: HashMap<String, Symbol>,
    relocations: Relocations,
    build_id: Option<String>,
    needed: Vec<String>,
    soname: Option<String>,
    /// Its address, and where it stands in the file.
    eh_frame: Option<(u64, Range<usize>)>,
}

impl Elf {
    /// Reads and parses a file.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is not a 64-bit little-endian ELF file.
    pub fn open(path: &Path) -> Result<Self, ElfError> {
        Self::read(&open(path)?, path)
    }

    /// Reads and parses an open file; `path` is its name in errors.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is not a 64-bit little-endian ELF file.
    pub fn read(file: &File, path: &Path) -> Result<Self, ElfError> {
        let data = read_whole(file, path)?;
        if data.starts_with(&elf::ELFMAG) && data.get(4) == Some(&elf::ELFCLASS32.0) {
            return Err(ElfError::ThirtyTwoBits { path: path.to_path_buf() });
        }
        Self::parse(data).map_err(|why| ElfError::Malformed { path: path.to_path_buf(), why })
    }

    /// Parses the bytes of a file.
    ///
    /// # Errors
    ///
    /// With what is wrong with them.
    pub fn parse(data: Vec<u8>) -> Result<Self, String> {
        let text = |error: object::Error| error.to_string();
        let file = ElfFile64::<object::LittleEndian>::parse(data.as_slice()).map_err(text)?;
        let processor = processor::of(file.architecture());
        let segments = segments(&file).map_err(text)?;
        let functions = Symbols::read(&file, &data);
        let relocations = Relocations::read(&file);
        let build_id = file.build_id().map_err(text)?.map(hex);
        let needed = dynamic_strings(&file, elf::DT_NEEDED).map_err(text)?;
        let soname = dynamic_strings(&file, elf::DT_SONAME).map_err(text)?.into_iter().next();
        let eh_frame = file.section_by_name(".eh_frame").and_then(|section| {
            let (from, length) = section.file_range()?;
            let from = usize::try_from(from).ok()?;
            let to = from.checked_add(usize::try_from(length).ok()?)?;
            data.get(from..to).map(|_| (section.address(), from..to))
        });
        Ok(Self {
            processor,
            segments,
            functions,
            more_functions: HashMap::new(),
            relocations,
            build_id,
            needed,
            soname,
            eh_frame,
            data: Arc::new(data),
        })
    }

    /// The processor that the code is for.
    #[must_use]
    pub fn processor(&self) -> &'static dyn Processor {
        self.processor
    }

    /// The GNU build id, in hexadecimal.
    #[must_use]
    pub fn build_id(&self) -> Option<&str> {
        self.build_id.as_deref()
    }

    /// The names in `DT_NEEDED`.
    #[must_use]
    pub fn needed(&self) -> &[String] {
        &self.needed
    }

    /// The name in `DT_SONAME`.
    #[must_use]
    pub fn soname(&self) -> Option<&str> {
        self.soname.as_deref()
    }

    /// A function that the file defines.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<Symbol> {
        let own = self.functions.find(&self.data, name);
        own.or_else(|| self.more_functions.get(name).copied())
    }

    /// All functions that the file itself names; of several with one name, the
    /// first wins.
    pub fn functions(&self) -> impl Iterator<Item = (&str, Symbol)> {
        self.functions.iter(&self.data)
    }

    /// The functions whose names end like this, among the names that the file has
    /// and those from elsewhere.
    pub fn functions_ending_in(&self, end: &'static str) -> impl Iterator<Item = (&str, Symbol)> {
        let more = self.more_functions.iter().filter(move |(name, _)| name.ends_with(end));
        let more = more.map(|(name, symbol)| (name.as_str(), *symbol));
        self.functions.ending_in(&self.data, end).chain(more)
    }

    /// Adds names of functions that were learnt from elsewhere; one that the
    /// file itself has stays as it is.
    pub fn add_functions(&mut self, functions: impl IntoIterator<Item = (String, Symbol)>) {
        for (name, symbol) in functions {
            self.more_functions.entry(name).or_insert(symbol);
        }
    }

    /// The same file, with these names for functions and no others.
    #[must_use]
    pub fn with_functions(&self, functions: &[(&str, Symbol)]) -> Self {
        let functions =
            functions.iter().map(|(name, symbol)| ((*name).to_owned(), *symbol)).collect();
        Self { functions: Symbols::default(), more_functions: functions, ..self.clone() }
    }

    /// The address ranges that are executable in memory.
    pub fn executable_memory(&self) -> impl Iterator<Item = Range<u64>> {
        let executable = self.segments.iter().filter(|segment| segment.executable);
        executable
            .map(|segment| segment.address..segment.address.saturating_add(segment.memory_size))
    }

    /// The name of a function that begins at an address.
    #[must_use]
    pub fn function_name(&self, address: u64) -> Option<&str> {
        self.functions.name_at(&self.data, address).or_else(|| {
            let there = self.more_functions.iter().filter(|(_, symbol)| symbol.address == address);
            there.map(|(name, _)| name.as_str()).min()
        })
    }

    /// The name of the function that an address is inside of, as far as the sizes
    /// of symbols tell.
    #[must_use]
    pub fn function_containing(&self, address: u64) -> Option<&str> {
        let more = self.more_functions.values().filter(|symbol| symbol.contains(address));
        let start = self.functions.start_of(address).max(more.map(|s| s.address).max())?;
        self.function_name(start)
    }

    /// The name of the function whose address the dynamic linker stores here, if
    /// nothing else is ever stored here.
    #[must_use]
    pub fn import_at(&self, address: u64) -> Option<&str> {
        self.relocations.import_at(address)
    }

    /// Whether the dynamic linker has to find this function in another file.
    #[must_use]
    pub fn imports(&self, name: &str) -> bool {
        self.relocations.imports(name)
    }

    /// Bytes of executable memory from an address to the end of its segment.
    #[must_use]
    pub fn code(&self, address: u64) -> Option<&[u8]> {
        self.bytes(address, |segment| segment.executable)
    }

    /// The executable segments, each with its address: what is in them of the file.
    pub fn executable(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let executable = self.segments.iter().filter(|segment| segment.executable);
        executable.filter_map(|segment| {
            let from = usize::try_from(segment.file_offset).ok()?;
            let length = usize::try_from(segment.file_size).ok()?;
            Some((segment.address, self.data.get(from..from.checked_add(length)?)?))
        })
    }

    /// A little-endian value of constant memory.
    ///
    /// `None` if it is not in the file, or in a writable segment: its value is
    /// then the running process's business. A pointer that only the dynamic
    /// linker writes, before the process runs, has the value that it writes.
    #[must_use]
    pub fn constant(&self, address: u64, width: usize) -> Option<u64> {
        if width == 8
            && let Some(pointer) = self.relocations.pointer_at(address)
        {
            return Some(pointer);
        }
        if self.relocations.change_constant(address, width) {
            return None;
        }
        let bytes = self.bytes(address, |segment| !segment.writable)?.get(..width)?;
        let mut value = [0; 8];
        value.get_mut(..width)?.copy_from_slice(bytes);
        Some(u64::from_le_bytes(value))
    }

    /// Where in the file an address of an executable segment stands.
    #[must_use]
    pub fn file_offset(&self, address: u64) -> Option<u64> {
        let segment = self.segment(address).filter(|segment| segment.executable)?;
        segment.file_offset.checked_add(address - segment.address)
    }

    /// The unwind table: its address, and its bytes.
    #[must_use]
    pub fn eh_frame(&self) -> Option<(u64, &[u8])> {
        let (address, range) = self.eh_frame.as_ref()?;
        Some((*address, self.data.get(range.clone())?))
    }

    /// The whole file.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    fn segment(&self, address: u64) -> Option<&Segment> {
        self.segments.iter().find(|s| address >= s.address && address - s.address < s.file_size)
    }

    fn bytes(&self, address: u64, fit: impl Fn(&Segment) -> bool) -> Option<&[u8]> {
        let segment = self.segment(address).filter(|segment| fit(segment))?;
        let from = segment.file_offset.checked_add(address - segment.address)?;
        let to = segment.file_offset.checked_add(segment.file_size)?;
        self.data.get(usize::try_from(from).ok()?..usize::try_from(to).ok()?)
    }
}

pub(super) type File64<'d> = ElfFile64<'d, object::LittleEndian>;

fn segments(file: &File64<'_>) -> object::Result<Vec<Segment>> {
    let endian = file.endian();
    Ok(file
        .elf_program_headers()
        .iter()
        .filter(|header| header.p_type(endian) == elf::PT_LOAD)
        .map(|header| Segment {
            address: header.p_vaddr(endian),
            file_offset: header.p_offset(endian),
            file_size: header.p_filesz(endian),
            memory_size: header.p_memsz(endian),
            executable: header.p_flags(endian).contains(elf::PF_X),
            writable: header.p_flags(endian).contains(elf::PF_W),
        })
        .collect())
}

fn dynamic_strings(file: &File64<'_>, tag: elf::DynamicTag) -> object::Result<Vec<String>> {
    let endian = file.endian();
    let sections = file.elf_header().sections(endian, file.data())?;
    let Some((dynamic, strings)) = sections.dynamic(endian, file.data())? else {
        return Ok(Vec::new());
    };
    let strings = sections.strings(endian, file.data(), strings)?;
    Ok(dynamic
        .iter()
        .filter(|entry| {
            use object::read::elf::Dyn as _;
            entry.tag(endian) == tag
        })
        .filter_map(|entry| {
            use object::read::elf::Dyn as _;
            let name = entry.string(endian, strings).ok()?;
            Some(String::from_utf8_lossy(name).into_owned())
        })
        .collect())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of nothing but one executable segment.
    fn one_segment(file_offset: u64, address: u64, file_size: u64) -> Elf {
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0\x01\0\0\0".to_vec();
        for word in [0u64, 64, 0] {
            file.extend(word.to_le_bytes());
        }
        for short in [0u16, 0, 64, 56, 1, 64, 0, 0] {
            file.extend(short.to_le_bytes());
        }
        file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
        for word in [file_offset, address, address, file_size, file_size, 1] {
            file.extend(word.to_le_bytes());
        }
        Elf::parse(file).expect("it is an ELF file")
    }

    #[test]
    fn a_segment_is_read_as_far_as_the_file_goes() {
        let elf = one_segment(0, 0x1000, 120);
        assert_eq!(elf.code(0x1000 + 118), Some(&[0u8, 0][..]));
        assert_eq!(elf.file_offset(0x1040), Some(0x40));
        assert_eq!(elf.executable().map(|(at, code)| (at, code.len())).next(), Some((0x1000, 120)));
        assert!(one_segment(0, 0x1000, 121).code(0x1000).is_none());
    }

    #[test]
    fn a_segment_beyond_what_can_be_counted_has_no_bytes() {
        let elf = one_segment(u64::MAX - 8, 0x1000, 0x40);
        assert_eq!(elf.file_offset(0x1020), None);
        assert!(elf.code(0x1020).is_none());
        assert_eq!(elf.executable().count(), 0);
    }
}
