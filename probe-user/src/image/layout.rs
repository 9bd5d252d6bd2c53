//! Where the twelve values are, learnt from the library's own accessors.

use std::{collections::BTreeMap, rc::Rc};

use probe_common::{COUNTERS, Counter};

use super::{
    code::value::{Base, Field, Value},
    companion,
    elf::Elf,
    evidence::{Evidence, ReadAt},
    family::{Accessors, Family},
    functions::Functions,
    gap::{FieldGap, Gap},
    loaded,
    question::{Asked, ask},
    references,
};

/// No `SSL_CTX` or `SSL` of any version is larger (4.0.3: 0xd80 or so).
const MAX_OFFSET: i64 = 0x4000;

/// `cmd` arguments of `SSL_CTX_ctrl` (`include/openssl/ssl.h`, 1.1.1 to 4.0).
const SSL_CTRL_SESS_NUMBER: u64 = 20;

const fn ctrl_command(counter: Counter) -> u64 {
    match counter {
        Counter::Connect => 21,
        Counter::ConnectGood => 22,
        Counter::ConnectRenegotiate => 23,
        Counter::Accept => 24,
        Counter::AcceptGood => 25,
        Counter::AcceptRenegotiate => 26,
        Counter::Hits => 27,
        Counter::CbHits => 28,
        Counter::Misses => 29,
        Counter::Timeouts => 30,
        Counter::CacheFull => 31,
    }
}

/// Where things are in this build of the library, in bytes.
///
/// `None`: not known; a [`FieldGap`] says why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// From the `SSL_CTX` to each counter, indexed by [`Counter`].
    pub counters: [Option<u32>; 11],
    /// The counters that the library does not keep: a gap of each says so.
    pub uncounted: [bool; 11],
    /// From the `SSL_CTX` to `references`.
    pub references: Option<u32>,
    /// From the `SSL_CTX` to `sessions`.
    pub sessions: Option<u32>,
    /// From the hash that `sessions` points to, to its number of items.
    pub num_items: Option<u32>,
    /// From the `SSL` to `ctx`.
    pub ssl_to_ctx: Option<u32>,
    /// From the `SSL` to `session_ctx`.
    pub ssl_to_session_ctx: Option<u32>,
}

impl Layout {
    /// Where the block of eleven counters begins, if all are known and stand
    /// one behind the other in the order of the sources.
    #[must_use]
    pub fn block(&self) -> Option<u32> {
        (self.kept()?.len() == COUNTERS.len()).then_some(self.counters[0])?
    }

    /// The counters that the library keeps, if of each it is known whether it
    /// does, and those that it keeps stand one behind the other in the order of
    /// OpenSSL's sources. Its relatives took counters out and moved none.
    #[must_use]
    pub fn kept(&self) -> Option<Vec<Counter>> {
        let mut kept: Vec<Counter> = Vec::new();
        let mut next: Option<u32> = None;
        for counter in COUNTERS {
            match (self.counters[counter as usize], self.uncounted[counter as usize]) {
                (Some(offset), false) => {
                    if next.is_some_and(|next| next != offset) {
                        return None;
                    }
                    next = Some(offset.checked_add(4)?);
                    kept.push(counter);
                }
                (None, true) => {}
                _ => return None,
            }
        }
        Some(kept)
    }
}

/// A layout, how it was learnt, and what could not be.
#[derive(Clone, Debug, Default)]
pub struct LearntLayout {
    /// The offsets.
    pub layout: Layout,
    /// One entry per known offset.
    pub evidence: Vec<Evidence>,
    /// Who else says so: one entry per known offset.
    pub witnesses: Vec<Evidence>,
    /// One entry per unknown offset.
    pub gaps: Vec<FieldGap>,
}

/// The library that counts the items of a hash, `libcrypto`.
pub enum Companion<'e> {
    /// It is in the same file: OpenSSL is linked statically.
    Within,
    /// It was found and read.
    Found(&'e Elf),
    /// It was not found; its name.
    Missing(String),
    /// It was found and could not be read; its name, and why.
    Unreadable(String, String),
}

