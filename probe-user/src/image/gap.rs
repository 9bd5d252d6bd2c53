//! Why something about a library is not known.

use std::fmt;

use thiserror::Error;

use super::{
    code::{CodeSource, explore::Stopped},
    family::Family,
};

/// An instruction at which the reading of code came to an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The function that it is in, as far as symbols tell.
    pub function: Option<String>,
    /// Its address in the file's own address space.
    pub address: u64,
    /// The instruction, in GNU syntax; empty where there is no code.
    pub instruction: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Stop {
    /// What ended the reading, with the names of the file.
    pub(super) fn of(source: &dyn CodeSource, stopped: &Stopped) -> Self {
        let Stopped { address, ref instruction, why } = *stopped;
        let read = || source.code(address).map(|code| source.processor().text(code, address));
        let instruction = Some(instruction.clone()).filter(|text| !text.is_empty()).or_else(read);
        Self {
            function: source.function_containing(address).map(str::to_owned),
            address,
            instruction: instruction.unwrap_or_default(),
            why,
        }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { function, address, instruction, why } = self;
        if instruction.is_empty() {
            write!(f, "what is at {address:#x}")?;
        } else {
            write!(f, "`{instruction}` at {address:#x}")?;
        }
        if let Some(function) = function {
            write!(f, " in {function}")?;
        }
        write!(f, ": {why}")
    }
}

/// Places, one behind the other.
fn listed(stops: &[Stop]) -> String {
    stops.iter().map(|stop| format!("; {stop}")).collect()
}

/// Why something about a library is not known.
///
/// A gap is shown to the user wherever the thing itself would be: it is never
/// replaced by a default.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Gap {
    /// The function that would say so is not among the file's symbols.
    #[error("{function} is not among the symbols of this file")]
    NoSymbol {
        /// The missing function.
        function: String,
    },
    /// The machine code does something that the interpreter does not follow.
    #[error("{function}: cannot follow {stop}")]
    Unfollowed {
        /// The function that was asked.
        function: String,
        /// Where it stopped.
        stop: Stop,
    },
    /// The function was read to its end, but does not say what is asked.
    #[error("{function} answers `{answer}`, which is not {expected}{}", listed(.stops))]
    UnexpectedAnswer {
        /// The function that was read.
        function: String,
        /// What it returns, as an expression.
        answer: String,
        /// What it should have returned.
        expected: &'static str,
        /// If it is not known what it returns: where that ceased to be known.
        stops: Vec<Stop>,
    },
    /// Two witnesses disagree.
    #[error("{one} contradicts {other}")]
    Contradiction {
        /// What one of them says.
        one: String,
        /// What the other says.
        other: String,
    },
    /// One witness says so, and no other one is there to agree.
    #[error("{one}, which nothing else in the file confirms")]
    Unconfirmed {
        /// What the one says.
        one: String,
    },
    /// An offset that no `SSL_CTX` or `SSL` can have.
    #[error("{what} at offset {offset:#x} is outside of what is plausible")]
    OutOfRange {
        /// The field.
        what: &'static str,
        /// Its offset, as read.
        offset: i64,
    },
    /// Another library is needed to know, and is not there.
    #[error("it is counted by {library}, which was not found beside this file")]
    NoCompanion {
        /// The name of the other library, as `DT_NEEDED` has it.
        library: String,
    },
    /// The other library that is needed to know cannot be read.
    #[error("it is counted by {library}: {why}")]
    BadCompanion {
        /// The other library.
        library: String,
        /// What is wrong with it.
        why: String,
    },
    /// An increment has no instruction behind it where a probe may stand.
    #[error("no instruction behind the increment at {address:#x} is fit for a probe: {why}")]
    NoProbePoint {
        /// The increment, as an address of the file.
        address: u64,
        /// Why the last candidate was refused.
        why: &'static str,
    },
    /// Fewer or more increments than OpenSSL's sources have.
    #[error("{found} increments of it in the machine code, {expected} in the sources")]
    IncrementCount {
        /// How many were found.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// The increments are not made on the contexts, or not in the functions, in
    /// which the sources make them.
    #[error(
        "the increments found are not all on the contexts and in the functions of the sources: \
         none is taken for the first sight of a context"
    )]
    NotThoseOfTheSources,
    /// A function does not call another one that it should, so that a probe
    /// there would not see it.
    #[error("{function} does not call {callee}")]
    NoCall {
        /// The caller.
        function: String,
        /// What it should call.
        callee: String,
    },
    /// Another value, on which this one depends, is not known.
    #[error("it depends on {on}, which is not known")]
    DependsOn {
        /// The other field.
        on: &'static str,
    },
    /// The library keeps no such counter: its function returns 0, always.
    #[error("{family} does not count it: {function} always returns 0")]
    NotCounted {
        /// The library.
        family: Family,
        /// The function, with the arguments it was asked with.
        function: String,
    },
    /// The library keeps the counters, but not always.
    #[error("{family} does not count {what}")]
    PartlyCounted {
        /// The library.
        family: Family,
        /// What it leaves out.
        what: &'static str,
    },
    /// One of OpenSSL's relatives keeps it in ways that are not read.
    #[error("{family} is not asked for it: it keeps its settings in other ways than OpenSSL")]
    NotAsked {
        /// Whose library it is.
        family: Family,
    },
    /// No function of this library says it.
    #[error("no function of {family} says where it is")]
    Untold {
        /// The library.
        family: Family,
    },
    /// OpenSSL is in a file whose symbols do not say so, and something that its
    /// code must have was not found.
    #[error("it has no symbols, and {what} was not found in its machine code")]
    NotRecognised {
        /// What is missing.
        what: &'static str,
    },
    /// This kind of processor is not supported (yet).
    #[error("its machine code is for {arch}, which this version does not read")]
    Architecture {
        /// The processor.
        arch: String,
    },
}

/// A [`Gap`] and the field that it leaves unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldGap {
    /// The field, by its name in `sslsess explain --json`.
    pub field: String,
    /// Why it is not known.
    pub reason: Gap,
}
