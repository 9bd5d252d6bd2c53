//! How many hits a connection causes, in programs as people run them.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use sslsess::{
    image::plan,
    kernel::{Kernel, LoadOptions},
};

use crate::{
    compile::compile,
    connections::{Connections, FULL_12, FULL_13, Mode, RESUMED_12, RESUMED_13},
    copies::Copies,
    libraries::learn,
    report::{Figure, figure},
    server::{Certificate, Kind, Server},
    tally::Tally,
};

const MODES: [Mode; 4] = [FULL_13, RESUMED_13, FULL_12, RESUMED_12];

/// Connections to a server that are counted, and those before, which make it known.
const CONNECTIONS: u64 = 200;
const BEFORE: u64 = 20;

/// How many connections a client makes, and how many the one that it is compared with:
/// what it does once is in both.
const MANY: u64 = 60;
const FEW: u64 = 10;

/// The number by which the kernel half knows Node; the copies have the first two.
const NODE: u32 = 3;

#[derive(Clone, Copy)]
enum Client<'n> {
    Python,
    Curl,
    Node(&'n Path),
}

pub(crate) fn measure(directory: &Path, node: Option<&Path>) {
    let client = compile(directory, "connections", &["ssl", "crypto"]);
    let certificate = Certificate::make(directory);
    let copies = Copies::make(directory);
    let mut kernel = Kernel::load(LoadOptions::default()).expect("it works here");
    copies.attach(&mut kernel, 0);
    if let Some(node) = node {
        attach(&mut kernel, node);
    } else {
        println!("without Node");
    }
    let mut programs = Programs { kernel, tally: Tally::default(), library: &copies.paths[0] };
    println!("hits of all probes that a connection causes in a program");
    let servers = [
        (Kind::Nginx, "nginx, tickets"),
        (Kind::NginxCache, "nginx, shared cache"),
        (Kind::HaProxy, "HAProxy"),
        (Kind::Python, "Python, server"),
        (Kind::Node, "Node, server"),
    ];
    for (kind, what) in servers {
        let program = match kind {
            Kind::Node if node.is_none() => continue,
            Kind::Node => node,
            _ => None,
        };
        let environment = [("LD_PRELOAD", programs.library)];
        let server = Server::start(directory, &certificate, kind, program, &environment);
        let mut client = Connections::start(&client, server.port);
        for mode in MODES {
            programs.of_server(&server, &mut client, mode, what);
        }
    }
    // curl wants no tickets of TLS 1.2.
    let server = Server::start(directory, &certificate, Kind::NginxCache, None, &[]);
    for (client, what) in [(Client::Python, "Python, client"), (Client::Curl, "curl")]
        .into_iter()
        .chain(node.map(|node| (Client::Node(node), "Node, client")))
    {
        for mode in MODES {
            programs.of_client(&server, client, mode, what);
        }
    }
}

/// Attaches the probes to an executable that has OpenSSL in it.
fn attach(kernel: &mut Kernel, executable: &Path) {
    let image = learn(executable).expect("it can be learnt");
    let layout = plan::block_layout(&image.learnt.layout).expect("it is known");
    kernel.attach(NODE, layout, &image.plan, executable).expect("they can be attached");
}

struct Programs<'c> {
    kernel: Kernel,
    tally: Tally,
    /// What programs load in place of the system's libssl.
    library: &'c Path,
}

impl Programs<'_> {
    fn of_server(&mut self, server: &Server, client: &mut Connections, mode: Mode, what: &str) {
        client.make(mode, BEFORE);
        let before = self.tally.hits(&mut self.kernel, server.pid);
        let resumed = client.make(mode, CONNECTIONS);
        let after = self.tally.hits(&mut self.kernel, server.pid);
        let connections = CONNECTIONS as f64;
        if resumed == if mode.resumed { connections } else { 0.0 } {
            say(what, mode, (after - before) as f64 / connections);
        } else {
            println!("{what}: {resumed} of {connections}: {}", mode.what);
        }
    }

    fn of_client(&mut self, server: &Server, client: Client<'_>, mode: Mode, what: &str) {
        let few = self.run(server, client, mode, FEW);
        let many = self.run(server, client, mode, MANY);
        let connections = MANY - FEW;
        let resumed = if mode.resumed { connections } else { 0 };
        if many.resumed - few.resumed == resumed {
            say(what, mode, (many.hits as f64 - few.hits as f64) / connections as f64);
        } else {
            println!("{what}: {} of {connections}: {}", many.resumed - few.resumed, mode.what);
        }
    }

    /// Runs a client to its end.
    fn run(&mut self, server: &Server, client: Client<'_>, mode: Mode, count: u64) -> Ran {
        let child = command(client, server.port, mode, count)
            .env("LD_PRELOAD", self.library)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let pid = child.id();
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{:?}", output.status);
        assert_eq!(output.stdout.len() as u64, count, "an answer over each connection");
        let resumed = output.stdout.iter().filter(|answer| **answer == b'r').count() as u64;
        Ran { resumed, hits: self.tally.hits(&mut self.kernel, pid) }
    }
}

/// What a client did.
struct Ran {
    /// How many of its connections were, as the server says.
    resumed: u64,
    hits: u64,
}

fn command(client: Client<'_>, port: u16, mode: Mode, count: u64) -> Command {
    let script = |program: &Path, name: &str| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/programs").join(name);
        let mut command = Command::new(program);
        let resume = u8::from(mode.resumed).to_string();
        command.arg(script).arg(port.to_string()).arg(mode.version).arg(resume);
        command.arg(count.to_string());
        command
    };
    match client {
        Client::Python => script(Path::new("/usr/bin/python3"), "client.py"),
        Client::Node(node) => script(node, "client.js"),
        Client::Curl => {
            let mut command = Command::new("/usr/bin/curl");
            let version = mode.version;
            command.args(["--silent", "--insecure", "--header", "Connection: close"]);
            command.arg(format!("--tlsv{version}")).args(["--tls-max", version]);
            command.args((!mode.resumed).then_some("--no-sessionid"));
            command.args((0..count).map(|_| format!("https://127.0.0.1:{port}/")));
            command
        }
    }
}

fn say(what: &str, mode: Mode, hits: f64) {
    figure(&Figure {
        section: "connection",
        name: &format!("{what}, {}", mode.what),
        unit: "hits",
        value: hits,
        spread: None,
        limit: None,
    });
}
