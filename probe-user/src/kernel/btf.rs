//! Offsets of kernel structures, from the kernel's own type information (BTF).
//!
//! `aya` relocates typed accesses of C programs only, and the one crate that
//! reads BTF for others is under the LGPL; this reads structs and their members,
//! as `Documentation/bpf/btf.rst` describes them, and nothing else.

use std::collections::HashMap;

use thiserror::Error;

/// Where the kernel shows its type information.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;

/// Why type information could not be read.
#[derive(Debug, Error)]
pub enum BtfError {
    /// The data ends in the middle of something, or is not BTF.
    #[error("it is not well-formed BTF")]
    Malformed,
    /// A type of a kind that this version does not know the length of.
    #[error("it has a type of unknown kind {0}")]
    UnknownKind(u32),
}

struct Type {
    kind: u32,
    /// Where its members begin in the type section.
    members: usize,
    count: usize,
    bitfields: bool,
}

/// The structs of the running kernel.
pub struct KernelTypes<'d> {
    types: &'d [u8],
    strings: &'d [u8],
    by_id: Vec<Type>,
    structs: HashMap<&'d [u8], usize>,
}

fn u32_at(data: &[u8], at: usize) -> Result<u32, BtfError> {
    let bytes = data.get(at..at + 4).ok_or(BtfError::Malformed)?;
    Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn name_at(strings: &[u8], at: usize) -> &[u8] {
    let rest = strings.get(at..).unwrap_or_default();
    rest.split(|byte| *byte == 0).next().unwrap_or_default()
}

impl<'d> KernelTypes<'d> {
    /// Reads the type section.
    ///
    /// # Errors
    ///
    /// If the data is not BTF, or has types that are not known.
    pub fn parse(data: &'d [u8]) -> Result<Self, BtfError> {
        let magic = data.get(..2).ok_or(BtfError::Malformed)?;
        if u16::from_le_bytes([magic[0], magic[1]]) != MAGIC {
            return Err(BtfError::Malformed);
        }
        let header = u32_at(data, 4)? as usize;
        let section = |offset: usize| -> Result<&'d [u8], BtfError> {
            let start = header + u32_at(data, offset)? as usize;
            let length = u32_at(data, offset + 4)? as usize;
            data.get(start..start + length).ok_or(BtfError::Malformed)
        };
        let (types, strings) = (section(8)?, section(16)?);
        let mut this = Self { types, strings, by_id: Vec::new(), structs: HashMap::new() };
        this.index()?;
        Ok(this)
    }

    fn index(&mut self) -> Result<(), BtfError> {
        // Type 0 is `void` and not in the section.
        self.by_id.push(Type { kind: 0, members: 0, count: 0, bitfields: false });
        let mut at = 0;
        while at < self.types.len() {
            let (name, info) = (u32_at(self.types, at)?, u32_at(self.types, at + 4)?);
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let members = at + 12;
            let extra = match kind {
                1 | 14 | 17 => 4,
                3 => 12,
                KIND_STRUCT | KIND_UNION | 15 | 19 => 12 * count,
                6 | 13 => 8 * count,
                2 | 7..=12 | 16 | 18 => 0,
                other => return Err(BtfError::UnknownKind(other)),
            };
            if kind == KIND_STRUCT {
                let name = name_at(self.strings, name as usize);
                self.structs.entry(name).or_insert(self.by_id.len());
            }
            self.by_id.push(Type { kind, members, count, bitfields: info >> 31 == 1 });
            at = members + extra;
        }
        Ok(())
    }

    /// The offset in bytes of a member of a struct, also of one in an anonymous
    /// part of it.
    #[must_use]
    pub fn offset(&self, structure: &str, member: &str) -> Option<u32> {
        let id = *self.structs.get(structure.as_bytes())?;
        self.member(id, member.as_bytes(), 4).filter(|bits| bits % 8 == 0).map(|bits| bits / 8)
    }

    fn member(&self, id: usize, wanted: &[u8], depth: usize) -> Option<u32> {
        let of = self.by_id.get(id).filter(|t| matches!(t.kind, KIND_STRUCT | KIND_UNION))?;
        for i in 0..of.count {
            let at = of.members + 12 * i;
            let name = name_at(self.strings, u32_at(self.types, at).ok()? as usize);
            let raw = u32_at(self.types, at + 8).ok()?;
            let bits = if of.bitfields { raw & 0x00ff_ffff } else { raw };
            if name == wanted {
                return Some(bits);
            }
            if name.is_empty() && depth > 0 {
                let inner = u32_at(self.types, at + 4).ok()? as usize;
                if let Some(inside) = self.member(inner, wanted, depth - 1) {
                    return bits.checked_add(inside);
                }
            }
        }
        None
    }
}