/// Learns the layout of the `SSL_CTX` of a libssl.
#[must_use]
pub fn learn(
    functions: &mut Functions<'_>,
    companion: &Companion<'_>,
    family: Family,
) -> LearntLayout {
    let elf = functions.elf();
    let mut learner = Learner { elf, functions, family, learnt: LearntLayout::default() };
    learner.counters();
    learner.number(companion);
    learner.references();
    learner.connection();
    learner.check_block();
    if family == Family::LibreSsl {
        // Its TLS 1.3 (`tls13_*.c`) never touches `stats`.
        let reason = Gap::PartlyCounted { family, what: "handshakes of TLS 1.3" };
        learner.learnt.gaps.push(FieldGap { field: "tls1.3".to_owned(), reason });
    }
    learner.learnt
}

struct Learner<'e, 'f> {
    elf: &'e Elf,
    functions: &'f mut Functions<'e>,
    family: Family,
    learnt: LearntLayout,
}

pub(super) fn plausible(what: &'static str, offset: i64, width: i64) -> Result<u32, Gap> {
    if (0..MAX_OFFSET).contains(&offset) && offset % width == 0 {
        Ok(offset as u32)
    } else {
        Err(Gap::OutOfRange { what, offset })
    }
}

impl<'e> Learner<'e, '_> {
    fn settle(&mut self, field: &str, result: Result<(u32, Evidence), Gap>) -> Option<u32> {
        match result {
            Ok((offset, evidence)) => {
                self.learnt.evidence.push(evidence);
                Some(offset)
            }
            Err(reason) => {
                self.learnt.gaps.push(FieldGap { field: field.to_owned(), reason });
                None
            }
        }
    }

    fn counters(&mut self) {
        for counter in COUNTERS {
            let result = self.counter(counter);
            if matches!(result, Err(Gap::NotCounted { .. })) {
                self.learnt.layout.uncounted[counter as usize] = true;
            }
            self.learnt.layout.counters[counter as usize] = self.settle(counter.name(), result);
        }
    }

    /// Asks for one of the twelve values.
    fn ask_value(&self, name: &str, command: u64) -> Result<Asked<'e>, Gap> {
        match self.family.accessors() {
            Accessors::Commands => {
                let zero = Value::Constant(0);
                let command = Value::Constant(command);
                ask(
                    self.elf,
                    "SSL_CTX_ctrl",
                    &[Value::argument(0), command, zero.clone(), zero],
                    &[],
                )
            }
            Accessors::Functions => {
                ask(self.elf, &format!("SSL_CTX_sess_{name}"), &[Value::argument(0)], &[])
            }
        }
    }

    fn counter(&self, counter: Counter) -> Result<(u32, Evidence), Gap> {
        let asked = self.ask_value(counter.name(), ctrl_command(counter))?;
        // A function returns an `int`: whatever is above it is nobody's business.
        let (signed, expected) = match self.family.accessors() {
            Accessors::Commands => (true, "an int of the SSL_CTX, extended with its sign"),
            Accessors::Functions => (false, "an int of the SSL_CTX"),
        };
        match asked.only_value() {
            Some(value @ Value::Narrow { field, signed: is_signed })
                if field.base == Base::Argument(0)
                    && field.width == 4
                    && (*is_signed || !signed) =>
            {
                let offset = plausible("a counter", field.offset, 4)?;
                Ok((offset, asked.evidence(counter.name(), value, asked.loaded_at(value))))
            }
            // A command that is not known returns 0 as well: not so a function.
            None if !signed && asked.always_returns(0) => {
                Err(Gap::NotCounted { family: self.family, function: asked.question })
            }
            _ => Err(asked.unexpected(expected)),
        }
    }

    /// `number` is `OPENSSL_LH_num_items(ctx->sessions)`.
    fn number(&mut self, companion: &Companion<'_>) {
        let asked = match self.ask_value("number", SSL_CTRL_SESS_NUMBER) {
            Ok(asked) => asked,
            Err(reason) => {
                self.learnt.gaps.push(FieldGap { field: "sessions".to_owned(), reason });
                let reason = Gap::DependsOn { on: "sessions" };
                self.learnt.gaps.push(FieldGap { field: "num_items".to_owned(), reason });
                return;
            }
        };
        let (sessions, num_items) = match asked.only_value() {
            // Counted by a function of another file.
            Some(Value::Pointer { base: Base::Result(call), offset: 0 }) => (
                sessions_field(&call.argument, &asked),
                num_items_of_companion(self.elf, &call.function, companion),
            ),
            // Counted right here: OpenSSL is linked statically.
            Some(value @ Value::Pointer { base: Base::Field(items), offset: 0 }) => {
                match &items.base {
                    Base::Field(sessions) => {
                        let sessions =
                            Value::Pointer { base: Base::Field(Rc::clone(sessions)), offset: 0 };
                        let offset = plausible("num_items", items.offset, 8).map(|offset| {
                            let at = asked.loaded_at(value);
                            (offset, asked.evidence("num_items", items, at))
                        });
                        (sessions_field(&sessions, &asked), offset)
                    }
                    _ => {
                        let gap = asked.unexpected("the size of a hash of the SSL_CTX");
                        (Err(gap), Err(Gap::DependsOn { on: "sessions" }))
                    }
                }
            }
            _ => {
                let gap = asked.unexpected("the size of a hash of the SSL_CTX");
                (Err(gap), Err(Gap::DependsOn { on: "sessions" }))
            }
        };
        self.learnt.layout.sessions = self.settle("sessions", sessions);
        self.learnt.layout.num_items = self.settle("num_items", num_items);
    }

    fn references(&mut self) {
        let result = references::learn(self.elf, "SSL_CTX");
        self.learnt.layout.references = self.settle("references", result);
    }

    /// `SSL_get_SSL_CTX(ssl)` loads `ctx`; `SSL_set_SSL_CTX(ssl, NULL)` goes
    /// back to `session_ctx` and returns it (`ssl/ssl_lib.c`, 1.1.1 to 4.0).
    fn connection(&mut self) {
        let result = ask(self.elf, "SSL_get_SSL_CTX", &[Value::argument(0)], &[])
            .and_then(|asked| pointer_field("ssl_to_ctx", &asked))
            .or_else(|gap| self.loaded("ssl_to_ctx", &loaded::ON_CTX, gap));
        self.learnt.layout.ssl_to_ctx = self.settle("ssl_to_ctx", result);

        let result = match self.learnt.layout.ssl_to_ctx {
            // There `SSL_set_SSL_CTX(ssl, NULL)` returns `ctx` and changes nothing.
            _ if self.family.accessors() == Accessors::Functions => {
                Err(Gap::Untold { family: self.family })
            }
            Some(offset) => {
                // A connection always has a context.
                let field = Field { base: Base::Argument(0), offset: i64::from(offset), width: 8 };
                let arguments = [Value::argument(0), Value::Constant(0)];
                ask(self.elf, "SSL_set_SSL_CTX", &arguments, &[field])
                    .and_then(|asked| pointer_field("ssl_to_session_ctx", &asked))
                    .or_else(|gap| self.loaded("ssl_to_session_ctx", &loaded::ON_SESSION_CTX, gap))
            }
            None => Err(Gap::DependsOn { on: "ssl_to_ctx" }),
        };
        self.learnt.layout.ssl_to_session_ctx = self.settle("ssl_to_session_ctx", result);
    }

    /// Where the function that says it is not in the file, since a linker took it
    /// away, or cannot be followed: the increments say it as well.
    fn loaded(
        &mut self,
        field: &'static str,
        counters: &[Counter],
        gap: Gap,
    ) -> Result<(u32, Evidence), Gap> {
        if !matches!(gap, Gap::NoSymbol { .. } | Gap::Unfollowed { .. }) {
            return Err(gap);
        }
        let block = self.learnt.layout.block();
        let found = block.and_then(|block| loaded::only_field(self.functions, block, counters));
        let (offset, at) = found.ok_or(gap)?;
        let offset = plausible(field, offset, 8)?;
        let evidence = Evidence {
            field: field.to_owned(),
            question: format!("the increments of {}", counters[0].name()),
            answer: format!("load the context from u64[connection+{offset:#x}]"),
            read_at: ReadAt::of(self.elf, at),
        };
        Ok((offset, evidence))
    }

    /// The counters are members of one struct: eleven `int`s in a row, in the
    /// order of the sources. Accessors that say otherwise were misread.
    fn check_block(&mut self) {
        let layout = &mut self.learnt.layout;
        let known = layout.counters.iter().zip(layout.uncounted);
        if known.into_iter().any(|(offset, uncounted)| offset.is_none() && !uncounted)
            || layout.kept().is_some()
        {
            return;
        }
        let said: BTreeMap<&str, Option<u32>> = COUNTERS
            .iter()
            .map(|counter| (counter.name(), layout.counters[*counter as usize]))
            .collect();
        let reason = Gap::Contradiction {
            one: format!("what its accessors say ({said:?})"),
            other: "the sources, where the counters stand in a row".to_owned(),
        };
        layout.counters = [None; 11];
        for counter in COUNTERS.into_iter().filter(|c| !layout.uncounted[*c as usize]) {
            let field = counter.name().to_owned();
            self.learnt.gaps.push(FieldGap { field, reason: reason.clone() });
        }
    }
}

