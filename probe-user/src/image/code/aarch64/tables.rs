//! Jump tables of A64 code.
use std::collections::BTreeSet;

use crate::image::code::{CodeSource, instruction::Instruction};

pub(super) fn targets(_source: &dyn CodeSource, _instructions: &[Instruction]) -> BTreeSet<u64> {
    BTreeSet::new()
}
