//! Inputs to begin with: small, and each with something of everything that
//! the code under test looks for.

/// Functions as compilers write them, by hand.
pub(crate) fn x86_64() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        // cmp $2,%esi / ja 1f / lea T(%rip),%rdx / movslq (%rdx,%rsi,4),%rax /
        // add %rdx,%rax / notrack jmp *%rax / 0: movslq 0x78(%rdi),%rax / ret /
        // 1: xor %eax,%eax / ret / T: three entries
        ("table", {
            let mut code = vec![
                0x83, 0xfe, 0x02, 0x77, 0x16, 0x48, 0x8d, 0x15, 0x12, 0, 0, 0, 0x48, 0x63, 0x04,
                0xb2, 0x48, 0x01, 0xd0, 0x3e, 0xff, 0xe0, 0x48, 0x63, 0x47, 0x78, 0xc3, 0x31, 0xc0,
                0xc3,
            ];
            for target in [-8i32, -3, -8] {
                code.extend(target.to_le_bytes());
            }
            code
        }),
        // push %rbp / mov %rsp,%rbp / mov %rdi,-8(%rbp) / mov -8(%rbp),%rax /
        // mov 0x30(%rax),%rax / mov %rax,%rdi / call *GOT(%rip) / leave / ret
        (
            "spilled",
            vec![
                0x55, 0x48, 0x89, 0xe5, 0x48, 0x89, 0x7d, 0xf8, 0x48, 0x8b, 0x45, 0xf8, 0x48, 0x8b,
                0x40, 0x30, 0x48, 0x89, 0xc7, 0xff, 0x15, 0xe7, 0x0f, 0, 0, 0xc9, 0xc3,
            ],
        ),
        // sub $24,%rsp / mov %fs:0x28,%rax / mov %rax,8(%rsp) / xor %eax,%eax /
        // lock incl 0xa4(%rdi) / mov 8(%rsp),%rdx / sub %fs:0x28,%rdx / jne 1f /
        // mov $1,%eax / add $24,%rsp / ret / 1: call here
        (
            "protected",
            vec![
                0x48, 0x83, 0xec, 0x18, 0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0, 0x48, 0x89,
                0x44, 0x24, 0x08, 0x31, 0xc0, 0xf0, 0xff, 0x87, 0xa4, 0, 0, 0, 0x48, 0x8b, 0x54,
                0x24, 0x08, 0x64, 0x48, 0x2b, 0x14, 0x25, 0x28, 0, 0, 0, 0x75, 0x0a, 0xb8, 0x01, 0,
                0, 0, 0x48, 0x83, 0xc4, 0x18, 0xc3, 0xe8, 0xfb, 0xff, 0xff, 0xff,
            ],
        ),
        // lea 0x78(%rdi),%rsi / call 0f / cltq / ret / 0: push %rbx / mov %rsi,%rbx /
        // mov 8(%rdi),%rdi / call *GOT(%rip) / test %eax,%eax / je 1f / mov (%rbx),%eax /
        // 1: pop %rbx / ret
        (
            "locked",
            vec![
                0x48, 0x8d, 0x77, 0x78, 0xe8, 0x03, 0, 0, 0, 0x48, 0x98, 0xc3, 0x53, 0x48, 0x89,
                0xf3, 0x48, 0x8b, 0x7f, 0x08, 0xff, 0x15, 0xe6, 0x0f, 0, 0, 0x85, 0xc0, 0x74, 0x02,
                0x8b, 0x03, 0x5b, 0xc3,
            ],
        ),
        // test %rdi,%rdi / je 1f / mov 8(%rdi),%rdi / call 0 / cmp $5,%rax /
        // cmovne %rsi,%rax / 1: setl %al / movzbl %al,%eax / shl $2,%rax /
        // push $3 / pop %rcx / imul $7,%rax,%rax / jmp 0
        (
            "loops",
            vec![
                0x48, 0x85, 0xff, 0x74, 0x11, 0x48, 0x8b, 0x7f, 0x08, 0xe8, 0xf2, 0xff, 0xff, 0xff,
                0x48, 0x83, 0xf8, 0x05, 0x48, 0x0f, 0x45, 0xc6, 0x0f, 0x9c, 0xc0, 0x0f, 0xb6, 0xc0,
                0x48, 0xc1, 0xe0, 0x02, 0x6a, 0x03, 0x59, 0x48, 0x6b, 0xc0, 0x07, 0xeb, 0xd7,
            ],
        ),
        // xchg %eax,%ebx, ten times / xor %eax,%eax / lock incl -0x783a6(%rdi) /
        // add %al,(%rax), 29 times / mov $0xf214831,%edi / js back / ...: paths that
        // write much and fork often, which took more than 64 MiB once.
        ("writes", {
            let mut code = vec![0x93; 10];
            code.extend([0x31, 0xc0, 0xf0, 0xff, 0x87, 0x5a, 0x7c, 0xf8]);
            code.extend([0; 61]);
            code.extend([0xbf, 0x31, 0x48, 0x21, 0x0f, 0x78, 0xd0, 0, 0, 0x48, 0xc3]);
            code.extend([0x63, 0x26, 0x40, 0x30, 0x48]);
            code
        }),
    ]
}

