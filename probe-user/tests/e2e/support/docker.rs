//! A real Docker of one's own, which leaves nothing.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use super::{eventually, oracle::Oracle, root::PROGRAM, run, spawn, tls::Certificates};

/// Debian's: there may be another client in front of it.
const CLIENT: &str = "/usr/bin/docker";

pub(crate) struct Docker {
    daemon: Child,
    directory: TempDir,
}

/// A container that runs.
pub(crate) struct Container {
    pub(crate) oracle: Oracle,
    /// As `docker ps --no-trunc` says it.
    pub(crate) id: String,
    /// The pid of its first process, outside.
    pub(crate) pid: u32,
}

impl Docker {
    /// Starts a daemon without networks; it answers when this returns.
    ///
    /// It mounts in a namespace of its own: no mount outlives it.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory for Docker");
        let path = directory.path().to_owned();
        let at = |name: &str| path.join(name).display().to_string();
        // Not the host's.
        fs::write(at("daemon.json"), "{}").expect("it is ours");
        let log = File::create(at("log")).expect("it is ours");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "dockerd"]);
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
        command.args(["--data-root", &at("data"), "--exec-root", &at("exec")]);
        command.args(["--pidfile", &at("pid"), "--config-file", &at("daemon.json")]);
        command.args(["--host", &format!("unix://{}", at("socket"))]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut docker = Self { daemon: spawn(command), directory };
        eventually("Docker answers", || {
            let ended = docker.daemon.try_wait().expect("it is our child");
            let log = || fs::read_to_string(at("log")).unwrap_or_default();
            assert!(ended.is_none(), "dockerd has ended: {ended:?}\n{}", log());
            docker.client().arg("info").output().is_ok_and(|o| o.status.success()).then_some(())
        });
        docker
    }

    /// The client, talking to this daemon.
    pub(crate) fn client(&self) -> Command {
        let mut command = Command::new(CLIENT);
        let socket = self.directory.path().join("socket");
        command.arg("--host").arg(format!("unix://{}", socket.display()));
        command.env("DOCKER_CONFIG", self.directory.path());
        command
    }

    /// Makes an image of a root.
    pub(crate) fn import(&self, root: &Path, image: &str) {
        let archive = self.directory.path().join("image.tar");
        run(Command::new("tar").arg("-C").arg(root).arg("-cf").arg(&archive).arg("."));
        run(self.client().arg("import").arg(&archive).arg(image));
    }

    /// Starts the program of a `Root` in a container of an image of it.
    pub(crate) fn run(&self, image: &str, name: &str) -> Container {
        let certificates = Certificates::get();
        let mut command = self.client();
        command.args(["run", "--interactive", "--network=none", "--name", name]);
        for (variable, path) in
            [("CERTIFICATE", &certificates.certificate), ("KEY", &certificates.key)]
        {
            command.arg("--env").arg(format!("{variable}={}", path.display()));
        }
        command.args([image, PROGRAM]);
        let oracle = Oracle::start_command(command);
        // The program may answer before Docker says that it runs.
        let of_name = format!("name=^/{name}$");
        let id = eventually("Docker lists the container", || {
            let id = self.ask(&["ps", "--no-trunc", "--quiet", "--filter", &of_name]);
            (!id.is_empty()).then_some(id)
        });
        let pid = eventually("Docker knows the container's pid", || {
            let pid = self.ask(&["inspect", "--format", "{{.State.Pid}}", name]);
            pid.parse().ok().filter(|pid| *pid != 0)
        });
        Container { oracle, id, pid }
    }

    fn ask(&self, args: &[&str]) -> String {
        run(self.client().args(args)).trim().to_owned()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // A test may have failed because nothing answers: no step relies on another.
        if let Ok(listed) = self.client().args(["ps", "--all", "--quiet"]).output() {
            let containers = String::from_utf8_lossy(&listed.stdout).into_owned();
            let containers: Vec<&str> = containers.split_whitespace().collect();
            if !containers.is_empty() {
                let _ = self.client().args(["rm", "--force"]).args(&containers).output();
            }
        }
        let _ = kill(Pid::from_raw(self.daemon.id().cast_signed()), Signal::SIGTERM);
        let _ = self.daemon.wait();
    }
}
