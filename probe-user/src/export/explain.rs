//! What was learnt of a library, for people and as JSON. The JSON form is a
//! contract.

use std::fmt;

use probe_common::{COUNTERS, Counter};
use serde::Serialize;

use crate::image::{
    Costs, Evidence, Family, FieldGap, Image, ProbeKind, ProbePoint, ReadAt,
    code::processor::Processor,
    settings::{Place, SETTINGS, Setting, SettingsLayout},
};

/// A library, explained.
#[derive(Debug, Serialize)]
pub struct Explanation {
    file: String,
    build_id: Option<String>,
    family: Option<Family>,
    version: Option<String>,
    arch: &'static str,
    layout: LayoutFields,
    settings: SettingsFields,
    probes: Vec<Probe>,
    /// The machine on which the costs of the probes were measured.
    costs_of: Option<&'static str>,
    evidence: Vec<EvidenceFields>,
    settings_evidence: Vec<EvidenceFields>,
    witnesses: Vec<EvidenceFields>,
    scan: ScanFields,
    gaps: Vec<GapFields>,
}

/// What `--scan` tells an `SSL_CTX` by.
#[derive(Debug, Serialize)]
struct ScanFields {
    evidence: Vec<EvidenceFields>,
    gaps: Vec<GapFields>,
}

#[derive(Debug, Serialize)]
struct LayoutFields {
    connect: Option<u32>,
    connect_renegotiate: Option<u32>,
    connect_good: Option<u32>,
    accept: Option<u32>,
    accept_renegotiate: Option<u32>,
    accept_good: Option<u32>,
    misses: Option<u32>,
    timeouts: Option<u32>,
    cache_full: Option<u32>,
    hits: Option<u32>,
    cb_hits: Option<u32>,
    references: Option<u32>,
    sessions: Option<u32>,
    num_items: Option<u32>,
    ssl_to_ctx: Option<u32>,
    ssl_to_session_ctx: Option<u32>,
}

#[derive(Debug, Serialize)]
struct SettingsFields {
    cache_mode: Option<PlaceFields>,
    cache_size: Option<PlaceFields>,
    timeout: Option<PlaceFields>,
    num_tickets: Option<PlaceFields>,
    options: Option<PlaceFields>,
    min_protocol: Option<PlaceFields>,
    max_protocol: Option<PlaceFields>,
    new_callback: Option<PlaceFields>,
    get_callback: Option<PlaceFields>,
    remove_callback: Option<PlaceFields>,
    session_id_context_length: Option<PlaceFields>,
    verify_mode: Option<PlaceFields>,
}

#[derive(Debug, Serialize)]
struct PlaceFields {
    offset: u32,
    width: u8,
    divisor: u64,
}

impl SettingsFields {
    fn of(layout: &SettingsLayout) -> Self {
        let at = |setting: Setting| {
            let Place { offset, width, divisor } = layout.place(setting)?;
            Some(PlaceFields { offset, width, divisor })
        };
        Self {
            cache_mode: at(Setting::CacheMode),
            cache_size: at(Setting::CacheSize),
            timeout: at(Setting::Timeout),
            num_tickets: at(Setting::NumTickets),
            options: at(Setting::Options),
            min_protocol: at(Setting::MinProtocol),
            max_protocol: at(Setting::MaxProtocol),
            new_callback: at(Setting::NewCallback),
            get_callback: at(Setting::GetCallback),
            remove_callback: at(Setting::RemoveCallback),
            session_id_context_length: at(Setting::SessionIdContextLength),
            verify_mode: at(Setting::VerifyMode),
        }
    }
}

#[derive(Debug, Serialize)]
struct Probe {
    kind: &'static str,
    counter: Option<&'static str>,
    /// Whether an agent removes it as soon as all contexts are known that are older.
    until_known: bool,
    /// Whether a hit means that one was just added to that counter, and to no other.
    certain: bool,
    function: String,
    offset: u64,
    instruction: String,
    class: &'static str,
    /// What the kernel makes a difference by.
    instruction_class: &'static str,
    /// What a hit of a program that does nothing takes there, times the cheapest one.
    cost: Option<f64>,
    context: String,
}

