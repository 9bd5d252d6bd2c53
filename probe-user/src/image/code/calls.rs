//! Tests: what is known across calls of what stands on the stack.

use super::{
    CodeSource,
    aarch64::Aarch64,
    explore::{DEFAULT_BOUNDS, Stopped, called_with, explore},
    processor::Processor,
    value::Value,
    x86_64::X86_64,
};

/// Where the dynamic linker stores the address of `memcpy`.
const MEMCPY: u64 = 0x3000;

/// Code at 0x1000; where it ends, nothing is known of what is called.
struct Code(&'static dyn Processor, Vec<u8>);

impl CodeSource for Code {
    fn processor(&self) -> &'static dyn Processor {
        self.0
    }

    fn code(&self, address: u64) -> Option<&[u8]> {
        self.1.get(usize::try_from(address.checked_sub(0x1000)?).ok()?..).filter(|c| !c.is_empty())
    }

    fn constant(&self, _: u64, _: usize) -> Option<u64> {
        None
    }

    fn import_at(&self, cell: u64) -> Option<&str> {
        (cell == MEMCPY).then_some("memcpy")
    }
}

fn ask(code: &Code) -> Result<Vec<String>, Stopped> {
    let machine = called_with(code.0.convention(), &[Value::argument(0), Value::argument(1)]);
    let answers = explore(code, 0x1000, machine, DEFAULT_BOUNDS)?;
    Ok(answers.iter().map(|answer| answer.value.to_string()).collect())
}

/// What the x86-64 function at 0x1000 returns on each path.
fn answers(code: &[&[u8]]) -> Vec<String> {
    ask(&Code(&X86_64, code.concat())).expect("it is followed")
}

/// The same of an A64 one.
fn answers_of_words(words: &[u32]) -> Vec<String> {
    let code = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    ask(&Code(&Aarch64, code)).expect("it is followed")
}

/// `call` of something outside, at this offset of the code.
fn call_outside(at: i32) -> [u8; 5] {
    let [a, b, c, d] = (0x1000 - at - 5).to_le_bytes();
    [0xe8, a, b, c, d]
}

/// gcc 12, -O1: `return pick(1, 2, 3, 4, 5, 6, ctx->size, ctx->options)`, where
/// `pick` returns the seventh.
#[test]
fn a_return_address_is_pushed() {
    let code: [&[u8]; 6] = [
        // 1000: push 0x140(%rdi)
        &[0xff, 0xb7, 0x40, 1, 0, 0],
        // 1006: push 0x38(%rdi)
        &[0xff, 0x77, 0x38],
        // 1009: call 1013 / 100e: add $0x10,%rsp / 1012: ret
        &[0xe8, 5, 0, 0, 0],
        &[0x48, 0x83, 0xc4, 0x10, 0xc3],
        // 1013: mov 8(%rsp),%rax / 1018: ret
        &[0x48, 0x8b, 0x44, 0x24, 8],
        &[0xc3],
    ];
    assert_eq!(answers(&code), ["u64[arg0+0x38]"]);
}

/// What a call pushes is not the caller's: where the callee is asked for it, or
/// returns to something else, it is not followed.
#[test]
fn a_callee_returns_to_its_caller() {
    // 1000: mov 8(%rdi),%rax / 1004: push %rax / 1005: call 100d / 100a: pop %rcx /
    // 100b: ret / 100c: nop
    let call: &[u8] = &[0x48, 0x8b, 0x47, 8, 0x50, 0xe8, 3, 0, 0, 0, 0x59, 0xc3, 0x90];
    // 100d: mov (%rsp),%rax / ret
    assert_eq!(answers(&[call, &[0x48, 0x8b, 0x04, 0x24, 0xc3]]), ["unknown"]);
    // 100d: pop %rax / ret
    assert_eq!(answers(&[call, &[0x58, 0xc3]]), ["0x100d(arg0)"]);
    // 100d: push %rax / ret
    assert_eq!(answers(&[call, &[0x50, 0xc3]]), ["0x100d(arg0)"]);
}

