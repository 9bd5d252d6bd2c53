//! All probes of a file in one step: `uprobe_multi` links, which Linux 6.6 brought.
//!
//! One by one each probe costs two file descriptors, 1 to 3 ms to attach, and 0.1 s
//! to remove, in which the kernel waits for every processor. A link for all of them
//! waits once.
//!
//! aya knows these links from 0.16 on, which wants Rust 1.98. When this workspace
//! has that, `UProbe` can do what this module does, and it goes.

use std::{
    collections::HashSet,
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::{Ebpf, maps::Map};
use aya_obj::{
    Object, ParseError,
    generated::{bpf_attach_type, bpf_cmd, bpf_insn, bpf_prog_type},
    relocation::EbpfRelocationError,
};
use thiserror::Error;

use super::syscall::bpf;

/// Why a program for such links could not be loaded.
#[derive(Debug, Error)]
pub(super) enum MultiError {
    /// The object is not understood.
    #[error(transparent)]
    Object(#[from] ParseError),
    /// It cannot be linked to the maps.
    #[error(transparent)]
    Relocation(#[from] EbpfRelocationError),
    /// It lacks the program.
    #[error("the BPF object has no program {0}")]
    Incomplete(&'static str),
    /// The kernel refuses it: before 6.6, or another reason.
    #[error("the kernel refuses it: {0}")]
    Refused(#[from] io::Error),
}

/// What `bpf(2)` takes for `BPF_PROG_LOAD`, as far as it is needed
/// (include/uapi/linux/bpf.h; the kernel takes what is missing as 0).
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

const _: () = assert!(size_of::<ProgLoad>() == 72);

/// For `BPF_LINK_CREATE`, with the part for `uprobe_multi`.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    path: u64,
    offsets: u64,
    ref_ctr_offsets: u64,
    cookies: u64,
    cnt: u32,
    multi_flags: u32,
    pid: u32,
    pad: u32,
}

const _: () = assert!(size_of::<LinkCreate>() == 64);

/// When a function returns, in place of when the place is reached
/// (`BPF_F_UPROBE_MULTI_RETURN`).
const RETURNS: u32 = 1;

/// A program that is loaded for such links.
pub(super) struct MultiProgram(OwnedFd);

impl MultiProgram {
    /// Loads a program of the object once more. It shares the maps of `ebpf`, which
    /// was loaded from the same object and still has all of them.
    ///
    /// # Errors
    ///
    /// If the kernel has no such links, as far as it tells here.
    pub(super) fn load(object: &[u8], ebpf: &Ebpf, name: &'static str) -> Result<Self, MultiError> {
        let mut object = Object::parse(object)?;
        let maps = std::mem::take(&mut object.maps);
        let maps = maps
            .iter()
            .filter_map(|(name, map)| Some((name.as_str(), fd_of(ebpf.map(name)?)?, map)));
        let text = object.functions.keys().map(|(section, _)| *section).collect::<HashSet<_>>();
        object.relocate_maps(maps, &text)?;
        object.relocate_calls(&text)?;
        let program = object.programs.get(name).ok_or(MultiError::Incomplete(name))?;
        let function = object.functions.get(&program.function_key());
        let function = function.ok_or(MultiError::Incomplete(name))?;
        Ok(Self::of(&function.instructions, &program.license, name)?)
    }

    /// Loads these instructions.
    ///
    /// # Errors
    ///
    /// If the kernel refuses them.
    pub(super) fn of(instructions: &[bpf_insn], license: &CStr, name: &str) -> io::Result<Self> {
        let mut prog_name = [0; 16];
        for (byte, of_name) in prog_name.iter_mut().zip(name.bytes().take(15)) {
            *byte = of_name;
        }
        let mut attr = ProgLoad {
            prog_type: bpf_prog_type::BPF_PROG_TYPE_KPROBE as u32,
            insn_cnt: instructions.len() as u32,
            insns: instructions.as_ptr() as u64,
            license: license.as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log_buf: 0,
            kern_version: 0,
            prog_flags: 0,
            prog_name,
            prog_ifindex: 0,
            expected_attach_type: bpf_attach_type::BPF_TRACE_UPROBE_MULTI as u32,
        };
        // SAFETY: `attr` has the layout that the command takes; what it points to
        // (the instructions, as many as it says, and a C string) outlives the call.
        unsafe { new_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr) }.map(Self)
    }

    /// Attaches it to places of a file, given by their offsets, each with its cookie.
    /// All are removed when what is returned is closed; that returns when no
    /// processor executes the program for them any more.
    ///
    /// # Errors
    ///
    /// If any of them is refused, or the kernel has no such links.
    pub(super) fn attach(&self, path: &Path, places: &[(u64, u32)]) -> io::Result<OwnedFd> {
        self.link(path, places, 0)
    }

    /// As [`attach`](Self::attach), but the places are functions, and it is executed
    /// when they return.
    ///
    /// # Errors
    ///
    /// As there.
    pub(super) fn attach_to_returns(
        &self,
        path: &Path,
        places: &[(u64, u32)],
    ) -> io::Result<OwnedFd> {
        self.link(path, places, RETURNS)
    }

    fn link(&self, path: &Path, places: &[(u64, u32)], flags: u32) -> io::Result<OwnedFd> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let offsets: Vec<u64> = places.iter().map(|(offset, _)| *offset).collect();
        let cookies: Vec<u64> = places.iter().map(|(_, cookie)| u64::from(*cookie)).collect();
        let mut attr = LinkCreate {
            prog_fd: self.0.as_raw_fd().cast_unsigned(),
            target_fd: 0,
            attach_type: bpf_attach_type::BPF_TRACE_UPROBE_MULTI as u32,
            flags: 0,
            path: path.as_ptr() as u64,
            offsets: offsets.as_ptr() as u64,
            ref_ctr_offsets: 0,
            cookies: cookies.as_ptr() as u64,
            cnt: places.len() as u32,
            multi_flags: flags,
            // Of all processes.
            pid: 0,
            pad: 0,
        };
        // SAFETY: `attr` has the layout that the command takes; what it points to (a
        // C string, and two arrays with as many elements as it says) outlives the call.
        unsafe { new_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr) }
    }
}

/// The file descriptor of a map of one of the kinds that the object has.
fn fd_of(map: &Map) -> Option<RawFd> {
    match map {
        Map::Array(map)
        | Map::HashMap(map)
        | Map::LruHashMap(map)
        | Map::PerCpuArray(map)
        | Map::RingBuf(map)
        | Map::PerfEventArray(map) => Some(map.fd().as_fd().as_raw_fd()),
        _ => None,
    }
}

/// Calls `bpf(2)` with a command that returns a file descriptor.
///
/// # Safety
///
/// As for [`bpf`].
unsafe fn new_fd<T>(command: bpf_cmd, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: it was just made for this process, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}
