//! Where an object keeps its number of references: what its `_up_ref` (that of an
//! `SSL_CTX`: `SSL_CTX_up_ref`) adds 1 to, itself or through a function of
//! libcrypto. Where a linker took that away since nobody calls it, what its
//! `_free` takes 1 from.

use std::collections::BTreeSet;

use super::{
    code::{
        explore::Answer,
        value::{Base, Value},
    },
    elf::Elf,
    evidence::{Evidence, ReadAt},
    gap::Gap,
    layout::plausible,
    question::ask,
    traces::{changed_by, changes_by, trace},
};

/// Functions that add to the `int` that their first argument points to.
const ADDERS: [Adder; 3] = [
    // `CRYPTO_refcount_inc(&references)` (AWS-LC, BoringSSL: crypto/refcount_c11.c).
    Adder { function: "CRYPTO_refcount_inc", adds_second_argument: false },
    // `CRYPTO_atomic_add(&references, 1, ...)` (OpenSSL without atomics:
    // include/internal/refcount.h).
    Adder { function: "CRYPTO_atomic_add", adds_second_argument: true },
    // `CRYPTO_add_lock(&references, 1, ...)` (LibreSSL: crypto/crypto_lock.c).
    Adder { function: "CRYPTO_add_lock", adds_second_argument: true },
];

struct Adder {
    function: &'static str,
    adds_second_argument: bool,
}

/// The offset of `references` in objects of a type (`SSL_CTX`), and what says so.
///
/// # Errors
///
/// If neither function of the type says it.
pub(super) fn learn(elf: &Elf, of: &str) -> Result<(u32, Evidence), Gap> {
    let (up_ref, free) = (format!("{of}_up_ref"), format!("{of}_free"));
    if elf.function(&up_ref).is_none() && elf.function(&free).is_some() {
        return taken_by_free(elf, &up_ref, &free);
    }
    let asked = ask(elf, &up_ref, &[Value::argument(0)], &[])?;
    let mut found: Vec<(i64, String, u64)> =
        asked.answers.iter().flat_map(added_in_place).collect();
    found.extend(asked.answers.iter().flat_map(|answer| added_by_call(elf, answer)));
    found.sort();
    // Who follows the call finds the same once more.
    found.dedup_by_key(|(offset, ..)| *offset);
    match found.as_slice() {
        [(offset, how, at)] => {
            let offset = plausible("references", *offset, 4)?;
            Ok((offset, asked.evidence("references", how, Some(*at))))
        }
        _ => Err(asked.unexpected("one increment of an int of its argument")),
    }
}

fn taken_by_free(elf: &Elf, up_ref: &str, free: &str) -> Result<(u32, Evidence), Gap> {
    let trace = trace(elf, free, &[Value::argument(0)]);
    let taken: BTreeSet<i64> = changed_by(&trace.changes, -1, 4).collect();
    match Vec::from_iter(taken)[..] {
        [offset] => {
            let at = trace.changes.iter().find(|c| changes_by(c, -1, 4) == Some(offset));
            let evidence = Evidence {
                field: "references".to_owned(),
                question: format!("{free}(arg0)"),
                answer: format!("takes 1 from u32[arg0+{offset:#x}]"),
                read_at: at.and_then(|change| ReadAt::of(elf, change.at)),
            };
            Ok((plausible("references", offset, 4)?, evidence))
        }
        _ => Err(Gap::NoSymbol { function: up_ref.to_owned() }),
    }
}

fn added_in_place(answer: &Answer) -> Vec<(i64, String, u64)> {
    let by_one = answer.increments.iter().filter(|i| i.amount == Value::Constant(1));
    by_one
        // One of something else would be a second answer: it is not left out.
        .map(|increment| {
            let field = &increment.field;
            let own = field.base == Base::Argument(0) && field.width == 4;
            let offset = if own { field.offset } else { -1 };
            (offset, format!("adds 1 to {field}"), increment.at)
        })
        .collect()
}

fn added_by_call(elf: &Elf, answer: &Answer) -> Vec<(i64, String, u64)> {
    let mut found = Vec::new();
    for call in answer.calls.iter() {
        let name = match &call.target {
            Value::Pointer { base: Base::Import(name), offset: 0 } => Some(&**name),
            Value::Constant(address) => elf.function_name(*address),
            _ => None,
        };
        let Some(adder) = ADDERS.iter().find(|adder| Some(adder.function) == name) else {
            continue;
        };
        let [pointer, amount] = &call.arguments;
        let by_one = !adder.adds_second_argument || *amount == Value::Constant(1);
        let offset = match pointer {
            Value::Pointer { base: Base::Argument(0), offset } if by_one => *offset,
            _ => -1,
        };
        found.push((offset, format!("hands {pointer} to {}", adder.function), call.at));
    }
    found
}
