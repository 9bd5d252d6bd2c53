//! Second witnesses: an offset is believed if two places of the file say so
//! that do not share an instruction.
//!
//! The accessor that an offset was learnt from may have been read wrongly, or
//! be another function than its symbol says. Somewhere else in the file, the
//! same field is used by other code. Where there are several other witnesses,
//! one that agrees is enough: that two independent ones err by the same amount
//! is not to be expected, and that one of them cannot be read in some build is.

use probe_common::COUNTERS;

use super::{
    code::{
        explore::{self, Trace},
        value::{Base, Value},
    },
    elf::Elf,
    evidence::{Evidence, ReadAt},
    family::Family,
    functions::Functions,
    gap::{FieldGap, Gap},
    layout::{Companion, LearntLayout},
    loaded, sources,
    traces::{changed_by, field_of_argument, of_argument, path, pointer, trace},
};

/// From the first counter to `references`, the next member of the struct
/// (`ssl/ssl_local.h`, 1.1.1 to 4.0).
const TO_REFERENCES: i64 = 0x2c;

/// The same where the counters are behind a lock: the pointer to it is between them.
const TO_REFERENCES_WITH_LOCK: i64 = 0x38;

/// Increments that may be missing: some compilers compute the addresses of two
/// counters first.
const MISSING_INCREMENTS: usize = 2;

/// What one place of a file says of a field.
struct Witness {
    /// The place.
    place: String,
    /// The offsets that it may mean; none if it does not speak.
    says: Vec<i64>,
}

impl Witness {
    fn new(place: impl Into<String>, mut says: Vec<i64>) -> Self {
        says.sort_unstable();
        says.dedup();
        Self { place: place.into(), says }
    }

    /// One that agrees. Who names several offsets (`SSL_free` frees both contexts
    /// of a connection) is not believed against one who names another one.
    fn that_agrees(witnesses: &[Self], offset: i64) -> Option<&Self> {
        let (certain, vague): (Vec<&Self>, Vec<&Self>) = witnesses
            .iter()
            .filter(|witness| !witness.says.is_empty())
            .partition(|witness| witness.says.len() == 1);
        let agrees = |witness: &&&Self| witness.says.contains(&offset);
        let among_vague = || vague.iter().find(agrees).filter(|_| certain.is_empty());
        certain.iter().find(agrees).or_else(among_vague).copied()
    }
}

/// Takes away every offset that no second witness confirms; of OpenSSL's
/// relatives, which do not have all of the witnesses, those that one contradicts.
pub fn confirm(
    functions: &mut Functions<'_>,
    companion: &Companion<'_>,
    family: Family,
    learnt: &mut LearntLayout,
) {
    let mut court = Court { elf: functions.elf(), functions, companion, family, learnt };
    let references = court.references();
    court.block(&references);
    court.sessions();
    court.num_items();
    court.connection();
}

struct Court<'e, 'f, 'l> {
    elf: &'e Elf,
    functions: &'f mut Functions<'e>,
    companion: &'l Companion<'l>,
    family: Family,
    learnt: &'l mut LearntLayout,
}