#[test]
fn a_jump_in_disguise_is_no_return() {
    // mov 8(%rdi),%rax / push %rax / ret
    let code = Code(&X86_64, vec![0x48, 0x8b, 0x47, 8, 0x50, 0xc3]);
    let why = ask(&code).expect_err("it is not followed").why;
    assert_eq!(why, "it returns with another stack pointer");
}

/// gcc 12, -O1: `long t = ctx->timeout; adjust(&t); return t;`
#[test]
fn a_callee_changes_what_it_is_handed() {
    let code: [&[u8]; 6] = [
        // 1000: sub $0x18,%rsp / 1004: mov 0x58(%rdi),%rax / 1008: mov %rax,8(%rsp)
        &[0x48, 0x83, 0xec, 0x18, 0x48, 0x8b, 0x47, 0x58, 0x48, 0x89, 0x44, 0x24, 8],
        // 100d: lea 8(%rsp),%rdi
        &[0x48, 0x8d, 0x7c, 0x24, 8],
        &call_outside(0x12),
        // 1017: mov 8(%rsp),%rax
        &[0x48, 0x8b, 0x44, 0x24, 8],
        // 101c: add $0x18,%rsp / ret
        &[0x48, 0x83, 0xc4, 0x18],
        &[0xc3],
    ];
    assert_eq!(answers(&code), ["unknown"]);
}

/// The same for arm64:
/// 1000: str x30,[sp,#-32]! / ldr x0,[x0,#88] / str x0,[sp,#24] /
/// 100c: add x0,sp,#0x18 / bl 800 / ldr x0,[sp,#24] / 1018: ldr x30,[sp],#32 / ret
#[test]
fn a_callee_changes_what_it_is_handed_on_arm64() {
    let words = [
        0xf81e_0ffe,
        0xf940_2c00,
        0xf900_0fe0,
        0x9100_63e0,
        0x97ff_fdfc,
        0xf940_0fe0,
        0xf842_07fe,
        0xd65f_03c0,
    ];
    assert_eq!(answers_of_words(&words), ["unknown"]);
}

#[test]
fn what_nobody_is_handed_stays() {
    // 1000: push %rdi
    // 1006: pop %rax / ret
    assert_eq!(answers(&[&[0x57], &call_outside(1), &[0x58, 0xc3]]), ["arg0"]);
}

#[test]
fn an_address_that_was_handed_over_once_is_known_for_good() {
    let code: [&[u8]; 5] = [
        // 1000: push %rbx / push %rdi / mov %rsp,%rdi
        &[0x53, 0x57, 0x48, 0x89, 0xe7],
        &call_outside(5),
        // 100a: mov $7,%eax / mov %rax,(%rsp)
        &[0xb8, 7, 0, 0, 0, 0x48, 0x89, 0x04, 0x24],
        &call_outside(0x13),
        // 1018: pop %rax / pop %rbx / ret
        &[0x58, 0x5b, 0xc3],
    ];
    assert_eq!(answers(&code), ["unknown"]);
}

#[test]
fn an_address_that_was_stored_is_known() {
    let code: [&[u8]; 4] = [
        // 1000: push %rdi / mov %rsp,(%rsi) / xor %esi,%esi
        &[0x57, 0x48, 0x89, 0x26, 0x31, 0xf6],
        &call_outside(6),
        // 100b: pop %rax / ret
        &[0x58],
        &[0xc3],
    ];
    assert_eq!(answers(&code), ["unknown"]);
}

#[test]
fn an_address_in_what_is_handed_over_is_known() {
    // The frame above hands the address of its variable to the one below, which
    // puts it into a variable whose address it hands on.
    let code: [&[u8]; 6] = [
        // 1000: push %rdi / mov %rsp,%rdi / call 100b / 1009: pop %rax / ret
        &[0x57, 0x48, 0x89, 0xe7, 0xe8, 2, 0, 0, 0, 0x58, 0xc3],
        // 100b: push %rdi / mov %rsp,%rdi
        &[0x57, 0x48, 0x89, 0xe7],
        &call_outside(0xf),
        // 1014: pop %rcx / ret
        &[0x59],
        &[0xc3],
        &[],
    ];
    assert_eq!(answers(&code), ["unknown"]);
}

