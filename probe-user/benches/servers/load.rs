//! A load generator that costs less than the server: the server is the one that has no
//! more to give. With OpenSSL's half of a full handshake it would be the other way round.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    process,
    sync::{
        Arc, Barrier, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    libc::linger,
    sched::{CpuSet, sched_setaffinity},
    sys::socket::{setsockopt, sockopt},
    unistd::Pid,
};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, StreamOwned, client::Resumption,
    pki_types::ServerName,
};

use crate::{
    connections::{FULL_13, Mode, RESUMED_12, RESUMED_13},
    trust::Everybody,
};

const MODES: [Mode; 3] = [FULL_13, RESUMED_13, RESUMED_12];

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// Threads that ask, until this is dropped.
pub(crate) struct Load {
    order: Arc<Order>,
    threads: Vec<JoinHandle<()>>,
}

/// What was made.
pub(crate) struct Made {
    pub(crate) connections: f64,
    pub(crate) seconds: f64,
    pub(crate) resumed: f64,
}

/// What they are to do, and what they did.
struct Order {
    /// They wait for it, and whoever gives orders for the end.
    begin: Barrier,
    end: Barrier,
    what: Mutex<(Mode, Instant)>,
    over: AtomicBool,
    made: AtomicU64,
    resumed: AtomicU64,
}

impl Load {
    /// To a port, so many at the same time, from all processors but the first.
    pub(crate) fn start(port: u16, at_once: usize) -> Self {
        let order = Arc::new(Order {
            begin: Barrier::new(at_once + 1),
            end: Barrier::new(at_once + 1),
            what: Mutex::new((FULL_13, Instant::now())),
            over: AtomicBool::new(false),
            made: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
        });
        let threads = (0..at_once).map(|_| {
            let order = Arc::clone(&order);
            thread::spawn(move || {
                // Who waits for it would wait for ever.
                if let Err(error) = order.obey(port) {
                    eprintln!("no answer from port {port}: {error}");
                    process::exit(1);
                }
            })
        });
        Self { threads: threads.collect(), order }
    }

    /// Makes connections for a time.
    pub(crate) fn make_for(&self, mode: Mode, milliseconds: u64) -> Made {
        let order = &self.order;
        let start = Instant::now();
        let until = start + Duration::from_millis(milliseconds);
        *order.what.lock().unwrap_or_else(PoisonError::into_inner) = (mode, until);
        order.begin.wait();
        order.end.wait();
        let [connections, resumed] =
            [&order.made, &order.resumed].map(|count| count.swap(0, Ordering::Relaxed) as f64);
        Made { connections, seconds: start.elapsed().as_secs_f64(), resumed }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.order.over.store(true, Ordering::Relaxed);
        self.order.begin.wait();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Order {
    /// What each thread does.
    fn obey(&self, port: u16) -> io::Result<()> {
        keep_off_the_first_processor();
        // Each has its own sessions.
        let configurations = MODES.map(|mode| (mode, configuration(mode)));
        loop {
            self.begin.wait();
            if self.over.load(Ordering::Relaxed) {
                return Ok(());
            }
            let (mode, until) = *self.what.lock().unwrap_or_else(PoisonError::into_inner);
            let of_mode = configurations.iter().find(|(known, _)| *known == mode);
            let (_, configuration) = of_mode.expect("it is one of these");
            while Instant::now() < until {
                let resumed = ask(port, configuration)?;
                self.made.fetch_add(1, Ordering::Relaxed);
                self.resumed.fetch_add(u64::from(resumed), Ordering::Relaxed);
            }
            self.end.wait();
        }
    }
}

fn keep_off_the_first_processor() {
    let count = thread::available_parallelism().map_or(1, usize::from);
    let mut others = CpuSet::new();
    for processor in 1..count.min(CpuSet::count()) {
        others.set(processor).expect("there are as many");
    }
    if count > 1 {
        sched_setaffinity(Pid::from_raw(0), &others).expect("it may");
    }
}

fn configuration(mode: Mode) -> Arc<ClientConfig> {
    let version =
        if mode.version == "1.3" { &rustls::version::TLS13 } else { &rustls::version::TLS12 };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut configuration = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("the provider has it")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Everybody))
        .with_no_client_auth();
    if !mode.resumed {
        configuration.resumption = Resumption::disabled();
    }
    Arc::new(configuration)
}

/// One connection, from the first packet to the last. Says whether it was resumed.
fn ask(port: u16, configuration: &Arc<ClientConfig>) -> io::Result<bool> {
    let socket = TcpStream::connect(("127.0.0.1", port))?;
    // The request does not wait until the server has acknowledged the handshake.
    socket.set_nodelay(true)?;
    // No port waits for what may still come: there are not enough of them.
    setsockopt(&socket, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 })?;
    let name = ServerName::try_from("localhost").expect("it is one");
    let connection =
        ClientConnection::new(Arc::clone(configuration), name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, socket);
    stream.write_all(REQUEST)?;
    let mut answer = Vec::with_capacity(512);
    match stream.read_to_end(&mut answer) {
        // Many servers end without saying so.
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        _ if answer.is_empty() => Err(io::Error::other("it is empty")),
        _ => Ok(stream.conn.handshake_kind() == Some(HandshakeKind::Resumed)),
    }
}
