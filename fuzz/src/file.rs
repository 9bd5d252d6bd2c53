//! Arbitrary bytes as an ELF file, of which everything is asked.

use std::hint::black_box;

use crate::image::{Elf, Image, companion, family, unwind::FunctionRanges, version};

/// Reads the bytes as a file, and asks what learning asks.
pub fn read(bytes: &[u8]) {
    let Ok(elf) = Elf::parse(bytes.to_vec()) else { return };
    black_box((elf.processor(), elf.build_id(), elf.needed(), elf.soname()));
    black_box((Image::is_openssl(&elf), companion::libcrypto_name(&elf)));
    black_box(version::of(family::Family::of(&elf), &elf));
    let ranges = FunctionRanges::read(&elf);
    for range in ranges.iter() {
        black_box(elf.function_name(range.start));
        black_box(ranges.is_entry(range.start));
        black_box(elf.file_offset(range.end));
    }
    // The ends of what a segment can hold, and of what an address can be.
    for address in [0, 0x1000, 0x1234, u64::MAX - 7, u64::MAX] {
        black_box((elf.code(address).map(<[u8]>::len), elf.file_offset(address)));
        black_box((elf.import_at(address), ranges.containing(address)));
        for width in [1, 4, 8, 9] {
            black_box(elf.constant(address, width));
        }
    }
}
