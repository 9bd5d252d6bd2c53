//! How a fact of a file was learnt, and where in its code it stands.

use super::{code::CodeSource, unwind::FunctionRanges};

/// How one fact was learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The field, by its name in `sslsess explain --json`.
    pub field: String,
    /// The function that says so, with the arguments it was asked with.
    pub question: String,
    /// What it answers.
    pub answer: String,
    /// The instruction that says it: the load of the field, or what adds or
    /// writes to it. `None`: it is not known which one it is.
    pub read_at: Option<ReadAt>,
}

/// An instruction that something was learnt from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadAt {
    /// The name of the file, if it is not the one that is explained.
    pub file: Option<String>,
    /// The function that it is in, by its symbol, or as `sub_` and the address
    /// at which it begins; `None`: neither is known.
    pub function: Option<String>,
    /// Its address in the file's own address space.
    pub address: u64,
    /// The instruction, in GNU syntax.
    pub instruction: String,
}

impl ReadAt {
    /// The instruction at an address; `None` if there is no code.
    pub(super) fn of(source: &dyn CodeSource, address: u64) -> Option<Self> {
        let function = source.function_containing(address).map(str::to_owned);
        Self::inside(source, function, address)
    }

    /// The same, in a function whose name is known.
    pub(super) fn inside(
        source: &dyn CodeSource,
        function: Option<String>,
        address: u64,
    ) -> Option<Self> {
        let instruction = source.processor().text(source.code(address)?, address);
        Some(Self { file: None, function, address, instruction })
    }
}

/// Names the functions of the explained file that have no symbol by where they
/// begin.
pub(super) fn name_functions<'l>(
    evidence: impl IntoIterator<Item = &'l mut Evidence>,
    ranges: &FunctionRanges<'_>,
) {
    let read = evidence.into_iter().filter_map(|evidence| evidence.read_at.as_mut());
    for read in read.filter(|read| read.function.is_none() && read.file.is_none()) {
        read.function =
            ranges.containing(read.address).map(|range| format!("sub_{:x}", range.start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{
        code::value::Value,
        question::ask,
        specimen::{Specimen, library},
    };

    /// call to the second function / ret; what that says: mov 0x38(%rdi),%rax / ret
    fn specimens() -> [Specimen; 2] {
        [
            ("asked", vec![0xe8, 0, 0, 0, 0, 0xc3], vec![(1, "called")]),
            ("called", vec![0x48, 0x8b, 0x47, 0x38, 0xc3], vec![]),
        ]
    }

    fn read_at(function: Option<&str>) -> ReadAt {
        let (file, function) = (None, function.map(str::to_owned));
        ReadAt { file, function, address: 0x1100, instruction: "mov 0x38(%rdi),%rax".to_owned() }
    }

    #[test]
    fn what_a_called_function_loads_is_read_in_that_function() {
        let elf = library(&specimens());
        let Ok(asked) = ask(&elf, "asked", &[Value::argument(0)], &[]) else { panic!("followed") };
        let value = asked.only_value().expect("one answer");
        let evidence = asked.evidence("field", value, asked.loaded_at(value));
        assert_eq!(evidence.question, "asked(arg0)");
        assert_eq!(evidence.answer, "u64[arg0+0x38]");
        assert_eq!(evidence.read_at, Some(read_at(Some("called"))));
    }

    #[test]
    fn a_function_without_a_name_has_none_and_no_code_is_no_instruction() {
        let elf = library(&specimens());
        let asked = elf.function("asked").expect("it is there");
        let named = elf.with_functions(&[("asked", asked)]);
        assert_eq!(ReadAt::of(&named, 0x1100), Some(read_at(None)));
        assert_eq!(ReadAt::of(&named, 0x10_0000), None);
    }
}
