//! Finds the places of a plan's probes, and what a hit of each means.

use std::{ops::Range, rc::Rc};

use probe_common::{Action, COUNTERS, Counter};

use super::{
    calls,
    code::{flow::Function, instruction::Instruction},
    elf::Elf,
    follows::{self, Placed},
    functions::Functions,
    gap::{FieldGap, Gap},
    increments::{IncrementSite, MAX_SITES},
    layout::Layout,
    moments::moments,
    place::{first_emulated, first_stepped, holders, straight},
    plan::{self, PlanChoice, PlanOptions, ProbePlan, ProbePoints},
    point::{Argument, ProbeKind, ProbePoint, point},
    proof::ContextValue,
    sources::{self, CounterChange, On},
    switch,
};

/// Functions that are given a context, and which of their arguments it is.
const ENTRIES: [(&str, usize); 4] = [
    ("SSL_new", 0),
    ("SSL_set_SSL_CTX", 1),
    ("SSL_CTX_add_session", 0),
    ("SSL_CTX_remove_session", 0),
];

/// The two of these through which every connection gets its contexts.
const GIVING: usize = 2;

/// Functions that are given a connection, as the first argument.
const CONNECTIONS: [&str; 2] = ["SSL_do_handshake", "SSL_free"];

/// What `SSL_CTX_free` calls when a context dies, in newer and in older versions.
const FLUSHES: [&str; 2] = ["SSL_CTX_flush_sessions_ex", "SSL_CTX_flush_sessions"];

/// What makes contexts, in newer and in older versions.
const MAKERS: [&str; 2] = ["SSL_CTX_new_ex", "SSL_CTX_new"];

/// What they give each context to, whatever else becomes of it: when `references` is 1
/// and there is a cache, so that its end is seen, too (`ssl/ssl_lib.c`, 1.1.1 to 4.0).
const GIVEN: &str = "SSL_CTX_set_ciphersuites";

/// The functions that are asked for by their names.
pub(super) fn named() -> impl Iterator<Item = &'static str> {
    ENTRIES.iter().map(|(name, _)| *name).chain(CONNECTIONS).chain(FLUSHES).chain([GIVEN])
}

/// Plans the probes of a library, whether the ends of its contexts are seen or not.
pub(super) fn make(
    functions: &mut Functions<'_>,
    layout: &Layout,
    found: &[IncrementSite],
    options: PlanOptions,
) -> ProbePlan {
    let PlanOptions { choice, points } = options;
    let elf = functions.elf();
    let mut planner = Planner { elf, layout, functions, points, plan: ProbePlan::default() };
    planner.look_for_jumps(found);
    if points == ProbePoints::Births {
        if planner.births() {
            planner.death();
            return planner.plan;
        }
        planner.points = ProbePoints::Starts;
    }
    // Where increments are known to stand: in OpenSSL, with all eleven counters.
    let complete =
        choice == PlanChoice::Auto && layout.block().is_some() && planner.increments(found);
    if !complete {
        planner.entries();
        if points.time_handshakes() {
            planner.untimed(Gap::DependsOn { on: "where the increments are" });
        }
    }
    planner.plan.sees_changes = complete && points == ProbePoints::All;
    planner.death();
    planner.plan
}

fn is_renegotiation(counter: Counter) -> bool {
    matches!(counter, Counter::ConnectRenegotiate | Counter::AcceptRenegotiate)
}

struct Planner<'p, 'e> {
    elf: &'e Elf,
    layout: &'p Layout,
    functions: &'p mut Functions<'e>,
    points: ProbePoints,
    plan: ProbePlan,
}

impl Planner<'_, '_> {
    /// Looks for the jumps into all functions that will be asked for, in one pass.
    fn look_for_jumps(&mut self, found: &[IncrementSite]) {
        let named = plan::asked_for(self.elf, self.functions.ranges());
        let functions: Vec<Range<u64>> =
            found.iter().map(|site| site.function.clone()).chain(named).collect();
        self.functions.prepare(&functions);
    }

    /// Places a probe where every new context passes; says whether there is such a place.
    fn births(&mut self) -> bool {
        match self.birth() {
            Ok(point) => {
                self.plan.points.push(point);
                true
            }
            Err(reason) => {
                self.plan.gaps.push(FieldGap { field: "probe:making".to_owned(), reason });
                false
            }
        }
    }

    fn birth(&mut self) -> Result<ProbePoint, Gap> {
        let maker = MAKERS.into_iter().find(|name| self.elf.function(name).is_some());
        let maker = maker.unwrap_or("SSL_CTX_new");
        calls::expect(self.elf, self.functions.ranges(), maker, GIVEN)?;
        let register = self.elf.processor().convention().arguments[0];
        let argument = Argument { register, dereference: None, creates: true };
        self.at_entry(GIVEN, ProbeKind::Birth, argument, self.points.action())
    }

