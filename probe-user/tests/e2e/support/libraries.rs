//! Copies of the system's libssl, in places where nobody else maps them, and
//! overlays over such places.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::{
    oracle::{ORACLES, Oracle},
    run,
};

/// Where Debian has its libraries.
const SYSTEM: &str = "/usr/lib/x86_64-linux-gnu";

/// Copies the system's libssl and libcrypto into a directory of their own.
pub(crate) fn private_libraries() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory for libraries");
    for library in ["libssl.so.3", "libcrypto.so.3"] {
        let copied = fs::copy(Path::new(SYSTEM).join(library), directory.path().join(library));
        copied.expect("the system has a libssl");
    }
    directory
}

/// Puts another file in the place of one, as a package manager does.
pub(crate) fn replace(file: &Path) {
    let new = file.with_extension("dpkg-new");
    fs::copy(file, &new).expect("it can be copied");
    fs::rename(&new, file).expect("it can be replaced");
}

/// Python, with the libraries of a directory.
pub(crate) fn python_with(libraries: &Path) -> Oracle {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(format!("{ORACLES}/oracle.py")).env("LD_LIBRARY_PATH", libraries);
    Oracle::start_command(command)
}

/// A directory that is seen at another place.
pub(crate) struct Mount {
    directory: TempDir,
    root: PathBuf,
}

impl Mount {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory to mount at");
        let root = directory.path().join("root");
        fs::create_dir(&root).expect("it can be made");
        Self { directory, root }
    }

    /// The directory itself.
    pub(crate) fn bind(of: &Path) -> Self {
        let mount = Self::new();
        run(Command::new("mount").arg("--bind").args([of, &mount.root]));
        mount
    }

    /// An overlay over the directory. What is written goes to memory.
    pub(crate) fn overlay(over: &Path) -> Self {
        let mount = Self::new();
        let layers = mount.directory.path().join("layers");
        fs::create_dir(&layers).expect("it can be made");
        run(Command::new("mount").args(["-t", "tmpfs", "layers"]).arg(&layers));
        for layer in ["upper", "work"] {
            fs::create_dir(layers.join(layer)).expect("it can be made");
        }
        let (over, layers) = (over.display(), layers.display());
        let options = format!("lowerdir={over},upperdir={layers}/upper,workdir={layers}/work");
        run(Command::new("mount").args(["-t", "overlay", "o", "-o", &options]).arg(&mount.root));
        mount
    }

    /// Where it is seen.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let layers = self.directory.path().join("layers");
        for mounted in [&self.root, &layers] {
            // Processes of a test that failed may still use it.
            let _ = Command::new("umount").arg("--lazy").arg(mounted).output();
        }
    }
}

/// A command in namespaces of its own and another root, as a container has it,
/// without a runtime. The network is the host's.
pub(crate) fn in_container(root: &Path) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--pid", "--fork", "--uts", "--ipc", "--cgroup", "--kill-child"])
        .args(["--propagation", "private", "sh", "-c"])
        .arg("mount -t proc proc \"$0/proc\" && mount --rbind /dev \"$0/dev\" && exec chroot \"$0\" \"$@\"")
        .arg(root);
    command
}
