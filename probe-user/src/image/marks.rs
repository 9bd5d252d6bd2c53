//! What tells an `SSL_CTX` from anything else in a process's memory, learnt from
//! the machine code.
//!
//! `SSL_CTX_new` (`ssl/ssl_lib.c`, 1.1.1 to 4.0) leaves two marks that nothing
//! else has together: `method`, which is one of the few objects that
//! `TLS_method` and its like return, and `sessions`, which points to a hash that
//! was made with two functions of this library. That it lives, two numbers of
//! references say: its own and that of its `cert_store`. `SSL_CTX_free` leaves
//! the first at 0, and gives up the second.
//!
//! A mark that is not known is a gap, and then nothing is looked for: with
//! fewer marks, it would be a guess.

use std::collections::BTreeSet;

use super::{
    code::{
        explore::{Trace, import_called_at},
        machine::Store,
        value::{Base, Value},
    },
    elf::Elf,
    evidence::Evidence,
    family::Family,
    gap::{FieldGap, Gap},
    layout::{Companion, Layout, pointer_field},
    question::{ask, ask_at},
    references,
    traces::trace,
};

/// What a public function is called that returns a method
/// (`include/openssl/ssl.h`, `include/openssl/quic.h`, 1.1.1 to 4.0).
const METHODS: [&str; 4] = ["TLS", "DTLS", "SSLv", "OSSL_QUIC_"];

/// The end of the names of these functions.
const METHOD: &str = "_method";

/// How far the methods can be from each other: they are constants of one file.
const MAX_APART: u64 = 1 << 20;

/// The marks, in bytes from what is named, and addresses of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// From the `SSL_CTX` to `method`.
    pub method: u32,
    /// The objects that `method` can point to; sorted.
    pub methods: Vec<u64>,
    /// From the `SSL_CTX` to `references`, an `int`.
    pub references: u32,
    /// From the `SSL_CTX` to `sessions`, which points to a hash.
    pub sessions: u32,
    /// From the hash to the function that it hashes with.
    pub hash: u32,
    /// That function.
    pub session_hash: u64,
    /// From the hash to the function that it compares with.
    pub compare: u32,
    /// That function.
    pub session_compare: u64,
    /// From the `SSL_CTX` to `cert_store`.
    pub cert_store: u32,
    /// From the `cert_store` to its own `references`, an `int`.
    pub store_references: u32,
    /// The executable segments: offset in the file, address, bytes.
    pub code: Vec<(u64, u64, u64)>,
}

impl Marks {
    /// By how much the addresses of a process differ from those of the file,
    /// which it maps at `start`, from an offset on, to execute it.
    #[must_use]
    pub fn base(&self, start: u64, offset: u64) -> Option<u64> {
        // A mapping begins at a whole page; no page is larger than this.
        const PAGE: u64 = 1 << 16;
        let (file_offset, address, _) = self.code.iter().find(|(file_offset, _, bytes)| {
            (file_offset & !(PAGE - 1)..file_offset.saturating_add(*bytes)).contains(&offset)
        })?;
        Some(start.wrapping_sub(offset).wrapping_sub(address.wrapping_sub(*file_offset)))
    }
}

/// The marks, how they were learnt, and what could not be.
#[derive(Clone, Debug, Default)]
pub struct LearntMarks {
    /// All of them, or none.
    pub marks: Option<Marks>,
    /// One entry per mark.
    pub evidence: Vec<Evidence>,
    /// One entry per mark that is not known.
    pub gaps: Vec<FieldGap>,
}

impl LearntMarks {
    /// None, of a library that is not asked.
    #[must_use]
    pub fn unknown(reason: Gap) -> Self {
        let gaps = vec![FieldGap { field: "scan".to_owned(), reason }];
        Self { gaps, ..Self::default() }
    }

    /// Takes in what was learnt of a mark.
    fn settle<T>(&mut self, field: &'static str, learnt: Result<Learnt<T>, Gap>) -> Option<T> {
        let field = format!("scan:{field}");
        match learnt {
            Ok((value, evidence)) => {
                self.evidence.push(Evidence { field, ..evidence });
                Some(value)
            }
            Err(reason) => {
                self.gaps.push(FieldGap { field, reason });
                None
            }
        }
    }
}

/// A mark, and what says so.
type Learnt<T> = (T, Evidence);

/// What an answer says, which no single instruction does.
fn told(question: impl Into<String>, answer: String) -> Evidence {
    Evidence { field: String::new(), question: question.into(), answer, read_at: None }
}

