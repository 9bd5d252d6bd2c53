//! Where functions begin and end, from `.eh_frame`: right also in stripped
//! files, and in nearly every build, since C++ and profilers need it. Of a file
//! that was built without, only the functions that it exports are known.

use std::{
    collections::{HashMap, hash_map},
    ops::Range,
};

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, EhFrameOffset, EndianSlice, LittleEndian, Register,
    UnwindContext, UnwindSection as _,
};

use super::elf::Elf;

/// Address ranges of the functions (or parts of functions: compilers split
/// cold code off), sorted, without overlaps.
#[derive(Clone, Debug, Default)]
pub struct FunctionRanges<'e> {
    ranges: Vec<Range<u64>>,
    /// Where a range starts, and where its entry stands in the unwind table:
    /// sorted; there may be two for one range.
    entries: Vec<(u64, usize)>,
    table: Table<'e>,
}

/// An unwind table, and where it is in memory.
#[derive(Clone, Debug, Default)]
struct Table<'e> {
    address: u64,
    bytes: &'e [u8],
    /// What it says of a function's entry: the frame is not set up yet.
    called: Option<CfaRule<usize>>,
}

type Section<'e> = EhFrame<EndianSlice<'e, LittleEndian>>;

impl<'e> FunctionRanges<'e> {
    /// Reads the unwind table of a file; what is damaged is left out. Where
    /// nothing is left, symbols say it.
    #[must_use]
    pub fn read(elf: &'e Elf) -> Self {
        let ranges = Self::of_unwind_table(elf);
        if ranges.ranges.is_empty() { Self::of_symbols(elf) } else { ranges }
    }

    /// The functions that the file names for others: the dynamic linker makes
    /// them be called at these addresses. Where they end is believed only as far
    /// as the code decodes up to there.
    fn of_symbols(elf: &Elf) -> Self {
        let ranges = elf
            .functions()
            .filter(|(_, symbol)| !symbol.local && symbol.size > 0)
            .filter_map(|(_, symbol)| {
                let end = symbol.address.checked_add(symbol.size)?;
                let code = elf.code(symbol.address)?;
                (code.len() as u64 >= symbol.size).then_some(symbol.address..end)
            })
            .collect();
        Self { ranges: without_overlaps(ranges), ..Self::default() }
    }

    fn of_unwind_table(elf: &'e Elf) -> Self {
        let Some((address, bytes)) = elf.eh_frame() else { return Self::default() };
        let (register, offset) = elf.processor().convention().frame_at_entry;
        let called = CfaRule::RegisterAndOffset { register: Register(register), offset };
        let table = Table { address, bytes, called: Some(called) };
        let (section, bases) = (table.section(), table.bases());
        let mut entries = section.entries(&bases);
        // Thousands of entries share one description of what they have in common.
        let mut common = HashMap::new();
        let (mut ranges, mut starts) = (Vec::new(), Vec::new());
        while let Ok(Some(entry)) = entries.next() {
            let CieOrFde::Fde(partial) = entry else { continue };
            let fde = partial.parse(|section, bases, offset| match common.entry(offset) {
                hash_map::Entry::Occupied(known) => Ok(Clone::clone(known.get())),
                hash_map::Entry::Vacant(unknown) => {
                    Ok(unknown.insert(section.cie_from_offset(bases, offset)?).clone())
                }
            });
            let Ok(fde) = fde else { continue };
            let start = fde.initial_address();
            let Some(end) = start.checked_add(fde.len()).filter(|end| *end > start) else {
                continue;
            };
            if elf.code(start).is_none_or(|code| (code.len() as u64) < fde.len()) {
                continue;
            }
            ranges.push(start..end);
            starts.push((start, fde.offset()));
        }
        starts.sort_unstable();
        Self { ranges: without_overlaps(ranges), entries: starts, table }
    }

    /// Those of a test: each is entered at its start.
    #[cfg(test)]
    pub(super) fn of(ranges: &[Range<u64>]) -> Self {
        Self { ranges: without_overlaps(ranges.to_vec()), ..Self::default() }
    }

    /// Whether an address is the start of a function, as far as the unwind
    /// table tells: not of a part of one, where the frame is already set up.
    #[must_use]
    pub fn is_entry(&self, address: u64) -> bool {
        let first = self.entries.partition_point(|(start, _)| *start < address);
        let of_it = self.entries[first..].iter().take_while(|(start, _)| *start == address);
        self.ranges.binary_search_by_key(&address, |range| range.start).is_ok()
            && !of_it.into_iter().any(|(start, entry)| self.table.is_part(*entry, *start))
    }

    /// The range that contains an address.
    #[must_use]
    pub fn containing(&self, address: u64) -> Option<Range<u64>> {
        let after = self.ranges.partition_point(|range| range.start <= address);
        let range = self.ranges.get(after.checked_sub(1)?)?;
        range.contains(&address).then(|| range.clone())
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Range<u64>> {
        self.ranges.iter()
    }
}

impl<'e> Table<'e> {
    fn section(&self) -> Section<'e> {
        EhFrame::new(self.bytes, LittleEndian)
    }

    fn bases(&self) -> BaseAddresses {
        BaseAddresses::default().set_eh_frame(self.address)
    }

    /// Whether the range of an entry is not entered by a call: the frame is
    /// already set up there.
    fn is_part(&self, entry: usize, start: u64) -> bool {
        let (section, bases) = (self.section(), self.bases());
        let Ok(fde) =
            section.fde_from_offset(&bases, EhFrameOffset(entry), EhFrame::cie_from_offset)
        else {
            return false;
        };
        let mut context = UnwindContext::new();
        let row = fde.unwind_info_for_address(&section, &bases, &mut context, start);
        row.is_ok_and(|row| Some(row.cfa()) != self.called.as_ref())
    }
}

/// Two that overlap contradict each other: neither is a witness.
fn without_overlaps(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| (range.start, range.end));
    ranges.dedup();
    let mut reach = 0;
    let overlaps: Vec<bool> = (0..ranges.len())
        .map(|i| {
            let before = reach > ranges[i].start;
            reach = reach.max(ranges[i].end);
            before || ranges.get(i + 1).is_some_and(|next| next.start < ranges[i].end)
        })
        .collect();
    let mut overlaps = overlaps.into_iter();
    ranges.retain(|_| !overlaps.next().unwrap_or(true));
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_ranges_are_no_witnesses() {
        let ranges = FunctionRanges::of(&[0x10..0x100, 0x18..0x28, 0x30..0x40, 0x100..0x110]);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [&(0x100..0x110)]);
    }

    #[test]
    fn an_address_is_found_in_its_range_only() {
        let ranges = FunctionRanges::of(&[0x10..0x20, 0x30..0x40]);
        assert_eq!(ranges.containing(0x10), Some(0x10..0x20));
        assert_eq!(ranges.containing(0x1f), Some(0x10..0x20));
        assert_eq!(ranges.containing(0x20), None);
        assert_eq!(ranges.containing(0x0f), None);
        assert!(ranges.is_entry(0x10) && !ranges.is_entry(0x11));
    }
}
