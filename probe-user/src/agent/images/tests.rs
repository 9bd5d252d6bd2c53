use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
};

use probe_common::BlockLayout;

use super::{release::ROOM, *};
use crate::{
    host::{MappedFile, ProcessFacts, files::Stamp},
    image::ProbePlan,
    kernel::AttachError,
};

/// Refuses whatever is to be attached: nothing is in these tests.
struct NoKernel;

impl Probes for NoKernel {
    fn attach(
        &mut self,
        _: u32,
        _: BlockLayout,
        _: &ProbePlan,
        path: &Path,
    ) -> Result<usize, AttachError> {
        panic!("nothing is attached to {}", path.display())
    }

    fn settle(&mut self, image: u32) {
        panic!("nothing is attached as {image}")
    }

    fn detach(&mut self, image: u32) {
        panic!("nothing is attached as {image}")
    }

    fn room(&mut self) -> (usize, usize) {
        (ROOM, ROOM)
    }
}

fn look(pid: u32, files: &[&Path]) -> Look {
    let mapped = |path: &&Path| {
        let stamp = Stamp::of(&fs::metadata(path).expect("the file is there"));
        let file = MappedFile { stamp, path: path.to_path_buf(), open_at: path.to_path_buf() };
        Library { pid, libssl: file, libcrypto: Vec::new() }
    };
    let libraries = files.iter().map(mapped).collect();
    Look { pid, facts: ProcessFacts::default(), libraries, gaps: Vec::new() }
}

/// Meets a process, and once more when its libraries are learnt.
fn meet(images: &mut Images, look: &Look) {
    images.meet(&mut NoKernel, look);
    while images.is_learning() {
        let lesson = images.wait_for_lesson().expect("the learner lives");
        images.take_lesson(&mut NoKernel, lesson);
    }
    images.meet(&mut NoKernel, look);
}

fn images() -> Images {
    Images::new(PlanOptions::default(), Duration::ZERO)
}

/// What is learnt of a file stays, however many processes map it and under
/// whatever name: it is not read again until it is written to.
#[test]
fn a_file_is_learnt_once_for_all_processes() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("libssl.so.3");
    fs::write(&path, "no library").expect("it can be written");
    let mut images = images();
    meet(&mut images, &look(1, &[&path]));
    let first = images.gaps().next().expect("it is none").reason.clone();
    assert!(first.contains("not a readable"), "{first}");

    let other = directory.path().join("libssl-other.so.3");
    fs::hard_link(&path, &other).expect("it can be linked");
    for pid in 1..=20 {
        let names = [path.as_path(), other.as_path()];
        meet(&mut images, &look(pid, &names[..1 + pid as usize % 2]));
    }
    assert_eq!(images.held(), 1);
    let gaps: Vec<_> = images.gaps().collect();
    assert_eq!(gaps.len(), 30);
    assert!(gaps.iter().all(|gap| gap.reason == first), "{gaps:?}");

    // A readable one takes its place, in the same inode.
    let own = fs::read("/proc/self/exe").expect("this program can be read");
    File::options()
        .write(true)
        .truncate(true)
        .open(&path)
        .and_then(|mut file| file.write_all(&own))
        .expect("it can be written");
    meet(&mut images, &look(1, &[&path]));
    assert_eq!(images.held(), 1);
    let of_first = images.gaps().filter(|gap| gap.pid == Some(1));
    assert!(of_first.into_iter().all(|gap| gap.reason != first));
}

/// A file is held for as long as somebody has it, and no longer.
#[test]
fn files_are_let_go_when_nobody_has_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    for name in ["libssl.so.3", "libssl.so.1.1"] {
        fs::write(path(name), name).expect("it can be written");
    }
    let (one, other) = (path("libssl.so.3"), path("libssl.so.1.1"));
    let mut images = images();
    meet(&mut images, &look(1, &[&one, &other]));
    meet(&mut images, &look(2, &[&one]));
    meet(&mut images, &look(1, &[&one]));
    assert!(images.is_releasing());
    // Not before all processes were looked at.
    images.release(&mut NoKernel, |_| false, |_| false);
    assert_eq!(images.held(), 2);
    images.release(&mut NoKernel, |_| true, |_| false);
    assert_eq!(images.held(), 1);
    images.gone(1);
    images.release(&mut NoKernel, |_| true, |_| false);
    assert_eq!(images.held(), 1);
    meet(&mut images, &look(2, &[]));
    images.release(&mut NoKernel, |_| true, |_| false);
    assert_eq!((images.held(), images.gaps().count()), (0, 0));
}