/// The same for aarch64.
pub(crate) fn aarch64() -> Vec<(&'static str, Vec<u8>)> {
    let code = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    vec![
        (
            "table",
            code(&[
                0x7100_083f, // cmp w1, #2
                0x5400_0108, // b.hi 1f
                0x1000_0122, // adr x2, T
                0x3861_4843, // ldrb w3, [x2, w1, uxtw]
                0x1000_0064, // adr x4, 0f
                0x8b23_8884, // add x4, x4, w3, sxtb #2
                0xd61f_0080, // br x4
                0xb980_7800, // 0: ldrsw x0, [x0, #0x78]
                0xd65f_03c0, // ret
                0x5280_0000, // 1: mov w0, #0
                0xd65f_03c0, // ret
                0x0001_0200, // T
            ]),
        ),
        (
            "locked",
            code(&[
                0xa9bf_7bfd, // stp x29, x30, [sp, #-16]!
                0x9101_e001, // add x1, x0, #0x78
                0x9400_0004, // bl 0f
                0x9340_7c00, // sxtw x0, w0
                0xa8c1_7bfd, // ldp x29, x30, [sp], #16
                0xd65f_03c0, // ret
                0x3400_0069, // 0: cbz w9, 1f
                0xb940_0020, // ldr w0, [x1]
                0xd65f_03c0, // ret
                0x5280_0000, // 1: mov w0, #0
                0xd65f_03c0, // ret
            ]),
        ),
        (
            "counts",
            code(&[
                0xa9be_7bfd, // stp x29, x30, [sp, #-32]!
                0x9100_03fd, // mov x29, sp
                0xf900_0be0, // str x0, [sp, #16]
                0x9102_9001, // add x1, x0, #0xa4
                0x885f_7c22, // 0: ldxr w2, [x1]
                0x1100_0442, // add w2, w2, #1
                0x8803_7c22, // stxr w3, w2, [x1]
                0x35ff_ffa3, // cbnz w3, 0b
                0xb820_0022, // ldadd w0, w2, [x1]
                0xf940_0be0, // ldr x0, [sp, #16]
                0xf940_1800, // ldr x0, [x0, #0x30]
                0x97ff_fff5, // bl itself
                0xb400_0060, // cbz x0, 1f
                0x3707_ff40, // tbnz w0, #0, back
                0xfa40_0804, // ccmp x0, #0, #4, eq
                0xa8c2_7bfd, // 1: ldp x29, x30, [sp], #32
                0xd65f_03c0, // ret
            ]),
        ),
    ]
}

/// Libraries of one function, one import, one pointer.
pub(crate) fn elf() -> Vec<(&'static str, Vec<u8>)> {
    // EM_X86_64 and EM_AARCH64.
    vec![("x86_64", library(62)), ("aarch64", library(183))]
}

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PROGRAM_HEADERS: usize = 4;

/// Types of sections (`SHT_`).
const PROGBITS: u32 = 1;
const SYMTAB: u32 = 2;
const STRTAB: u32 = 3;
const RELA: u32 = 4;
const DYNAMIC: u32 = 6;
const NOTE: u32 = 7;
const DYNSYM: u32 = 11;

struct Section {
    name: &'static str,
    kind: u32,
    link: u32,
    entry: u64,
    data: Vec<u8>,
}

impl Section {
    fn new(name: &'static str, kind: u32, link: u32, entry: u64, data: Vec<u8>) -> Self {
        Self { name, kind, link, entry, data }
    }
}

