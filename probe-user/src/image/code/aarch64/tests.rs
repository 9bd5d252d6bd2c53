//! A64 code as compilers made it: words with their disassembly (GNU objdump)
//! and where they come from.

use crate::image::class::Class;
use crate::image::code::{
    CodeSource,
    aarch64::Aarch64,
    explore::{self, DEFAULT_BOUNDS},
    flow::Function,
    machine::Machine,
    processor::{Next, Processor},
    value::Value,
};

/// Pieces of a file at their addresses.
#[derive(Default)]
struct Pieces {
    code: Vec<(u64, Vec<u8>)>,
    constants: Vec<(u64, Vec<u8>)>,
    imports: Vec<(u64, &'static str)>,
}

impl Pieces {
    fn with(mut self, at: u64, words: &[u32]) -> Self {
        self.code.push((at, words.iter().flat_map(|word| word.to_le_bytes()).collect()));
        self
    }

    fn import(mut self, at: u64, name: &'static str) -> Self {
        self.imports.push((at, name));
        self
    }
}

fn find(pieces: &[(u64, Vec<u8>)], at: u64) -> Option<&[u8]> {
    pieces.iter().find_map(|(start, bytes)| {
        bytes.get(usize::try_from(at.checked_sub(*start)?).ok()?..).filter(|b| !b.is_empty())
    })
}

impl CodeSource for Pieces {
    fn processor(&self) -> &'static dyn Processor {
        &Aarch64
    }
    fn code(&self, address: u64) -> Option<&[u8]> {
        find(&self.code, address)
    }
    fn constant(&self, address: u64, width: usize) -> Option<u64> {
        let mut value = [0; 8];
        value[..width].copy_from_slice(find(&self.constants, address)?.get(..width)?);
        Some(u64::from_le_bytes(value))
    }
    fn import_at(&self, address: u64) -> Option<&str> {
        self.imports.iter().find(|(at, _)| *at == address).map(|(_, name)| *name)
    }
}

/// What a function returns and adds on each path, as text.
fn answers(source: &Pieces, entry: u64, arguments: &[Value]) -> Vec<String> {
    let machine = explore::called_with(Aarch64.convention(), arguments);
    let answers = explore::explore(source, entry, machine, DEFAULT_BOUNDS).expect("followed");
    let mut texts: Vec<String> = answers
        .iter()
        .map(|answer| {
            let added: Vec<String> =
                answer.increments.iter().map(|i| format!("{} += {}", i.field, i.amount)).collect();
            format!("{} {}", answer.value, added.join(", ")).trim_end().to_owned()
        })
        .collect();
    texts.sort();
    texts.dedup();
    texts
}

