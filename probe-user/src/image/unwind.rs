//! Where functions begin and end, from `.eh_frame`: right also in stripped
//! files, and in every build, since C++ and profilers need it.

use std::ops::Range;

use gimli::{BaseAddresses, CieOrFde, EhFrame, LittleEndian, UnwindSection as _};

use super::elf::Elf;

/// Address ranges of the functions (or parts of functions: compilers split
/// cold code off), sorted, without overlaps.
#[derive(Clone, Debug, Default)]
pub struct FunctionRanges(Vec<Range<u64>>);

impl FunctionRanges {
    /// Reads the unwind table of a file; what is damaged is left out.
    #[must_use]
    pub fn read(elf: &Elf) -> Self {
        let Some((address, bytes)) = elf.eh_frame() else { return Self::default() };
        let section = EhFrame::new(bytes, LittleEndian);
        let bases = BaseAddresses::default().set_eh_frame(address);
        let mut entries = section.entries(&bases);
        let mut ranges = Vec::new();
        while let Ok(Some(entry)) = entries.next() {
            let CieOrFde::Fde(partial) = entry else { continue };
            if let Ok(fde) = partial.parse(EhFrame::cie_from_offset) {
                let start = fde.initial_address();
                if let Some(end) = start.checked_add(fde.len())
                    && fde.len() > 0
                    && elf.code(start).is_some_and(|code| code.len() as u64 >= fde.len())
                {
                    ranges.push(start..end);
                }
            }
        }
        Self::new(ranges)
    }

    fn new(mut ranges: Vec<Range<u64>>) -> Self {
        ranges.sort_by_key(|range| (range.start, range.end));
        ranges.dedup();
        // Two that overlap contradict each other: neither is a witness.
        let overlapping: Vec<bool> = (0..ranges.len())
            .map(|i| {
                (i > 0 && ranges[i - 1].end > ranges[i].start)
                    || ranges.get(i + 1).is_some_and(|next| next.start < ranges[i].end)
            })
            .collect();
        let mut keep = overlapping.iter();
        ranges.retain(|_| !keep.next().is_some_and(|overlaps| *overlaps));
        Self(ranges)
    }

    /// The range that contains an address.
    #[must_use]
    pub fn containing(&self, address: u64) -> Option<Range<u64>> {
        let after = self.0.partition_point(|range| range.start <= address);
        let range = self.0.get(after.checked_sub(1)?)?;
        range.contains(&address).then(|| range.clone())
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Range<u64>> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_ranges_are_no_witnesses() {
        let ranges = FunctionRanges::new(vec![0x10..0x20, 0x18..0x28, 0x30..0x40]);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [&(0x30..0x40)]);
    }

    #[test]
    fn an_address_is_found_in_its_range_only() {
        let ranges = FunctionRanges::new(vec![0x10..0x20, 0x30..0x40]);
        assert_eq!(ranges.containing(0x10), Some(0x10..0x20));
        assert_eq!(ranges.containing(0x1f), Some(0x10..0x20));
        assert_eq!(ranges.containing(0x20), None);
        assert_eq!(ranges.containing(0x0f), None);
    }
}
