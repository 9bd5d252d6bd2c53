//! How much stack the programs take: before Linux 6.13 the functions that are called one
//! inside the other have 512 bytes together (kernel/bpf/verifier.c,
//! `check_max_stack_depth`), and newer kernels load what older ones refuse.

use std::collections::{BTreeMap, BTreeSet};

use aya_obj::{Object, generated::bpf_insn};

use super::load::OBJECT;

/// `MAX_BPF_STACK` (include/linux/filter.h).
const MOST: u32 = 512;

/// Each function's share is a multiple of it.
const STEP: u32 = 32;

/// The register that points behind the stack of a function.
const FRAME: u8 = 10;

// Documentation/bpf/standardization/instruction-set.rst.
const CLASS: u8 = 0x07;
const LOAD: u8 = 0x01;
const STORE: u8 = 0x02;
const STORE_REGISTER: u8 = 0x03;
const CALL: u8 = 0x85;
const LOAD_ADDRESS: u8 = 0x18;
const MOVE: u8 = 0xbf;
const ADD: u8 = 0x07;
/// The source of a call of a function of the object, and of its address.
const OF_FUNCTION: u8 = 1;
const ADDRESS_OF_FUNCTION: u8 = 4;

/// A program with the functions that it calls: where each begins, how many bytes of
/// stack it has, and which others it calls or lends to the kernel.
struct Functions(BTreeMap<usize, (u32, BTreeSet<usize>)>);

impl Functions {
    fn of(program: &[bpf_insn]) -> Self {
        let calls = (0..program.len()).filter_map(|at| Some((at, target(program, at)?)));
        let calls: Vec<(usize, usize)> = calls.collect();
        let mut begins: BTreeSet<usize> = calls.iter().map(|(_, target)| *target).collect();
        begins.insert(0);
        let ends = begins.iter().skip(1).copied().chain([program.len()]);
        let functions = begins.iter().copied().zip(ends).map(|(begin, end)| {
            let inside = calls.iter().filter(|(at, _)| (begin..end).contains(at));
            let called = inside.map(|(_, target)| *target).collect();
            (begin, (frame(&program[begin..end]), called))
        });
        Self(functions.collect())
    }

    /// What one takes together with what it calls.
    fn deepest(&self, function: usize) -> u32 {
        let (own, called) = &self.0[&function];
        let below = called.iter().map(|called| self.deepest(*called)).max();
        own.max(&1).next_multiple_of(STEP) + below.unwrap_or(0)
    }
}

/// The function that an instruction calls or names.
fn target(program: &[bpf_insn], at: usize) -> Option<usize> {
    let instruction = &program[at];
    let names = match instruction.code {
        CALL => instruction.src_reg() == OF_FUNCTION,
        LOAD_ADDRESS => instruction.src_reg() == ADDRESS_OF_FUNCTION,
        _ => false,
    };
    names.then(|| at.checked_add_signed(instruction.imm as isize + 1)).flatten()
}

/// How far below the end of its stack a function gets, as far as its text says: of each
/// register that is made the frame's, and of what is added to it from there on.
fn frame(function: &[bpf_insn]) -> u32 {
    let mut below: [Option<i32>; 11] = [None; 11];
    below[usize::from(FRAME)] = Some(0);
    let mut lowest = 0;
    for instruction in function {
        let (to, from) = (usize::from(instruction.dst_reg()), usize::from(instruction.src_reg()));
        let offset = i32::from(instruction.off);
        match (instruction.code & CLASS, instruction.code) {
            (STORE | STORE_REGISTER, _) => {
                lowest = lowest.min(below[to].map_or(0, |base| base + offset));
            }
            (LOAD, _) => {
                lowest = lowest.min(below[from].map_or(0, |base| base + offset));
                below[to] = None;
            }
            (_, MOVE) => below[to] = below[from],
            (_, ADD) => {
                below[to] = below[to].map(|base| base + instruction.imm);
                lowest = lowest.min(below[to].unwrap_or(0));
            }
            _ if to != usize::from(FRAME) => below[to] = None,
            _ => {}
        }
    }
    lowest.unsigned_abs()
}

#[test]
fn kernels_before_6_13_have_stack_enough_for_each_program() {
    let mut object = Object::parse(OBJECT).expect("it is one");
    let sections = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&sections).expect("it is whole");
    assert!(object.programs.contains_key("probe_point"));
    for (name, program) in &object.programs {
        let functions = Functions::of(&object.functions[&program.function_key()].instructions);
        let takes = functions.deepest(0);
        assert!(takes <= MOST, "{name} takes {takes} bytes of stack, of {MOST}");
        println!("{name}: {takes}");
    }
}
