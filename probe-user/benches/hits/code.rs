//! Whether somebody else has probes where we measure.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::Path,
};

use procfs::process::{MMPermissions, MMapPath, Process};

/// The code of a library in a process. A probe is a byte in it that is another than in
/// the file.
pub(crate) struct Code {
    memory: File,
    address: u64,
    bytes: Vec<u8>,
}

impl Code {
    pub(crate) fn of(pid: u32, library: &Path) -> Self {
        let process = Process::new(pid.cast_signed()).expect("it runs");
        let maps = process.maps().expect("it runs");
        let code = maps.into_iter().find(|map| {
            map.perms.contains(MMPermissions::EXECUTE)
                && matches!(&map.pathname, MMapPath::Path(path) if path == library)
        });
        let code = code.expect("it has loaded it");
        let (start, end) = code.address;
        let file = fs::read(library).expect("it is there");
        let bytes = file.into_iter().skip(code.offset as usize).take((end - start) as usize);
        let memory = File::open(format!("/proc/{pid}/mem")).expect("needs root");
        Self { memory, address: start, bytes: bytes.collect() }
    }

    /// How many probes are in it.
    pub(crate) fn probes(&self) -> usize {
        let mut now = vec![0; self.bytes.len()];
        self.memory.read_exact_at(&mut now, self.address).expect("it is there");
        now.iter().zip(&self.bytes).filter(|(now, file)| now != file).count()
    }
}