    /// Places a probe behind every increment that is to have one; says whether none is
    /// missing.
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
        let switch = if agree && self.points == ProbePoints::Starts { self.switch() } else { None };
        let mut probes: Vec<(&IncrementSite, Option<usize>)> = Vec::new();
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
            // Where not every change has a probe, one that makes no record is of no use.
            if !agree && self.points != ProbePoints::All {
                complete = false;
                continue;
            }
            for site in sites {
                if !self.has_probe(site, agree, switch.is_some()) {
                    probes.push((site, None));
                    continue;
                }
                match self.behind(site, agree) {
                    // A renegotiation is rare: where its probe is passed by others, too,
                    // it is not worth their hits.
                    Ok(point)
                        if self.points == ProbePoints::Starts
                            && is_renegotiation(counter)
                            && !self.is_passed_by_it_alone(site, &point) =>
                    {
                        probes.push((site, None));
                    }
                    Ok(point) => {
                        probes.push((site, Some(self.plan.points.len())));
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
            self.follow(&probes);
            self.plan.points.extend(switch);
        }
        complete
    }

    /// Whether the probe behind an increment is hit after that increment only.
    fn is_passed_by_it_alone(&mut self, site: &IncrementSite, point: &ProbePoint) -> bool {
        let function = self.function(site.function.start);
        function.is_some_and(|f| f.only_through(&[site.address], point.address).is_some())
    }

    /// Whether an increment is to have a probe.
    ///
    /// A context that a connection was switched to counts its completion without
    /// having counted a start, unless the servername callback has done it: then an
    /// `accept` is moved to it. If the switch itself has a probe, neither needs one.
    fn has_probe(&mut self, site: &IncrementSite, agree: bool, switch: bool) -> bool {
        match (self.points, site.counter) {
            (ProbePoints::Starts, Counter::Accept) if switch => {
                let Some(function) = self.function(site.function.start) else { return true };
                let context = ContextValue::at_increment(&function, site, self.layout, agree);
                site.amount == 1 && context.on(&function, self.layout) == Some(On::Session)
            }
            (ProbePoints::Starts, Counter::AcceptGood) => !switch,
            (points, counter) => points.include(counter),
        }
    }

    /// Where a connection is given another context: in a libssl, in which nobody calls
    /// the function. What else is in a file may have a copy of it.
    ///
    /// Where it is called, if there is no place for each switch alone.
    fn switch(&mut self) -> Option<ProbePoint> {
        if !self.elf.soname().is_some_and(|soname| soname.starts_with("libssl")) {
            return None;
        }
        self.at_switch().or_else(|_| self.at_switch_entry()).ok()
    }

    fn at_switch_entry(&mut self) -> Result<ProbePoint, Gap> {
        let (name, argument) = ENTRIES[1];
        let register = self.elf.processor().convention().arguments[argument];
        let argument = Argument { register, dereference: None, creates: true };
        self.at_entry(name, ProbeKind::Switch, argument, self.points.action())
    }

    fn at_switch(&mut self) -> Result<ProbePoint, Gap> {
        let (elf, layout) = (self.elf, self.layout);
        let name = ENTRIES[1].0;
        let symbol =
            elf.function(name).ok_or_else(|| Gap::NoSymbol { function: name.to_owned() })?;
        let refused = |why| Gap::NoProbePoint { address: symbol.address, why };
        let function =
            self.function(symbol.address).ok_or_else(|| refused("the function does not decode"))?;
        let (instruction, argument) =
            switch::find(&function, layout, elf.processor().convention()).map_err(refused)?;
        let action = self.points.action();
        point(elf, ProbeKind::Switch, name.to_owned(), &instruction, argument, action)
            .map_err(refused)
    }

    /// Notes which hits say for certain what was counted.
    fn follow(&mut self, probes: &[(&IncrementSite, Option<usize>)]) {
        let functions: Option<Vec<Rc<Function>>> =
            probes.iter().map(|(site, _)| self.function(site.function.start)).collect();
        let Some(functions) = functions else { return };
        let placed: Vec<Placed<'_>> = probes
            .iter()
            .zip(&functions)
            .map(|((site, point), function)| Placed {
                function,
                site,
                probe: point.map(|point| self.plan.points[point].address),
                context: ContextValue::at_increment(function, site, self.layout, true),
            })
            .collect();
        let certain = follows::certain(&placed);
        for ((site, point), certain) in probes.iter().zip(&certain) {
            if let Some(point) = point {
                self.plan.points[*point].follows = certain.then_some(site.counter);
            }
        }
        if self.points == ProbePoints::Starts {
            return;
        }
        match moments(&placed, &certain, self.layout) {
            Ok(moments) => {
                for ((_, point), moment) in probes.iter().zip(moments) {
                    if let Some(point) = point {
                        self.plan.points[*point].moment = moment;
                    }
                }
            }
            Err((address, why)) => self.untimed(Gap::NoProbePoint { address, why }),
        }
    }

    /// Handshakes are not timed.
    fn untimed(&mut self, reason: Gap) {
        self.plan.gaps.push(FieldGap { field: "probe:handshakes".to_owned(), reason });
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
        let (kind, action) = (ProbeKind::Increment(site.counter), self.points.action());
        point(elf, kind, name, &instruction, argument, action)
    }

    /// Probes at the entries of functions that are given contexts.
    fn entries(&mut self) {
        let arguments = self.elf.processor().convention().arguments;
        let context = |argument: usize| Argument {
            register: arguments[argument],
            dereference: None,
            creates: true,
        };
        let action = self.points.action();
        // Every context of a connection comes through the first two: nothing else is
        // needed then.
        if self.points != ProbePoints::All {
            let giving: Result<Vec<ProbePoint>, Gap> = ENTRIES[..GIVING]
                .iter()
                .map(|(name, at)| self.at_entry(name, ProbeKind::Entry, context(*at), action))
                .collect();
            if let Ok(points) = giving {
                self.plan.points = points;
                return;
            }
        }
        for (function, argument) in ENTRIES {
            self.entry(function, ProbeKind::Entry, context(argument), action);
        }
        // What `SSL_get_SSL_CTX` loads is a context, whatever the object is;
        // `session_ctx` is one in a TLS connection only, so it creates nothing.
        let fields = [(self.layout.ssl_to_ctx, true), (self.layout.ssl_to_session_ctx, false)];
        for function in CONNECTIONS {
            for (field, creates) in fields {
                let Some(field) = field else { continue };
                let argument =
                    Argument { register: arguments[0], dereference: Some(field), creates };
                self.entry(function, ProbeKind::Entry, argument, action);
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
