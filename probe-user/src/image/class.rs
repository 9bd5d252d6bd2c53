//! What the kernel does with the instruction under a probe, and what that costs.

/// The kinds of instructions that the kernel does not treat alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// `nop`; aarch64: simulated since Linux 6.13.
    Nop,
    /// x86-64: a direct `jmp`.
    Jmp,
    /// x86-64: a `jmp` on a condition.
    Jcc,
    /// x86-64: a direct `call`.
    Call,
    /// x86-64: `push` of a register.
    Push,
    /// aarch64: `b`.
    B,
    /// aarch64: `bl`.
    Bl,
    /// aarch64: `b` on a condition.
    BCond,
    /// aarch64: `cbz` and `cbnz`.
    Cbz,
    /// aarch64: `tbz` and `tbnz`.
    Tbz,
    /// aarch64: `br`.
    Br,
    /// aarch64: `blr`.
    Blr,
    /// aarch64: `ret`.
    Ret,
    /// aarch64: `adr` and `adrp`.
    Adr,
    /// aarch64: a load of a constant behind the code. Newer kernels refuse the probe.
    LdrLiteral,
    /// Anything else: the kernel copies it elsewhere, and has the processor execute it
    /// there and trap again.
    Stepped,
}

impl Class {
    /// Of the instruction at the start of a piece of x86-64 code
    /// (arch/x86/kernel/uprobes.c, `branch_setup_xol_ops` and `push_setup_xol_ops`).
    #[must_use]
    pub fn of_x86_64(code: &[u8]) -> Self {
        match code {
            [0x90, ..] => Self::Nop,
            [0xeb, _, ..] | [0xe9, _, _, _, _, ..] => Self::Jmp,
            [0x70..=0x7f, _, ..] | [0x0f, 0x80..=0x8f, _, _, _, _, ..] => Self::Jcc,
            [0xe8, _, _, _, _, ..] => Self::Call,
            [0x50..=0x57, ..] | [0x41, 0x50..=0x57, ..] => Self::Push,
            _ => Self::Stepped,
        }
    }

    /// Of the instruction at the start of a piece of aarch64 code
    /// (arch/arm64/kernel/probes/decode-insn.c, `arm_probe_decode_insn`; the patterns
    /// are those of arch/arm64/include/asm/insn.h).
    #[must_use]
    pub fn of_aarch64(code: &[u8]) -> Self {
        let Some(word) = code.first_chunk() else { return Self::Stepped };
        let word = u32::from_le_bytes(*word);
        let simulated = SIMULATED.iter().find(|(mask, value, _)| word & mask == *value);
        simulated.map_or(Self::Stepped, |(_, _, class)| *class)
    }

    /// As `explain` shows it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nop => "nop",
            Self::Jmp => "jmp",
            Self::Jcc => "jcc",
            Self::Call => "call",
            Self::Push => "push",
            Self::B => "b",
            Self::Bl => "bl",
            Self::BCond => "b.cond",
            Self::Cbz => "cbz",
            Self::Tbz => "tbz",
            Self::Br => "br",
            Self::Blr => "blr",
            Self::Ret => "ret",
            Self::Adr => "adr",
            Self::LdrLiteral => "ldr literal",
            Self::Stepped => "stepped",
        }
    }

    /// Whether the kernel does what the instruction does, in place of having the
    /// processor execute it out of line.
    #[must_use]
    pub fn is_emulated(self) -> bool {
        self != Self::Stepped
    }
}

const SIMULATED: [(u32, u32, Class); 15] = [
    (0xffff_ffff, 0xd503_201f, Class::Nop),
    (0xfc00_0000, 0x1400_0000, Class::B),
    (0xfc00_0000, 0x9400_0000, Class::Bl),
    (0xff00_0010, 0x5400_0000, Class::BCond),
    (0x7f00_0000, 0x3400_0000, Class::Cbz),
    (0x7f00_0000, 0x3500_0000, Class::Cbz),
    (0x7f00_0000, 0x3600_0000, Class::Tbz),
    (0x7f00_0000, 0x3700_0000, Class::Tbz),
    (0xffff_fc1f, 0xd61f_0000, Class::Br),
    (0xffff_fc1f, 0xd63f_0000, Class::Blr),
    (0xffff_fc1f, 0xd65f_0000, Class::Ret),
    (0x9f00_0000, 0x1000_0000, Class::Adr),
    (0x9f00_0000, 0x9000_0000, Class::Adr),
    (0xbf00_0000, 0x1800_0000, Class::LdrLiteral),
    (0xff00_0000, 0x9800_0000, Class::LdrLiteral),
];