#[derive(Debug, Serialize)]
struct EvidenceFields {
    field: String,
    question: String,
    answer: String,
    read_at: Option<ReadAtFields>,
}

/// The instruction that says it; `file`: its file's name, if it is another one.
#[derive(Debug, Serialize)]
struct ReadAtFields {
    file: Option<String>,
    function: Option<String>,
    address: u64,
    instruction: String,
}

#[derive(Debug, Serialize)]
struct GapFields {
    field: String,
    reason: String,
}

impl Explanation {
    /// What was learnt of an image.
    #[must_use]
    pub fn of(image: &Image) -> Self {
        let layout = &image.learnt.layout;
        let counter = |counter: Counter| layout.counters[counter as usize];
        Self {
            file: image.path.display().to_string(),
            build_id: image.build_id.clone(),
            family: image.family,
            version: image.version.clone(),
            arch: image.processor.name(),
            layout: LayoutFields {
                connect: counter(Counter::Connect),
                connect_renegotiate: counter(Counter::ConnectRenegotiate),
                connect_good: counter(Counter::ConnectGood),
                accept: counter(Counter::Accept),
                accept_renegotiate: counter(Counter::AcceptRenegotiate),
                accept_good: counter(Counter::AcceptGood),
                misses: counter(Counter::Misses),
                timeouts: counter(Counter::Timeouts),
                cache_full: counter(Counter::CacheFull),
                hits: counter(Counter::Hits),
                cb_hits: counter(Counter::CbHits),
                references: layout.references,
                sessions: layout.sessions,
                num_items: layout.num_items,
                ssl_to_ctx: layout.ssl_to_ctx,
                ssl_to_session_ctx: layout.ssl_to_session_ctx,
            },
            settings: SettingsFields::of(&image.settings.layout),
            probes: {
                let probes = |points: &[ProbePoint], until_known| -> Vec<Probe> {
                    let all = points.iter();
                    all.map(|point| Probe::of(point, image.processor, until_known)).collect()
                };
                let lasting = probes(&image.plan.points, false);
                lasting.into_iter().chain(probes(&image.plan.until_known, true)).collect()
            },
            costs_of: Costs::of(image.processor.name()).map(|costs| costs.machine),
            evidence: image.learnt.evidence.iter().map(EvidenceFields::of).collect(),
            settings_evidence: image.settings.evidence.iter().map(EvidenceFields::of).collect(),
            witnesses: image.learnt.witnesses.iter().map(EvidenceFields::of).collect(),
            scan: ScanFields {
                evidence: image.marks.evidence.iter().map(EvidenceFields::of).collect(),
                gaps: image.marks.gaps.iter().map(GapFields::of).collect(),
            },
            gaps: image.gaps().map(GapFields::of).collect(),
        }
    }
}

impl Probe {
    fn of(point: &ProbePoint, processor: &dyn Processor, until_known: bool) -> Self {
        let register = processor.register_name(point.argument.register);
        Self {
            kind: point.kind.name(),
            counter: match point.kind {
                ProbeKind::Increment(counter) => Some(counter.name()),
                ProbeKind::Entry | ProbeKind::Switch | ProbeKind::Birth | ProbeKind::Death => None,
            },
            function: point.function.clone(),
            offset: point.file_offset,
            instruction: point.instruction.clone(),
            until_known,
            certain: point.follows.is_some(),
            class: if point.class.is_emulated() { "emulated" } else { "stepped" },
            instruction_class: point.class.name(),
            cost: Costs::of(processor.name()).and_then(|costs| costs.ratio(point.class)),
            context: match point.argument.dereference {
                None => format!("%{register}"),
                Some(offset) => format!("{offset:#x}(%{register})"),
            },
        }
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = self.counter.unwrap_or("");
        let cost = self.cost.map_or("     ".to_owned(), |cost| format!("{cost:>5.2}"));
        writeln!(
            f,
            "  {:<9} {what:<20} {:#08x}  {:<28} {:<7} {cost}  {:<24} context in {}",
            self.kind,
            self.offset,
            self.instruction,
            self.instruction_class,
            self.function,
            self.context,
        )
    }
}