/// A shared library whose file is its memory: one segment, from offset 0.
fn library(machine: u16) -> Vec<u8> {
    let strings = b"\0SSL_CTX_new\0malloc\0libcrypto.so.3\0libssl.so.3\0".to_vec();
    let code = [0x48, 0x63, 0x47, 0x78, 0xc3, 0x0f, 0x1f, 0x00];
    let first = HEADER + PROGRAM_HEADERS * PROGRAM_HEADER;
    let relative = if machine == 62 { 8 } else { 1027 };
    let import = if machine == 62 { 6 } else { 1025 };
    let mut sections = vec![
        Section::new("", 0, 0, 0, Vec::new()),
        Section::new(".text", PROGBITS, 0, 0, code.to_vec()),
        Section::new(".dynstr", STRTAB, 0, 0, strings),
        Section::new(
            ".dynsym",
            DYNSYM,
            2,
            24,
            [symbol(0, 0, 0, 0), symbol(1, 1, first as u64, 5), symbol(13, 0, 0, 0)].concat(),
        ),
        Section::new(
            ".rela.dyn",
            RELA,
            3,
            24,
            words(&[0x2000, relative, first as u64, 0x2008, 2 << 32 | import, 0]),
        ),
        Section::new(
            ".dynamic",
            DYNAMIC,
            2,
            16,
            // DT_NEEDED, DT_SONAME, DT_NULL.
            words(&[1, 20, 14, 35, 0, 0]),
        ),
        Section::new(
            ".note.gnu.build-id",
            NOTE,
            0,
            0,
            [&[4, 0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0][..], b"GNU\0", &[1, 2, 3, 4]].concat(),
        ),
        Section::new(".eh_frame", PROGBITS, 0, 0, Vec::new()),
        Section::new(".symtab", SYMTAB, 2, 24, symbol(1, 1, first as u64, 5)),
    ];
    let before: usize = sections.iter().take(7).map(|section| section.data.len()).sum();
    sections[7].data = unwind_table(first as u64, (first + before) as u64);
    let mut names = Vec::new();
    let mut name_offsets = Vec::new();
    sections.push(Section::new(".shstrtab", STRTAB, 0, 0, Vec::new()));
    for section in &sections {
        name_offsets.push(names.len() as u32);
        names.extend(section.name.bytes().chain([0]));
    }
    let last = sections.len() - 1;
    sections[last].data = names;

    let mut headers = Vec::new();
    let mut contents: Vec<u8> = Vec::new();
    let mut dynamic = 0;
    for (section, name) in sections.iter().zip(name_offsets) {
        let at = (first + contents.len()) as u64;
        if section.kind == DYNAMIC {
            dynamic = at;
        }
        contents.extend(&section.data);
        headers.extend(name.to_le_bytes());
        headers.extend(section.kind.to_le_bytes());
        // SHF_ALLOC and SHF_EXECINSTR.
        headers.extend(words(&[6, at, at, section.data.len() as u64]));
        headers.extend(section.link.to_le_bytes());
        headers.extend(0u32.to_le_bytes());
        headers.extend(words(&[1, section.entry]));
    }
    let size = (first + contents.len()) as u64;

    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // ET_DYN.
    file.extend([3, 0]);
    file.extend(machine.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    file.extend(words(&[first as u64, HEADER as u64, size]));
    file.extend(0u32.to_le_bytes());
    for short in [HEADER, PROGRAM_HEADER, PROGRAM_HEADERS, 64, sections.len(), last] {
        file.extend((short as u16).to_le_bytes());
    }
    // PT_LOAD of code, PT_LOAD of data, PT_DYNAMIC, PT_NOTE.
    for (kind, flags, offset, address, length) in [
        (1u32, 5u32, 0, 0, size),
        (1, 6, 0, 0x2000, 16),
        (2, 6, dynamic, dynamic, 48),
        (4, 4, first as u64, first as u64, 0),
    ] {
        file.extend(kind.to_le_bytes());
        file.extend(flags.to_le_bytes());
        file.extend(words(&[offset, address, address, length, length, 1]));
    }
    file.extend(contents);
    file.extend(headers);
    file
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A global function; section 0: one that is imported.
fn symbol(name: u32, section: u16, address: u64, size: u64) -> Vec<u8> {
    let mut symbol = name.to_le_bytes().to_vec();
    symbol.extend([0x12, 0]);
    symbol.extend(section.to_le_bytes());
    symbol.extend(words(&[address, size]));
    symbol
}

/// One CIE and one FDE, of a function of eight bytes.
fn unwind_table(function: u64, at: u64) -> Vec<u8> {
    let mut table = vec![20, 0, 0, 0, 0, 0, 0, 0, 1];
    table.extend(b"zR\0");
    // The call frame is at %rsp + 8, the return address 8 below.
    table.extend([1, 0x78, 16, 1, 0x1b, 0x0c, 7, 8, 0x90, 1, 0, 0]);
    table.extend([20, 0, 0, 0, 28, 0, 0, 0]);
    let here = at + table.len() as u64;
    table.extend((function.wrapping_sub(here) as u32).to_le_bytes());
    table.extend([8, 0, 0, 0, 0, 0x41, 0x0e, 0x10, 0, 0, 0, 0]);
    table.extend([0; 4]);
    table
}
