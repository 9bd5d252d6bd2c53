//! Names of functions that a file does not carry in its symbol tables: in its
//! mini debug info (`.gnu_debugdata`), or in a debug file of its own that is
//! found by the build id.
//!
//! They are believed only if they agree with the file: the same build id, the
//! same segments, every function inside of executable code, and no name at
//! another address than the file itself says. Else none of them is.

use std::{
    collections::HashMap,
    fs::File,
    io::Read as _,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use lzma_rust2::XzReader;
use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::Mode,
};
use object::{Object as _, ObjectSection as _, read::elf::ElfFile64};
use thiserror::Error;

use super::elf::{self, Elf, Symbol};

/// What mini debug info may unpack to at most: it holds one symbol table
/// (an executable of 100 MB has one of 40 MB).
const MAX_UNPACKED: u64 = 64 << 20;

/// What unpacking may use, in KiB: `xz -9` makes archives that need 64 MiB.
const MAX_UNPACK_MEMORY: u32 = 80 << 10;

/// Why names were not taken from a source.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Disagreement {
    /// It is not readable.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// It is for another build.
    #[error("its build id is {theirs}, the file's is {ours}")]
    BuildId {
        /// What the source says.
        theirs: String,
        /// What the file says.
        ours: String,
    },
    /// It was made for a file with other segments.
    #[error("its executable segments are not those of the file")]
    Segments,
    /// One of its functions is not in the file's code.
    #[error("{name} at {address:#x} is not inside of the file's code")]
    NotCode {
        /// The function.
        name: String,
        /// Where it should be.
        address: u64,
    },
    /// The file itself has a function elsewhere.
    #[error("{name} is at {theirs:#x}, in the file itself at {ours:#x}")]
    Address {
        /// The function.
        name: String,
        /// Where the source has it.
        theirs: u64,
        /// Where the file has it.
        ours: u64,
    },
}

/// Adds the names of functions that stand elsewhere: in the mini debug info and
/// in debug files under these roots, the first that agrees.
///
/// A root is `/`, or `/proc/PID/root` for what a process sees. Says what was
/// there and was not believed: where it is, and why.
pub fn complete(elf: &mut Elf, roots: &[&Path]) -> Vec<(PathBuf, Disagreement)> {
    let mut refused = Vec::new();
    if let Some(result) = mini_debug_info(elf) {
        match result.and_then(|names| agreeing(elf, &names)) {
            Ok(functions) => return extend(elf, functions, refused),
            Err(why) => refused.push((PathBuf::from(".gnu_debugdata"), why)),
        }
    }
    for root in roots {
        let Some((path, result)) = debug_file(elf, root) else { continue };
        match result.and_then(|names| agreeing(elf, &names)) {
            Ok(functions) => return extend(elf, functions, refused),
            Err(why) => refused.push((path, why)),
        }
    }
    refused
}

fn extend<T>(elf: &mut Elf, functions: Vec<(String, Symbol)>, refused: T) -> T {
    elf.add_functions(functions);
    refused
}

