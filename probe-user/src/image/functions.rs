//! The functions of a file that were looked at. Each is decoded once, and the
//! increments are looked for once, however many questions there are about them.

use std::{collections::HashMap, ops::Range, rc::Rc};

use super::{
    code::flow::Function,
    elf::Elf,
    increments::{self, IncrementSite},
    jumps::Jumps,
    unwind::FunctionRanges,
};

/// Functions, decoded when they are asked for, with what jumps into them from
/// elsewhere in the file.
pub struct Functions<'e> {
    elf: &'e Elf,
    ranges: &'e FunctionRanges<'e>,
    jumps: Jumps<'e>,
    known: HashMap<u64, Option<Rc<Function>>>,
    /// Those of the block that was asked for last.
    increments: Option<(u32, Rc<[IncrementSite]>)>,
}

impl<'e> Functions<'e> {
    /// Nothing is decoded yet.
    #[must_use]
    pub fn new(elf: &'e Elf, ranges: &'e FunctionRanges<'e>) -> Self {
        let jumps = Jumps::new(elf, ranges);
        Self { elf, ranges, jumps, known: HashMap::new(), increments: None }
    }

    /// The file.
    #[must_use]
    pub fn elf(&self) -> &'e Elf {
        self.elf
    }

    /// Where its functions begin and end.
    #[must_use]
    pub fn ranges(&self) -> &'e FunctionRanges<'e> {
        self.ranges
    }

    /// Says that functions will be asked for: whatever pass over the file comes
    /// first looks for what jumps into them.
    pub fn expect(&mut self, functions: impl IntoIterator<Item = Range<u64>>) {
        self.jumps.expect(functions);
    }

    /// Looks for what jumps into several functions, in one pass over the file.
    pub fn prepare(&mut self, functions: &[Range<u64>]) {
        self.jumps.look_for(functions);
    }

    /// A function, or a part of one; `None` if its flow of control is not known.
    pub fn get(&mut self, range: &Range<u64>) -> Option<Rc<Function>> {
        let (elf, jumps) = (self.elf, &mut self.jumps);
        let known = self.known.entry(range.start).or_insert_with(|| {
            let outside = jumps.into_function(range)?;
            Function::new(elf, range.clone(), outside).ok().map(Rc::new)
        });
        known.clone()
    }

    /// The function that starts at an address.
    pub fn starting_at(&mut self, start: u64) -> Option<Rc<Function>> {
        let range = self.ranges.containing(start).filter(|range| range.start == start)?;
        self.get(&range)
    }

    /// The increments of the counters, of which the first is so far from the `SSL_CTX`.
    pub fn increments(&mut self, block: u32) -> Rc<[IncrementSite]> {
        match &self.increments {
            Some((known, sites)) if *known == block => Rc::clone(sites),
            _ => {
                let sites: Rc<[IncrementSite]> = increments::find(self, block).into();
                self.expect(sites.iter().map(|site| site.function.clone()));
                self.increments = Some((block, Rc::clone(&sites)));
                sites
            }
        }
    }
}
