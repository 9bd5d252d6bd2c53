//! Flows of small functions: bytes, with their disassembly in comments.

use super::*;
use crate::image::code::specimen::Bytes;

fn function(bytes: &'static [u8], outside: &[u64]) -> Result<Function, FlowProblem> {
    let range = 0x1000..0x1000 + bytes.len() as u64;
    let outside = outside.iter().copied().collect();
    Function::new(&Bytes::new(bytes), range, &outside)
}

/// 1000: mov %rdi,%rax / 1003: test %esi,%esi / 1005: je 100a /
/// 1007: mov %rdx,%rax / 100a: ret
const FORK: &[u8] = &[0x48, 0x89, 0xf8, 0x85, 0xf6, 0x74, 0x03, 0x48, 0x89, 0xd0, 0xc3];

#[test]
fn both_ways_of_a_fork_reach_the_join() {
    let function = function(FORK, &[]).expect("it decodes");
    let origins: Vec<_> = function.reaching(0, 0x100a).into_iter().collect();
    assert_eq!(origins, [Origin::Assignment(0x1000), Origin::Assignment(0x1007)]);
    assert_eq!(function.reaching(7, 0x100a).into_iter().collect::<Vec<_>>(), [Origin::Entry]);
}

#[test]
fn a_jump_from_another_function_is_an_unknown_origin() {
    let function = function(FORK, &[0x100a]).expect("it decodes");
    assert!(function.reaching(7, 0x100a).contains(&Origin::Outside));
    assert!(!function.reaching(7, 0x1007).contains(&Origin::Outside));
}

#[test]
fn a_jump_into_an_instruction_is_refused() {
    // 1000: je 1003 / 1002: mov %rdi,%rax (1003 is in its middle) / 1005: ret
    let bytes = &[0x74, 0x01, 0x48, 0x89, 0xf8, 0xc3];
    assert_eq!(function(bytes, &[]).err(), Some(FlowProblem::MisalignedTarget(0x1003)));
}

#[test]
fn a_call_assigns_what_the_abi_lets_it_change() {
    // 1000: call 1005 / 1005: ret
    let function = function(&[0xe8, 0, 0, 0, 0, 0xc3], &[]).expect("it decodes");
    assert!(function.reaching(7, 0x1005).contains(&Origin::Assignment(0x1000)));
    assert!(!function.reaching(3, 0x1005).contains(&Origin::Assignment(0x1000)));
}

#[test]
fn a_computed_jump_that_is_no_tail_call_is_refused() {
    // 1000: add %rdx,%rax / 1003: jmp *%rax
    let bytes = &[0x48, 0x01, 0xd0, 0xff, 0xe0];
    assert_eq!(function(bytes, &[]).err(), Some(FlowProblem::UnknownJump(0x1003)));
}

#[test]
fn a_jump_through_a_method_is_a_tail_call() {
    // 1000: mov 0x88(%rax),%rax / 1007: jmp *%rax
    let bytes = &[0x48, 0x8b, 0x80, 0x88, 0, 0, 0, 0xff, 0xe0];
    assert!(function(bytes, &[]).is_ok());
}

#[test]
fn a_part_of_another_function_has_no_caller_of_its_own() {
    let function = function(FORK, &[0x1000]).expect("it decodes");
    assert!(function.reaching(7, 0x100a).contains(&Origin::Outside));
}

#[test]
fn a_jump_through_a_table_that_is_not_found_is_refused() {
    // jmp *0x2000(,%rax,8)
    let bytes = &[0xff, 0x24, 0xc5, 0x00, 0x20, 0x00, 0x00];
    assert_eq!(function(bytes, &[]).err(), Some(FlowProblem::UnknownJump(0x1000)));
}

/// Where a register may come from at a place of a function with something
/// behind it.
fn origins(bytes: &'static [u8], length: u64, register: usize, at: u64) -> Vec<Origin> {
    let range = 0x1000..0x1000 + length;
    let function = Function::new(&Bytes::new(bytes), range, &HashSet::new());
    function.expect("it is fit").reaching(register, at).into_iter().collect()
}

/// -mindirect-branch=thunk, gcc 12; the table and the thunk stand behind it.
#[test]
fn a_jump_through_a_thunk_leads_where_its_table_does() {
    // 1000: lea 1015(%rip),%rdx / 1007: movslq (%rdx,%rsi,4),%rax /
    // 100b: add %rdx,%rax / 100e: jmp 101d /
    // 1010: mov 0x8(%rdi),%rax / 1014: ret / 1015: the table: 1010, 1014
    // 101d: call 1029 / 1022: pause; lfence; jmp 1022 / 1029: mov %rax,(%rsp) / 102d: ret
    let bytes = &[
        0x48, 0x8d, 0x15, 0x0e, 0, 0, 0, 0x48, 0x63, 0x04, 0xb2, 0x48, 0x01, 0xd0, 0xeb, 0x0d,
        0x48, 0x8b, 0x47, 0x08, 0xc3, 0xfb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xe8, 0x07,
        0, 0, 0, 0xf3, 0x90, 0x0f, 0xae, 0xe8, 0xeb, 0xf9, 0x48, 0x89, 0x04, 0x24, 0xc3,
    ];
    let either = [Origin::Assignment(0x100b), Origin::Assignment(0x1010)];
    assert_eq!(origins(bytes, 0x15, 0, 0x1014), either);
    // 101d: lfence; jmp *%rax
    let mut lfence = bytes[..0x1d].to_vec();
    lfence.extend([0x0f, 0xae, 0xe8, 0xff, 0xe0]);
    assert_eq!(origins(lfence.leak(), 0x15, 0, 0x1014), either);
}

