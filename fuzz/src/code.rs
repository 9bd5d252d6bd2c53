//! Arbitrary bytes as the code of a function, asked as a library is.

use std::{collections::HashSet, hint::black_box};

use crate::image::code::{
    CodeSource,
    explore::{self, Bounds, DEFAULT_BOUNDS},
    flow::Function,
    processor::Processor,
    value::{Base, Field, Value},
};

/// Where the bytes stand.
const BASE: u64 = 0x1000;

/// Cells that the dynamic linker fills in, as a GOT's are: near enough for the
/// short displacements that mutations make.
const IMPORTS: std::ops::Range<u64> = 0x2000..0x2100;

/// What most inputs may cost: loops and forks say no more after a while. One in
/// eight goes on for as long as a library's code may.
const BRIEF: Bounds = Bounds { steps: 256, paths: 12, ..DEFAULT_BOUNDS };

/// Bytes that are code and constants at once, so that tables can be among them.
struct Bytes<'b>(&'static dyn Processor, &'b [u8]);

impl CodeSource for Bytes<'_> {
    fn processor(&self) -> &'static dyn Processor {
        self.0
    }

    fn code(&self, address: u64) -> Option<&[u8]> {
        let at = usize::try_from(address.checked_sub(BASE)?).ok()?;
        self.1.get(at..).filter(|code| !code.is_empty())
    }

    fn constant(&self, address: u64, width: usize) -> Option<u64> {
        let mut value = [0; 8];
        value.get_mut(..width)?.copy_from_slice(self.code(address)?.get(..width)?);
        Some(u64::from_le_bytes(value))
    }

    fn import_at(&self, address: u64) -> Option<&str> {
        IMPORTS.contains(&address).then_some("OPENSSL_LH_num_items")
    }
}

/// Asks the function that the bytes are what `SSL_CTX_ctrl` and
/// `SSL_set_SSL_CTX` are asked, and proves its flow as the probe plan does.
pub fn ask(processor: &'static dyn Processor, bytes: &[u8]) {
    let source = Bytes(processor, bytes);
    let zero = Value::Constant(0);
    follow(&source, &[Value::argument(0), Value::Constant(27), zero.clone(), zero.clone()]);
    follow(&source, &[Value::argument(0), zero]);
    black_box(explore::import_called_at(&source, BASE));
    black_box(processor.text(bytes, BASE));

    let end = BASE + bytes.len() as u64;
    // Where no instruction begins, a jump from outside makes the function unfit.
    for outside in [HashSet::new(), HashSet::from([BASE + 16])] {
        let Ok(function) = Function::new(&source, BASE..end, &outside) else { continue };
        for register in [0, 3, 7] {
            black_box(function.reaching(register, BASE + bytes.len() as u64 / 2));
        }
        black_box(function.only_follows(BASE, BASE + 4));
    }
    let into = BASE + 8..BASE + 16;
    black_box(processor.possible_jumps(&source, bytes, BASE, std::slice::from_ref(&into)));
}

fn follow(source: &Bytes<'_>, arguments: &[Value]) {
    let mut machine = explore::called_with(source.0.convention(), arguments);
    machine.non_null.push(Field { base: Base::Argument(0), offset: 8, width: 8 });
    let at_length = source.1.last().is_some_and(|last| last % 8 == 0);
    let bounds = if at_length { DEFAULT_BOUNDS } else { BRIEF };
    match explore::explore(source, BASE, machine, bounds) {
        // As a gap or the evidence would show them.
        Ok(answers) => answers.iter().for_each(|answer| {
            black_box(answer.value.to_string());
        }),
        Err(stopped) => {
            black_box(stopped);
        }
    }
}
