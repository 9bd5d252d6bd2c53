//! Learns each library file once, and attaches its probes once.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
};

use tracing::{info, warn};

use crate::{
    host::{
        Library,
        discovery::{FileId, MappedFile},
    },
    image::{Companion, Elf, Image, PlanChoice, plan},
    kernel::Kernel,
    snapshot::{GapSnapshot, LibrarySnapshot},
};

/// A library file that some process maps.
enum Known {
    /// Not a libssl of OpenSSL's kind.
    Other,
    /// It cannot be observed.
    Refused(String),
    /// Its probes are attached.
    Attached(u32),
}

/// A libssl and the libcrypto that a process has with it: what is learnt of
/// the one depends on the other.
type Pair = (FileId, Option<FileId>);

/// All libraries that were met.
pub struct Images {
    choice: PlanChoice,
    by_file: HashMap<Pair, Known>,
    /// Files that have probes: a second attachment would fire twice.
    attached: HashMap<FileId, u32>,
    images: HashMap<u32, Image>,
    next: u32,
}

impl Images {
    /// None yet.
    #[must_use]
    pub fn new(choice: PlanChoice) -> Self {
        Self {
            choice,
            by_file: HashMap::new(),
            attached: HashMap::new(),
            images: HashMap::new(),
            next: 1,
        }
    }

    /// Makes sure that the libraries are known, and their probes attached.
    /// Says what cannot be observed, of which process.
    pub fn attach(&mut self, kernel: &mut Kernel, libraries: &[Library]) -> Vec<GapSnapshot> {
        let mut gaps = Vec::new();
        for library in libraries {
            let pair = (library.libssl.id, library.libcrypto.first().map(|file| file.id));
            let gap = |reason: String| GapSnapshot {
                pid: Some(library.pid),
                library: Some(library.libssl.path.clone()),
                reason,
            };
            if !self.by_file.contains_key(&pair) {
                let Some(known) = self.learn(kernel, library) else { continue };
                self.by_file.insert(pair, known);
            }
            match &self.by_file[&pair] {
                Known::Other => {}
                Known::Refused(reason) => gaps.push(gap(reason.clone())),
                Known::Attached(image) => gaps.extend(
                    self.images[image]
                        .gaps()
                        .map(|missing| gap(format!("{}: {}", missing.field, missing.reason))),
                ),
            }
        }
        gaps
    }

    /// `None`: the process vanished, and another one may show the file.
    fn learn(&mut self, kernel: &mut Kernel, library: &Library) -> Option<Known> {
        let path = &library.libssl.open_at;
        let elf = match Elf::open(path) {
            Ok(elf) => elf,
            Err(_) if !path.exists() => return None,
            Err(error) => {
                warn!(pid = library.pid, library = %library.libssl.path.display(), %error, "not observed");
                return Some(Known::Refused(error.to_string()));
            }
        };
        if !Image::is_openssl(&elf) {
            return Some(Known::Other);
        }
        let image = learn_mapped(library, &elf, self.choice);
        Some(self.observe(kernel, library, image))
    }

    fn observe(&mut self, kernel: &mut Kernel, library: &Library, image: Image) -> Known {
        let shown = image.path.display().to_string();
        if let Some(number) = self.attached.get(&library.libssl.id) {
            // Known with another libcrypto: the probes that are there serve.
            return Known::Attached(*number);
        }
        let Some(layout) = plan::block_layout(&image.learnt.layout) else {
            let reasons: HashSet<String> = image.gaps().map(|gap| gap.reason.to_string()).collect();
            let mut reasons: Vec<String> = reasons.into_iter().collect();
            reasons.sort();
            warn!(library = shown, ?reasons, "not observed: its layout is not known");
            return Known::Refused(format!("its layout is not known: {}", reasons.join("; ")));
        };
        if !image.plan.sees_deaths() || !image.plan.sees_contexts() {
            let reasons: Vec<String> =
                image.plan.gaps.iter().map(|gap| format!("{}: {}", gap.field, gap.reason)).collect();
            warn!(library = shown, ?reasons, "not observed: probes cannot be placed");
            return Known::Refused(format!("probes cannot be placed: {}", reasons.join("; ")));
        }
        let number = self.next;
        match kernel.attach(number, layout, &image.plan.points, &library.libssl.open_at) {
            Ok(probes) => {
                info!(
                    library = shown,
                    version = image.version.as_deref().unwrap_or("unknown"),
                    probes,
                    "observed"
                );
                self.next += 1;
                self.attached.insert(library.libssl.id, number);
                self.images.insert(number, image);
                Known::Attached(number)
            }
            Err(error) => {
                warn!(library = shown, %error, "not observed");
                Known::Refused(error.to_string())
            }
        }
    }

    /// What is shown of an image.
    #[must_use]
    pub fn library(&self, image: u32) -> LibrarySnapshot {
        self.images.get(&image).map_or_else(LibrarySnapshot::default, |image| LibrarySnapshot {
            path: image.path.clone(),
            build_id: image.build_id.clone(),
            version: image.version.clone(),
        })
    }

    /// Libraries whose probes are attached.
    #[must_use]
    pub fn attached(&self) -> usize {
        self.attached.len()
    }
}

/// Learns a libssl that a process maps, with the libcrypto of that process.
#[must_use]
pub fn learn_mapped(library: &Library, elf: &Elf, choice: PlanChoice) -> Image {
    let companion = companion(elf, &library.libcrypto);
    let companion = match &companion {
        Ok(elf) => Companion::Found(elf),
        Err((name, None)) => Companion::Missing(name.clone()),
        Err((name, Some(why))) => Companion::Unreadable(name.clone(), why.clone()),
    };
    Image::learn(library.libssl.path.clone(), elf, &companion, choice)
}

/// The libcrypto that this libssl is linked to, among those that the process
/// maps; else its name, and what is wrong with it.
fn companion(elf: &Elf, mapped: &[MappedFile]) -> Result<Elf, (String, Option<String>)> {
    let name = crate::image::companion::libcrypto_name(elf).unwrap_or("libcrypto").to_owned();
    let file = mapped.iter().find(|file| file_name(&file.path) == name);
    let Some(file) = file else { return Err((name, None)) };
    Elf::open(&file.open_at).map_err(|error| (name, Some(error.to_string())))
}

/// A file's name, without what the kernel adds when it was deleted.
fn file_name(path: &PathBuf) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned()
}
