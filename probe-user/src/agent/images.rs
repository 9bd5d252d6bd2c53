//! Learns each library file once, and attaches its probes once.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs::File,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tracing::{info, warn};

use crate::{
    host::{Library, discovery::FileId},
    image::{Companion, Elf, Image, PlanChoice, companion, elf, plan},
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
    /// Its probes are attached, but with this libcrypto the number of sessions
    /// stands elsewhere than with the one that they were made for.
    OtherNumber(u32),
}

/// A libssl and the libcryptos that a process has with it: what is learnt of
/// the one depends on the other.
type Pair = (FileId, Vec<FileId>);

/// How long a process may map a libssl without the libcrypto that it needs: the
/// dynamic linker maps one after the other.
const LOADING: Duration = Duration::from_secs(2);

/// All libraries that were met.
pub struct Images {
    choice: PlanChoice,
    by_file: HashMap<Pair, Known>,
    /// Files that have probes: a second attachment would fire twice.
    attached: HashMap<FileId, u32>,
    images: HashMap<u32, Image>,
    next: u32,
    /// Processes that were seen before all of their libraries were mapped.
    loading: HashMap<u32, Instant>,
    /// Processes whose number of sessions is not where the probes look.
    other_number: HashSet<u32>,
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
            loading: HashMap::new(),
            other_number: HashSet::new(),
        }
    }

    /// Makes sure that the libraries are known, and their probes attached.
    /// Says what cannot be observed, of which process.
    pub fn attach(&mut self, kernel: &mut Kernel, libraries: &[Library]) -> Vec<GapSnapshot> {
        let mut gaps = Vec::new();
        let running: HashSet<u32> = libraries.iter().map(|library| library.pid).collect();
        self.loading.retain(|pid, _| running.contains(pid));
        self.other_number.clear();
        for library in libraries {
            let libcrypto = library.libcrypto.iter().map(|file| file.id).collect();
            let pair = (library.libssl.id, libcrypto);
            let gap = |reason: String| GapSnapshot {
                pid: Some(library.pid),
                library: Some(library.libssl.path.clone()),
                reason,
            };
            if !self.by_file.contains_key(&pair) {
                let Some(known) = self.learn(kernel, library) else { continue };
                self.by_file.insert(pair.clone(), known);
            }
            match &self.by_file[&pair] {
                Known::Other => {}
                Known::Refused(reason) => gaps.push(gap(reason.clone())),
                Known::Attached(image) => gaps.extend(
                    self.images[image]
                        .gaps()
                        .map(|missing| gap(format!("{}: {}", missing.field, missing.reason))),
                ),
                Known::OtherNumber(image) => {
                    self.other_number.insert(library.pid);
                    gaps.push(gap(format!(
                        "number: another process has this libssl with another libcrypto (image \
                         {image}), which counts the sessions elsewhere"
                    )));
                }
            }
        }
        gaps
    }

    /// Whether a process was met while its libraries were being loaded: it
    /// should be looked at again soon.
    #[must_use]
    pub fn is_loading(&self) -> bool {
        self.loading.values().any(|since| since.elapsed() < LOADING)
    }

    /// Whether the number of sessions is known in a process.
    #[must_use]
    pub fn knows_number(&self, pid: u32) -> bool {
        !self.other_number.contains(&pid)
    }

    /// `None`: the process vanished, or is not complete yet; it, or another one,
    /// may show the file later.
    fn learn(&mut self, kernel: &mut Kernel, library: &Library) -> Option<Known> {
        let shown = &library.libssl.path;
        // Held open: what follows does not depend on the process's life.
        let file = match elf::open(&library.libssl.open_at) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return None,
            Err(error) => return Some(refused(library, error.to_string())),
        };
        let elf = match Elf::read(&file, shown) {
            Ok(elf) => elf,
            Err(error) => return Some(refused(library, error.to_string())),
        };
        if !Image::is_openssl(&elf) {
            return Some(Known::Other);
        }
        let companion = MappedCompanion::of(&elf, library);
        if matches!(companion, MappedCompanion::Absent(_)) {
            let since = *self.loading.entry(library.pid).or_insert_with(Instant::now);
            if since.elapsed() < LOADING {
                return None;
            }
        }
        self.loading.remove(&library.pid);
        let image = companion.learn(library, &elf, self.choice);
        Some(self.observe(kernel, library, &file, image))
    }

    fn observe(
        &mut self,
        kernel: &mut Kernel,
        library: &Library,
        file: &File,
        image: Image,
    ) -> Known {
        if let Some(number) = self.attached.get(&library.libssl.id) {
            // Known with another libcrypto: the probes that are there serve.
            let known = &self.images[number].learnt.layout;
            let same = known.num_items == image.learnt.layout.num_items;
            return if same { Known::Attached(*number) } else { Known::OtherNumber(*number) };
        }
        let Some(layout) = plan::block_layout(&image.learnt.layout) else {
            let reasons: BTreeSet<String> =
                image.gaps().map(|gap| gap.reason.to_string()).collect();
            let reasons = Vec::from_iter(reasons).join("; ");
            return refused(library, format!("its layout is not known: {reasons}"));
        };
        if !image.plan.sees_deaths() || !image.plan.sees_contexts() {
            let reasons: Vec<String> = image
                .plan
                .gaps
                .iter()
                .map(|gap| format!("{}: {}", gap.field, gap.reason))
                .collect();
            return refused(library, format!("probes cannot be placed: {}", reasons.join("; ")));
        }
        let number = self.next;
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        match kernel.attach(number, layout, &image.plan.points, &path) {
            Ok(probes) => {
                info!(
                    library = %image.path.display(),
                    version = image.version.as_deref().unwrap_or("unknown"),
                    probes,
                    "observed"
                );
                self.next += 1;
                self.attached.insert(library.libssl.id, number);
                self.images.insert(number, image);
                Known::Attached(number)
            }
            Err(error) => refused(library, format!("{:#}", anyhow::Error::from(error))),
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

fn refused(library: &Library, reason: String) -> Known {
    warn!(pid = library.pid, library = %library.libssl.path.display(), reason, "not observed");
    Known::Refused(reason)
}

/// The libcrypto that a libssl of a process is linked to.
pub enum MappedCompanion {
    /// The process maps it.
    Found(Box<Elf>),
    /// The process does not map it (yet, or any more); its name.
    Absent(String),
    /// It cannot be read; its name, and why.
    Unreadable(String, String),
}

impl MappedCompanion {
    /// Looks for it, by the name in `DT_NEEDED`, among what the process maps.
    #[must_use]
    pub fn of(elf: &Elf, library: &Library) -> Self {
        let name = companion::libcrypto_name(elf).unwrap_or("libcrypto").to_owned();
        let Some(file) = library.libcrypto.iter().find(|file| file_name(&file.path) == name) else {
            return Self::Absent(name);
        };
        match Elf::open(&file.open_at) {
            Ok(elf) => Self::Found(Box::new(elf)),
            Err(error) if error.is_not_found() => Self::Absent(name),
            Err(error) => Self::Unreadable(name, error.to_string()),
        }
    }

    /// Learns the libssl with it.
    #[must_use]
    pub fn learn(&self, library: &Library, elf: &Elf, choice: PlanChoice) -> Image {
        let companion = match self {
            Self::Found(elf) => Companion::Found(elf),
            Self::Absent(name) => Companion::Missing(name.clone()),
            Self::Unreadable(name, why) => Companion::Unreadable(name.clone(), why.clone()),
        };
        Image::learn(library.libssl.path.clone(), elf, &companion, choice)
    }
}

/// A file's name, without what the kernel adds when it was deleted.
fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned()
}
