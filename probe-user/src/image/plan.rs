//! Where probes stand: behind the increments, or at function entries, and where
//! a context dies. Each on an instruction that the kernel emulates (on aarch64,
//! where none is near, on one that it executes out of line), at a boundary that
//! decoding from the function's start proves.

use std::{collections::BTreeSet, ops::Range, rc::Rc};

use probe_common::{Action, BlockLayout, COUNTERS, Counter, NO_COUNTER, NO_FIELD};

use super::{
    calls,
    code::{
        flow::{Function, Origin},
        instruction::{Control, Effect, Instruction},
    },
    elf::Elf,
    follows::{self, Placed},
    functions::Functions,
    gap::{FieldGap, Gap},
    increments::{IncrementSite, MAX_SITES},
    layout::Layout,
    point::{Argument, ProbeKind, ProbePoint, point},
    proof::ContextValue,
    sources::{self, CounterChange, On},
    unwind::FunctionRanges,
};

/// Instructions behind an increment among which a probe point is looked for.
const REACH: usize = 48;

/// Functions that are given a context, and which of their arguments it is.
const ENTRIES: [(&str, usize); 4] = [
    ("SSL_new", 0),
    ("SSL_set_SSL_CTX", 1),
    ("SSL_CTX_add_session", 0),
    ("SSL_CTX_remove_session", 0),
];

/// Functions that are given a connection, as the first argument.
const CONNECTIONS: [&str; 2] = ["SSL_do_handshake", "SSL_free"];

/// What `SSL_CTX_free` calls when a context dies, in newer and in older versions.
const FLUSHES: [&str; 2] = ["SSL_CTX_flush_sessions_ex", "SSL_CTX_flush_sessions"];

/// Which plan to make of a library.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PlanChoice {
    /// Behind the increments where all are found, else at function entries too.
    #[default]
    Auto,
    /// At function entries only, as for builds whose increments are not found.
    Entry,
}

/// The probe points of a library, and what could not be had.
#[derive(Clone, Debug, Default)]
pub struct ProbePlan {
    /// In the order in which they were found.
    pub points: Vec<ProbePoint>,
    /// What is missing, and why.
    pub gaps: Vec<FieldGap>,
}

impl ProbePlan {
    /// Whether the end of a context will be seen.
    #[must_use]
    pub fn sees_deaths(&self) -> bool {
        self.points.iter().any(|point| point.kind == ProbeKind::Death)
    }

    /// Whether any use of a context will be seen.
    #[must_use]
    pub fn sees_contexts(&self) -> bool {
        self.points.iter().any(|point| point.kind != ProbeKind::Death && point.argument.creates)
    }
}

/// The offsets that the kernel half needs; `None` if nothing would be read there.
#[must_use]
pub fn block_layout(layout: &Layout) -> Option<BlockLayout> {
    let kept = layout.kept()?;
    if kept.is_empty() && (layout.sessions.is_none() || layout.num_items.is_none()) {
        return None;
    }
    let mut order = [NO_COUNTER; 11];
    for (place, counter) in order.iter_mut().zip(&kept) {
        *place = *counter as u8;
    }
    let first = kept.first().and_then(|counter| layout.counters[*counter as usize]);
    Some(BlockLayout {
        counters: first.unwrap_or(NO_FIELD),
        references: layout.references.unwrap_or(NO_FIELD),
        sessions: layout.sessions.unwrap_or(NO_FIELD),
        num_items: layout.num_items.unwrap_or(NO_FIELD),
        order,
        count: kept.len() as u8,
    })
}

/// The functions that a plan may ask for, wherever the increments are.
pub fn asked_for(elf: &Elf, ranges: &FunctionRanges<'_>) -> impl Iterator<Item = Range<u64>> {
    let named = ENTRIES.iter().map(|(name, _)| *name).chain(CONNECTIONS).chain(FLUSHES);
    let named = named.filter_map(|name| elf.function(name));
    named.filter_map(|symbol| ranges.containing(symbol.address))
}

/// Plans the probes of a library whose layout is known.
#[must_use]
pub fn plan(mut functions: Functions<'_>, layout: &Layout, choice: PlanChoice) -> ProbePlan {
    if block_layout(layout).is_none() {
        return ProbePlan::default();
    }
    let found = layout.block().map(|block| functions.increments(block));
    plan_behind(functions, layout, found.as_deref().unwrap_or_default(), choice)
}