/// Offsets in `task_struct`, and in what it leads to, that identify a process and
/// its program; 0 for one that is not known, as the kernel half expects it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskOffsets {
    /// `group_leader`.
    pub group_leader: u32,
    /// `start_boottime` (5.5 and later).
    pub start_boottime: u32,
    /// `tgid`.
    pub tgid: u32,
    /// `mm`.
    pub mm: u32,
    /// `signal`.
    pub signal: u32,
    /// `signal_struct.nr_threads`.
    pub threads: u32,
    /// `flags`.
    pub flags: u32,
    /// `mm_struct.exe_file`.
    pub exe_file: u32,
    /// `file.f_inode`.
    pub inode: u32,
    /// `inode.i_ino`.
    pub inode_number: u32,
    /// `inode.i_sb`.
    pub inode_super: u32,
    /// The seconds of the inode's `ctime`.
    pub inode_ctime: u32,
    /// Its nanoseconds.
    pub inode_ctime_ns: u32,
    /// `super_block.s_dev`.
    pub super_device: u32,
}

impl TaskOffsets {
    /// Reads them from the kernel's type information.
    #[must_use]
    pub fn of(types: &KernelTypes<'_>) -> Self {
        let of = |structure, member| types.offset(structure, member).unwrap_or(0);
        let offset = |member| of("task_struct", member);
        let (inode_ctime, inode_ctime_ns) = ctime(types).unwrap_or_default();
        Self {
            group_leader: offset("group_leader"),
            start_boottime: offset("start_boottime"),
            tgid: offset("tgid"),
            mm: offset("mm"),
            signal: offset("signal"),
            threads: of("signal_struct", "nr_threads"),
            flags: offset("flags"),
            exe_file: of("mm_struct", "exe_file"),
            inode: of("file", "f_inode"),
            inode_number: of("inode", "i_ino"),
            inode_super: of("inode", "i_sb"),
            inode_ctime,
            inode_ctime_ns,
            super_device: of("super_block", "s_dev"),
        }
    }
}

impl TaskOffsets {
    /// Without those that lead to the executable.
    #[must_use]
    pub fn without_exe(&self) -> Self {
        Self { exe_file: 0, ..*self }
    }
}

/// Seconds and nanoseconds of an inode's `ctime`: two fields since 6.11, before
/// that a `timespec64`, `__i_ctime` since 6.6 and `i_ctime` until then.
fn ctime(types: &KernelTypes<'_>) -> Option<(u32, u32)> {
    let of_inode = |member| types.offset("inode", member);
    let apart = of_inode("i_ctime_sec").zip(of_inode("i_ctime_nsec"));
    apart.or_else(|| {
        let at = of_inode("__i_ctime").or_else(|| of_inode("i_ctime"))?;
        let within = |member| types.offset("timespec64", member);
        Some((at + within("tv_sec")?, at + within("tv_nsec")?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct task_struct { int a; struct { int; int tgid; }; }` in BTF.
    fn sample() -> Vec<u8> {
        let strings = b"\0task_struct\0a\0tgid\0";
        let mut types = Vec::new();
        let mut put = |words: &[u32]| {
            for word in words {
                types.extend_from_slice(&word.to_le_bytes());
            }
        };
        put(&[0, 1 << 24, 4, 32]); // 1: int
        put(&[0, KIND_STRUCT << 24 | 1, 8, 15, 1, 32]); // 2: anonymous, tgid at bit 32
        put(&[1, KIND_STRUCT << 24 | 2, 12, 13, 1, 0, 0, 2, 32]); // 3: task_struct
        let mut data = Vec::new();
        data.extend_from_slice(&MAGIC.to_le_bytes());
        data.extend_from_slice(&[1, 0]);
        for word in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            data.extend_from_slice(&u32::to_le_bytes(word));
        }
        data.extend(types);
        data.extend_from_slice(strings);
        data
    }

    #[test]
    fn a_member_of_an_anonymous_part_is_found() {
        let data = sample();
        let types = KernelTypes::parse(&data).expect("well-formed");
        assert_eq!(types.offset("task_struct", "a"), Some(0));
        assert_eq!(types.offset("task_struct", "tgid"), Some(8));
        assert_eq!(types.offset("task_struct", "mm"), None);
    }

    #[test]
    fn a_truncated_section_is_malformed() {
        let data = sample();
        assert!(KernelTypes::parse(&data[..data.len() - 4]).is_err());
        assert!(KernelTypes::parse(b"").is_err());
    }
}
