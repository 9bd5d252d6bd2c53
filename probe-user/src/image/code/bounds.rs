//! Tests: whatever the code is, following it ends soon and needs little memory.

use super::{
    explore::{DEFAULT_BOUNDS, Stopped, called_with, explore},
    processor::Processor as _,
    specimen::Bytes,
    value::Value,
    x86_64::X86_64,
};

/// What the function at 0x1000 returns on each path.
fn ask(code: Vec<u8>) -> Result<Vec<Value>, Stopped> {
    let machine = called_with(X86_64.convention(), &[Value::argument(0)]);
    let answers = explore(&Bytes::new(code), 0x1000, machine, DEFAULT_BOUNDS)?;
    Ok(answers.into_iter().map(|answer| answer.value).collect())
}

fn why(code: Vec<u8>) -> &'static str {
    ask(code).expect_err("it cannot be followed").why
}

/// Found by fuzzing: the name of each call had that of the one before in it, twice.
#[test]
fn a_loop_of_calls_ends_before_it_fills_memory() {
    // 1000: mov %rax,%rdi / 1003: call *%rax / 1005: jmp 1000
    assert_eq!(why(vec![0x48, 0x89, 0xc7, 0xff, 0xd0, 0xeb, 0xf9]), "it goes round in a loop");
}

#[test]
fn a_short_loop_is_followed() {
    // 1000: mov $8,%eax / 1005: sub $1,%eax / 1008: jne 1005 / 100a: ret
    let code = vec![0xb8, 8, 0, 0, 0, 0x83, 0xe8, 1, 0x75, 0xfb, 0xc3];
    assert_eq!(ask(code), Ok(vec![Value::Constant(0)]));
}

#[test]
fn what_is_written_is_bounded() {
    // push %rax, again and again / lea 0x320(%rsp),%rsp / ret
    let back = [0x48, 0x8d, 0xa4, 0x24, 0x20, 3, 0, 0, 0xc3];
    let pushes = |times: usize| [vec![0x50; times], back.to_vec()].concat();
    assert_eq!(why(pushes(2000)), "it writes more memory than is followed");
    assert!(ask(pushes(100)).is_ok());
}

#[test]
fn paths_that_could_not_be_followed_are_not_kept() {
    // jne to the next instruction, again and again: each way is a path
    let forks = |times: usize| [[0x75, 0].repeat(times), vec![0xc3]].concat();
    assert_eq!(why(forks(1000)), "too many paths");
    assert_eq!(ask(forks(6)).map(|answers| answers.len()), Ok(64));
}

#[test]
fn a_value_is_not_loaded_for_ever() {
    // mov (%rdi),%rdi, again and again / mov %rdi,%rax / ret
    let loads = |times| [[0x48, 0x8b, 0x3f].repeat(times), vec![0x48, 0x89, 0xf8, 0xc3]].concat();
    assert_eq!(ask(loads(20)), Ok(vec![Value::Unknown]));
    assert_ne!(ask(loads(4)), Ok(vec![Value::Unknown]));
}
