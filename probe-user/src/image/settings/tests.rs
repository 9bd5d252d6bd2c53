//! Accessor functions of real builds, as bytes, each with its disassembly.

use super::*;
use crate::image::{
    code::{aarch64::Aarch64, processor::Processor, specimen::Bytes, x86_64::X86_64},
    question::ask_at,
};

/// Code at an address.
/// What a function that takes the `SSL_CTX` alone says of a setting.
fn place_of(setting: Setting, code: &'static [u8]) -> Result<Place, Gap> {
    entered_at(0, setting, code, &X86_64)
}

fn entered_at(
    entry: u64,
    setting: Setting,
    code: &'static [u8],
    processor: &'static dyn Processor,
) -> Result<Place, Gap> {
    let code = Bytes::of(processor, code);
    let asked = ask_at(&code, "accessor", 0x1000 + entry, &[Value::argument(0)], &[])?;
    returned(setting, &asked).map(|(place, _)| place)
}

fn at(offset: u32, width: u8, divisor: u64) -> Result<Place, Gap> {
    Ok(Place { offset, width, divisor })
}

const SECOND: u64 = 1_000_000_000;

/// `SSL_CTX_get_timeout`, libssl3 3.0.22 of Debian 12 (zeroes registers).
const TIMEOUT_3_0: &[u8] = &[
    0x48, 0x85, 0xff, // test %rdi,%rdi
    0x74, 0x0b, // je 1010
    0x48, 0x8b, 0x47, 0x58, // mov 0x58(%rdi),%rax
    0x31, 0xff, // xor %edi,%edi
    0xc3, // ret
    0x0f, 0x1f, 0x40, 0x00, // nopl 0x0(%rax)
    0x31, 0xc0, // 1010: xor %eax,%eax
    0x31, 0xff, // xor %edi,%edi
    0xc3, // ret
];

/// `SSL_CTX_get_timeout`, 3.5.8 in a wheel of psycopg2-binary (gcc, -O2).
const TIMEOUT_3_5_GCC: &[u8] = &[
    0x48, 0x85, 0xff, // test %rdi,%rdi
    0x74, 0x23, // je 1028
    0x48, 0xba, 0x53, 0x5a, 0x9b, 0xa0, 0x2f, 0xb8, 0x44,
    0x00, // movabs $0x44b82fa09b5a53,%rdx
    0x48, 0x8b, 0x47, 0x58, // mov 0x58(%rdi),%rax
    0x48, 0xc1, 0xe8, 0x09, // shr $9,%rax
    0x48, 0xf7, 0xe2, // mul %rdx
    0x48, 0x89, 0xd0, // mov %rdx,%rax
    0x48, 0xc1, 0xe8, 0x0b, // shr $11,%rax
    0xc3, // ret
    0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00, // nopw 0x0(%rax,%rax,1)
    0x31, 0xc0, // 1028: xor %eax,%eax
    0xc3, // ret
];

/// `SSL_CTX_get_timeout`, 3.5.5, gcc 12, -Os.
const TIMEOUT_3_5_OS: &[u8] = &[
    0x31, 0xc0, // xor %eax,%eax
    0x48, 0x85, 0xff, // test %rdi,%rdi
    0x74, 0x0e, // je 1015
    0x48, 0x8b, 0x47, 0x58, // mov 0x58(%rdi),%rax
    0xb9, 0x00, 0xca, 0x9a, 0x3b, // mov $1000000000,%ecx
    0x31, 0xd2, // xor %edx,%edx
    0x48, 0xf7, 0xf1, // div %rcx
    0xc3, // 1015: ret
];

/// `SSL_CTX_get_timeout`, 3.5.5, clang 22, -O2 -march=x86-64-v3.
const TIMEOUT_3_5_BMI2: &[u8] = &[
    0x48, 0x85, 0xff, // test %rdi,%rdi
    0x74, 0x1c, // je 1021
    0x48, 0x8b, 0x57, 0x58, // mov 0x58(%rdi),%rdx
    0x48, 0xc1, 0xea, 0x09, // shr $9,%rdx
    0x48, 0xb8, 0x53, 0x5a, 0x9b, 0xa0, 0x2f, 0xb8, 0x44,
    0x00, // movabs $0x44b82fa09b5a53,%rax
    0xc4, 0xe2, 0xfb, 0xf6, 0xc0, // mulx %rax,%rax,%rax
    0x48, 0xc1, 0xe8, 0x0b, // shr $11,%rax
    0xc3, // ret
    0x31, 0xc0, // 1021: xor %eax,%eax
    0xc3, // ret
];