/// What probes cost on one machine.
#[derive(Debug)]
pub struct Costs {
    /// The processor's name.
    arch: &'static str,
    /// Where it was measured: elsewhere the ratios are others.
    pub machine: &'static str,
    /// What a hit takes if the program does nothing: times the cheapest of them.
    ratios: &'static [(Class, f64)],
}

impl Costs {
    /// What is known of a kind of processor. Of aarch64, nothing was measured.
    #[must_use]
    pub fn of(arch: &str) -> Option<&'static Self> {
        MEASURED.iter().find(|costs| costs.arch == arch)
    }

    /// Of a probe on an instruction.
    #[must_use]
    pub fn ratio(&self, class: Class) -> Option<f64> {
        self.ratios.iter().find(|(of, _)| *of == class).map(|(_, ratio)| *ratio)
    }
}

/// `cargo xtask bench hits` measures it.
static MEASURED: [Costs; 1] = [Costs {
    arch: "x86_64",
    machine: "a Xeon, in a KVM guest with Linux 6.18",
    ratios: &[
        (Class::Nop, 1.0),
        (Class::Jmp, 1.0),
        (Class::Jcc, 1.0),
        (Class::Call, 1.08),
        (Class::Push, 1.05),
        // Traps to the hypervisor; outside of a guest it is about 3.
        (Class::Stepped, 39.0),
    ],
}];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x86_64_by_its_bytes() {
        for (code, class) in [
            // nop / push %rbp / push %r12 / push %fs / push $1
            (&[0x90][..], Class::Nop),
            (&[0x55], Class::Push),
            (&[0x41, 0x54], Class::Push),
            (&[0x0f, 0xa0], Class::Stepped),
            (&[0x6a, 1], Class::Stepped),
            // jmp, near and far away / jmp *%rax
            (&[0xeb, 0x10], Class::Jmp),
            (&[0xe9, 0, 1, 0, 0], Class::Jmp),
            (&[0xff, 0xe0], Class::Stepped),
            // je, near and far away
            (&[0x74, 0x10], Class::Jcc),
            (&[0x0f, 0x84, 0, 1, 0, 0], Class::Jcc),
            // call / call *8(%rax)
            (&[0xe8, 0, 1, 0, 0], Class::Call),
            (&[0xff, 0x50, 8], Class::Stepped),
            // endbr64 / pause / data16 nop / nopl 0(%rax) / xchg %rax,%r8
            (&[0xf3, 0x0f, 0x1e, 0xfa], Class::Stepped),
            (&[0xf3, 0x90], Class::Stepped),
            (&[0x66, 0x90], Class::Stepped),
            (&[0x0f, 0x1f, 0x40, 0], Class::Stepped),
            (&[0x49, 0x90], Class::Stepped),
            (&[], Class::Stepped),
        ] {
            assert_eq!(Class::of_x86_64(code), class, "{code:x?}");
            // What stands behind it is not looked at.
            let more = [code, &[0xcc; 8]].concat();
            assert!(code.is_empty() || Class::of_x86_64(&more) == class, "{code:x?}");
        }
    }

    #[test]
    fn aarch64_by_its_word() {
        for (word, class) in [
            (0xd503_201f, Class::Nop),
            (0x1400_0010, Class::B),
            (0x97ff_95bd, Class::Bl),
            (0x5400_0109, Class::BCond),
            (0xb400_1500, Class::Cbz),
            (0x3500_0040, Class::Cbz),
            (0x3600_0040, Class::Tbz),
            (0xb710_0040, Class::Tbz),
            (0xd61f_0200, Class::Br),
            (0xd63f_0040, Class::Blr),
            (0xd65f_03c0, Class::Ret),
            (0x1000_0040, Class::Adr),
            (0xf000_0470, Class::Adr),
            (0x1800_0040, Class::LdrLiteral),
            (0x9800_0040, Class::LdrLiteral),
            // stp x29, x30, [sp, #-0x20]! / ldr x0, [x0, #0x9a8] / paciasp
            (0xa9be_7bfd, Class::Stepped),
            (0xf944_d400, Class::Stepped),
            (0xd503_233f, Class::Stepped),
        ] {
            assert_eq!(Class::of_aarch64(&u32::to_le_bytes(word)), class, "{word:#010x}");
        }
        assert_eq!(Class::of_aarch64(&[0x1f, 0x20]), Class::Stepped);
    }

    #[test]
    fn costs_are_of_what_was_measured_only() {
        let costs = Costs::of("x86_64").expect("it was measured");
        assert_eq!(costs.ratio(Class::Nop), Some(1.0));
        assert_eq!(costs.ratio(Class::Bl), None);
        assert!(Costs::of("aarch64").is_none());
    }
}