/// `SSL_CTX_ctrl` of libssl3 3.0.22-1~deb12u2 (arm64, gcc 12), to its table.
const CTRL: &[u32] = &[
    0xa9be7bfd, // 36a20: stp x29, x30, [sp, #-32]!
    0xaa0303e5, // 36a24: mov x5, x3
    0x910003fd, // 36a28: mov x29, sp
    0xb4000240, // 36a2c: cbz x0, 36a74
    0xaa0003e4, // 36a30: mov x4, x0
    0x51004020, // 36a34: sub w0, w1, #0x10
    0x7101cc1f, // 36a38: cmp w0, #0x73
    0x54000109, // 36a3c: b.ls 36a5c
    0xf9400486, // 36a40: ldr x6, [x4, #8]
    0xaa0403e0, // 36a44: mov x0, x4
    0xaa0503e3, // 36a48: mov x3, x5
    0xf94044c4, // 36a4c: ldr x4, [x6, #136]
    0xa8c27bfd, // 36a50: ldp x29, x30, [sp], #32
    0xaa0403f0, // 36a54: mov x16, x4
    0xd61f0200, // 36a58: br x16
    0xb0000263, // 36a5c: adrp x3, 83000
    0x9111f063, // 36a60: add x3, x3, #0x47c
    0x78605863, // 36a64: ldrh w3, [x3, w0, uxtw #1]
    0x10000060, // 36a68: adr x0, 36a74
    0x8b23a803, // 36a6c: add x3, x0, w3, sxth #2
    0xd61f0060, // 36a70: br x3
];
/// The way out that the counters share.
const CTRL_LEAVE: &[u32] = &[
    0xaa0503e0, // 36a8c: mov x0, x5
    0xa8c27bfd, // 36a90: ldp x29, x30, [sp], #32
    0xd2800001, // 36a94: mov x1, #0x0
    0xd2800002, // 36a98: mov x2, #0x0
    0xd2800003, // 36a9c: mov x3, #0x0
    0xd2800004, // 36aa0: mov x4, #0x0
    0xd2800005, // 36aa4: mov x5, #0x0
    0xd2800006, // 36aa8: mov x6, #0x0
    0xd2800010, // 36aac: mov x16, #0x0
    0xd2800011, // 36ab0: mov x17, #0x0
    0xd65f03c0, // 36ab4: ret
];
/// Command 25.
const CTRL_ACCEPT_GOOD: &[u32] = &[
    0x91023084, // 36ca4: add x4, x4, #0x8c
    0xb9400085, // 36ca8: ldr w5, [x4]
    0x93407ca5, // 36cac: sxtw x5, w5
    0x17ffff77, // 36cb0: b 36a8c
];
/// Its table: 116 numbers of instructions, counted from 36a74.
const CTRL_TABLE: &[u16] = &[
    0x00bc, 0xfff3, 0xfff3, 0xfff3, 0x00bf, 0x00ac, 0x00b0, 0x00b4, 0x00b8, 0x008c, 0x0090, 0x0094,
    0x0098, 0x009c, 0x00a0, 0x00a4, 0xfff3, 0x00a8, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3,
    0x002f, 0x0031, 0x0034, 0x0039, 0x003b, 0x003e, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0x0040, 0x0042,
    0x0047, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3,
    0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3,
    0xfff3, 0xfff3, 0x0053, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3,
    0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0x0057,
    0x005c, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3,
    0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0xfff3, 0x0061,
    0x0070, 0x007f, 0x0085, 0xfff3, 0xfff3, 0xfff3, 0x00c2, 0x00c4,
];
/// `SSL_CTX_up_ref`, same file.
const UP_REF: &[u32] = &[
    0xa9bf7bfd, // 37a90: stp x29, x30, [sp, #-16]!
    0xaa0003e1, // 37a94: mov x1, x0
    0x91029021, // 37a98: add x1, x1, #0xa4
    0x910003fd, // 37a9c: mov x29, sp
    0x52800020, // 37aa0: mov w0, #0x1
    0x9401140b, // 37aa4: bl 7cad0
    0x11000400, // 37aa8: add w0, w0, #0x1
    0x7100041f, // 37aac: cmp w0, #0x1
    0x1a9fd7e0, // 37ab0: cset w0, gt
    0xa8c17bfd, // 37ab4: ldp x29, x30, [sp], #16
    0xd2800001, // 37ab8: mov x1, #0x0
    0xd2800010, // 37abc: mov x16, #0x0
    0xd2800011, // 37ac0: mov x17, #0x0
    0xd65f03c0, // 37ac4: ret
];
/// `__aarch64_ldadd4_relax` of libgcc, same file.
const LDADD4: &[u32] = &[
    0xd503245f, // 7cad0: bti c
    0xf00001b0, // 7cad4: adrp x16, b3000
    0x3960d210, // 7cad8: ldrb w16, [x16, #2100]
    0x34000070, // 7cadc: cbz w16, 7cae8
    0xb8200020, // 7cae0: ldadd w0, w0, [x1]
    0xd65f03c0, // 7cae4: ret
    0x2a0003f0, // 7cae8: mov w16, w0
    0x885f7c20, // 7caec: ldxr w0, [x1]
    0x0b100011, // 7caf0: add w17, w0, w16
    0x880f7c31, // 7caf4: stxr w15, w17, [x1]
    0x35ffffaf, // 7caf8: cbnz w15, 7caec
    0xd65f03c0, // 7cafc: ret
];
/// The PLT entry of `SSL_CTX_free`, same file.
const PLT: &[u32] = &[
    0xf0000470, // 1f020: adrp x16, ae000
    0xf944ce11, // 1f024: ldr x17, [x16, #2456]
    0x91266210, // 1f028: add x16, x16, #0x998
    0xd61f0220, // 1f02c: br x17
];
/// `SSL_CTX_up_ref` of the 1.1.1o in psycopg2-binary 2.9.9 (musllinux, gcc, -Os): with a
/// stack protector, and a call of a loop.
const MUSL_UP_REF: &[u32] = &[
    0xa9be7bfd, // 3396c: stp x29, x30, [sp, #-32]!
    0xf00002a5, // 33970: adrp x5, 8a000
    0x91027000, // 33974: add x0, x0, #0x9c
    0x910003fd, // 33978: mov x29, sp
    0xf94724a1, // 3397c: ldr x1, [x5, #3656]
    0xf9400022, // 33980: ldr x2, [x1]
    0xf9000fe2, // 33984: str x2, [sp, #24]
    0xd2800002, // 33988: mov x2, #0x0
    0x910053e1, // 3398c: add x1, sp, #0x14
    0x97fff3e9, // 33990: bl 30934
    0x7100001f, // 33994: cmp w0, #0x0
    0x5400014d, // 33998: b.le 339c0
    0xb94017e0, // 3399c: ldr w0, [sp, #20]
    0x7100041f, // 339a0: cmp w0, #0x1
    0x1a9fd7e0, // 339a4: cset w0, gt
    0xf94724a5, // 339a8: ldr x5, [x5, #3656]
    0xf9400fe2, // 339ac: ldr x2, [sp, #24]
    0xf94000a1, // 339b0: ldr x1, [x5]
    0xca010041, // 339b4: eor x1, x2, x1
    0xb4000081, // 339b8: cbz x1, 339c8
    0x97ffa395, // 339bc: bl 1c810
    0x52800000, // 339c0: mov w0, #0x0
    0x17fffff9, // 339c4: b 339a8
    0xa8c27bfd, // 339c8: ldp x29, x30, [sp], #32
    0xd65f03c0, // 339cc: ret
];
/// What it calls: `CRYPTO_UP_REF`.
const MUSL_ADD: &[u32] = &[
    0x885f7c02, // 30934: ldxr w2, [x0]
    0x11000443, // 30938: add w3, w2, #0x1
    0x88047c03, // 3093c: stxr w4, w3, [x0]
    0x35ffffa4, // 30940: cbnz w4, 30934
    0x11000440, // 30944: add w0, w2, #0x1
    0xb9000020, // 30948: str w0, [x1]
    0x52800020, // 3094c: mov w0, #0x1
    0xd65f03c0, // 30950: ret
];
/// `ssl_get_prev_session` of Debian's 3.0.22: `timeouts`, and what follows.
const TIMEOUT: &[u32] = &[
    0xf945c661, // 42770: ldr x1, [x19, #2952]
    0x52800020, // 42774: mov w0, #0x1
    0x91025021, // 42778: add x1, x1, #0x94
    0x9400e8d5, // 4277c: bl 7cad0
    0x35001596, // 42780: cbnz w22, 42a30
];

