//! Instructions that no compiler writes for a library's accessors, but whose
//! effects must not be taken for others: bytes with their disassembly.

use super::X86_64;
use crate::image::code::{
    explore::{Answer, DEFAULT_BOUNDS, Stopped, called_with, explore},
    instruction::{Control, Effect, Instruction, Writes},
    processor::Processor as _,
    specimen::Bytes,
    value::Value,
};

fn ask(code: &'static [u8]) -> Result<Vec<Answer>, Stopped> {
    let machine = called_with(X86_64.convention(), &[Value::argument(0)]);
    explore(&Bytes::new(code), 0x1000, machine, DEFAULT_BOUNDS)
}

/// What the function returns on each path.
fn answers(code: &'static [u8]) -> Vec<String> {
    let answers = ask(code).expect("it is followed");
    answers.iter().map(|answer| answer.value.to_string()).collect()
}

fn why(code: &'static [u8]) -> &'static str {
    ask(code).expect_err("it cannot be followed").why
}

fn decoded(code: &'static [u8]) -> Instruction {
    X86_64.decode(code, 0x1000).next().flatten().expect("it is an instruction")
}

#[test]
fn half_of_an_address_is_not_the_address() {
    // lea 8(%edi),%rdi / mov 0x100(%rdi),%rax / ret
    let lea = &[0x67, 0x48, 0x8d, 0x7f, 8, 0x48, 0x8b, 0x87, 0, 1, 0, 0, 0xc3];
    assert_eq!(answers(lea), ["unknown"]);
    // mov 8(%edi),%rax / ret
    assert_eq!(answers(&[0x67, 0x48, 0x8b, 0x47, 8, 0xc3]), ["unknown"]);
    // xor %ecx,%ecx / mov (%edi,%ecx,1),%rax / ret
    assert_eq!(answers(&[0x31, 0xc9, 0x67, 0x48, 0x8b, 0x04, 0x0f, 0xc3]), ["unknown"]);
    // mov %rax,8(%edi), and rep stos %al,(%edi)
    assert_eq!(why(&[0x67, 0x48, 0x89, 0x47, 8, 0xc3]), "it writes where it is not known");
    assert_eq!(why(&[0x67, 0xf3, 0xaa, 0xc3]), "it writes where it is not known");
}

#[test]
fn no_fact_rests_on_half_of_an_address() {
    // mov 8(%edi),%rax, and lock incl 8(%edi)
    assert_eq!(decoded(&[0x67, 0x48, 0x8b, 0x47, 8]).effect, Effect::Other);
    assert_eq!(decoded(&[0x67, 0xf0, 0xff, 0x47, 8]).effect, Effect::Other);
    // mov %rax,8(%edi)
    assert_eq!(decoded(&[0x67, 0x48, 0x89, 0x47, 8]).writes, Writes::Somewhere);
    // lea 0x10(%rip),%eax
    assert_eq!(decoded(&[0x8d, 0x05, 0x10, 0, 0, 0]).effect, Effect::Other);
    let whole = decoded(&[0x48, 0x8d, 0x05, 0x10, 0, 0, 0]);
    assert_eq!(whole.effect, Effect::Address { to: 0, target: 0x1017 });
}

#[test]
fn loop_counts() {
    // mov $3,%ecx / loop to the next / mov 0x100(%rdi,%rcx,8),%rax / ret
    let code = &[0xb9, 3, 0, 0, 0, 0xe2, 0, 0x48, 0x8b, 0x84, 0xcf, 0, 1, 0, 0, 0xc3];
    assert_eq!(answers(code), ["unknown", "unknown"]);
}

#[test]
fn loop_has_two_conditions() {
    // mov $1,%eax / test %eax,%eax / loopne 1010 /
    // 1009: mov 8(%rdi),%eax / 100c: ret / 100d: nop; nop; nop /
    // 1010: mov 0x10(%rdi),%eax / ret
    let code = &[
        0xb8, 1, 0, 0, 0, 0x85, 0xc0, 0xe0, 7, 0x8b, 0x47, 8, 0xc3, 0x90, 0x90, 0x90, 0x8b, 0x47,
        0x10, 0xc3,
    ];
    assert_eq!(answers(code), ["u32[arg0+0x8]", "u32[arg0+0x10]"]);
}

#[test]
fn a_segment_is_counted_from_elsewhere() {
    // mov %gs:8(%rdi),%rax / ret, and the same with %fs
    assert_eq!(answers(&[0x65, 0x48, 0x8b, 0x47, 8, 0xc3]), ["unknown"]);
    assert_eq!(answers(&[0x64, 0x48, 0x8b, 0x47, 8, 0xc3]), ["unknown"]);
    // In 64-bit mode, %ds is not: mov %ds:8(%rdi),%rax / ret
    assert_eq!(answers(&[0x3e, 0x48, 0x8b, 0x47, 8, 0xc3]), ["u64[arg0+0x8]"]);
}

#[test]
fn xadd_writes_memory_where_it_was_read() {
    // mov %rdi,%rax / lock xadd %rax,0x10(%rax) / ret
    let code = &[0x48, 0x89, 0xf8, 0xf0, 0x48, 0x0f, 0xc1, 0x40, 0x10, 0xc3];
    let answers = ask(code).expect("it is followed");
    let [answer] = answers.as_slice() else { panic!("{answers:?}") };
    assert_eq!(answer.value.to_string(), "u64[arg0+0x10]");
    // mov 0x10(%rdi),%rcx: what was there before is there no more.
    let code =
        &[0x48, 0x89, 0xf8, 0xf0, 0x48, 0x0f, 0xc1, 0x40, 0x10, 0x48, 0x8b, 0x47, 0x10, 0xc3];
    assert_eq!(self::answers(code), ["unknown"]);
}

#[test]
fn of_one_register_xadd_leaves_the_sum() {
    // mov $5,%eax / xadd %eax,%eax / ret
    assert_eq!(answers(&[0xb8, 5, 0, 0, 0, 0x0f, 0xc1, 0xc0, 0xc3]), ["0xa"]);
}

#[test]
fn a_transaction_may_be_aborted() {
    // xbegin 100b
    let code = &[0xc7, 0xf8, 5, 0, 0, 0, 0x48, 0x8b, 0x47, 8, 0xc3, 0xc3];
    assert_eq!(decoded(code).control, Control::Branch(0x100b));
    assert_eq!(why(code), "it begins a transaction");
}

#[test]
fn the_kernel_is_no_function() {
    // syscall / ret
    assert_eq!(why(&[0x0f, 0x05, 0xc3]), "it calls the kernel");
}

#[test]
fn less_than_a_word_is_not_pushed() {
    // push %ax / pop %ax / mov %rdi,%rax / ret
    let code = &[0x66, 0x50, 0x66, 0x58, 0x48, 0x89, 0xf8, 0xc3];
    assert_eq!(why(code), "it moves the stack pointer by less than a word");
}

#[test]
fn only_a_plain_return_returns() {
    // ret $8, and lret
    assert_eq!(why(&[0xc2, 8, 0]), "it returns in a way that is not followed");
    assert_eq!(why(&[0xcb]), "it returns in a way that is not followed");
}