#[test]
fn an_address_on_the_stack_may_be_an_argument() {
    let code: [&[u8]; 4] = [
        // 1000: push %rdi / mov %rsp,%rax / push %rax / xor %eax,%eax
        &[0x57, 0x48, 0x89, 0xe0, 0x50, 0x31, 0xc0],
        &call_outside(7),
        // 100c: pop %rax / pop %rax / ret
        &[0x58, 0x58],
        &[0xc3],
    ];
    assert_eq!(answers(&code), ["unknown"]);
}

#[test]
fn an_address_of_which_only_that_it_is_the_stacks_is_known_is_one() {
    // lea (%rsp,%rsi,8),%rdi, and mov %rsp,%rdi / and $-16,%rdi
    for hand in [&[0x48, 0x8d, 0x3c, 0xf4][..], &[0x48, 0x89, 0xe7, 0x48, 0x83, 0xe7, 0xf0]] {
        let at = 1 + i32::try_from(hand.len()).expect("it is short");
        // push %rdi, and pop %rax / ret
        let code = [&[0x57][..], hand, &call_outside(at), &[0x58, 0xc3]];
        assert_eq!(answers(&code), ["unknown"], "{hand:x?}");
    }
}

#[test]
fn an_address_that_goes_through_a_vector_is_known() {
    let code: [&[u8]; 5] = [
        // 1000: push %rdi / mov %rsp,%rax / movq %rax,%xmm0 / xor %eax,%eax
        &[0x57, 0x48, 0x89, 0xe0, 0x66, 0x48, 0x0f, 0x6e, 0xc0, 0x31, 0xc0],
        // 100b: movups %xmm0,(%rsi)
        &[0x0f, 0x11, 0x06],
        &call_outside(0xe),
        // 1013: pop %rax / ret
        &[0x58],
        &[0xc3],
    ];
    assert_eq!(answers(&code), ["unknown"]);
}

/// The caller's variables are not the callee's, and what the callee saved on its
/// stack is nobody's: it gives it back.
#[test]
fn what_is_handed_over_below_leaves_what_is_above() {
    let code: [&[u8]; 6] = [
        // 1000: push %rbx / push %rdi / mov %rdi,%rbx / call 1011 /
        // 100a: pop %rcx / mov 8(%rbx),%rax / pop %rbx / ret / nop
        &[0x53, 0x57, 0x48, 0x89, 0xfb, 0xe8, 7, 0, 0, 0],
        &[0x59, 0x48, 0x8b, 0x43, 8, 0x5b, 0xc3],
        // 1011: push %rbx / mov %rsi,%rbx / push %rsi / mov %rsp,%rdi
        &[0x53, 0x48, 0x89, 0xf3, 0x56, 0x48, 0x89, 0xe7],
        &call_outside(0x19),
        // 101e: pop %rax / pop %rbx / ret
        &[0x58, 0x5b],
        &[0xc3],
    ];
    assert_eq!(answers(&code), ["u64[arg0+0x8]"]);
    let spilt: [&[u8]; 4] = [
        // 1000: push %rdi / call 1008 / 1006: pop %rax / ret
        &[0x57, 0xe8, 2, 0, 0, 0, 0x58, 0xc3],
        // 1008: push %rsi / mov %rsp,%rdi
        &[0x56, 0x48, 0x89, 0xe7],
        &call_outside(0xc),
        // 1011: pop %rcx / ret
        &[0x59, 0xc3],
    ];
    assert_eq!(answers(&spilt), ["arg0"]);
}