/// `ossl_time2ticks` and, at 0x10, `SSL_CTX_get_timeout`, 3.5.5, clang 22, -O0.
const TIMEOUT_3_5_O0: &[u8] = &[
    0x55, // push %rbp
    0x48, 0x89, 0xe5, // mov %rsp,%rbp
    0x48, 0x89, 0x7d, 0xf8, // mov %rdi,-8(%rbp)
    0x48, 0x8b, 0x45, 0xf8, // mov -8(%rbp),%rax
    0x5d, // pop %rbp
    0xc3, // ret
    0x66, 0x90, // xchg %ax,%ax
    0x55, // 1010: push %rbp
    0x48, 0x89, 0xe5, // mov %rsp,%rbp
    0x48, 0x83, 0xec, 0x10, // sub $0x10,%rsp
    0x48, 0x89, 0x7d, 0xf0, // mov %rdi,-0x10(%rbp)
    0x48, 0x83, 0x7d, 0xf0, 0x00, // cmpq $0,-0x10(%rbp)
    0x75, 0x0a, // jne 102d
    0x48, 0xc7, 0x45, 0xf8, 0x00, 0x00, 0x00, 0x00, // movq $0,-8(%rbp)
    0xeb, 0x1b, // jmp 1048
    0x48, 0x8b, 0x45, 0xf0, // 102d: mov -0x10(%rbp),%rax
    0x48, 0x8b, 0x78, 0x58, // mov 0x58(%rax),%rdi
    0xe8, 0xc6, 0xff, 0xff, 0xff, // call 1000
    0xb9, 0x00, 0xca, 0x9a, 0x3b, // mov $1000000000,%ecx
    0x31, 0xd2, // xor %edx,%edx
    0x48, 0xf7, 0xf1, // div %rcx
    0x48, 0x89, 0x45, 0xf8, // mov %rax,-8(%rbp)
    0x48, 0x8b, 0x45, 0xf8, // 1048: mov -8(%rbp),%rax
    0x48, 0x83, 0xc4, 0x10, // add $0x10,%rsp
    0x5d, // pop %rbp
    0xc3, // ret
];

#[test]
fn timeouts_of_real_builds() {
    assert_eq!(place_of(Setting::Timeout, TIMEOUT_3_0), at(0x58, 8, 1));
    for code in [TIMEOUT_3_5_GCC, TIMEOUT_3_5_OS, TIMEOUT_3_5_BMI2] {
        assert_eq!(place_of(Setting::Timeout, code), at(0x58, 8, SECOND));
    }
    assert_eq!(entered_at(0x10, Setting::Timeout, TIMEOUT_3_5_O0, &X86_64), at(0x58, 8, SECOND));
}

/// `SSL_CTX_get_timeout`, 3.5.5, aarch64, gcc 12, -O2.
const TIMEOUT_3_5_AARCH64: &[u8] = &[
    0x40, 0x01, 0x00, 0xb4, // cbz x0, 1028
    0x00, 0x2c, 0x40, 0xf9, // ldr x0, [x0, #88]
    0x61, 0x4a, 0x8b, 0xd2, // mov x1, #0x5a53
    0x61, 0x13, 0xb4, 0xf2, // movk x1, #0xa09b, lsl #16
    0xe1, 0x05, 0xd7, 0xf2, // movk x1, #0xb82f, lsl #32
    0x00, 0xfc, 0x49, 0xd3, // lsr x0, x0, #9
    0x81, 0x08, 0xe0, 0xf2, // movk x1, #0x44, lsl #48
    0x00, 0x7c, 0xc1, 0x9b, // umulh x0, x0, x1
    0x00, 0xfc, 0x4b, 0xd3, // lsr x0, x0, #11
    0xc0, 0x03, 0x5f, 0xd6, // ret
    0x00, 0x00, 0x80, 0xd2, // 1028: mov x0, #0
    0xc0, 0x03, 0x5f, 0xd6, // ret
];

