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
    gap::{Gap, Stop},
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
    let answers = explore::explore(source, entry, machine, DEFAULT_BOUNDS).map_err(|stopped| {
        Gap::Unfollowed { function: function.to_owned(), stop: Stop::of(source, &stopped) }
    })?;
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
            stops: self.stops(),
        }
    }

    /// Where following ended on the first path of which it is not known what it
    /// returns: in the last call that was not followed, if there was one, and at
    /// what set the result.
    fn stops(&self) -> Vec<Stop> {
        let is_known = |answer: &&explore::Answer| {
            answer.value.field().is_some() || matches!(answer.value, Value::Constant(_))
        };
        let Some(answer) = self.answers.iter().find(|answer| !is_known(answer)) else {
            return Vec::new();
        };
        let made = answer.made_at.map(|address| {
            let (instruction, why) = (String::new(), "it sets what is returned");
            Stop::of(self.source, &Stopped { address, instruction, why })
        });
        let unfollowed = answer.unfollowed.as_ref().map(|why| Stop::of(self.source, why));
        unfollowed.into_iter().chain(made).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::specimen::{Specimen, library};

    /// What is not understood of what `asked` answers.
    fn gap(functions: &[Specimen]) -> String {
        let elf = library(functions);
        let asked = ask(&elf, "asked", &[Value::argument(0)], &[]);
        asked.map_or_else(|gap| gap, |asked| asked.unexpected("an int")).to_string()
    }

    /// call called / cltq / ret
    fn caller() -> Specimen {
        ("asked", vec![0xe8, 0, 0, 0, 0, 0x48, 0x98, 0xc3], vec![(1, "called")])
    }

    #[test]
    fn a_gap_names_where_a_called_function_is_not_followed() {
        // mov (%rdi),%eax / syscall / ret
        let called = ("called", vec![0x8b, 0x07, 0x0f, 0x05, 0xc3], vec![]);
        let stopped = "`syscall` at 0x1102 in called: it calls the kernel";
        let made = "`cltq` at 0x1005 in asked: it sets what is returned";
        let expected =
            format!("asked(arg0) answers `unknown`, which is not an int; {stopped}; {made}");
        assert_eq!(gap(&[caller(), called]), expected);
        // 1100: mov (%rdi),%eax / 1102: jmp 1102
        let called = ("called", vec![0x8b, 0x07, 0xeb, 0xfe], vec![]);
        let looping = "`jmp 0x1102` at 0x1102 in called: it goes round in a loop";
        assert_eq!(gap(&[caller(), called]), expected.replace(stopped, looping));
    }

    #[test]
    fn a_gap_names_what_set_the_result() {
        // mov (%rdi),%eax / imul %eax,%eax / ret
        let asked = ("asked", vec![0x8b, 0x07, 0x0f, 0xaf, 0xc0, 0xc3], vec![]);
        let made = "`imul %eax,%eax` at 0x1002 in asked: it sets what is returned";
        let expected = format!("asked(arg0) answers `unknown`, which is not an int; {made}");
        assert_eq!(gap(&[asked]), expected);
    }

    #[test]
    fn what_is_known_and_not_expected_ended_nowhere() {
        // mov $7,%eax / ret
        let asked = ("asked", vec![0xb8, 7, 0, 0, 0, 0xc3], vec![]);
        assert_eq!(gap(&[asked]), "asked(arg0) answers `7`, which is not an int");
    }

    #[test]
    fn a_gap_names_the_instruction_of_a_loop_and_its_function() {
        // jmp other / 1100: nop / jmp 1100
        let asked = ("asked", vec![0xe9, 0, 0, 0, 0], vec![(1, "other")]);
        let other = ("other", vec![0x90, 0xeb, 0xfd], vec![]);
        let stopped = "`jmp 0x1100` at 0x1101 in other: it goes round in a loop";
        assert_eq!(gap(&[asked, other]), format!("asked: cannot follow {stopped}"));
    }
}