fn ctrl() -> Pieces {
    let mut pieces = Pieces::default()
        .with(0x36a20, CTRL)
        .with(0x36a8c, CTRL_LEAVE)
        .with(0x36ca4, CTRL_ACCEPT_GOOD);
    pieces.constants.push((0x8347c, CTRL_TABLE.iter().flat_map(|e| e.to_le_bytes()).collect()));
    pieces
}

#[test]
fn a_counter_is_found_through_a_table_of_16_bit_entries() {
    let zero = Value::Constant(0);
    let arguments = [Value::argument(0), Value::Constant(25), zero.clone(), zero];
    assert_eq!(answers(&ctrl(), 0x36a20, &arguments), ["(signed) u32[arg0+0x8c]"]);
}

#[test]
fn a_counter_is_loaded_where_its_value_comes_from() {
    let arguments = [Value::argument(0), Value::Constant(25)];
    let machine = explore::called_with(Aarch64.convention(), &arguments);
    let answers = explore::explore(&ctrl(), 0x36a20, machine, DEFAULT_BOUNDS).expect("followed");
    let loaded: Vec<_> = answers.iter().map(|answer| answer.loaded_at(&answer.value)).collect();
    assert_eq!(loaded, [Some(0x36ca8)]);
}

#[test]
fn a_command_beyond_the_table_is_the_methods_business() {
    let zero = Value::Constant(0);
    let arguments = [Value::argument(0), Value::Constant(0x84), zero.clone(), zero];
    assert_eq!(answers(&ctrl(), 0x36a20, &arguments), ["u64[u64[arg0+0x8]+0x88](arg0)"]);
}

