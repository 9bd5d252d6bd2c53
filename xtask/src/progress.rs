//! Runs commands that take long, and says so.

use std::{
    fs::{self, File},
    io::{IsTerminal as _, Write as _, stderr},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

/// Lines of a failed command's output that are shown.
const TAIL: usize = 40;

/// Runs a command with a line that says what it is for and how long it has
/// taken; its output goes to a file, and is shown if it fails.
pub(crate) fn step(label: &str, command: &mut Command) -> anyhow::Result<()> {
    let log = crate::target().join("xtask").join(format!("{}.log", slug(label)));
    fs::create_dir_all(log.parent().context("a log has a directory")?)?;
    let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let started = Instant::now();
    let live = stderr().is_terminal();
    if !live {
        eprintln!("==> {label} ...");
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if live {
            eprint!("\r==> {label} ... {}s", started.elapsed().as_secs());
            let _ = stderr().flush();
        }
        thread::sleep(Duration::from_millis(if live { 200 } else { 20 }));
    };
    let seconds = started.elapsed().as_secs_f32();
    if live {
        eprint!("\r\x1b[K");
    }
    if status.success() {
        eprintln!("==> {label}: {seconds:.1}s");
        return Ok(());
    }
    let text = fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(TAIL)..] {
        eprintln!("    {line}");
    }
    bail!("{label}: failed ({status}); all of its output is in {}", log.display())
}

fn slug(label: &str) -> String {
    label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}
