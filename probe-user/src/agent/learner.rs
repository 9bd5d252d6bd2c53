//! Learns libraries on threads of its own: a large program takes a third of a
//! second, and what other processes do meanwhile must not wait for it.

use std::{
    fs::File,
    os::fd::AsRawFd as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::companion::{MappedCompanion, look_for_names};
use crate::{
    host::Library,
    image::{Elf, Image, PlanOptions},
};

/// Threads at most. Each may have a large program in memory.
const THREADS: usize = 4;

/// What is said of a file that should have been refused for a better reason.
const BUG: &str = "it cannot be learnt, since sslsess has a bug: please report it, with the file";

/// What is to be learnt.
pub(super) struct Task<K> {
    /// Whoever asks knows by this what the answer is to.
    pub(super) key: K,
    /// The libssl, and the libcryptos with it.
    pub(super) library: Library,
    /// The open files of the library: first its libcryptos, in their order.
    pub(super) files: Vec<File>,
    /// Where probes are to be put.
    pub(super) plan: PlanOptions,
    /// Whether the libcrypto, if it is not there, is not to come any more.
    pub(super) complete: bool,
}

/// What came of a task.
pub(super) enum Outcome {
    /// Not a libssl of OpenSSL's kind.
    Other,
    /// It cannot be observed.
    Refused(String),
    /// The libcrypto that it needs is not mapped yet.
    Incomplete,
    /// Learnt.
    Image(Box<Image>),
}

/// An answer.
pub(super) struct Lesson<K> {
    pub(super) key: K,
    pub(super) library: Library,
    pub(super) outcome: Outcome,
}

/// The threads.
pub(super) struct Learner<K> {
    tasks: mpsc::Sender<Task<K>>,
    lessons: UnboundedReceiver<Lesson<K>>,
}

impl<K: Send + 'static> Learner<K> {
    /// Starts the threads; they end with this.
    pub(super) fn start() -> Self {
        let (tasks, inbox) = mpsc::channel();
        let (outbox, lessons) = unbounded_channel();
        let inbox = Arc::new(Mutex::new(inbox));
        let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS);
        for _ in 0..threads {
            let (inbox, outbox) = (Arc::clone(&inbox), outbox.clone());
            thread::spawn(move || work(&inbox, &outbox));
        }
        Self { tasks, lessons }
    }

    /// Gives a task.
    pub(super) fn give(&self, task: Task<K>) {
        // Fails only if all threads have panicked; then nothing is learnt.
        let _ = self.tasks.send(task);
    }

    /// Waits for an answer; `None`: there will be none.
    pub(super) async fn next(&mut self) -> Option<Lesson<K>> {
        self.lessons.recv().await
    }

    /// As [`Self::next`], outside of a runtime.
    pub(super) fn wait(&mut self) -> Option<Lesson<K>> {
        self.lessons.blocking_recv()
    }
}

fn work<K>(inbox: &Mutex<mpsc::Receiver<Task<K>>>, outbox: &UnboundedSender<Lesson<K>>) {
    loop {
        // Whoever has the lock waits for the next task.
        let task = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(task) = task else { return };
        // Whoever asked must hear something, or it waits for ever.
        let outcome = catch_unwind(AssertUnwindSafe(|| learn(&task)))
            .unwrap_or_else(|_| Outcome::Refused(BUG.to_owned()));
        let lesson = Lesson { key: task.key, library: task.library, outcome };
        if outbox.send(lesson).is_err() {
            return;
        }
    }
}

fn learn<K>(task: &Task<K>) -> Outcome {
    let Some((libssl, libcrypto)) = task.files.split_last() else { return Outcome::Other };
    // Through the open files: the process may be gone by now.
    let mut library = task.library.clone();
    for (mapped, file) in library.libcrypto.iter_mut().zip(libcrypto) {
        mapped.open_at = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    }
    let mut elf = match Elf::read(libssl, &library.libssl.path) {
        Ok(elf) => elf,
        Err(error) => return Outcome::Refused(error.to_string()),
    };
    look_for_names(&mut elf, &library);
    if !Image::may_be_openssl(&elf) {
        return if elf.function("SSL_CTX_new").is_some() {
            let why = "it has SSL_CTX_new, but neither SSL_CTX_ctrl nor SSL_CTX_sess_number and \
                       its like: not OpenSSL's libssl, nor a known relative's";
            Outcome::Refused(why.to_owned())
        } else {
            Outcome::Other
        };
    }
    // An emulator's process maps libraries of another processor: their code is
    // data to this one, and a probe in it would damage it.
    let (theirs, ours) = (elf.processor().name(), std::env::consts::ARCH);
    if theirs != ours {
        let why = format!("its machine code is for {theirs}, and this machine is {ours}");
        return Outcome::Refused(why);
    }
    let companion = MappedCompanion::of(&elf, &library);
    let absent = matches!(companion, MappedCompanion::Absent(_));
    if absent && !task.complete && Image::is_openssl(&elf) {
        return Outcome::Incomplete;
    }
    Outcome::Image(Box::new(companion.learn(&library, &elf, task.plan)))
}
