//! Tests: what a caller makes of each answer of a called function.

use super::{
    aarch64::Aarch64,
    explore::{Answer, DEFAULT_BOUNDS, Stopped, called_with, explore},
    processor::Processor,
    specimen::Bytes,
    value::Value,
    x86_64::X86_64,
};

/// Asks the function at 0x1000.
fn ask(processor: &'static dyn Processor, code: Vec<u8>) -> Result<Vec<Answer>, Stopped> {
    let machine = called_with(processor.convention(), &[Value::argument(0), Value::argument(1)]);
    explore(&Bytes::of(processor, code), 0x1000, machine, DEFAULT_BOUNDS)
}

fn asked(code: &[&[u8]]) -> Vec<Answer> {
    ask(&X86_64, code.concat()).expect("it is followed")
}

/// What the paths return, sorted.
fn values(answers: &[Answer]) -> Vec<String> {
    let mut values: Vec<String> = answers.iter().map(|answer| answer.value.to_string()).collect();
    values.sort();
    values
}

/// `call` of something outside, at this offset of the code.
fn call_outside(at: i32) -> [u8; 5] {
    let [a, b, c, d] = (-0x800 - at - 5).to_le_bytes();
    [0xe8, a, b, c, d]
}

/// 3.5.5 with counters behind a lock, clang 22 -O2: what `SSL_CTX_ctrl` does for
/// `misses`, and `ssl_tsan_load`, which returns 0 if the lock cannot be taken.
#[test]
fn a_counter_behind_a_lock_is_loaded_in_a_function_of_its_own() {
    let answers = asked(&[
        // 1000: push %r14 / push %rbx / push %rax
        &[0x41, 0x56, 0x53, 0x50],
        // 1004: lea 0x90(%rdi),%rsi / call 101a / 1010: cltq
        &[0x48, 0x8d, 0xb7, 0x90, 0, 0, 0, 0xe8, 0x0a, 0, 0, 0, 0x48, 0x98],
        // 1012: add $8,%rsp / pop %rbx / pop %r14 / ret
        &[0x48, 0x83, 0xc4, 8, 0x5b, 0x41, 0x5e, 0xc3],
        // 101a: push %r14 / push %rbx / push %rax / mov %rsi,%rbx / mov %rdi,%r14
        &[0x41, 0x56, 0x53, 0x50, 0x48, 0x89, 0xf3, 0x49, 0x89, 0xfe],
        // 1024: mov 0xa8(%rdi),%rdi / call outside
        &[0x48, 0x8b, 0xbf, 0xa8, 0, 0, 0],
        &call_outside(0x2b),
        // 1030: test %eax,%eax / je 1044 / 1034: mov (%rbx),%ebx
        &[0x85, 0xc0, 0x74, 0x10, 0x8b, 0x1b],
        // 1036: mov 0xa8(%r14),%rdi / call outside
        &[0x49, 0x8b, 0xbe, 0xa8, 0, 0, 0],
        &call_outside(0x3d),
        // 1042: jmp 1046 / 1044: xor %ebx,%ebx / 1046: mov %ebx,%eax
        &[0xeb, 2, 0x31, 0xdb, 0x89, 0xd8],
        // 1048: add $8,%rsp / pop %rbx / pop %r14 / ret
        &[0x48, 0x83, 0xc4, 8, 0x5b, 0x41, 0x5e, 0xc3],
    ]);
    assert_eq!(values(&answers), ["(signed) u32[arg0+0x90]", "0"]);
    let read: Vec<u64> = answers.iter().filter_map(|a| a.loaded_at(&a.value)).collect();
    assert_eq!(read, [0x1034]);
}

/// The same for arm64, of a program with the same two functions.
#[test]
fn a_counter_behind_a_lock_on_arm64() {
    let words: [u32; 24] = [
        0xa9bf_7bfd, // 1000: stp x29, x30, [sp, #-0x10]!
        0x9100_03fd, // mov x29, sp
        0x9102_0001, // add x1, x0, #0x80
        0x9400_0004, // 100c: bl 101c
        0x9340_7c00, // sxtw x0, w0
        0xa8c1_7bfd, // ldp x29, x30, [sp], #0x10
        0xd65f_03c0, // ret
        0xa9be_7bfd, // 101c: stp x29, x30, [sp, #-0x20]!
        0xa901_4ff4, // stp x20, x19, [sp, #0x10]
        0x9100_03fd, // mov x29, sp
        0xaa00_03f3, // mov x19, x0
        0xf940_5400, // ldr x0, [x0, #0xa8]
        0xaa01_03f4, // mov x20, x1
        0x97ff_fdf3, // 1034: bl 800
        0x3400_00a0, // cbz w0, 104c
        0xf940_5660, // ldr x0, [x19, #0xa8]
        0xb940_0294, // 1040: ldr w20, [x20]
        0x97ff_fdef, // 1044: bl 800
        0x1400_0002, // b 1050
        0x2a1f_03f4, // 104c: mov w20, wzr
        0x2a14_03e0, // 1050: mov w0, w20
        0xa941_4ff4, // ldp x20, x19, [sp, #0x10]
        0xa8c2_7bfd, // ldp x29, x30, [sp], #0x20
        0xd65f_03c0, // ret
    ];
    let code = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let answers = ask(&Aarch64, code).expect("it is followed");
    assert_eq!(values(&answers), ["(signed) u32[arg0+0x80]", "0"]);
    let read: Vec<u64> = answers.iter().filter_map(|a| a.loaded_at(&a.value)).collect();
    assert_eq!(read, [0x1040]);
}