/// Parts of functions that were outlined work on what is their caller's.
#[test]
fn what_is_stored_into_the_callers_frame_is_not_saved_there() {
    let code: [&[u8]; 6] = [
        // 1000: push %rbx / mov %rdi,%rbx / sub $8,%rsp / call 1018
        &[0x53, 0x48, 0x89, 0xfb, 0x48, 0x83, 0xec, 8, 0xe8, 0x0b, 0, 0, 0],
        // 100d: mov %rsp,%rdi
        &[0x48, 0x89, 0xe7],
        &call_outside(0x10),
        // 1015: pop %rax / pop %rbx / ret
        &[0x58, 0x5b, 0xc3],
        // 1018: mov %rbx,8(%rsp) / ret
        &[0x48, 0x89, 0x5c, 0x24, 8],
        &[0xc3],
    ];
    assert_eq!(answers(&code), ["unknown"]);
}

/// gcc 12, -O0: a callee leaves the address of a variable of its own in %rdx.
#[test]
fn what_a_callee_had_on_the_stack_is_gone() {
    let code: [&[u8]; 5] = [
        // 1000: push %rdi / call 100d
        &[0x57, 0xe8, 7, 0, 0, 0],
        &call_outside(6),
        // 100b: pop %rax / ret
        &[0x58, 0xc3],
        // 100d: lea -0xc(%rsp),%rdx / ret
        &[0x48, 0x8d, 0x54, 0x24, 0xf4],
        &[0xc3],
    ];
    assert_eq!(answers(&code), ["arg0"]);
}

/// `SSL_has_matching_session_id`: what is copied to a variable leaves the others.
#[test]
fn memcpy_writes_what_it_is_told_to() {
    let code = |length: u8, back: u8| {
        let code: [&[u8]; 6] = [
            // 1000: push %rdi / push %rsi / push %rsi
            &[0x57, 0x56, 0x56],
            // 1003: lea 8(%rsp),%rdi
            &[0x48, 0x8d, 0x7c, 0x24, 8],
            // 1008: mov $length,%edx
            &[0xba, length, 0, 0, 0],
            // 100d: call *0x3000(%rip)
            &[0xff, 0x15, 0xed, 0x1f, 0, 0],
            // 1013: mov back(%rsp),%rax / add $0x18,%rsp / ret
            &[0x48, 0x8b, 0x44, 0x24, back, 0x48, 0x83, 0xc4, 0x18],
            &[0xc3],
        ];
        answers(&code)
    };
    assert_eq!([code(8, 0), code(8, 8), code(8, 16)], [["arg1"], ["unknown"], ["arg0"]]);
    assert_eq!([code(9, 0), code(9, 8), code(9, 16)], [["arg1"], ["unknown"], ["unknown"]]);
    assert_eq!([code(0, 0), code(0, 8), code(0, 16)], [["arg1"], ["arg1"], ["arg0"]]);
}

/// -fstack-protector: a function whose guard was changed does not return.
#[test]
fn the_guard_stays() {
    let code: [&[u8]; 6] = [
        // 1000: sub $0x18,%rsp / 1004: mov %fs:0x28,%rax / 100d: mov %rax,8(%rsp)
        &[0x48, 0x83, 0xec, 0x18, 0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0],
        &[0x48, 0x89, 0x44, 0x24, 8],
        // 1012: mov %rsp,%rdi
        &[0x48, 0x89, 0xe7],
        &call_outside(0x15),
        // 101a: mov 8(%rsp),%rdx / 101f: sub %fs:0x28,%rdx / 1028: jne 102f
        &[0x48, 0x8b, 0x54, 0x24, 8, 0x64, 0x48, 0x2b, 0x14, 0x25, 0x28, 0, 0, 0, 0x75, 5],
        // 102a: add $0x18,%rsp / ret / 102f: hlt
        &[0x48, 0x83, 0xc4, 0x18, 0xc3, 0xf4],
    ];
    assert_eq!(answers(&code), ["0x2000(stack-0x18)"]);
}