/// -mindirect-branch=thunk-inline, gcc 12; the table stands behind it.
#[test]
fn a_jump_through_a_thunk_within_leads_where_its_table_does() {
    // 1000: lea 1024(%rip),%rdx / 1007: movslq (%rdx,%rsi,4),%rax / 100b: add %rdx,%rax /
    // 100e: call 101a / 1013: pause; lfence; jmp 1013 / 101a: mov %rax,(%rsp) / 101e: ret
    // 101f: mov 0x8(%rdi),%rax / 1023: ret / 1024: the table: 101f, 1023
    let bytes = &[
        0x48, 0x8d, 0x15, 0x1d, 0, 0, 0, 0x48, 0x63, 0x04, 0xb2, 0x48, 0x01, 0xd0, 0xe8, 0x07, 0,
        0, 0, 0xf3, 0x90, 0x0f, 0xae, 0xe8, 0xeb, 0xf9, 0x48, 0x89, 0x04, 0x24, 0xc3, 0x48, 0x8b,
        0x47, 0x08, 0xc3, 0xfb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    ];
    let either = [Origin::Assignment(0x100b), Origin::Assignment(0x101f)];
    assert_eq!(origins(bytes, 0x24, 0, 0x1023), either);
}

#[test]
fn a_return_to_what_was_just_stored_is_a_computed_jump() {
    // 1000: mov %rax,(%rsp) / 1004: ret; 1000: push %rax / 1001: ret
    let stored = &[0x48, 0x89, 0x04, 0x24, 0xc3];
    assert_eq!(function(stored, &[]).err(), Some(FlowProblem::UnknownJump(0x1004)));
    assert_eq!(function(&[0x50, 0xc3], &[]).err(), Some(FlowProblem::UnknownJump(0x1001)));
}

#[test]
fn what_a_function_calls_within_is_entered_from_elsewhere() {
    // 1000: call 1006 / 1005: nop / 1006: mov %rbx,%rax / 1009: ret
    let bytes = &[0xe8, 0x01, 0, 0, 0, 0x90, 0x48, 0x89, 0xd8, 0xc3];
    let function = function(bytes, &[]).expect("it decodes");
    assert!(function.reaching(3, 0x1009).contains(&Origin::Outside));
}

#[test]
fn a_branch_to_a_thunk_is_refused() {
    // 1000: je 1003 / 1002: ret; 1003: jmp *%rax
    let bytes = &[0x74, 0x01, 0xc3, 0xff, 0xe0];
    let function = Function::new(&Bytes::new(bytes), 0x1000..0x1003, &HashSet::new());
    assert_eq!(function.err(), Some(FlowProblem::UnknownJump(0x1000)));
}

#[test]
fn a_table_of_addresses_may_be_reached_through_a_register() {
    // 1000: lea 1013(%rip),%rdx / 1007: jmp *(%rdx,%rsi,8) / 100a: mov 0x8(%rdi),%rax /
    // 100e: ret / 1013: the table: 100a, 100e
    let bytes = &[
        0x48, 0x8d, 0x15, 0x0c, 0, 0, 0, 0xff, 0x24, 0xf2, 0x48, 0x8b, 0x47, 0x08, 0xc3, 0, 0, 0,
        0, 0x0a, 0x10, 0, 0, 0, 0, 0, 0, 0x0e, 0x10, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(origins(bytes, 0xf, 0, 0x100e), [Origin::Entry, Origin::Assignment(0x100a)]);
}

#[test]
fn a_function_that_jumps_and_has_labels_is_refused() {
    // 1000: lea 1010(%rip),%rcx / 1007: mov (%rsi),%rdx / 100a: jmp *%rdx /
    // 100c: mov 0x8(%rdi),%rax / 1010: ret
    let bytes = &[
        0x48, 0x8d, 0x0d, 0x09, 0, 0, 0, 0x48, 0x8b, 0x16, 0xff, 0xe2, 0x48, 0x8b, 0x47, 0x08, 0xc3,
    ];
    assert_eq!(function(bytes, &[]).err(), Some(FlowProblem::UnknownJump(0x100a)));
}

#[test]
fn half_a_pointer_is_of_a_table() {
    // 1000: mov (%rdx),%eax / 1002: jmp *%rax
    let bytes = &[0x8b, 0x02, 0xff, 0xe0];
    assert_eq!(function(bytes, &[]).err(), Some(FlowProblem::UnknownJump(0x1002)));
}

#[test]
fn a_function_full_of_computed_jumps_is_refused() {
    // mov (%rdx),%rax; jmp *%rax, again and again
    let bytes: &[u8] = &[0x48, 0x8b, 0x02, 0xff, 0xe0];
    assert!(function(bytes.repeat(1000).leak(), &[]).is_ok());
    let many = function(bytes.repeat(3000).leak(), &[]);
    assert_eq!(many.err(), Some(FlowProblem::UnknownJump(0x1003)));
}
