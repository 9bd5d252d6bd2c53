//! Tests: what is known across calls of what stands on the stack.

use super::{
    CodeSource,
    explore::{DEFAULT_BOUNDS, Stopped, called_with, explore},
    processor::Processor,
    value::Value,
    x86_64::X86_64,
};

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

    fn import_at(&self, _: u64) -> Option<&str> {
        None
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