#[test]
fn the_edges_of_a_table_end_where_the_index_is_checked() {
    let (source, range) = (ctrl(), 0x36a20..0x36a74);
    let code = source.code(0x36a20).expect("it is there");
    let instructions: Vec<_> =
        Aarch64.decode(code, range.start).map(|i| i.expect("it decodes")).collect();
    let targets = Aarch64.tables(&source, &instructions).targets;
    // Of the 116 entries, those whose code is a part of this test.
    assert_eq!(targets.into_iter().collect::<Vec<_>>(), [0x36a40, 0x36ca4]);
}

#[test]
fn an_outlined_addition_is_an_increment() {
    let source = Pieces::default().with(0x37a90, UP_REF).with(0x7cad0, LDADD4);
    assert_eq!(answers(&source, 0x37a90, &[Value::argument(0)]), ["unknown u32[arg0+0xa4] += 1"]);
    let machine = explore::called_with(Aarch64.convention(), &[Value::argument(0)]);
    let answers = explore::explore(&source, 0x37a90, machine, DEFAULT_BOUNDS).expect("followed");
    let at = answers[0].increments.last().expect("one").at;
    let call = source.code(at).expect("it is in the function");
    assert_eq!(Aarch64.text(call, at), "bl 0x7cad0");
}

#[test]
fn an_outlined_function_that_does_something_else_is_none() {
    // The loop adds something else, or stores elsewhere, or is left early.
    for (at, word) in [(8, 0x0b11_0011), (8, 0x4b10_0011), (9, 0x880f_7c51), (10, 0x3400_00af)] {
        let mut words = LDADD4.to_vec();
        words[at] = word;
        let source = Pieces::default().with(0x37a90, UP_REF).with(0x7cad0, &words);
        let machine = explore::called_with(Aarch64.convention(), &[Value::argument(0)]);
        let added = explore::explore(&source, 0x37a90, machine, DEFAULT_BOUNDS)
            .is_ok_and(|answers| answers.iter().any(|answer| !answer.increments.is_empty()));
        assert!(!added, "word {at}");
    }
}

#[test]
fn a_loop_is_an_increment_and_the_guard_is_untouched() {
    let source = Pieces::default()
        .with(0x3396c, MUSL_UP_REF)
        .with(0x30934, MUSL_ADD)
        .import(0x8ae48, "__stack_chk_guard");
    // Without the guard's equality, the path through `bl __stack_chk_fail` would
    // go on into the bytes behind it.
    assert_eq!(answers(&source, 0x3396c, &[Value::argument(0)]), ["unknown u32[arg0+0x9c] += 1"]);
}

#[test]
fn a_plt_entry_leads_to_its_import() {
    let source = Pieces::default().with(0x1f020, PLT).import(0xae998, "SSL_CTX_free");
    assert_eq!(explore::import_called_at(&source, 0x1f020).as_deref(), Some("SSL_CTX_free"));
}

#[test]
fn an_increment_is_found_where_its_call_is() {
    let source = Pieces::default().with(0x42770, TIMEOUT).with(0x7cad0, LDADD4);
    let range = 0x42770..0x42784;
    let function = Function::new(&source, range, &std::collections::HashSet::new());
    let function = function.expect("it decodes");
    let call = function.at(0x4277c).expect("it is there");
    assert!(Aarch64.may_change(&source, call));
    let change = Aarch64.change(&source, &function, 0x4277c).expect("it is one");
    assert_eq!((change.base, change.base_at, change.displacement), (1, 0x42778, 0x94));
    assert_eq!((change.amount, change.last), (1, 0x4277c));
}

#[test]
fn an_increment_by_two_or_by_one_of_two_numbers_is_none() {
    let mut words = TIMEOUT.to_vec();
    words[1] = 0x5280_0040; // mov w0, #0x2
    let two = Pieces::default().with(0x42770, &words).with(0x7cad0, LDADD4);
    // 42770: mov w0, #1 / cbz x3, 42774+8 / mov w0, #-1 / add x1, x1, #0x94 / bl
    let words = [0x5280_0020, 0xb400_0043, 0x1280_0000, 0x9102_5021, TIMEOUT[3]];
    let either = Pieces::default().with(0x4276c, &words).with(0x7cad0, LDADD4);
    for (source, start) in [(two, 0x42770), (either, 0x4276c)] {
        let function = Function::new(&source, start..0x42780, &std::collections::HashSet::new());
        let function = function.expect("it decodes");
        assert_eq!(Aarch64.change(&source, &function, 0x4277c), None);
    }
}