/// An atomic addition that the caller would make on one way only, say.
#[test]
fn what_writes_on_one_way_of_several_is_not_followed() {
    let why = |write: &[u8]| {
        // 1000: call 1006 / ret
        // 1006: mov 8(%rdi),%rax / test %esi,%esi / je the end
        let length = u8::try_from(write.len()).expect("it is short");
        let code: [&[u8]; 4] = [
            &[0xe8, 1, 0, 0, 0, 0xc3],
            &[0x48, 0x8b, 0x47, 8, 0x85, 0xf6, 0x74, length],
            write,
            &[0xc3],
        ];
        let answers = asked(&code);
        (values(&answers), answers[0].unfollowed.as_deref().map(|stopped| stopped.why))
    };
    let refused =
        (vec!["0x1006(arg0)".to_owned()], Some("it writes, and not on all ways the same"));
    // movl $7,0x78(%rdi)
    assert_eq!(why(&[0xc7, 0x47, 0x78, 7, 0, 0, 0]), refused);
    // lock incl 0x78(%rdi)
    assert_eq!(why(&[0xf0, 0xff, 0x47, 0x78]), refused);
    // push %rax / pop %rax
    assert_eq!(why(&[0x50, 0x58]), (vec!["u64[arg0+0x8]".to_owned(); 2], None));
}

/// A caller that looks at the answer goes the way that belongs to it.
#[test]
fn what_the_caller_does_with_null_it_does_with_null_only() {
    let answers = asked(&[
        // 1000: call 100f / 1005: test %rax,%rax / je 100e / mov 0x10(%rax),%rax / ret
        &[0xe8, 0x0a, 0, 0, 0, 0x48, 0x85, 0xc0, 0x74, 4, 0x48, 0x8b, 0x40, 0x10, 0xc3],
        // 100f: xor %eax,%eax / test %rdi,%rsi / je 101a / 1016: mov 8(%rdi),%rax / 101a: ret
        &[0x31, 0xc0, 0x48, 0x85, 0xfe, 0x74, 4, 0x48, 0x8b, 0x47, 8, 0xc3],
    ]);
    // Of the field it is not known whether it is null.
    assert_eq!(values(&answers), ["0", "u64[arg0+0x8]", "u64[u64[arg0+0x8]+0x10]"]);
}

/// A status says little, and each would be one more path.
#[test]
fn what_returns_no_field_is_not_followed_on() {
    let answers = asked(&[
        // 1000: call 1006 / ret
        &[0xe8, 1, 0, 0, 0, 0xc3],
        // 1006: xor %eax,%eax / test %esi,%esi / je 1011 / mov $1,%eax / ret / 1011: ret
        &[0x31, 0xc0, 0x85, 0xf6, 0x74, 5, 0xb8, 1, 0, 0, 0, 0xc3],
    ]);
    assert_eq!(values(&answers), ["0x1006(arg0)"]);
    let stopped = answers[0].unfollowed.as_deref().expect("it was not followed");
    assert_eq!((stopped.address, stopped.why), (0x1006, "it returns one thing or another"));
    assert_eq!(answers[0].made_at, Some(0x1000));
}

#[test]
fn a_function_that_calls_itself_is_not_followed_there() {
    let answers = asked(&[
        // 1000: test %esi,%esi / je 100e / mov 8(%rdi),%rdi / 1008: call 1000 / ret
        &[0x85, 0xf6, 0x74, 0x0a, 0x48, 0x8b, 0x7f, 8, 0xe8, 0xf3, 0xff, 0xff, 0xff, 0xc3],
        // 100e: mov 0x10(%rdi),%rax / ret
        &[0x48, 0x8b, 0x47, 0x10, 0xc3],
    ]);
    assert_eq!(values(&answers), ["0x1000(u64[arg0+0x8])", "u64[arg0+0x10]"]);
    let stopped: Vec<_> = answers.iter().filter_map(|a| a.unfollowed.as_deref()).collect();
    let [Stopped { address: 0x1008, why, .. }] = stopped[..] else { panic!("{stopped:?}") };
    assert_eq!(*why, "it calls a function that it is called by");
}

/// Of all that are called, eight answers besides the first of each are.
#[test]
fn not_every_answer_is_followed() {
    // call the function below, so many times / mov $7,%eax / ret
    let callers = |times: usize| {
        let mut code = Vec::new();
        for before in 0..times {
            let distance = ((times - before - 1) * 5 + 6) as u8;
            code.extend([0xe8, distance, 0, 0, 0]);
        }
        code.extend([0xb8, 7, 0, 0, 0, 0xc3]);
        // xor %eax,%eax / test %esi,%esi / je the end / mov 8(%rdi),%rax / ret
        code.extend([0x31, 0xc0, 0x85, 0xf6, 0x74, 4, 0x48, 0x8b, 0x47, 8, 0xc3]);
        code
    };
    for (times, paths) in [(1, 2), (3, 8), (12, 9)] {
        let answers = asked(&[&callers(times)]);
        assert_eq!(answers.len(), paths, "{times} calls");
        assert!(answers.iter().all(|answer| answer.value == Value::Constant(7)));
    }
}

/// With one of the answers it cannot be followed: then without any.
#[test]
fn what_could_be_followed_without_the_answers_still_is() {
    let answers = asked(&[
        // 1000: call 100a / 1005: mov %rdi,8(%rax) / ret
        &[0xe8, 5, 0, 0, 0, 0x48, 0x89, 0x78, 8, 0xc3],
        // 100a: mov 8(%rdi),%rax / test %esi,%esi / je 1016 / imul %rax,%rax / 1016: ret
        &[0x48, 0x8b, 0x47, 8, 0x85, 0xf6, 0x74, 4, 0x48, 0x0f, 0xaf, 0xc0, 0xc3],
    ]);
    assert_eq!(values(&answers), ["0x100a(arg0)"]);
    assert!(answers[0].unfollowed.is_some());
}