impl Court<'_, '_, '_> {
    fn trace(&self, function: &str, arguments: &[Value]) -> Trace {
        trace(self.elf, function, arguments)
    }

    /// Keeps a field if a witness agrees with it.
    fn keep(&mut self, field: &str, said: Option<u32>, witnesses: Vec<Witness>) -> Option<u32> {
        let said = said?;
        let agrees = Witness::that_agrees(&witnesses, i64::from(said));
        if let Some(witness) = agrees {
            self.learnt.witnesses.push(Evidence {
                field: field.to_owned(),
                question: witness.place.clone(),
                answer: format!("{said:#x}"),
                read_at: None,
            });
            return Some(said);
        }
        let silent = witnesses.iter().all(|witness| witness.says.is_empty());
        if silent && self.family != Family::OpenSsl {
            return Some(said);
        }
        self.drop_field(field, &witnesses);
        None
    }

    fn drop_field(&mut self, field: &str, witnesses: &[Witness]) {
        let one = self.said(field);
        let reason = match witnesses.iter().find(|witness| !witness.says.is_empty()) {
            Some(Witness { place, says }) => {
                let says: Vec<String> = says.iter().map(|offset| format!("{offset:#x}")).collect();
                Gap::Contradiction { one, other: format!("{place}: {}", says.join(" or ")) }
            }
            None => Gap::Unconfirmed { one },
        };
        self.forget(field, reason);
    }

    /// What the first witness of a field says, for people.
    fn said(&self, field: &str) -> String {
        let of_field = |evidence: &&Evidence| evidence.field == field;
        self.learnt.evidence.iter().find(of_field).map_or_else(
            || format!("what is said of {field}"),
            |evidence| format!("{} -> {}", evidence.question, evidence.answer),
        )
    }

    fn forget(&mut self, field: &str, reason: Gap) {
        self.learnt.evidence.retain(|evidence| evidence.field != field);
        self.learnt.gaps.push(FieldGap { field: field.to_owned(), reason });
    }

    /// What `SSL_CTX_up_ref` adds one to, `SSL_CTX_free` takes one from; and it
    /// stands behind the counters. Returns all that is said of it.
    fn references(&mut self) -> Vec<i64> {
        let free = self.trace("SSL_CTX_free", &[Value::argument(0)]);
        // Without atomics, libcrypto does it.
        let minus_one = Value::Constant(u64::from(u32::MAX));
        let handed = free.calls.iter().filter(|call| {
            // AWS-LC's and BoringSSL's libcrypto does it always.
            self.is_function(&call.target, "CRYPTO_refcount_dec_and_test_zero")
                || self.is_function(&call.target, "CRYPTO_atomic_add")
                    && call.arguments[1].zero_extended(4) == minus_one
        });
        let handed = handed.filter_map(|call| match call.arguments[0] {
            Value::Pointer { base: Base::Argument(0), offset } => Some(offset),
            _ => None,
        });
        let freed: Vec<i64> = changed_by(&free.changes, -1, 4).chain(handed).collect();
        // The relatives have other members there.
        let first = self.first_counter().filter(|_| self.family == Family::OpenSsl);
        let behind = first.map(|first| first + TO_REFERENCES);
        let witnesses = vec![
            Witness::new("SSL_CTX_free takes one from an int", freed.clone()),
            Witness::new("the members behind the counters", behind.into_iter().collect()),
        ];
        let said = self.learnt.layout.references;
        self.learnt.layout.references = self.keep("references", said, witnesses);
        let mut all = freed;
        all.extend(said.map(i64::from));
        all
    }

    /// Where the block begins, if all counters that are known say the same.
    fn first_counter(&self) -> Option<i64> {
        let layout = &self.learnt.layout;
        let kept = COUNTERS.iter().filter(|counter| !layout.uncounted[**counter as usize]);
        let mut starts = (0_i64..).zip(kept).filter_map(|(i, counter)| {
            Some(i64::from(layout.counters[*counter as usize]?) - 4 * i)
        });
        let start = starts.next()?;
        starts.all(|other| other == start).then_some(start)
    }

    /// The counters stand before `references`, and the instructions that change
    /// them say where they are.
    fn block(&mut self, references: &[i64]) {
        let Some(start) = self.first_counter() else {
            // Some are not known, and the others do not stand in a row.
            let row = Witness::new("the sources, where the counters stand in a row", Vec::new());
            self.drop_counters(&row);
            return;
        };
        // The relatives' row is told by a function for each counter: it is a witness itself.
        if self.family != Family::OpenSsl {
            return;
        }
        // Behind them in the struct is a pointer: they begin at a multiple of 8.
        let aligned = start % 8 == 0;
        let before =
            references.iter().flat_map(|r| [r - TO_REFERENCES, r - TO_REFERENCES_WITH_LOCK]);
        let before = Witness::new("the member behind the counters", before.collect());
        let agrees = aligned && before.says.contains(&start);
        let witnesses = if agrees { vec![before] } else { vec![before, self.incremented(start)] };
        let mut gaps = Vec::new();
        for (i, counter) in (0_u32..).zip(COUNTERS) {
            let Some(said) = self.learnt.layout.counters[counter as usize] else { continue };
            let of_counter = witnesses
                .iter()
                .map(|w| {
                    let says = w.says.iter().map(|start| start + i64::from(4 * i)).collect();
                    Witness::new(w.place.clone(), if aligned { says } else { Vec::new() })
                })
                .collect();
            gaps.push((counter, self.keep(counter.name(), Some(said), of_counter)));
        }
        for (counter, kept) in gaps {
            self.learnt.layout.counters[counter as usize] = kept;
        }
    }

    fn drop_counters(&mut self, witness: &Witness) {
        for counter in COUNTERS {
            if self.learnt.layout.counters[counter as usize].take().is_some() {
                let other = witness.place.clone();
                let one = self.said(counter.name());
                self.forget(counter.name(), Gap::Contradiction { one, other });
            }
        }
    }

    /// The increments of a block that begins there, if they are those of the sources.
    fn incremented(&mut self, start: i64) -> Witness {
        let place = "the instructions that change counters";
        let Ok(block) = u32::try_from(start) else { return Witness::new(place, Vec::new()) };
        let sites = self.functions.increments(block);
        let mut missing = 0;
        for counter in COUNTERS {
            let found = sites.iter().filter(|site| site.counter == counter).count();
            let expected = sources::in_the_sources(counter);
            if found > expected {
                return Witness::new(place, Vec::new());
            }
            missing += expected - found;
        }
        let agree = missing <= MISSING_INCREMENTS;
        Witness::new(place, if agree { vec![start] } else { Vec::new() })
    }

    /// `SSL_CTX_sessions` returns it; a connection looks sessions up in it.
    fn sessions(&mut self) {
        let exported = self.trace("SSL_CTX_sessions", &[Value::argument(0)]);
        let exported = exported.answers.iter().filter_map(field_of_argument).collect();
        let looked_up = self.looked_up_in().into_iter().map(|(_, sessions)| sessions).collect();
        let passed = ["SSL_CTX_remove_session", "SSL_CTX_add_session", "SSL_CTX_flush_sessions"]
            .into_iter()
            .flat_map(|function| self.passed_to_hash(function))
            .collect();
        let witnesses = vec![
            Witness::new("SSL_CTX_sessions(arg0)", exported),
            Witness::new("SSL_has_matching_session_id looks it up there", looked_up),
            Witness::new("the hash that sessions are put into and removed from", passed),
        ];
        let said = self.learnt.layout.sessions;
        self.learnt.layout.sessions = self.keep("sessions", said, witnesses);
    }

    /// `SSL_has_matching_session_id(ssl, id, 0)` looks a session up in
    /// `ssl->session_ctx->sessions`: both offsets.
    fn looked_up_in(&self) -> Vec<(i64, i64)> {
        let zero = Value::Constant(0);
        let arguments = [Value::argument(0), Value::argument(1), zero];
        let trace = self.trace("SSL_has_matching_session_id", &arguments);
        trace
            .calls
            .iter()
            .filter(|call| self.is_of_hash(&call.target))
            .filter_map(|call| {
                let sessions = pointer(&call.arguments[0])?;
                let Base::Field(session_ctx) = &sessions.base else { return None };
                let connection = of_argument(session_ctx)?;
                Some((connection, sessions.offset))
            })
            .collect()
    }

    /// Fields of its first argument that a function passes to functions of the hash.
    fn passed_to_hash(&self, function: &str) -> Vec<i64> {
        let trace = self.trace(function, &[Value::argument(0), Value::argument(1)]);
        let calls = trace.calls.iter().filter(|call| self.is_of_hash(&call.target));
        calls.filter_map(|call| field_of_argument(&call.arguments[0])).collect()
    }

    /// Whether a call goes to one of the functions of `crypto/lhash/lhash.c`.
    fn is_of_hash(&self, target: &Value) -> bool {
        const FUNCTIONS: [&str; 10] = [
            // The relatives' names.
            "OPENSSL_lh_retrieve",
            "OPENSSL_lh_insert",
            "OPENSSL_lh_delete",
            "OPENSSL_lh_doall_arg",
            "OPENSSL_LH_retrieve",
            "OPENSSL_LH_insert",
            "OPENSSL_LH_delete",
            "OPENSSL_LH_get_down_load",
            "OPENSSL_LH_set_down_load",
            "OPENSSL_LH_doall_arg",
        ];
        self.is_one_of(target, &FUNCTIONS)
    }

    fn is_function(&self, target: &Value, name: &str) -> bool {
        self.is_one_of(target, &[name])
    }

    fn is_one_of(&self, target: &Value, names: &[&str]) -> bool {
        match target {
            Value::Pointer { base: Base::Import(import), offset: 0 } => names.contains(&&**import),
            Value::Constant(address) => {
                let mut symbols = names.iter().filter_map(|name| self.elf.function(name));
                symbols.any(|symbol| symbol.address == *address)
                    || explore::import_called_at(self.elf, *address)
                        .is_some_and(|import| names.contains(&&*import))
            }
            _ => false,
        }
    }

    /// `down_load` stands before it in the hash, and has an accessor of its own
    /// (`crypto/lhash/lhash_local.h`, 1.1.1 to 4.0); `OPENSSL_LH_delete` takes one from it.
    fn num_items(&mut self) {
        let elf = match self.companion {
            // OpenSSL is linked statically: the hash is in the file itself.
            Companion::Within => self.elf,
            _ if ["OPENSSL_LH_num_items", "OPENSSL_lh_num_items"]
                .iter()
                .any(|name| self.elf.function(name).is_some()) =>
            {
                self.elf
            }
            Companion::Found(elf) => elf,
            _ => return,
        };
        let hash = [Value::argument(0), Value::argument(1)];
        let before = trace(elf, "OPENSSL_LH_get_down_load", &hash);
        let before = before.answers.iter().filter_map(field_of_argument).map(|o| o + 8).collect();
        let delete = ["OPENSSL_LH_delete", "OPENSSL_lh_delete"].map(|name| trace(elf, name, &hash));
        let deleted = delete.iter().flat_map(|trace| changed_by(&trace.changes, -1, 8));
        let witnesses = vec![
            Witness::new("the member behind the one of OPENSSL_LH_get_down_load", before),
            Witness::new("OPENSSL_LH_delete takes one from it", deleted.collect()),
        ];
        let said = self.learnt.layout.num_items;
        self.learnt.layout.num_items = self.keep("num_items", said, witnesses);
    }

    /// `SSL_get_ciphers` falls back to those of `ssl->ctx`, which
    /// `SSL_CTX_get_ciphers` returns; `SSL_set_SSL_CTX` frees `ssl->ctx`;
    /// `SSL_free` frees both.
    fn connection(&mut self) {
        let ciphers = self.trace("SSL_CTX_get_ciphers", &[Value::argument(0)]);
        let ciphers: Vec<Vec<i64>> = ciphers.answers.iter().filter_map(path).collect();
        let through = self.trace("SSL_get_ciphers", &[Value::argument(0)]);
        let through = through.answers.iter().filter_map(|answer| {
            let path = path(answer)?;
            let (ctx, rest) = path.split_first()?;
            ciphers.iter().any(|ciphers| ciphers == rest).then_some(*ctx)
        });
        let through = through.collect();
        let set = self.trace("SSL_set_SSL_CTX", &[Value::argument(0), Value::argument(1)]);
        let set = self.freed_by(&set);
        let freed = self.trace("SSL_free", &[Value::argument(0)]);
        let freed = self.freed_by(&freed);
        let witnesses = vec![
            Witness::new("SSL_get_ciphers, through the SSL_CTX", through),
            Witness::new("SSL_set_SSL_CTX frees it", set),
            Witness::new("SSL_free frees it", freed.clone()),
        ];
        let said = self.learnt.layout.ssl_to_ctx;
        self.learnt.layout.ssl_to_ctx = self.keep("ssl_to_ctx", said, witnesses);

        let Some(ctx) = self.learnt.layout.ssl_to_ctx.map(i64::from) else {
            if self.learnt.layout.ssl_to_session_ctx.take().is_some() {
                self.forget("ssl_to_session_ctx", Gap::DependsOn { on: "ssl_to_ctx" });
            }
            return;
        };
        let not_ctx = |offset: &i64| *offset != ctx;
        let looked_up = self.looked_up_in().into_iter().map(|(connection, _)| connection);
        let looked_up: Vec<i64> = looked_up.filter(not_ctx).collect();
        if self.learnt.layout.ssl_to_session_ctx.is_none() {
            self.session_ctx_in_part(&looked_up);
        }
        let mut witnesses = vec![
            Witness::new("SSL_has_matching_session_id, through it", looked_up),
            Witness::new("SSL_free frees it", freed.into_iter().filter(not_ctx).collect()),
        ];
        let said = self.learnt.layout.ssl_to_session_ctx;
        // It takes a look at many functions: only where the others do not speak.
        if witnesses.iter().all(|witness| witness.says.is_empty())
            && self.is_said_by("ssl_to_session_ctx", "SSL_set_SSL_CTX")
            && let Some(block) = self.learnt.layout.block()
        {
            let loaded = loaded::only_field(self.functions, block, &loaded::ON_SESSION_CTX);
            let place = "the increments on the context that a connection began with";
            let loaded = loaded.map(|(offset, _)| offset).into_iter().filter(not_ctx);
            witnesses.push(Witness::new(place, loaded.collect()));
        }
        self.learnt.layout.ssl_to_session_ctx = self.keep("ssl_to_session_ctx", said, witnesses);
    }

    /// Whether a field was learnt from this function.
    fn is_said_by(&self, field: &str, function: &str) -> bool {
        let mut evidence = self.learnt.evidence.iter();
        evidence.any(|e| e.field == field && e.question.starts_with(function))
    }

    /// Where `SSL_set_SSL_CTX(ssl, NULL)` cannot be followed to all of its ends
    /// (4.0 copies flags in a loop): one of the contexts that it can return, if a
    /// second witness says the same.
    fn session_ctx_in_part(&mut self, looked_up: &[i64]) {
        let set = self.trace("SSL_set_SSL_CTX", &[Value::argument(0), Value::Constant(0)]);
        let mut both: Vec<i64> = set
            .answers
            .iter()
            .filter_map(field_of_argument)
            .filter(|offset| looked_up.contains(offset))
            .collect();
        both.sort_unstable();
        both.dedup();
        let [offset] = both.as_slice() else { return };
        let Ok(known) = u32::try_from(*offset) else { return };
        let field = "ssl_to_session_ctx".to_owned();
        self.learnt.gaps.retain(|gap| gap.field != field);
        self.learnt.layout.ssl_to_session_ctx = Some(known);
        let question = "SSL_set_SSL_CTX(arg0, 0), in part".to_owned();
        let answer = set.answers.iter().find(|answer| field_of_argument(answer) == Some(*offset));
        let at = answer.and_then(|answer| set.loads.of(answer));
        self.learnt.evidence.push(Evidence {
            field,
            question,
            answer: format!("u64[arg0+{offset:#x}]"),
            read_at: at.and_then(|at| ReadAt::of(self.elf, at)),
        });
    }

    /// Fields of its first argument that a function passes to `SSL_CTX_free`, or
    /// whose `references` it takes one from, where that was inlined.
    fn freed_by(&self, trace: &Trace) -> Vec<i64> {
        let frees = trace.calls.iter().filter(|c| self.is_function(&c.target, "SSL_CTX_free"));
        let freed = frees.filter_map(|call| field_of_argument(&call.arguments[0]));
        let references = self.learnt.layout.references.map(i64::from);
        let drops = trace
            .calls
            .iter()
            .filter(|c| self.is_function(&c.target, "CRYPTO_refcount_dec_and_test_zero"));
        let dropped = drops.filter_map(|call| match &call.arguments[0] {
            Value::Pointer { base: Base::Field(held), offset } if Some(*offset) == references => {
                of_argument(held)
            }
            _ => None,
        });
        freed.chain(dropped).collect()
    }
}