/// `final_server_name` of the 3.5.8 in mysql-connector-python 26.10 (manylinux).
const TAKE_BACK: &[u32] = &[
    0xf945_c660, // 9221c: ldr x0, [x19, #2952]
    0x9102_1000, // 92220: add x0, x0, #0x84
    0x885f_7c01, // 92224: ldxr w1, [x0]
    0x5100_0421, // 92228: sub w1, w1, #0x1
    0x8802_7c01, // 9222c: stxr w2, w1, [x0]
    0x35ff_ffa2, // 92230: cbnz w2, 92224
];

#[test]
fn a_loop_may_take_one_back() {
    let source = Pieces::default().with(0x9221c, TAKE_BACK);
    let function = Function::new(&source, 0x9221c..0x92234, &std::collections::HashSet::new());
    let function = function.expect("it decodes");
    let change = Aarch64.change(&source, &function, 0x92224).expect("it is one");
    assert_eq!((change.base, change.base_at, change.displacement), (0, 0x92220, 0x84));
    assert_eq!((change.amount, change.last), (-1, 0x92230));
}

/// What the kernel simulates and what it executes out of line.
#[test]
fn classes_of_probe_points() {
    for (word, text, emulated, stepped) in [
        (0xb400_1500, "cbz x0, 0x12a0", true, false),
        (0x97ff_95bd, "bl 0xfffffffffffe66f4", true, false),
        (0x5400_0109, "b.ls 0x1020", true, false),
        (0xf000_0470, "adrp x16, 0x90000", true, false),
        (0xd65f_03c0, "ret", true, false),
        (0xd63f_0040, "blr x2", true, false),
        (0xa9be_7bfd, "stp x29, x30, [sp, #-0x20]!", false, true),
        (0xf944_d400, "ldr x0, [x0, #0x9a8]", false, true),
        (0x885f_7c20, "ldxr w0, [x1]", false, false),
        (0x880f_7c31, "stxr w15, w17, [x1]", false, false),
        (0xd503_233f, "paciasp", false, false),
        (0x1800_0040, "ldr w0, 0x1008", false, false),
        (0xd53b_d041, "mrs x1, tpidr_el0", false, false),
    ] {
        let code = u32::to_le_bytes(word);
        let instruction = Aarch64.decode(&code, 0x1000).next().flatten().expect("it decodes");
        assert_eq!(Aarch64.text(&code, 0x1000), text);
        assert_eq!(instruction.emulated, emulated, "{text}");
        let class = Aarch64.class(&code);
        assert!(!emulated || class.is_emulated(), "{text}");
        assert!(!stepped || class == Class::Stepped, "{text}");
        assert_eq!(instruction.steppable, stepped, "{text}");
    }
}

#[test]
fn no_probe_stands_between_an_exclusive_load_and_its_store() {
    // ldxr w1, [x0] / cmp w1, w2 / b.ne +12 / stxr w3, w4, [x0] / cbnz w3, -16
    let words = [0x885f_7c01_u32, 0x6b02_003f, 0x5400_0061, 0x8803_7c04, 0x35ff_ff83];
    let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let probed: Vec<bool> =
        Aarch64.decode(&code, 0).flatten().map(|i| i.emulated || i.steppable).collect();
    assert_eq!(probed, [false, false, false, false, true]);
}