/// Learns the marks of the `SSL_CTX` of a libssl whose layout is known.
#[must_use]
pub fn learn(elf: &Elf, companion: &Companion<'_>, family: Family, layout: &Layout) -> LearntMarks {
    if family != Family::OpenSsl {
        return LearntMarks::unknown(Gap::Untold { family });
    }
    let mut learnt = LearntMarks::default();
    learnt.marks = all(elf, companion, layout, &mut learnt);
    learnt
}

fn all(
    elf: &Elf,
    companion: &Companion<'_>,
    layout: &Layout,
    learnt: &mut LearntMarks,
) -> Option<Marks> {
    let known = |field: Option<u32>, on| field.ok_or(Gap::DependsOn { on });
    let of_layout = |offset: u32, field: &str| {
        let answer = format!("{offset:#x}, as in the layout");
        (offset, told(field, answer))
    };
    let references = known(layout.references, "references").map(|o| of_layout(o, "references"));
    let references = learnt.settle("references", references);
    let sessions = known(layout.sessions, "sessions").map(|o| of_layout(o, "sessions"));
    let sessions = learnt.settle("sessions", sessions);
    let maker = Maker::of(elf);
    let method =
        learnt.settle("method", maker.as_ref().map_err(Gap::clone).and_then(|m| m.method()));
    let methods = learnt.settle("methods", methods(elf));
    let functions = maker.and_then(|maker| maker.functions(known(sessions, "sessions")?));
    let functions = learnt.settle("session_hash", functions);
    let libcrypto = libcrypto(elf, companion);
    let fields = libcrypto.as_ref().map_err(Gap::clone).and_then(|elf| hash_fields(elf));
    let fields = learnt.settle("hash", fields);
    let cert_store = field(elf, "cert_store", "SSL_CTX_get_cert_store");
    let cert_store = learnt.settle("cert_store", cert_store);
    let counted = libcrypto.and_then(|file| {
        let (offset, mut evidence) = references::learn(file, "X509_STORE")?;
        if !std::ptr::eq(file, elf)
            && let Some(read_at) = &mut evidence.read_at
        {
            read_at.file = Some(file.soname().unwrap_or("libcrypto").to_owned());
        }
        Ok((offset, evidence))
    });
    let store_references = learnt.settle("store_references", counted);
    let (session_hash, session_compare) = functions?;
    let (hash, compare) = fields?;
    let code = elf.executable().filter_map(|(address, bytes)| {
        Some((elf.file_offset(address)?, address, bytes.len() as u64))
    });
    Some(Marks {
        method: method?,
        methods: methods?,
        references: references?,
        sessions: sessions?,
        hash,
        session_hash,
        compare,
        session_compare,
        cert_store: cert_store?,
        store_references: store_references?,
        code: code.collect(),
    })
}

/// A field of the `SSL_CTX` that a function returns.
fn field(elf: &Elf, what: &'static str, function: &str) -> Result<Learnt<u32>, Gap> {
    pointer_field(what, &ask(elf, function, &[Value::argument(0)], &[])?)
}

/// The file that has the functions of `crypto/lhash/lhash.c` and `crypto/x509`.
fn libcrypto<'e>(elf: &'e Elf, companion: &'e Companion<'_>) -> Result<&'e Elf, Gap> {
    if elf.function("OPENSSL_LH_new").is_some() {
        return Ok(elf);
    }
    match companion {
        Companion::Within => Ok(elf),
        Companion::Found(elf) => Ok(elf),
        Companion::Missing(library) => Err(Gap::NoCompanion { library: library.clone() }),
        Companion::Unreadable(library, why) => {
            Err(Gap::BadCompanion { library: library.clone(), why: why.clone() })
        }
    }
}

/// What each function that returns a method returns, whatever it is called with.
fn methods(elf: &Elf) -> Result<Learnt<Vec<u64>>, Gap> {
    let mut methods = BTreeSet::new();
    let mut asked = 0;
    let of_methods = elf.functions_ending_in(METHOD).filter(|(name, symbol)| {
        !symbol.local && METHODS.iter().any(|beginning| name.starts_with(beginning))
    });
    for (name, symbol) in of_methods {
        let answered = ask_at(elf, name, symbol.address, &[], &[])?;
        // One that is not understood may be the one in use.
        match answered.only_value() {
            Some(Value::Constant(method)) => methods.insert(*method),
            _ => return Err(answered.unexpected("the address of a method")),
        };
        asked += 1;
    }
    let (Some(first), Some(last)) = (methods.first(), methods.last()) else {
        return Err(Gap::NoSymbol { function: "TLS_method".to_owned() });
    };
    if last - first > MAX_APART {
        let what = "the distance of the methods from each other";
        return Err(Gap::OutOfRange { what, offset: (last - first).cast_signed() });
    }
    let answer = format!("{} objects", methods.len());
    let question = format!("{asked} functions named *{METHOD}");
    Ok((methods.into_iter().collect(), told(question, answer)))
}

