//! The cost of a hit: of the cheapest program there is, of ours, and of what is
//! usually attached to a function.

use std::path::Path;

use probe_common::{Action, BlockLayout, Counter, OPENSSL_ORDER};
use sslsess::{
    image::{
        Class, Elf,
        point::{Argument, ProbeKind, ProbePoint},
    },
    kernel::{Kernel, LoadOptions, floor::Floor},
};

use crate::{
    Program, compile,
    statistics::{median, quartiles},
};

/// How often all functions are called in turns, and how often each time: 200,000
/// calls of each.
const ROUNDS: usize = 800;
const CALLS: usize = 250;

/// What a hit may cost, of what the cheapest one costs.
const LIMIT: f64 = 1.3;

/// The same where the context has to be read from the connection: one more read.
const LIMIT_OF_FIELD: f64 = 1.4;

/// As the program has it.
const LAYOUT: BlockLayout = BlockLayout {
    counters: 0x78,
    references: 0xa4,
    sessions: 0x30,
    num_items: 0x70,
    order: OPENSSL_ORDER,
    count: 11,
};
const CTX_IN_CONNECTION: u32 = 0x9a8;

/// Where the context is: a register's number, and whether that holds the connection.
const IN_RAX: Argument = Argument { register: 0, dereference: None, creates: true };
const BEHIND_RDI: Argument =
    Argument { register: 7, dereference: Some(CTX_IN_CONNECTION), creates: true };

/// The functions, in the order in which the program prints them.
#[derive(Clone, Copy)]
enum Of {
    Bare,
    FloorJmp,
    FloorNop,
    OursJmp,
    OursNop,
    OursField,
    Naive,
}

/// Ours, each with the name of the place.
const OURS: [(Of, &str, Argument); 3] = [
    (Of::OursJmp, "ours_jmp_place", IN_RAX),
    (Of::OursNop, "ours_nop_place", IN_RAX),
    (Of::OursField, "ours_field_place", BEHIND_RDI),
];

/// What a hit costs in nanoseconds, of the dearest kind of ours, and whether all are
/// within the limits.
pub(crate) fn measure(directory: &Path) -> (f64, bool) {
    let path = compile(directory, "increments");
    let elf = Elf::open(&path).expect("it is a program");
    let place = |name: &str| {
        let address = elf.function(name).expect("it is there").address;
        (address, elf.file_offset(address).expect("it is in the file"))
    };
    let floor = Floor::load().expect("Linux 6.6, and root");
    let attach = |name| floor.attach(&path, &[place(name).1]).expect("it can be attached");
    let _probes = [
        attach("floor_jmp_place"),
        attach("floor_nop_place"),
        attach("naive"),
        floor.attach_to_return(&path, place("naive").1).expect("it can be attached"),
    ];
    let mut kernel = Kernel::load(LoadOptions::default()).expect("it works here");
    let points = OURS.map(|(_, name, argument)| {
        let (address, file_offset) = place(name);
        ProbePoint {
            kind: ProbeKind::Increment(Counter::AcceptGood),
            function: name.to_owned(),
            address,
            file_offset,
            instruction: String::new(),
            class: Class::Jmp,
            argument,
            action: Action::Mirror,
            follows: None,
        }
    });
    kernel.attach(1, LAYOUT, &points, &path).expect("it can be attached");

    let mut program = Program::start(&path, &[]);
    program.tell(&format!("{ROUNDS} {CALLS}"));
    let rounds = program.lines(ROUNDS);
    let contexts = program.lines(Of::Naive as usize + 1);
    for (of, name, _) in OURS {
        check(&kernel, program.child.id(), &contexts[of as usize], name);
    }
    report(&rounds)
}

/// Fails if the record of a context does not say what the program does.
fn check(kernel: &Kernel, pid: u32, context: &[f64], name: &str) {
    let (address, count) = (context[0] as u64, context[1] as i32);
    let records = kernel.contexts().expect("they can be read");
    let mut of_it = records.iter().filter(|(key, _)| key.tgid == pid && key.address == address);
    let (_, record) = of_it.next().expect("it has a record");
    assert_eq!(record.block.counters[Counter::AcceptGood as usize], count, "{name}");
    assert_eq!(record.hits, (ROUNDS * CALLS) as u64, "{name}");
}

fn report(rounds: &[Vec<f64>]) -> (f64, bool) {
    // What the probes add.
    let added = |round: &Vec<f64>, of: Of| round[of as usize] - round[Of::Bare as usize];
    let cost = |of: Of| median(rounds.iter().map(|round| added(round, of)));
    let ratios = |of: Of, to: Of| quartiles(rounds.iter().map(|r| added(r, of) / added(r, to)));
    println!("{} calls of each function, {CALLS} in turns; medians (quartiles)", ROUNDS * CALLS);
    let bare = median(rounds.iter().map(|round| round[Of::Bare as usize]));
    println!("{bare:>10.0} ns  a call, without a probe");
    for (of, what) in [(Of::FloorJmp, "jmp"), (Of::FloorNop, "nop")] {
        println!("{:>10.0} ns  a hit of a program that does nothing, on a {what}", cost(of));
    }
    let mut within = true;
    let field = "ours, on a jmp, the context read from the connection";
    for (of, to, what, limit) in [
        (Of::OursJmp, Of::FloorJmp, "ours, on a jmp", LIMIT),
        (Of::OursNop, Of::FloorNop, "ours, on a nop", LIMIT),
        (Of::OursField, Of::FloorJmp, field, LIMIT_OF_FIELD),
    ] {
        let [first, ratio, third] = ratios(of, to);
        println!("{:>10.0} ns  {what}: {ratio:.2} ({first:.2} to {third:.2}) of that", cost(of));
        within &= ratio <= limit;
    }
    let [first, ratio, third] = ratios(Of::Naive, Of::OursJmp);
    println!(
        "{:>10.0} ns  programs that do nothing at a function's entry and at its return: \
         {ratio:.1} ({first:.1} to {third:.1}) of ours",
        cost(Of::Naive)
    );
    (cost(Of::OursField), within)
}
