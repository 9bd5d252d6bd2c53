//! A probe in the agent itself: does all of it work here, from the uprobe to
//! the map?

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use probe_common::{Action, BlockLayout, ContextKey, NO_FIELD, OPENSSL_ORDER};

use crate::{
    image::{Class, ProbeKind, ProbePoint, point::Argument},
    kernel::{Kernel, LoadOptions},
};

/// An instruction that the kernel emulates, and the argument in `%rdi`.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
extern "C" fn probed(_context: *const i32) {
    core::arch::naked_asm!("nop", "ret")
}

/// Puts a probe into this process, lets it fire, and compares what it saw.
///
/// # Errors
///
/// With what does not work.
pub fn run() -> anyhow::Result<()> {
    let mut kernel = Kernel::load(LoadOptions { max_contexts: 16, ..LoadOptions::default() })?;
    let address = probed as *const () as u64;
    let (path, file_offset) = in_file(address).context("cannot find the program's own file")?;
    let point = ProbePoint {
        kind: ProbeKind::Entry,
        function: "selftest".to_owned(),
        address,
        file_offset,
        instruction: "nop".to_owned(),
        class: Class::Nop,
        argument: Argument { register: 7, dereference: None, creates: true },
        action: Action::Mirror,
        follows: None,
        moment: None,
    };
    let layout = BlockLayout {
        counters: 0,
        references: 44,
        sessions: NO_FIELD,
        num_items: NO_FIELD,
        order: OPENSSL_ORDER,
        count: 11,
    };
    kernel.attach(1, layout, &vec![point].into(), &path)?;
    let context: [i32; 12] = core::array::from_fn(|i| i as i32 + 1);
    probed(context.as_ptr());
    let tgid = std::process::id();
    let key = ContextKey { tgid, pad: 0, address: context.as_ptr() as u64 };
    let record = kernel.context(&key)?;
    kernel.detach_all();
    let record = record.with_context(|| {
        format!("a probe in this process (pid {tgid}) did not report it: are pids translated here?")
    })?;
    anyhow::ensure!(
        record.block.counters == context[..11] && record.block.references == context[11],
        "a probe reported other values than are in memory"
    );
    Ok(())
}

/// The file that is mapped at an address of this process, and the place in it.
fn in_file(address: u64) -> anyhow::Result<(PathBuf, u64)> {
    let maps = procfs::process::Process::myself()?.maps()?;
    let map = maps
        .iter()
        .find(|map| (map.address.0..map.address.1).contains(&address))
        .context("the code is not mapped")?;
    Ok((fs::read_link("/proc/self/exe")?, address - map.address.0 + map.offset))
}