/// The registers that instructions assign, as bits.
#[test]
fn assigned_registers() {
    for (word, assigns) in [
        (0xa9be_7bfd_u32, 1 << 31),                 // stp x29, x30, [sp, #-32]!
        (0xa8c2_7bfd, 1 << 29 | 1 << 30 | 1 << 31), // ldp x29, x30, [sp], #32
        (0xf944_d400, 1),                           // ldr x0, [x0, #2472]
        (0xeb01_001f, 0),                           // cmp x0, x1
        (0x9100_03fd, 1 << 29),                     // mov x29, sp
        (0xd101_43ff, 1 << 31),                     // sub sp, sp, #0x50
        (0xb820_0020, 1),                           // ldadd w0, w0, [x1]
        (0xb820_003f, 0),                           // stadd w0, [x1]
        (0x880f_7c31, 1 << 15),                     // stxr w15, w17, [x1]
        (0x9e66_0000, 1),                           // fmov x0, d0
        (0x9e67_0000, 0),                           // fmov d0, x0
        (0x0e04_3c01, 1 << 1),                      // mov w1, v0.s[0]
        (0xfd41_eee0, 0),                           // ldr d0, [x23, #984]
        (0xad40_7c1e, 0),                           // ldp q30, q31, [x0]
        (0x4c9f_7000, 1),                           // st1 {v0.16b}, [x0], #16
        (0xd53b_d041, 1 << 1),                      // mrs x1, tpidr_el0
    ] {
        let code = word.to_le_bytes();
        let instruction = Aarch64.decode(&code, 0x1000).next().flatten().expect("it decodes");
        assert_eq!(instruction.assigns, assigns, "{}", Aarch64.text(&code, 0x1000));
    }
}

/// Instructions as a processor executes them (measured under qemu 7.2): `x0` to
/// `x3` and the flags (NZCV) before, `x0` and the flags behind.
#[test]
fn arithmetic_is_the_processors() {
    let rows = include_str!("tests/arithmetic.txt").lines().filter(|row| !row.starts_with('#'));
    for row in rows {
        let numbers: Vec<u64> = row
            .split_whitespace()
            .take(8)
            .map(|number| u64::from_str_radix(number, 16).expect("it is hexadecimal"))
            .collect();
        let [word, x0, x1, x2, x3, flags, result, behind] = numbers[..] else {
            panic!("{row}: not eight numbers")
        };
        let (word, flags) = (word as u32, flags as u32);
        let mut machine = Machine::new();
        for (register, value) in [x0, x1, x2, x3].into_iter().enumerate() {
            machine.set_register(register, Value::Constant(value));
        }
        // cmp x0, x0 / ccmp x0, x0, #flags, ne: the condition does not hold.
        let mut words = vec![0xeb00_001f, 0xfa40_1000 | flags, word];
        // cset x4, mi / cset x5, eq / cset x6, cs / cset x7, hi / cset x8, lt / cset x9, le
        let conditions = [4, 0, 2, 8, 11, 13];
        words.extend(
            (4..).zip(conditions).map(|(to, code): (u32, u32)| 0x9a9f_07e0 | (code ^ 1) << 12 | to),
        );
        let source = Pieces::default().with(0, &words);
        for at in 0..words.len() as u64 {
            let (next, _) = Aarch64.step(&mut machine, &source, at * 4).expect("it is followed");
            assert_eq!(next, Next::Fall);
        }
        let text = Aarch64.text(&word.to_le_bytes(), 0);
        assert_eq!(*machine.register(0), Value::Constant(result), "{text}");
        let [n, z, c, v] = [8, 4, 2, 1].map(|bit| behind & bit != 0);
        let truth = [n, z, c, c && !z, n != v, z || n != v];
        for (register, holds) in (4..).zip(truth) {
            let found = machine.register(register);
            let agrees = matches!(found, Value::Unknown) || *found == Value::Constant(holds.into());
            assert!(agrees, "{text}: condition {register} is {found}");
        }
    }
}

/// Words of all kinds are decoded, executed and printed, or refused.
#[test]
fn no_word_is_too_much() {
    let mut word = 0x9e37_79b9_u32;
    for _ in 0..200_000 {
        word ^= word << 13;
        word ^= word >> 17;
        word ^= word << 5;
        let source = Pieces::default().with(0x1000, &[word, word, word, word]);
        let mut machine = explore::called_with(Aarch64.convention(), &[Value::argument(0)]);
        for at in [0x1000, 0x1004] {
            let decoded = Aarch64.decode(source.code(at).expect("it is there"), at).next();
            let stepped = Aarch64.step(&mut machine, &source, at);
            // What is not decoded is not followed either.
            assert!(decoded.flatten().is_some() || stepped.is_err(), "{word:#010x}");
        }
    }
}