/// Plans the probes of a library whose increments are known already.
#[must_use]
pub fn plan_behind<'e>(
    functions: Functions<'e>,
    layout: &'e Layout,
    found: &[IncrementSite],
    choice: PlanChoice,
) -> ProbePlan {
    let elf = functions.elf();
    let mut planner = Planner { elf, layout, functions, plan: ProbePlan::default() };
    planner.look_for_jumps(found);
    // Where increments are known to stand: in OpenSSL, with all eleven counters.
    let complete =
        choice == PlanChoice::Auto && layout.block().is_some() && planner.increments(found);
    if !complete {
        planner.entries();
    }
    planner.death();
    planner.plan
}

struct Planner<'e> {
    elf: &'e Elf,
    layout: &'e Layout,
    functions: Functions<'e>,
    plan: ProbePlan,
}

impl Planner<'_> {
    /// Looks for the jumps into all functions that will be asked for, in one pass.
    fn look_for_jumps(&mut self, found: &[IncrementSite]) {
        let named = asked_for(self.elf, self.functions.ranges());
        let functions: Vec<Range<u64>> =
            found.iter().map(|site| site.function.clone()).chain(named).collect();
        self.functions.prepare(&functions);
    }

    /// Places a probe behind every increment; says whether none is missing.
    fn increments(&mut self, found: &[IncrementSite]) -> bool {
        let sites: Vec<(Counter, Vec<&IncrementSite>)> =
            COUNTERS.into_iter().map(|counter| (counter, self.sites(found, counter))).collect();
        let expected = |counter| sources::in_the_sources(counter);
        let agree = self.agree(&sites);
        let mut complete = agree;
        // Otherwise the counters that are missing are gaps already.
        if !agree && sites.iter().all(|(counter, sites)| sites.len() == expected(*counter)) {
            let reason = Gap::NotThoseOfTheSources;
            self.plan.gaps.push(FieldGap { field: "probe:births".to_owned(), reason });
        }
        let mut placed = Vec::new();
        for (counter, sites) in sites {
            let field = format!("probe:{}", counter.name());
            let expected = expected(counter);
            if sites.len() != expected {
                // Too many: not all of them are OpenSSL's, and which is not known.
                let reason = Gap::IncrementCount { found: sites.len(), expected };
                self.plan.gaps.push(FieldGap { field, reason });
                complete = false;
                continue;
            }
            for site in sites {
                match self.behind(site, agree) {
                    Ok(point) => {
                        placed.push((site, self.plan.points.len()));
                        self.plan.points.push(point);
                    }
                    Err(why) => {
                        let reason = Gap::NoProbePoint { address: site.address, why };
                        self.plan.gaps.push(FieldGap { field: field.clone(), reason });
                        complete = false;
                    }
                }
            }
        }
        if complete {
            self.follow(&placed);
        }
        complete
    }

    /// Notes which hits say for certain what was counted: only if every increment
    /// has a probe.
    fn follow(&mut self, placed: &[(&IncrementSite, usize)]) {
        let functions: Option<Vec<Rc<Function>>> =
            placed.iter().map(|(site, _)| self.function(site.function.start)).collect();
        let Some(functions) = functions else { return };
        let placed_at: Vec<Placed<'_>> = placed
            .iter()
            .zip(&functions)
            .map(|((site, point), function)| Placed {
                function,
                site,
                probe: self.plan.points[*point].address,
                context: ContextValue::at_increment(function, site, self.layout, true),
            })
            .collect();
        let certain = follows::certain(&placed_at);
        for ((site, point), certain) in placed.iter().zip(certain) {
            self.plan.points[*point].follows = certain.then_some(site.counter);
        }
    }

    /// Whether all these increments are OpenSSL's: as many, on the contexts and in
    /// the functions of the sources. If not, each can be something else's.
    fn agree(&mut self, sites: &[(Counter, Vec<&IncrementSite>)]) -> bool {
        // Told by their number alone, which costs no look at a function for each.
        if sites.iter().any(|(counter, sites)| sites.len() > sources::in_the_sources(*counter)) {
            return false;
        }
        let layout = self.layout;
        let mut changes = Vec::new();
        for site in sites.iter().flat_map(|(_, sites)| sites) {
            let start = site.function.start;
            let Some(function) = self.function(start) else { return false };
            let context = ContextValue::at_increment(&function, site, layout, false);
            let Some(on) = context.on(&function, layout) else { return false };
            let IncrementSite { counter, amount, .. } = **site;
            changes.push(CounterChange { counter, amount, on, function: start });
        }
        sources::are_those_of_the_sources(&changes)
    }

    /// The increments of a counter. A large program has others that look alike:
    /// if there are too many, those count whose context comes from a connection,
    /// and the one in `SSL_CTX_add_session`, whose argument it is.
    fn sites<'s>(
        &mut self,
        found: &'s [IncrementSite],
        counter: Counter,
    ) -> Vec<&'s IncrementSite> {
        let all: Vec<&IncrementSite> =
            found.iter().filter(|site| site.counter == counter).collect();
        if all.len() <= sources::in_the_sources(counter) || all.len() > MAX_SITES {
            return all;
        }
        let layout = self.layout;
        let add_session = self.elf.function("SSL_CTX_add_session").map(|symbol| symbol.address);
        all.into_iter()
            .filter(|site| {
                counter == Counter::CacheFull && add_session == Some(site.function.start)
                    || self.function(site.function.start).is_some_and(|function| {
                        let context = ContextValue::at_increment(&function, site, layout, false);
                        context.on(&function, layout).is_some_and(|on| on != On::Given)
                    })
            })
            .collect()
    }

    /// The first emulated instruction behind an increment at which the context
    /// can be had.
    ///
    /// `agree`: all increments are those of the sources, and this is one of them;
    /// else it makes no record.
    fn behind(&mut self, site: &IncrementSite, agree: bool) -> Result<ProbePoint, &'static str> {
        let (elf, layout) = (self.elf, self.layout);
        let name = self.name(site.function.start);
        let function = self.function(site.function.start).ok_or("its function does not decode")?;
        let increment = function.at(site.address).ok_or("it is not at an instruction's start")?;
        let context = ContextValue::at_increment(&function, site, layout, agree);
        let argument =
            |passed: &[Instruction], at| context.available(&function, site.address, passed, at);
        let found = first_emulated(&function, increment.end(), argument);
        let (instruction, argument) = match found {
            Ok(found) => found,
            Err(why) => first_stepped(&function, increment.end(), argument).ok_or(why)?,
        };
        let kind = ProbeKind::Increment(site.counter);
        point(elf, kind, name, &instruction, argument, Action::Mirror)
    }

    /// Probes at the entries of functions that are given contexts.
    fn entries(&mut self) {
        let arguments = self.elf.processor().convention().arguments;
        let context = |argument: usize| Argument {
            register: arguments[argument],
            dereference: None,
            creates: true,
        };
        for (function, argument) in ENTRIES {
            self.entry(function, ProbeKind::Entry, context(argument), Action::Mirror);
        }
        // What `SSL_get_SSL_CTX` loads is a context, whatever the object is;
        // `session_ctx` is one in a TLS connection only, so it creates nothing.
        let fields = [(self.layout.ssl_to_ctx, true), (self.layout.ssl_to_session_ctx, false)];
        for function in CONNECTIONS {
            for (field, creates) in fields {
                let Some(field) = field else { continue };
                let argument =
                    Argument { register: arguments[0], dereference: Some(field), creates };
                self.entry(function, ProbeKind::Entry, argument, Action::Mirror);
            }
        }
    }

    /// `SSL_CTX_free` flushes the cache when no reference is left, before it
    /// frees anything (`ssl/ssl_lib.c`, 1.1.1 to 4.0).
    fn death(&mut self) {
        if self.layout.references.is_none() {
            let reason = Gap::DependsOn { on: "references" };
            self.plan.gaps.push(FieldGap { field: "probe:death".to_owned(), reason });
            return;
        }
        let flush = FLUSHES
            .into_iter()
            .find(|name| self.elf.function(name).is_some())
            .unwrap_or("SSL_CTX_flush_sessions");
        if let Err(reason) = calls::expect(self.elf, self.functions.ranges(), "SSL_CTX_free", flush)
        {
            self.plan.gaps.push(FieldGap { field: "probe:death".to_owned(), reason });
            return;
        }
        let argument = Argument {
            register: self.elf.processor().convention().arguments[0],
            dereference: None,
            creates: true,
        };
        self.entry(flush, ProbeKind::Death, argument, Action::MirrorOrEnd);
    }

    fn entry(&mut self, name: &str, kind: ProbeKind, argument: Argument, action: Action) {
        match self.at_entry(name, kind, argument, action) {
            Ok(point) => self.plan.points.push(point),
            Err(reason) => {
                let field = format!("probe:{name}");
                self.plan.gaps.push(FieldGap { field, reason });
            }
        }
    }

    /// The first emulated instruction on the way in, at which the argument is
    /// still in its register, or in one that it was copied to.
    fn at_entry(
        &mut self,
        name: &str,
        kind: ProbeKind,
        argument: Argument,
        action: Action,
    ) -> Result<ProbePoint, Gap> {
        let elf = self.elf;
        let symbol =
            elf.function(name).ok_or_else(|| Gap::NoSymbol { function: name.to_owned() })?;
        let refused = |why| Gap::NoProbePoint { address: symbol.address, why };
        let function =
            self.function(symbol.address).ok_or_else(|| refused("the function does not decode"))?;
        let path = straight(&function, symbol.address);
        let holders = holders(&function, &path, argument.register);
        let argument_at = |at| {
            let holder = holders.iter().find(|holder| holder.holds_at(&function, at))?;
            Some(Argument { register: holder.register, ..argument })
        };
        let emulated = path.iter().filter(|instruction| instruction.emulated);
        let stepped = path.iter().filter(|instruction| instruction.steppable);
        let (instruction, argument) = emulated
            .chain(stepped)
            .find_map(|instruction| Some((instruction, argument_at(instruction.address)?)))
            .ok_or_else(|| refused("the argument is in no register any more"))?;
        point(elf, kind, name.to_owned(), instruction, argument, action).map_err(refused)
    }

    fn function(&mut self, start: u64) -> Option<Rc<Function>> {
        self.functions.starting_at(start)
    }

    fn name(&self, start: u64) -> String {
        self.elf.function_name(start).map_or_else(|| format!("sub_{start:x}"), str::to_owned)
    }
}