/// `SSL_CTX_get_timeout`, 3.5.5, aarch64, gcc 12, -Os.
const TIMEOUT_3_5_AARCH64_OS: &[u8] = &[
    0xc0, 0x00, 0x00, 0xb4, // cbz x0, 1018
    0x00, 0x2c, 0x40, 0xf9, // ldr x0, [x0, #88]
    0x01, 0x40, 0x99, 0xd2, // mov x1, #0xca00
    0x41, 0x73, 0xa7, 0xf2, // movk x1, #0x3b9a, lsl #16
    0x00, 0x08, 0xc1, 0x9a, // udiv x0, x0, x1
    0xc0, 0x03, 0x5f, 0xd6, // 1014: ret
    0x00, 0x00, 0x80, 0xd2, // 1018: mov x0, #0
    0xfe, 0xff, 0xff, 0x17, // b 1014
];

#[test]
fn timeouts_of_aarch64_builds() {
    for code in [TIMEOUT_3_5_AARCH64, TIMEOUT_3_5_AARCH64_OS] {
        let place = entered_at(0, Setting::Timeout, code, &Aarch64);
        assert_eq!(place, at(0x58, 8, SECOND));
    }
}

/// The multiplier is one too large: no division, and so no timeout.
#[test]
fn a_product_that_is_no_quotient_is_a_gap() {
    const WRONG: &[u8] = &[
        0x48, 0xba, 0x54, 0x5a, 0x9b, 0xa0, 0x2f, 0xb8, 0x44,
        0x00, // movabs $0x44b82fa09b5a54,%rdx
        0x48, 0x8b, 0x47, 0x58, // mov 0x58(%rdi),%rax
        0x48, 0xc1, 0xe8, 0x09, // shr $9,%rax
        0x48, 0xf7, 0xe2, // mul %rdx
        0x48, 0x89, 0xd0, // mov %rdx,%rax
        0x48, 0xc1, 0xe8, 0x0b, // shr $11,%rax
        0xc3, // ret
    ];
    let gap = place_of(Setting::Timeout, WRONG).expect_err("it is not a division");
    assert!(gap.to_string().contains("(u64[arg0+0x58] >> 9) * 0x44b82fa09b5a54 >> 75"), "{gap}");
}

/// `div` of more than the field: what stands in `%rdx` is not 0.
#[test]
fn a_division_of_128_bits_is_a_gap() {
    const WIDE: &[u8] = &[
        0x48, 0x8b, 0x47, 0x58, // mov 0x58(%rdi),%rax
        0x48, 0x8b, 0x57, 0x60, // mov 0x60(%rdi),%rdx
        0xb9, 0x00, 0xca, 0x9a, 0x3b, // mov $1000000000,%ecx
        0x48, 0xf7, 0xf1, // div %rcx
        0xc3, // ret
    ];
    assert!(place_of(Setting::Timeout, WIDE).is_err());
}

/// Only a timeout is kept in another unit than it is told in.
#[test]
fn a_quotient_is_no_size() {
    assert!(place_of(Setting::CacheSize, TIMEOUT_3_5_OS).is_err());
}

#[test]
fn options_and_verify_mode_of_real_builds() {
    // 3.0.22 of Debian 12: mov 0x138(%rdi),%rax; xor %edi,%edi; ret
    const OPTIONS_3_0: &[u8] = &[0x48, 0x8b, 0x87, 0x38, 0x01, 0x00, 0x00, 0x31, 0xff, 0xc3];
    // 1.1.1w, gcc 12, -O2: mov 0x128(%rdi),%eax; ret
    const OPTIONS_1_1_1: &[u8] = &[0x8b, 0x87, 0x28, 0x01, 0x00, 0x00, 0xc3];
    // 3.0.22 of Debian 12: mov 0x178(%rdi),%eax; xor %edi,%edi; ret
    const VERIFY_MODE: &[u8] = &[0x8b, 0x87, 0x78, 0x01, 0x00, 0x00, 0x31, 0xff, 0xc3];
    assert_eq!(place_of(Setting::Options, OPTIONS_3_0), at(0x138, 8, 1));
    assert_eq!(place_of(Setting::Options, OPTIONS_1_1_1), at(0x128, 4, 1));
    assert_eq!(place_of(Setting::VerifyMode, VERIFY_MODE), at(0x178, 4, 1));
    // An int is none of the callbacks, and a long no mode.
    assert!(place_of(Setting::NewCallback, VERIFY_MODE).is_err());
    assert!(place_of(Setting::VerifyMode, OPTIONS_3_0).is_err());
}

