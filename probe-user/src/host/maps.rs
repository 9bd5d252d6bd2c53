//! What a process maps executable: the lines of `/proc/PID/maps` that matter.
//!
//! `procfs` parses all of them, and refuses a process with a path that is not
//! UTF-8. Of a process's lines one in five is of a file that is mapped
//! executable, and every process of the host is looked at.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

/// A file's device and inode as `/proc/PID/maps` has them. On overlays and btrfs
/// they can differ from those of `stat`, and two files can have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MapKey {
    /// Major number of the device.
    pub major: u32,
    /// Minor number of the device.
    pub minor: u32,
    /// The inode's number.
    pub inode: u64,
}

/// A file that is mapped executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping<'m> {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) key: MapKey,
    /// As the process sees it; ` (deleted)` behind it if it has no name any more.
    pub(super) path: &'m Path,
}

impl Mapping<'_> {
    /// Where the mapped file can be opened as long as it is mapped, whatever
    /// became of its name.
    pub(super) fn open_at(&self, pid: u32) -> PathBuf {
        PathBuf::from(format!("/proc/{pid}/map_files/{:x}-{:x}", self.start, self.end))
    }
}

/// Reads all of `/proc/PID/maps` into a buffer that is used again.
pub(super) fn read(pid: u32, text: &mut Vec<u8>) -> io::Result<()> {
    text.clear();
    File::open(format!("/proc/{pid}/maps"))?.read_to_end(text).map(drop)
}

/// The executable mappings of files. Lines that are not understood are none.
pub(super) fn executable(text: &[u8]) -> impl Iterator<Item = Mapping<'_>> {
    text.split(|byte| *byte == b'\n').filter_map(parse)
}

/// `7f20-7f21 r-xp 00001000 fe:00 1234                 /usr/lib/libssl.so.3`
fn parse(line: &[u8]) -> Option<Mapping<'_>> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let addresses = fields.next()?;
    if fields.next()?.get(2) != Some(&b'x') {
        return None;
    }
    let _offset = fields.next()?;
    let (start, end) = pair(addresses, '-')?;
    let (major, minor) = pair(fields.next()?, ':')?;
    let inode: u64 = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let path = fields.next()?.trim_ascii_start();
    // Without a file: `[vdso]`, `//anon`, nothing.
    if inode == 0 || path.first() != Some(&b'/') {
        return None;
    }
    let key = MapKey { major: major.try_into().ok()?, minor: minor.try_into().ok()?, inode };
    Some(Mapping { start, end, key, path: Path::new(OsStr::from_bytes(path)) })
}

/// Two hexadecimal numbers.
fn pair(text: &[u8], between: char) -> Option<(u64, u64)> {
    let (one, other) = std::str::from_utf8(text).ok()?.split_once(between)?;
    Some((u64::from_str_radix(one, 16).ok()?, u64::from_str_radix(other, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executable_files_are_found_and_nothing_else() {
        let text = b"\
5581a000-5581b000 r--p 00000000 fe:00 77                         /usr/bin/x
5581b000-5581c000 r-xp 00001000 fe:00 77                         /usr/bin/x
7f200000-7f210000 r-xp 0000f000 00:2b 10051695                   /a b/lib\xffssl.so (deleted)
7f300000-7f301000 rwxp 00000000 00:00 0
7f310000-7f311000 r-xp 00000000 00:05 4                          anon_inode:x
7ffd0000-7ffd2000 r-xp 00000000 00:00 0                          [vdso]
";
        let found: Vec<Mapping<'_>> = executable(text).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!((found[0].start, found[0].end), (0x5581_b000, 0x5581_c000));
        assert_eq!(found[0].key, MapKey { major: 0xfe, minor: 0, inode: 77 });
        let odd = OsStr::from_bytes(b"/a b/lib\xffssl.so (deleted)");
        assert_eq!(found[1].path, Path::new(odd));
        assert_eq!(found[1].key, MapKey { major: 0, minor: 0x2b, inode: 10_051_695 });
        assert_eq!(found[1].open_at(9), Path::new("/proc/9/map_files/7f200000-7f210000"));
    }

    #[test]
    fn damaged_lines_are_nothing() {
        for text in ["x", "1-2 r-xp", "1-2 r-xp 0 fe:00", "z-2 r-xp 0 fe:00 1 /x", "\n\n"] {
            assert_eq!(executable(text.as_bytes()).count(), 0, "{text}");
        }
    }
}