/// What makes an `SSL_CTX`, followed.
struct Maker<'e> {
    elf: &'e Elf,
    name: &'static str,
    /// Which of its arguments is the method.
    method: u8,
    trace: Trace,
}

impl<'e> Maker<'e> {
    /// `SSL_CTX_new_ex(libctx, propq, method)` since 3.0, `SSL_CTX_new(method)` before.
    fn of(elf: &'e Elf) -> Result<Self, Gap> {
        let candidates = [("SSL_CTX_new_ex", 2), ("SSL_CTX_new", 0)];
        let (name, method) = candidates
            .into_iter()
            .find(|(name, _)| elf.function(name).is_some())
            .ok_or_else(|| Gap::NoSymbol { function: "SSL_CTX_new".to_owned() })?;
        let arguments = [Value::argument(0), Value::argument(1), Value::argument(2)];
        let trace = trace(elf, name, &arguments[..=usize::from(method)]);
        Ok(Self { elf, name, method, trace })
    }

    /// `SSL_CTX_get_ssl_method` returns what the method was stored into.
    fn method(&self) -> Result<Learnt<u32>, Gap> {
        let (offset, evidence) = field(self.elf, "method", "SSL_CTX_get_ssl_method")?;
        let stored: BTreeSet<i64> = self
            .trace
            .stores
            .iter()
            .filter(|store| store.value == Value::argument(self.method))
            .map(|store| store.field.offset)
            .collect();
        if stored.contains(&i64::from(offset)) {
            return Ok((offset, evidence));
        }
        let one = format!("{} -> {}", evidence.question, evidence.answer);
        Err(if stored.is_empty() {
            Gap::Unconfirmed { one }
        } else {
            Gap::Contradiction {
                one,
                other: format!("{}, which stores it at {stored:x?}", self.name),
            }
        })
    }

    /// The two functions that the hash is made with that is stored into `sessions`:
    /// what it hashes with, what it compares with.
    fn functions(&self, sessions: u32) -> Result<Learnt<(u64, u64)>, Gap> {
        let made = self.trace.stores.iter().filter(|Store { field, .. }| {
            field.offset == i64::from(sessions)
                && field.width == 8
                && matches!(field.base, Base::Result(_))
        });
        let hashes: BTreeSet<u64> = made.filter_map(|store| self.made_with(&store.value)).collect();
        let pairs: BTreeSet<(u64, u64)> = self
            .trace
            .calls
            .iter()
            .filter(|call| self.makes_a_hash(&call.target))
            .filter_map(|call| match &call.arguments {
                [Value::Constant(hash), Value::Constant(compare)] => Some((*hash, *compare)),
                _ => None,
            })
            .filter(|(hash, _)| hashes.contains(hash))
            .collect();
        let question = format!("{}, for sessions", self.name);
        match Vec::from_iter(pairs)[..] {
            [(hash, compare)] if hash != 0 && compare != 0 => {
                let answer = format!("OPENSSL_LH_new({hash:#x}, {compare:#x})");
                Ok(((hash, compare), told(question, answer)))
            }
            ref found => Err(Gap::UnexpectedAnswer {
                function: question,
                answer: format!("{found:x?}"),
                expected: "one hash with two functions of this file",
                stops: Vec::new(),
            }),
        }
    }

    /// The first function that a hash was made with. Since 3.3 it passes through
    /// `OPENSSL_LH_set_thunks`, which returns it.
    fn made_with(&self, hash: &Value) -> Option<u64> {
        let Value::Pointer { base: Base::Result(call), offset: 0 } = hash else { return None };
        let name = call.function.as_str();
        let address = name.strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let is = |function: &str| {
            name == function || address.is_some_and(|address| self.is_at(address, function))
        };
        match &call.argument {
            Value::Constant(function) if is("OPENSSL_LH_new") => Some(*function),
            inner if is("OPENSSL_LH_set_thunks") => self.made_with(inner),
            _ => None,
        }
    }