/// The first emulated instruction on the way from a place at which the context
/// can be had, and how.
fn first_emulated(
    function: &Function,
    mut at: u64,
    argument: impl Fn(&[Instruction], u64) -> Option<Argument>,
) -> Result<(Instruction, Argument), &'static str> {
    let mut passed = Vec::new();
    for _ in 0..REACH {
        let instruction = *function.at(at).ok_or("the path leaves the function")?;
        if instruction.emulated
            && let Some(argument) = argument(&passed, at)
        {
            return Ok((instruction, argument));
        }
        passed.push(instruction);
        at = match instruction.control {
            Control::Next | Control::CallThrough(_) => instruction.end(),
            Control::Call(_) if instruction.emulated => instruction.end(),
            Control::Jump(target) if instruction.emulated => target,
            Control::Branch(_) if instruction.emulated => {
                return Err("the context is in no register when the path forks");
            }
            _ => return Err("the function ends first"),
        };
    }
    Err("too far away")
}

/// The first instruction on the way from a place that may be executed out of
/// line, and at which the context can be had.
fn first_stepped(
    function: &Function,
    at: u64,
    argument: impl Fn(&[Instruction], u64) -> Option<Argument>,
) -> Option<(Instruction, Argument)> {
    let path = straight(function, at);
    let mut steppable = path.iter().enumerate().filter(|(_, instruction)| instruction.steppable);
    steppable.find_map(|(index, instruction)| {
        Some((*instruction, argument(&path[..index], instruction.address)?))
    })
}

/// The instructions from a place to the first that may go elsewhere.
fn straight(function: &Function, mut at: u64) -> Vec<Instruction> {
    let mut path = Vec::new();
    while let Some(instruction) = function.at(at).filter(|_| path.len() < REACH) {
        path.push(*instruction);
        if instruction.control != Control::Next {
            break;
        }
        at = instruction.end();
    }
    path
}

/// The registers that hold an argument somewhere on the way into a function.
fn holders(function: &Function, path: &[Instruction], argument: usize) -> Vec<Holder> {
    let mut holders = vec![Holder { register: argument, from: Origin::Entry }];
    for instruction in path {
        if let Effect::Copy { to, from } = instruction.effect
            && holders
                .iter()
                .any(|h| h.register == from && h.holds_at(function, instruction.address))
        {
            holders.push(Holder { register: to, from: Origin::Assignment(instruction.address) });
        }
    }
    holders
}

/// A register that holds an argument of a function.
struct Holder {
    register: usize,
    /// The function's entry, or a copy of another holder.
    from: Origin,
}

impl Holder {
    /// Whether it does so at a place, whatever way leads there.
    fn holds_at(&self, function: &Function, at: u64) -> bool {
        function.reaching(self.register, at) == BTreeSet::from([self.from])
    }
}