impl EvidenceFields {
    fn of(evidence: &Evidence) -> Self {
        Self {
            field: evidence.field.clone(),
            question: evidence.question.clone(),
            answer: evidence.answer.clone(),
            read_at: evidence.read_at.as_ref().map(ReadAtFields::of),
        }
    }

    /// The fact, and in a second line the instruction; columns as wide as this.
    fn show(&self, f: &mut fmt::Formatter<'_>, field: usize, question: usize) -> fmt::Result {
        let Self { field: name, question: asked, answer, read_at } = self;
        writeln!(f, "  {name:<field$} {asked:<question$} -> {answer}")?;
        match read_at {
            Some(read_at) => writeln!(f, "  {:<field$} {read_at}", ""),
            None => Ok(()),
        }
    }
}

impl ReadAtFields {
    fn of(read_at: &ReadAt) -> Self {
        let ReadAt { file, function, address, instruction } = read_at.clone();
        Self { file, function, address, instruction }
    }
}

impl fmt::Display for ReadAtFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, function, address, instruction } = self;
        write!(f, "{address:#08x}  {instruction:<30}")?;
        if let Some(function) = function {
            write!(f, " in {function}")?;
        }
        match file {
            Some(file) => write!(f, ", {file}"),
            None => Ok(()),
        }
    }
}

impl GapFields {
    fn of(gap: &FieldGap) -> Self {
        Self { field: gap.field.clone(), reason: gap.reason.to_string() }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_unknown =
            |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
        writeln!(f, "{}", self.file)?;
        writeln!(f, "  family    {}", self.family.map_or("unknown", Family::name))?;
        writeln!(f, "  version   {} (as its libcrypto says)", or_unknown(&self.version))?;
        writeln!(f, "  build id  {}", or_unknown(&self.build_id))?;
        writeln!(f, "  machine   {}", self.arch)?;
        let known = COUNTERS.len() + 5;
        writeln!(f, "\nLayout: {} of {known} fields, and what says so", self.evidence.len())?;
        self.evidence.iter().try_for_each(|evidence| evidence.show(f, 20, 32))?;
        let (known, all) = (self.settings_evidence.len(), SETTINGS.len());
        writeln!(f, "\nSettings: {known} of {all}, and what says so")?;
        self.settings_evidence.iter().try_for_each(|evidence| evidence.show(f, 25, 48))?;
        writeln!(f, "\nWitnesses that agree")?;
        for EvidenceFields { field, question, .. } in &self.witnesses {
            writeln!(f, "  {field:<20} {question}")?;
        }
        writeln!(f, "\nProbes: {}", self.probes.len())?;
        if !self.probes.is_empty() {
            match self.costs_of {
                Some(machine) => writeln!(
                    f,
                    "  with the instruction's class, and what a program that does nothing costs\n  \
                     there: times the cheapest place, measured on {machine}"
                )?,
                None => writeln!(
                    f,
                    "  with the instruction's class; what it costs was not measured on {}",
                    self.arch
                )?,
            }
        }
        let (temporary, lasting): (Vec<&Probe>, Vec<&Probe>) =
            self.probes.iter().partition(|probe| probe.until_known);
        lasting.iter().try_for_each(|probe| probe.show(f))?;
        if !temporary.is_empty() {
            writeln!(
                f,
                "  and until all contexts are known that are older than the probes, as `serve` finds \
                 out:"
            )?;
        }
        temporary.iter().try_for_each(|probe| probe.show(f))?;
        writeln!(f, "\nScan (--scan): what tells an SSL_CTX in memory")?;
        self.scan.evidence.iter().try_for_each(|evidence| evidence.show(f, 22, 40))?;
        for gap in &self.scan.gaps {
            writeln!(f, "  {:<20} not known: {}", gap.field, gap.reason)?;
        }
        if self.gaps.is_empty() {
            return writeln!(f, "\nGaps: none");
        }
        writeln!(f, "\nGaps: {}", self.gaps.len())?;
        for gap in &self.gaps {
            writeln!(f, "  {:<20} {}", gap.field, gap.reason)?;
        }
        Ok(())
    }
}