/// `SSL_CTX_set_session_id_context`, 3.0.22 of Debian 12, as far as it goes with
/// four bytes: `memcpy` is inlined.
const SET_ID_CONTEXT: &[u8] = &[
    0x83, 0xfa, 0x20, // cmp $0x20,%edx
    0x0f, 0x87, 0x97, 0x00, 0x00, 0x00, // ja 10a0
    0x89, 0xd1, // mov %edx,%ecx
    0x48, 0x8d, 0x87, 0x88, 0x01, 0x00, 0x00, // lea 0x188(%rdi),%rax
    0x48, 0x89, 0x8f, 0x80, 0x01, 0x00, 0x00, // mov %rcx,0x180(%rdi)
    0x83, 0xfa, 0x08, // cmp $8,%edx
    0x72, 0x01, // jb 101f
    0xcc, // int3 (more than eight bytes are copied here)
    0xf6, 0xc2, 0x04, // 101f: test $4,%dl
    0x75, 0x01, // jne 1025
    0xcc, // int3 (fewer than four bytes)
    0x8b, 0x16, // 1025: mov (%rsi),%edx
    0x89, 0x97, 0x88, 0x01, 0x00, 0x00, // mov %edx,0x188(%rdi)
    0x8b, 0x54, 0x0e, 0xfc, // mov -4(%rsi,%rcx,1),%edx
    0x89, 0x54, 0x08, 0xfc, // mov %edx,-4(%rax,%rcx,1)
    0xb8, 0x01, 0x00, 0x00, 0x00, // mov $1,%eax
    0xc3, // ret
];

#[test]
fn the_length_of_the_session_id_context_is_where_it_is_written() {
    let arguments = [Value::argument(0), Value::argument(1), Value::Constant(SOME_LENGTH)];
    let function = "SSL_CTX_set_session_id_context";
    let code = Bytes::new(SET_ID_CONTEXT);
    let asked = ask_at(&code, function, 0x1000, &arguments, &[]).expect("it can be followed");
    let (place, evidence) = written(Setting::SessionIdContextLength, &asked).expect("it is found");
    assert_eq!(place, Place { offset: 0x180, width: 8, divisor: 1 });
    assert_eq!(evidence.answer, "writes 4 to u64[arg0+0x180]");
}

/// Two settings in one place, or in the counters: both were misread.
#[test]
fn settings_do_not_overlap() {
    let place = |offset| Some(Place { offset, width: 4, divisor: 1 });
    let layout = SettingsLayout::default()
        .with(Setting::MinProtocol, place(0x144))
        .with(Setting::MaxProtocol, place(0x144))
        .with(Setting::VerifyMode, place(0x90))
        .with(Setting::CacheMode, place(0x50));
    let mut learnt = LearntSettings { layout, ..LearntSettings::default() };
    let mut counters = Layout::default();
    for (counter, offset) in counters.counters.iter_mut().zip((0x78..).step_by(4)) {
        *counter = Some(offset);
    }
    learnt.check(&counters);
    let kept = SettingsLayout::default().with(Setting::CacheMode, place(0x50));
    assert_eq!(learnt.layout, kept);
    let fields: Vec<&str> = learnt.gaps.iter().map(|gap| gap.field.as_str()).collect();
    assert_eq!(fields, ["settings.min_protocol", "settings.max_protocol", "settings.verify_mode"]);
    assert!(learnt.gaps[2].reason.to_string().contains("the counters at 0x78"));
}
