//! Which bytes learning looks at: the accessors, what they call, their tables,
//! and the code around the increments.

use std::{cell::RefCell, collections::BTreeSet};

use sslsess::image::{
    Elf, Image, ProbeKind,
    code::{
        CodeSource,
        explore::{self, DEFAULT_BOUNDS},
        processor::Processor,
        value::Value,
    },
    unwind::FunctionRanges,
};

/// Functions that are asked where something is, with the constants that are
/// passed behind the first argument.
const QUESTIONS: [(&str, &[u64]); 4] = [
    ("SSL_CTX_up_ref", &[]),
    ("SSL_get_SSL_CTX", &[]),
    ("SSL_set_SSL_CTX", &[0]),
    ("OPENSSL_LH_num_items", &[]),
];

/// Commands of `SSL_CTX_ctrl` that answer with one of the twelve values.
const COMMANDS: std::ops::RangeInclusive<u64> = 20..=31;

/// Functions that are asked whether they agree.
const WITNESSES: [(&str, &[u64]); 11] = [
    ("SSL_CTX_sessions", &[]),
    ("SSL_CTX_free", &[]),
    ("SSL_CTX_get_ciphers", &[]),
    ("SSL_get_ciphers", &[]),
    ("SSL_has_matching_session_id", &[0, 0]),
    ("SSL_free", &[]),
    ("SSL_CTX_add_session", &[]),
    ("SSL_CTX_remove_session", &[]),
    ("SSL_CTX_flush_sessions", &[]),
    ("OPENSSL_LH_get_down_load", &[]),
    ("OPENSSL_LH_delete", &[]),
];

/// Bytes before a probe point among which its increment is.
const BEFORE: u64 = 64;

/// Addresses that are worth damaging.
#[derive(Default)]
pub(crate) struct Interest {
    /// Instructions of the accessors.
    pub(crate) asked: Vec<u64>,
    /// Instructions of other functions that can be asked.
    pub(crate) witnesses: Vec<u64>,
    /// Instructions around the increments.
    pub(crate) increments: Vec<u64>,
    /// Entries of jump tables, and other constants, with their bytes.
    pub(crate) constants: Vec<(u64, usize)>,
    /// Names of the functions.
    pub(crate) functions: Vec<&'static str>,
}

impl Interest {
    pub(crate) fn of(elf: &Elf, image: Option<&Image>) -> Self {
        let mut interest = Self::default();
        let asked = Recorder::new(elf);
        for command in COMMANDS {
            asked.ask("SSL_CTX_ctrl", &[command, 0, 0]);
        }
        for (function, arguments) in QUESTIONS {
            asked.ask(function, arguments);
        }
        let witnesses = Recorder::new(elf);
        for (function, arguments) in WITNESSES {
            witnesses.ask(function, arguments);
        }
        interest.functions = QUESTIONS
            .iter()
            .chain(&WITNESSES)
            .map(|(function, _)| *function)
            .chain(["SSL_CTX_ctrl"])
            .filter(|function| elf.function(function).is_some())
            .collect();
        interest.constants = asked.constants.borrow().iter().copied().collect();
        interest.asked = asked.instructions.into_inner().into_iter().collect();
        interest.witnesses = witnesses.instructions.into_inner().into_iter().collect();
        if let Some(image) = image {
            interest.increments = around_increments(elf, image);
        }
        interest
    }
}

fn around_increments(elf: &Elf, image: &Image) -> Vec<u64> {
    let ranges = FunctionRanges::read(elf);
    let points = image.plan.points.iter().filter(|p| matches!(p.kind, ProbeKind::Increment(_)));
    let mut addresses = BTreeSet::new();
    for point in points {
        let Some(range) = ranges.containing(point.address) else { continue };
        let Some(code) = elf.code(range.start) else { continue };
        let instructions = elf.processor().decode(code, range.start).map_while(|i| i);
        let before = instructions.map(|i| i.address).take_while(|at| *at < point.address);
        addresses.extend(before.filter(|at| point.address - at <= BEFORE));
    }
    addresses.into_iter().collect()
}

/// Notes what is read.
struct Recorder<'e> {
    elf: &'e Elf,
    instructions: RefCell<BTreeSet<u64>>,
    constants: RefCell<BTreeSet<(u64, usize)>>,
}

impl<'e> Recorder<'e> {
    fn new(elf: &'e Elf) -> Self {
        Self { elf, instructions: RefCell::default(), constants: RefCell::default() }
    }

    fn ask(&self, function: &str, arguments: &[u64]) {
        let Some(symbol) = self.elf.function(function) else { return };
        let constants = arguments.iter().map(|c| Value::Constant(*c));
        let arguments: Vec<Value> = [Value::argument(0)].into_iter().chain(constants).collect();
        // What it was that could not be followed is of interest as well.
        let _ = explore::explore(
            self,
            symbol.address,
            explore::called_with(self.processor().convention(), &arguments),
            DEFAULT_BOUNDS,
        );
    }
}

impl CodeSource for Recorder<'_> {
    fn code(&self, address: u64) -> Option<&[u8]> {
        let code = self.elf.code(address)?;
        self.instructions.borrow_mut().insert(address);
        Some(code)
    }

    fn constant(&self, address: u64, width: usize) -> Option<u64> {
        let value = self.elf.constant(address, width)?;
        self.constants.borrow_mut().insert((address, width));
        Some(value)
    }

    fn import_at(&self, address: u64) -> Option<&str> {
        self.elf.import_at(address)
    }

    fn processor(&self) -> &'static dyn Processor {
        self.elf.processor()
    }
}
