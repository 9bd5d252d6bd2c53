//! Where functions begin and end, from `.eh_frame`: right also in stripped
//! files, and in every build, since C++ and profilers need it.

use std::{collections::HashSet, ops::Range};

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, LittleEndian, Register, UnwindContext,
    UnwindSection as _,
};

use super::elf::Elf;

/// Address ranges of the functions (or parts of functions: compilers split
/// cold code off), sorted, without overlaps.
#[derive(Clone, Debug, Default)]
pub struct FunctionRanges {
    ranges: Vec<Range<u64>>,
    /// Starts of ranges that are not entered by a call: the frame is already
    /// set up there.
    parts: HashSet<u64>,
}

impl FunctionRanges {
    /// Reads the unwind table of a file; what is damaged is left out.
    #[must_use]
    pub fn read(elf: &Elf) -> Self {
        let Some((address, bytes)) = elf.eh_frame() else { return Self::default() };
        let (register, offset) = elf.processor().convention().frame_at_entry;
        let called = CfaRule::RegisterAndOffset { register: Register(register), offset };
        let section = EhFrame::new(bytes, LittleEndian);
        let bases = BaseAddresses::default().set_eh_frame(address);
        let mut context = UnwindContext::new();
        let mut entries = section.entries(&bases);
        let mut ranges = Vec::new();
        let mut parts = HashSet::new();
        while let Ok(Some(entry)) = entries.next() {
            let CieOrFde::Fde(partial) = entry else { continue };
            let Ok(fde) = partial.parse(EhFrame::cie_from_offset) else { continue };
            let start = fde.initial_address();
            let Some(end) = start.checked_add(fde.len()).filter(|end| *end > start) else {
                continue;
            };
            if elf.code(start).is_none_or(|code| (code.len() as u64) < fde.len()) {
                continue;
            }
            ranges.push(start..end);
            // After a call, the frame is not set up yet.
            let row = fde.unwind_info_for_address(&section, &bases, &mut context, start);
            if row.is_ok_and(|row| *row.cfa() != called) {
                parts.insert(start);
            }
        }
        Self { ranges: without_overlaps(ranges), parts }
    }

    /// Whether an address is the start of a function, as far as the unwind
    /// table tells.
    #[must_use]
    pub fn is_entry(&self, address: u64) -> bool {
        self.containing(address).is_some_and(|range| range.start == address)
            && !self.parts.contains(&address)
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

    fn ranges(ranges: &[Range<u64>]) -> FunctionRanges {
        let ranges = without_overlaps(ranges.to_vec());
        FunctionRanges { ranges, parts: HashSet::from([0x30]) }
    }

    #[test]
    fn overlapping_ranges_are_no_witnesses() {
        let ranges = ranges(&[0x10..0x100, 0x18..0x28, 0x30..0x40, 0x100..0x110]);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [&(0x100..0x110)]);
    }

    #[test]
    fn an_address_is_found_in_its_range_only() {
        let ranges = ranges(&[0x10..0x20, 0x30..0x40]);
        assert_eq!(ranges.containing(0x10), Some(0x10..0x20));
        assert_eq!(ranges.containing(0x1f), Some(0x10..0x20));
        assert_eq!(ranges.containing(0x20), None);
        assert_eq!(ranges.containing(0x0f), None);
        assert!(ranges.is_entry(0x10) && !ranges.is_entry(0x11));
        assert!(!ranges.is_entry(0x30), "it is a part of another function");
    }
}
