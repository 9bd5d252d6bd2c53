//! Asks a function of a file: follows it with these arguments along all of its
//! paths, to what it answers.

use std::{fmt::Display, ops::Range};

use super::{
    code::{
        CodeSource,
        explore::{self, DEFAULT_BOUNDS, Stopped},
        value::{Field, Value},
    },
    elf::Elf,
    evidence::{Evidence, ReadAt},
    gap::Gap,
};

/// A question that was answered: its text, and what each path returned.
pub(super) struct Asked<'s> {
    pub(super) question: String,
    pub(super) answers: Vec<explore::Answer>,
    source: &'s dyn CodeSource,
    function: String,
    /// Where the function is, as far as its symbol tells.
    range: Range<u64>,
}

/// Asks a function of the library, called with these arguments.
pub(super) fn ask<'e>(
    elf: &'e Elf,
    function: &str,
    arguments: &[Value],
    non_null: &[Field],
) -> Result<Asked<'e>, Gap> {
    let symbol =
        elf.function(function).ok_or_else(|| Gap::NoSymbol { function: function.to_owned() })?;
    let range = symbol.address..symbol.address.saturating_add(symbol.size);
    Ok(Asked { range, ..ask_at(elf, function, symbol.address, arguments, non_null)? })
}

/// Asks the function at an address; `function` is its name in evidence.
pub(super) fn ask_at<'s>(
    source: &'s dyn CodeSource,
    function: &str,
    entry: u64,
    arguments: &[Value],
    non_null: &[Field],
) -> Result<Asked<'s>, Gap> {
    let mut machine = explore::called_with(source.processor().convention(), arguments);
    machine.non_null.extend_from_slice(non_null);
    let answers = explore::explore(source, entry, machine, DEFAULT_BOUNDS).map_err(
        |Stopped { address, instruction, why }| Gap::Unfollowed {
            function: function.to_owned(),
            address,
            instruction,
            why,
        },
    )?;
    let arguments: Vec<String> = arguments.iter().map(Value::to_string).collect();
    Ok(Asked {
        question: format!("{function}({})", arguments.join(", ")),
        answers,
        source,
        function: function.to_owned(),
        range: entry..entry,
    })
}

impl Asked<'_> {
    /// The one value that is not null which every path returns.
    pub(super) fn only_value(&self) -> Option<&Value> {
        let mut values =
            self.answers.iter().map(|a| &a.value).filter(|v| **v != Value::Constant(0));
        let first = values.next()?;
        values.all(|value| value == first).then_some(first)
    }

    /// Whether every path returns this constant, in its low 32 bits.
    pub(super) fn always_returns(&self, constant: u32) -> bool {
        let expected = Value::Constant(u64::from(constant));
        !self.answers.is_empty()
            && self.answers.iter().all(|answer| answer.value.zero_extended(4) == expected)
    }

    pub(super) fn unexpected(&self, expected: &'static str) -> Gap {
        let mut answers: Vec<String> = self.answers.iter().map(|a| a.value.to_string()).collect();
        answers.sort();
        answers.dedup();
        Gap::UnexpectedAnswer {
            function: self.question.clone(),
            answer: answers.join(" or "),
            expected,
        }
    }

    /// The address of the instruction that loaded the field that this value of
    /// an answer is made of.
    pub(super) fn loaded_at(&self, value: &Value) -> Option<u64> {
        self.answers.iter().find_map(|answer| answer.loaded_at(value))
    }

    /// What the instruction at an address makes it say of a field.
    pub(super) fn evidence(&self, field: &str, answer: impl Display, at: Option<u64>) -> Evidence {
        let read_at = at.and_then(|at| {
            if self.range.contains(&at) {
                ReadAt::inside(self.source, Some(self.function.clone()), at)
            } else {
                ReadAt::of(self.source, at)
            }
        });
        Evidence {
            field: field.to_owned(),
            question: self.question.clone(),
            answer: answer.to_string(),
            read_at,
        }
    }
}
