//! Learns each library file once, and attaches its probes once.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs::File,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use probe_common::BlockLayout;
use tracing::{info, warn};

use crate::{
    host::{
        Library,
        discovery::{FileId, MappedFile},
    },
    image::{
        Companion, Elf, ElfError, FieldGap, Gap, Image, PlanChoice, ProbeKind, ProbePoint,
        SettingsLayout, companion, elf, plan,
    },
    kernel::{AttachError, Kernel},
    snapshot::{GapSnapshot, LibrarySnapshot},
};

/// Where probes are attached: the kernel.
pub trait Probes {
    /// Attaches the probes of an image to a file; says how many.
    ///
    /// # Errors
    ///
    /// If any of them is refused.
    fn attach(
        &mut self,
        image: u32,
        layout: BlockLayout,
        points: &[ProbePoint],
        path: &Path,
    ) -> Result<usize, AttachError>;
}

impl Probes for Kernel {
    fn attach(
        &mut self,
        image: u32,
        layout: BlockLayout,
        points: &[ProbePoint],
        path: &Path,
    ) -> Result<usize, AttachError> {
        self.attach(image, layout, points, path)
    }
}

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
    /// Processes whose libraries were seen to be those that the probes are made for.
    verified: HashSet<u32>,
    /// Images that were met with different libcryptos.
    ambiguous: HashSet<u32>,
    /// Open, so that nobody else gets their inode numbers.
    held: HashMap<FileId, File>,
    /// Fields of libraries about which two witnesses disagreed.
    contradictions: u64,
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
            verified: HashSet::new(),
            ambiguous: HashSet::new(),
            held: HashMap::new(),
            contradictions: 0,
        }
    }

    /// Makes sure that the libraries are known, and their probes attached.
    /// Says what cannot be observed, of which process.
    pub fn attach(&mut self, probes: &mut impl Probes, libraries: &[Library]) -> Vec<GapSnapshot> {
        let mut gaps = Vec::new();
        let running: HashSet<u32> = libraries.iter().map(|library| library.pid).collect();
        self.loading.retain(|pid, _| running.contains(pid));
        self.verified.retain(|pid| running.contains(pid));
        let mut met = HashSet::new();
        for library in libraries {
            let libcrypto = library.libcrypto.iter().map(|file| file.id).collect();
            let pair = (library.libssl.id, libcrypto);
            let gap = |reason: String| GapSnapshot {
                pid: Some(library.pid),
                library: Some(library.libssl.path.clone()),
                reason,
            };
            if !self.by_file.contains_key(&pair) {
                let Some(known) = self.learn(probes, library) else { continue };
                self.by_file.insert(pair.clone(), known);
            }
            match &self.by_file[&pair] {
                Known::Other => {}
                Known::Refused(reason) => gaps.push(gap(reason.clone())),
                Known::Attached(image) => {
                    self.verified.insert(library.pid);
                    let missing = self.images[image].gaps();
                    gaps.extend(missing.map(|m| gap(format!("{}: {}", m.field, m.reason))));
                }
                Known::OtherNumber(image) => {
                    self.verified.remove(&library.pid);
                    self.ambiguous.insert(*image);
                    gaps.push(gap(format!(
                        "number: another process has this libssl with another libcrypto (image \
                         {image}), which counts the sessions elsewhere"
                    )));
                }
            }
            met.insert(pair);
        }
        self.let_go(&met);
        gaps
    }

    /// Forgets files that nobody maps and that have no probes.
    fn let_go(&mut self, met: &HashSet<Pair>) {
        self.by_file.retain(|pair, _| met.contains(pair) || self.attached.contains_key(&pair.0));
        let kept: HashSet<FileId> = self
            .by_file
            .keys()
            .flat_map(|(libssl, libcrypto)| libcrypto.iter().chain([libssl]).copied())
            .collect();
        self.held.retain(|id, _| kept.contains(id));
    }

    /// Whether a process was met while its libraries were being loaded: it
    /// should be looked at again soon.
    #[must_use]
    pub fn is_loading(&self) -> bool {
        self.loading.values().any(|since| since.elapsed() < LOADING)
    }

    /// Whether the number of sessions of a process is where the image's probes
    /// look for it.
    #[must_use]
    pub fn knows_number(&self, image: u32, pid: u32) -> bool {
        !self.ambiguous.contains(&image) || self.verified.contains(&pid)
    }

    /// Opens a mapped file and keeps it open. `None`: it is gone, or another
    /// file is mapped there by now.
    fn hold(&mut self, file: &MappedFile) -> Option<Result<(), ElfError>> {
        if self.held.contains_key(&file.id) {
            return Some(Ok(()));
        }
        match elf::open(&file.open_at) {
            Ok(open) => {
                let same = open.metadata().is_ok_and(|m| FileId::of(&m) == file.id);
                same.then(|| {
                    self.held.insert(file.id, open);
                    Ok(())
                })
            }
            Err(error) if error.is_not_found() => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// `None`: the process vanished, or is not complete yet; it, or another one,
    /// may show the file later.
    fn learn(&mut self, probes: &mut impl Probes, library: &Library) -> Option<Known> {
        let shown = &library.libssl.path;
        // Held open: what follows does not depend on the process's life.
        for file in library.libcrypto.iter().chain([&library.libssl]) {
            if let Err(error) = self.hold(file)? {
                return Some(refused(library, error.to_string()));
            }
        }
        let mut elf = match Elf::read(self.held.get(&library.libssl.id)?, shown) {
            Ok(elf) => elf,
            Err(error) => return Some(refused(library, error.to_string())),
        };
        let root = PathBuf::from(format!("/proc/{}/root", library.pid));
        Image::look_for_names(&mut elf, shown, &[Path::new("/"), &root]);
        if !Image::may_be_openssl(&elf) {
            return Some(if elf.function("SSL_CTX_new").is_some() {
                let why = "it has SSL_CTX_new, but neither SSL_CTX_ctrl nor SSL_CTX_sess_number \
                           and its like: not OpenSSL's libssl, nor a known relative's";
                refused(library, why.to_owned())
            } else {
                Known::Other
            });
        }
        // An emulator's process maps libraries of another processor: their code is
        // data to this one, and a probe in it would damage it.
        let (theirs, ours) = (elf.processor().name(), std::env::consts::ARCH);
        if theirs != ours {
            let why = format!("its machine code is for {theirs}, and this machine is {ours}");
            return Some(refused(library, why));
        }
        let companion = MappedCompanion::of(&elf, library);
        if Image::is_openssl(&elf) && matches!(companion, MappedCompanion::Absent(_)) {
            let since = *self.loading.entry(library.pid).or_insert_with(Instant::now);
            if since.elapsed() < LOADING {
                return None;
            }
        }
        self.loading.remove(&library.pid);
        let image = companion.learn(library, &elf, self.choice);
        let disagreed = |gap: &&FieldGap| matches!(gap.reason, Gap::Contradiction { .. });
        self.contradictions += image.gaps().filter(disagreed).count() as u64;
        Some(self.observe(probes, library, image))
    }

    fn observe(&mut self, probes: &mut impl Probes, library: &Library, image: Image) -> Known {
        if let Some(number) = self.attached.get(&library.libssl.id) {
            // Known with another libcrypto: the probes that are there serve.
            let known = &self.images[number].learnt.layout;
            let same = known.num_items == image.learnt.layout.num_items;
            return if same { Known::Attached(*number) } else { Known::OtherNumber(*number) };
        }
        let Some(layout) = plan::block_layout(&image.learnt.layout) else {
            let gaps = image.learnt.gaps.iter().chain(&image.plan.gaps);
            let reasons: BTreeSet<String> = gaps.map(|gap| gap.reason.to_string()).collect();
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
        let Some(file) = self.held.get(&library.libssl.id) else {
            return refused(library, "it was closed too early".to_owned());
        };
        let number = self.next;
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        match probes.attach(number, layout, &image.plan.points, &path) {
            Ok(attached) => {
                info!(
                    library = %image.path.display(),
                    version = image.version.as_deref().unwrap_or("unknown"),
                    probes = attached,
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

    /// The image of a library that a process maps, if its probes are attached and
    /// made for that process's libcrypto too.
    #[must_use]
    pub fn image_of(&self, library: &Library) -> Option<u32> {
        let libcrypto = library.libcrypto.iter().map(|file| file.id).collect();
        match self.by_file.get(&(library.libssl.id, libcrypto))? {
            Known::Attached(image) => Some(*image),
            _ => None,
        }
    }

    /// The file of an image.
    #[must_use]
    pub fn file(&self, image: u32) -> Option<FileId> {
        self.attached.iter().find(|(_, number)| **number == image).map(|(file, _)| *file)
    }

    /// What was learnt of an image.
    #[must_use]
    pub fn image(&self, image: u32) -> Option<&Image> {
        self.images.get(&image)
    }

    /// Where the settings are in the contexts of an image.
    #[must_use]
    pub fn settings(&self, image: u32) -> SettingsLayout {
        self.images.get(&image).map(|image| image.settings.layout).unwrap_or_default()
    }

    /// Fields of the libraries that were learnt about which two witnesses disagreed.
    #[must_use]
    pub fn contradictions(&self) -> u64 {
        self.contradictions
    }

    /// What is shown of an image.
    #[must_use]
    pub fn library(&self, image: u32) -> LibrarySnapshot {
        self.images.get(&image).map_or_else(LibrarySnapshot::default, |image| LibrarySnapshot {
            path: image.path.clone(),
            build_id: image.build_id.clone(),
            version: image.version.clone(),
            family: image.family,
        })
    }

    /// Whether counters of this image change without a probe: its probes stand
    /// at function entries.
    #[must_use]
    pub fn changes_unseen(&self, image: u32) -> bool {
        let at_entries =
            |image: &Image| image.plan.points.iter().any(|p| p.kind == ProbeKind::Entry);
        self.images.get(&image).is_some_and(at_entries)
    }

    /// The images whose probes are attached.
    pub fn attached(&self) -> impl Iterator<Item = u32> {
        self.attached.values().copied()
    }
}

fn refused(library: &Library, reason: String) -> Known {
    warn!(pid = library.pid, library = %library.libssl.path.display(), reason, "not observed");
    Known::Refused(reason)
}

/// The libcrypto that a libssl of a process is linked to.
pub enum MappedCompanion {
    /// Both are in one file.
    Within,
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
        if !companion::is_elsewhere(elf) {
            return Self::Within;
        }
        let name = companion::libcrypto_name(elf).unwrap_or("libcrypto").to_owned();
        let needed = elf.needed();
        let mut found = None;
        for file in &library.libcrypto {
            match Elf::open(&file.open_at) {
                Ok(elf) => {
                    // The file can have another name: libcrypto.so.3.0.7.
                    let needed = |soname: &str| needed.iter().any(|name| name == soname);
                    if elf.soname().is_some_and(|soname| !needed(soname)) {
                        continue;
                    }
                    if found.replace(elf).is_some() {
                        let why = "the process maps two of that name".to_owned();
                        return Self::Unreadable(name, why);
                    }
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Self::Unreadable(name, error.to_string()),
            }
        }
        found.map_or(Self::Absent(name), |elf| Self::Found(Box::new(elf)))
    }

    /// Learns the libssl with it.
    #[must_use]
    pub fn learn(&self, library: &Library, elf: &Elf, choice: PlanChoice) -> Image {
        let companion = match self {
            Self::Within => Companion::Within,
            Self::Found(elf) => Companion::Found(elf),
            Self::Absent(name) => Companion::Missing(name.clone()),
            Self::Unreadable(name, why) => Companion::Unreadable(name.clone(), why.clone()),
        };
        Image::learn(library.libssl.path.clone(), elf, &companion, choice)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _};

    use super::*;

    /// Refuses whatever is to be attached: nothing is in these tests.
    struct NoKernel;

    impl Probes for NoKernel {
        fn attach(
            &mut self,
            _: u32,
            _: BlockLayout,
            _: &[ProbePoint],
            path: &Path,
        ) -> Result<usize, AttachError> {
            panic!("nothing is attached to {}", path.display())
        }
    }

    fn mapped(path: &Path) -> MappedFile {
        let id = FileId::of(&fs::metadata(path).expect("the file is there"));
        MappedFile { id, path: path.to_path_buf(), open_at: path.to_path_buf() }
    }

    /// What is learnt of a file stays, whatever becomes of its bytes and however
    /// many processes map it: it is not read again.
    #[test]
    fn a_file_is_learnt_once_for_all_processes() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("libssl.so.3");
        fs::write(&path, "no library").expect("it can be written");
        let file = mapped(&path);
        let library = |pid| Library { pid, libssl: file.clone(), libcrypto: Vec::new() };
        let mut images = Images::new(PlanChoice::Auto);
        let first = images.attach(&mut NoKernel, &[library(1)]);
        assert!(first[0].reason.contains("not a readable"), "{first:?}");

        // A readable one takes its place, in the same inode.
        let own = fs::read("/proc/self/exe").expect("this program can be read");
        File::options()
            .write(true)
            .truncate(true)
            .open(&path)
            .and_then(|mut file| file.write_all(&own))
            .expect("it can be written");
        let others: Vec<Library> = (1..=20).map(library).collect();
        let gaps = images.attach(&mut NoKernel, &others);
        assert_eq!(gaps.len(), 20);
        assert!(gaps.iter().all(|gap| gap.reason == first[0].reason), "{gaps:?}");

        // Whatever it is taken for: read anew, something else is said of it.
        let fresh = Images::new(PlanChoice::Auto).attach(&mut NoKernel, &[library(1)]);
        assert!(fresh.iter().all(|gap| gap.reason != first[0].reason), "{fresh:?}");
    }
}