/// The symbols of the file's `.gnu_debugdata`: an ELF file, packed with xz.
fn mini_debug_info(elf: &Elf) -> Option<Result<Elf, Disagreement>> {
    let file = ElfFile64::<object::LittleEndian>::parse(elf.data()).ok()?;
    let packed = file.section_by_name(".gnu_debugdata")?.data().ok()?;
    Some(unpack(packed).and_then(|bytes| Elf::parse(bytes).map_err(Disagreement::Unreadable)))
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>, Disagreement> {
    let mut bytes = Vec::new();
    XzReader::new_mem_limit(packed, false, MAX_UNPACK_MEMORY)
        .take(MAX_UNPACKED + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Disagreement::Unreadable(error.to_string()))?;
    if bytes.len() as u64 > MAX_UNPACKED {
        let why = format!("it unpacks to more than {MAX_UNPACKED} bytes");
        return Err(Disagreement::Unreadable(why));
    }
    Ok(bytes)
}

/// The debug file of a build id under a root, where GDB looks for it too.
fn debug_file(elf: &Elf, root: &Path) -> Option<(PathBuf, Result<Elf, Disagreement>)> {
    let (first, rest) = elf.build_id()?.split_at_checked(2).filter(|(_, rest)| !rest.is_empty())?;
    let name = format!("usr/lib/debug/.build-id/{first}/{rest}.debug");
    let path = root.join(&name);
    let file = open_beneath(root, Path::new(&name))?;
    let read = Elf::read(&file, &path)
        .map_err(|error| Disagreement::Unreadable(error.to_string()))
        .and_then(|debug| match debug.build_id() {
            Some(_) => Ok(debug),
            None => Err(Disagreement::Unreadable("it has no build id".to_owned())),
        });
    Some((path, read))
}

/// Opens a file as a process with that root would: no link leads out of it.
fn open_beneath(root: &Path, name: &Path) -> Option<File> {
    let root = elf::open(root).ok()?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY)
        .mode(Mode::empty())
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root.as_fd(), name, how).ok().map(File::from)
}

