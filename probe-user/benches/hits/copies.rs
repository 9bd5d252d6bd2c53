//! Two copies of the system's libssl, to put probes into.

use std::{
    collections::BTreeSet,
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use sslsess::{
    image::{Companion, Elf, Image, PlanOptions, plan},
    kernel::Kernel,
};

/// Debian's.
const DIRECTORY: &str = "/usr/lib/x86_64-linux-gnu";

/// `e_shoff`, and `e_shnum` with `e_shstrndx`, in the header of a 64-bit ELF file.
const SECTION_HEADERS: Range<usize> = 40..48;
const SECTION_COUNTS: Range<usize> = 60..64;

/// What is known of them, with other probes.
pub(crate) fn learn(options: PlanOptions) -> Image {
    let [library, crypto] =
        ["libssl.so.3", "libcrypto.so.3"].map(|name| Path::new(DIRECTORY).join(name));
    let crypto = Elf::open(&crypto).expect("it is there");
    let elf = Elf::open(&library).expect("it is there");
    Image::learn(library, &elf, &Companion::Found(&crypto), options)
}

/// Two copies of the system's libssl, and what is known of them.
pub(crate) struct Copies {
    pub(crate) image: Image,
    pub(crate) paths: [PathBuf; 2],
}

impl Copies {
    /// Without section headers, which nobody needs to run them: no other agent on this
    /// machine takes such a file for a libssl.
    pub(crate) fn make(directory: &Path) -> Self {
        let library = Path::new(DIRECTORY).join("libssl.so.3");
        let mut bytes = fs::read(&library).expect("it is there");
        for field in [SECTION_HEADERS, SECTION_COUNTS] {
            bytes[field].fill(0);
        }
        let paths = ["first.so", "second.so"].map(|name| {
            let copy = directory.join(name);
            fs::write(&copy, &bytes).expect("it can be written");
            copy
        });
        Self { image: learn(PlanOptions::default()), paths }
    }

    /// Where the probes are, in the file.
    pub(crate) fn places(&self) -> Vec<u64> {
        let offsets = self.image.plan.points.iter().map(|point| point.file_offset);
        offsets.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Attaches the probes to one of them.
    pub(crate) fn attach(&self, kernel: &mut Kernel, copy: usize) {
        let layout = plan::block_layout(&self.image.learnt.layout).expect("it is known");
        let image = copy as u32 + 1;
        kernel
            .attach(image, layout, &self.image.plan, &self.paths[copy])
            .expect("they can be attached");
    }
}