    fn makes_a_hash(&self, target: &Value) -> bool {
        match target {
            Value::Pointer { base: Base::Import(name), offset: 0 } => &**name == "OPENSSL_LH_new",
            Value::Constant(address) => self.is_at(*address, "OPENSSL_LH_new"),
            _ => false,
        }
    }

    /// Whether a function, or the PLT entry that leads to it, stands at an address.
    fn is_at(&self, address: u64, function: &str) -> bool {
        self.elf.function(function).is_some_and(|symbol| symbol.address == address)
            || import_called_at(self.elf, address).as_deref() == Some(function)
    }
}

/// Where `OPENSSL_LH_new(hash, compare)` stores its arguments
/// (`crypto/lhash/lhash.c`, 1.1.1 to 4.0).
fn hash_fields(elf: &Elf) -> Result<Learnt<(u32, u32)>, Gap> {
    let function = "OPENSSL_LH_new";
    if elf.function(function).is_none() {
        return Err(Gap::NoSymbol { function: function.to_owned() });
    }
    let trace = trace(elf, function, &[Value::argument(0), Value::argument(1)]);
    let stored = |argument: u8| -> BTreeSet<i64> {
        let stores = trace.stores.iter().filter(|Store { field, value, .. }| {
            *value == Value::argument(argument)
                && field.width == 8
                && matches!(field.base, Base::Result(_))
        });
        stores.map(|store| store.field.offset).collect()
    };
    let (hash, compare) = (stored(0), stored(1));
    match (&Vec::from_iter(&hash)[..], &Vec::from_iter(&compare)[..]) {
        ([hash], [compare]) if (0..0x100).contains(*hash) && (0..0x100).contains(*compare) => {
            let answer = format!("stores arg0 at {hash:#x} and arg1 at {compare:#x}");
            let offsets = (**hash as u32, **compare as u32);
            Ok((offsets, told(format!("{function}(arg0, arg1)"), answer)))
        }
        _ => Err(Gap::UnexpectedAnswer {
            function: function.to_owned(),
            answer: format!("arg0 at {hash:x?}, arg1 at {compare:x?}"),
            expected: "a place in the hash for each of its arguments",
            stops: Vec::new(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::specimen, *};

    #[test]
    fn addresses_are_counted_from_where_the_code_is_mapped() {
        // Debian's libssl 3.0.19: mapped from 0x1e000 of the file on.
        let marks = Marks { code: vec![(0x1e000, 0x1e000, 0x5cbdd)], ..Marks::default() };
        assert_eq!(marks.base(0x7f00_0001_e000, 0x1e000), Some(0x7f00_0000_0000));
        // A part of it, behind one that was made writable.
        assert_eq!(marks.base(0x7f00_0002_0000, 0x20000), Some(0x7f00_0000_0000));
        assert_eq!(marks.base(0x7f00_0009_0000, 0x90000), None, "that is not its code");
        // lld puts code a page and a bit behind its place in the file; and a program that
        // is not moved: its addresses are those of the file.
        let marks = Marks { code: vec![(0x1a40, 0x202a40, 0x1000)], ..Marks::default() };
        assert_eq!(marks.base(0x20_2000, 0x1000), Some(0));
    }

    /// lea 0x1000(%rip),%rax / ret
    const CONSTANT: [u8; 8] = [0x48, 0x8d, 0x05, 0, 0x10, 0, 0, 0xc3];

    #[test]
    fn the_methods_are_what_the_functions_of_that_name_return() {
        let elf = specimen::library(&[
            ("TLS_method", CONSTANT.to_vec(), vec![]),
            ("DTLS_client_method", CONSTANT.to_vec(), vec![]),
            ("SSL_CTX_get_ssl_method", vec![0x48, 0x8b, 0x47, 0x08, 0xc3], vec![]),
        ]);
        let (methods, ..) = methods(&elf).expect("both are constants");
        assert_eq!(methods, [0x2007, 0x2107]);
    }

    /// Without one of them, contexts would be missed.
    #[test]
    fn a_method_that_is_not_understood_is_a_gap() {
        // mov 8(%rdi),%rax / ret
        let elf = specimen::library(&[
            ("TLS_method", CONSTANT.to_vec(), vec![]),
            ("OSSL_QUIC_server_method", vec![0x48, 0x8b, 0x47, 0x08, 0xc3], vec![]),
        ]);
        assert!(matches!(methods(&elf), Err(Gap::UnexpectedAnswer { .. })));
    }
}