fn sessions_field(value: &Value, asked: &Asked<'_>) -> Result<(u32, Evidence), Gap> {
    match value.as_field() {
        Some(field) if field.base == Base::Argument(0) && field.width == 8 => {
            let offset = plausible("sessions", field.offset, 8)?;
            Ok((offset, asked.evidence("sessions", value, asked.loaded_at(value))))
        }
        _ => Err(asked.unexpected("the size of a hash of the SSL_CTX")),
    }
}

fn num_items_of_companion(
    libssl: &Elf,
    function: &str,
    companion: &Companion<'_>,
) -> Result<(u32, Evidence), Gap> {
    // A call that was not followed, of a function in the same file.
    let within = function.strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok());
    let function = within.and_then(|address| libssl.function_name(address)).unwrap_or(function);
    // Another function of the hash would answer as well.
    if !function.to_ascii_lowercase().ends_with("lh_num_items") {
        return Err(Gap::UnexpectedAnswer {
            function: "SSL_CTX_ctrl".to_owned(),
            answer: function.to_owned(),
            expected: "what counts the items of a hash",
            stops: Vec::new(),
        });
    }
    let elf = match companion {
        Companion::Within => libssl,
        _ if within.is_some() => libssl,
        Companion::Found(elf) => elf,
        Companion::Missing(library) => {
            return Err(Gap::NoCompanion { library: library.clone() });
        }
        Companion::Unreadable(library, why) => {
            return Err(Gap::BadCompanion { library: library.clone(), why: why.clone() });
        }
    };
    let (offset, mut evidence) =
        pointer_field("num_items", &ask(elf, function, &[Value::argument(0)], &[])?)?;
    if !std::ptr::eq(elf, libssl)
        && let Some(read_at) = &mut evidence.read_at
    {
        let name = elf.soname().or_else(|| companion::libcrypto_name(libssl));
        read_at.file = Some(name.unwrap_or("libcrypto").to_owned());
    }
    Ok((offset, evidence))
}

/// The answer, if it is a 64-bit field of the first argument and nothing else.
pub(super) fn pointer_field(what: &'static str, asked: &Asked<'_>) -> Result<(u32, Evidence), Gap> {
    match asked.only_value() {
        Some(value @ Value::Pointer { base: Base::Field(field), offset: 0 })
            if field.base == Base::Argument(0) =>
        {
            let offset = plausible(what, field.offset, 8)?;
            Ok((offset, asked.evidence(what, value, asked.loaded_at(value))))
        }
        _ => Err(asked.unexpected("a 64-bit field of its argument")),
    }
}