/// The functions of a source that the file does not name, if the two agree.
fn agreeing(elf: &Elf, source: &Elf) -> Result<Vec<(String, Symbol)>, Disagreement> {
    if let (Some(theirs), Some(ours)) = (source.build_id(), elf.build_id())
        && theirs != ours
    {
        return Err(Disagreement::BuildId { theirs: theirs.to_owned(), ours: ours.to_owned() });
    }
    if !elf.executable_memory().eq(source.executable_memory()) {
        return Err(Disagreement::Segments);
    }
    let mut own: HashMap<&str, Symbol> = HashMap::new();
    for (name, symbol) in elf.functions() {
        own.entry(name).or_insert(symbol);
    }
    let mut functions = Vec::new();
    for (name, symbol) in source.functions() {
        let code = elf.code(symbol.address).map_or(0, |code| code.len() as u64);
        if code == 0 || code < symbol.size {
            return Err(Disagreement::NotCode { name: name.to_owned(), address: symbol.address });
        }
        match own.get(name) {
            // A name of one object file says nothing about another's.
            Some(_) if symbol.local => {}
            Some(ours) if ours.address != symbol.address => {
                return Err(Disagreement::Address {
                    name: name.to_owned(),
                    theirs: symbol.address,
                    ours: ours.address,
                });
            }
            Some(_) => {}
            None => functions.push((name.to_owned(), symbol)),
        }
    }
    Ok(functions)
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use tempfile::TempDir;

    use super::*;

    const PROGRAM: &str = "
        static int __attribute__((noinline)) inner(int n) { return n * 3; }
        int __attribute__((noinline)) outer(int n) { return inner(n) + 1; }
        int main(int argc, char **argv) { (void)argv; return outer(argc); }";

    struct Built {
        directory: TempDir,
    }

    impl Built {
        /// A program with all its symbols, as `whole`.
        fn new() -> Self {
            let built = Self { directory: tempfile::tempdir().expect("a directory") };
            fs::write(built.path("program.c"), PROGRAM).expect("the source is written");
            built.run("cc -O1 -Wl,--build-id program.c -o whole");
            built
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn run(&self, script: &str) {
            let directory = self.directory.path();
            let status = Command::new("sh").args(["-ec", script]).current_dir(directory).status();
            assert!(status.expect("sh runs").success(), "{script}");
        }

        fn elf(&self, name: &str) -> Elf {
            Elf::open(&self.path(name)).expect("it is an ELF file")
        }

        /// Makes the directory a root in which the debug file of `whole` is found.
        fn install_debug_file(&self, name: &str) {
            let id = self.elf("whole").build_id().expect("it was linked with one").to_owned();
            let (first, rest) = id.split_at(2);
            let directory = self.path("usr/lib/debug/.build-id").join(first);
            fs::create_dir_all(&directory).expect("a directory for it");
            fs::copy(self.path(name), directory.join(format!("{rest}.debug"))).expect("a copy");
        }
    }

    fn address(elf: &Elf, name: &str) -> Option<u64> {
        elf.function(name).map(|symbol| symbol.address)
    }

    #[test]
    fn mini_debug_info_names_the_functions_of_a_stripped_file() {
        let built = Built::new();
        built.run(
            "objcopy --only-keep-debug whole m && xz -c m > m.xz
             strip --strip-all whole -o stripped
             objcopy --add-section .gnu_debugdata=m.xz stripped mini",
        );
        let whole = built.elf("whole");
        let mut mini = built.elf("mini");
        assert_eq!(address(&mini, "inner"), None, "it was stripped");
        assert_eq!(complete(&mut mini, &[]), []);
        for name in ["inner", "outer", "main"] {
            assert!(address(&whole, name).is_some());
            assert_eq!(address(&mini, name), address(&whole, name));
        }
    }

    #[test]
    fn a_debug_file_is_found_by_the_build_id() {
        let built = Built::new();
        built.run("objcopy --only-keep-debug whole debug && strip --strip-all whole -o stripped");
        built.install_debug_file("debug");
        let mut stripped = built.elf("stripped");
        let elsewhere = tempfile::tempdir().expect("a directory");
        assert_eq!(complete(&mut stripped, &[elsewhere.path(), built.directory.path()]), []);
        assert_eq!(address(&stripped, "inner"), address(&built.elf("whole"), "inner"));
    }

    #[test]
    fn a_debug_file_of_another_build_is_not_believed() {
        let built = Built::new();
        built.run(
            "sed 's/n \\* 3/n * 5 + 2/' program.c > other.c
             cc -O1 -Wl,--build-id other.c -o other
             objcopy --only-keep-debug other debug
             strip --strip-all whole -o stripped",
        );
        built.install_debug_file("debug");
        let mut stripped = built.elf("stripped");
        let refused = complete(&mut stripped, &[built.directory.path()]);
        assert!(matches!(refused.as_slice(), [(_, Disagreement::BuildId { .. })]), "{refused:?}");
        assert_eq!(address(&stripped, "inner"), None);
    }

    #[test]
    fn names_outside_of_the_code_are_not_believed() {
        let built = Built::new();
        // `inner` is moved to where the file has no code.
        built.run(
            "objcopy --only-keep-debug --add-symbol lie=0x10,global,function whole debug
             strip --strip-all whole -o stripped",
        );
        built.install_debug_file("debug");
        let mut stripped = built.elf("stripped");
        let refused = complete(&mut stripped, &[built.directory.path()]);
        assert!(matches!(refused.as_slice(), [(_, Disagreement::NotCode { .. })]), "{refused:?}");
        assert_eq!(address(&stripped, "inner"), None);
    }

    #[test]
    fn an_archive_that_unpacks_to_too_much_is_refused() {
        let built = Built::new();
        let zeros = (MAX_UNPACKED >> 20) + 1;
        built.run(&format!("head -c {zeros}M /dev/zero | xz -1 > zeros.xz"));
        let packed = fs::read(built.path("zeros.xz")).expect("it was packed");
        assert!(matches!(unpack(&packed), Err(Disagreement::Unreadable(_))));
        assert!(matches!(unpack(&packed[..packed.len() / 2]), Err(Disagreement::Unreadable(_))));
    }

    #[test]
    fn a_link_out_of_a_root_leads_nowhere() {
        let built = Built::new();
        let root = built.path("root");
        fs::create_dir(&root).expect("a directory");
        std::os::unix::fs::symlink(built.path("whole"), root.join("link")).expect("a link");
        assert!(open_beneath(&root, Path::new("link")).is_none());
        assert!(open_beneath(built.directory.path(), Path::new("whole")).is_some());
    }
}
