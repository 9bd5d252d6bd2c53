//! Every locked change of an `int` in a file, found fast: by its bytes, so that
//! of an executable of 100 MB only a few functions need to be decoded.

use memchr::memchr_iter;

use crate::image::elf::Elf;

/// The `lock` prefix.
const LOCK: u8 = 0xf0;

/// Bytes of the longest of the forms: the prefix, a REX prefix, two bytes of
/// opcode, ModRM, SIB, displacement, immediate.
const LONGEST: usize = 12;

/// What a locked instruction does to an `int`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// `lock add`, `sub`, `inc` or `dec`: it adds 1, or takes 1.
    ByOne(i8),
    /// `lock xadd`: it adds what a register holds, and leaves there what was
    /// before: the number of that register.
    FetchAdd(usize),
}

/// What may be a locked change of an `int` at a distance from a register: the
/// bytes are right, but that an instruction begins there is not proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Site {
    /// The address of the `lock` prefix.
    pub(super) address: u64,
    /// The register that the distance is counted from.
    pub(super) base: usize,
    /// The distance.
    pub(super) displacement: u32,
    /// What it does.
    pub(super) change: Change,
}

/// All of them, in the order of their addresses in each segment.
pub(super) fn find(elf: &Elf) -> Vec<Site> {
    let mut sites = Vec::new();
    for (address, code) in elf.executable() {
        for at in memchr_iter(LOCK, code) {
            let bytes = &code[at..code.len().min(at + LONGEST)];
            if let Some((base, displacement, change)) = decode(bytes) {
                let address = address + at as u64;
                sites.push(Site { address, base, displacement, change });
            }
        }
    }
    sites
}

/// One of the forms that compilers choose (Intel's manual, volume 2, chapter 2
/// for the encoding; ADD, SUB, INC, DEC and XADD for the opcodes).
fn decode(bytes: &[u8]) -> Option<(usize, u32, Change)> {
    let (rex, rest) = match bytes {
        // 32 bits: REX.W is not set.
        [LOCK, rex @ 0x40..=0x47, rest @ ..] => (*rex, rest),
        [LOCK, rest @ ..] => (0, rest),
        _ => return None,
    };
    let (opcode, rest) = match rest {
        [0x0f, 0xc1, rest @ ..] => (0xc1, rest),
        [opcode @ (0x83 | 0xff), rest @ ..] => (*opcode, rest),
        _ => return None,
    };
    let (mod_rm, rest) = rest.split_first()?;
    let (low, rest) = if mod_rm & 7 == 4 {
        // A SIB byte without an index: the base is %rsp or %r12.
        let (sib, rest) = rest.split_first()?;
        if sib >> 3 & 7 != 4 || rex & 2 != 0 {
            return None;
        }
        (sib & 7, rest)
    } else {
        (mod_rm & 7, rest)
    };
    let (displacement, rest) = match mod_rm >> 6 {
        1 => {
            let (byte, rest) = rest.split_first()?;
            (u32::from(*byte), rest)
        }
        2 => {
            let (bytes, rest) = rest.split_first_chunk::<4>()?;
            (u32::from_le_bytes(*bytes), rest)
        }
        _ => return None,
    };
    // A negative distance: what is looked for is never there.
    if displacement >= 0x4000 || mod_rm >> 6 == 1 && displacement >= 0x80 {
        return None;
    }
    let number = mod_rm >> 3 & 7;
    let change = match (opcode, number, rest.first()) {
        (0xc1, register, _) => Change::FetchAdd(usize::from(register | (rex & 4) << 1)),
        (0xff, 0, _) | (0x83, 0, Some(1)) | (0x83, 5, Some(0xff)) => Change::ByOne(1),
        (0xff, 1, _) | (0x83, 5, Some(1)) | (0x83, 0, Some(0xff)) => Change::ByOne(-1),
        _ => return None,
    };
    Some((usize::from(low | (rex & 1) << 3), displacement, change))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_compilers_are_known() {
        let forms: [(&[u8], _); 8] = [
            // lock addl $1,0x8c(%rax) (gcc 12, OpenSSL 3.0.22)
            (&[0xf0, 0x83, 0x80, 0x8c, 0, 0, 0, 1], (0, 0x8c, Change::ByOne(1))),
            // lock addl $1,0x78(%rax)
            (&[0xf0, 0x83, 0x40, 0x78, 1], (0, 0x78, Change::ByOne(1))),
            // lock subl $1,0x84(%rax)
            (&[0xf0, 0x83, 0xa8, 0x84, 0, 0, 0, 1], (0, 0x84, Change::ByOne(-1))),
            // lock incl 0x90(%r14) (clang 22)
            (&[0xf0, 0x41, 0xff, 0x86, 0x90, 0, 0, 0], (14, 0x90, Change::ByOne(1))),
            // lock decl 0x84(%rcx)
            (&[0xf0, 0xff, 0x89, 0x84, 0, 0, 0], (1, 0x84, Change::ByOne(-1))),
            // lock addl $-1,0xa4(%rbx)
            (&[0xf0, 0x83, 0x83, 0xa4, 0, 0, 0, 0xff], (3, 0xa4, Change::ByOne(-1))),
            // lock incl 0x80(%r12)
            (&[0xf0, 0x41, 0xff, 0x84, 0x24, 0x80, 0, 0, 0], (12, 0x80, Change::ByOne(1))),
            // lock xadd %eax,0xa4(%rdi)
            (&[0xf0, 0x0f, 0xc1, 0x87, 0xa4, 0, 0, 0], (7, 0xa4, Change::FetchAdd(0))),
        ];
        for (bytes, form) in forms {
            assert_eq!(decode(bytes), Some(form), "{bytes:x?}");
        }
    }

    #[test]
    fn other_forms_are_not() {
        let others: [&[u8]; 6] = [
            // lock addq $1,0x78(%rax): 64 bits
            &[0xf0, 0x48, 0x83, 0x40, 0x78, 1],
            // lock addl $2,0x78(%rax)
            &[0xf0, 0x83, 0x40, 0x78, 2],
            // lock addl $1,-0x10(%rax)
            &[0xf0, 0x83, 0x40, 0xf0, 1],
            // lock incl (%rcx,%rax,1) (clang 22, connect and connect_renegotiate)
            &[0xf0, 0xff, 0x04, 0x01],
            // lock incl 0x78(%rcx,%rax,1)
            &[0xf0, 0xff, 0x44, 0x01, 0x78],
            // cut off
            &[0xf0, 0x83, 0x80, 0x8c, 0, 0],
        ];
        for bytes in others {
            assert_eq!(decode(bytes), None, "{bytes:x?}");
        }
    }
}
