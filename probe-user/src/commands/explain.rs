//! `sslsess explain`: what was learnt of a library, with its evidence.

use std::path::Path;

use anyhow::Context as _;

use super::{print, print_json};
use crate::{
    agent::companion::{MappedCompanion, look_for_names},
    cli::ExplainArgs,
    export::explain::Explanation,
    host::{Discovery, Library},
    image::{Companion, Elf, Image, companion},
};

pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<()> {
    match (&args.file, args.pid) {
        (Some(file), _) => {
            let explanation = of_file(file, args)?;
            if args.json { print_json(&explanation) } else { print(&explanation.to_string()) }
        }
        (None, Some(pid)) => {
            let explanations = of_process(pid, args)?;
            if args.json {
                return print_json(&explanations);
            }
            explanations.iter().try_for_each(|explanation| print(&explanation.to_string()))
        }
        // The group of arguments is required.
        (None, None) => Ok(()),
    }
}

fn of_file(file: &Path, args: &ExplainArgs) -> anyhow::Result<Explanation> {
    let mut elf = Elf::open(file)?;
    Image::look_for_names(&mut elf, file, &[Path::new("/")]);
    anyhow::ensure!(
        Image::may_be_openssl(&elf),
        "{} does not define SSL_CTX_new, SSL_CTX_free and SSL_CTX_ctrl, or SSL_CTX_sess_number \
         and its like, and has no name of OpenSSL's source files: it is no libssl of OpenSSL or \
         a relative",
        file.display()
    );
    let name = companion::libcrypto_name(&elf).unwrap_or("libcrypto").to_owned();
    let libcrypto = companion::find_beside(file, &name);
    let companion = match &libcrypto {
        _ if !companion::is_elsewhere(&elf) => Companion::Within,
        Some(Ok(elf)) => Companion::Found(elf),
        Some(Err(error)) => Companion::Unreadable(name, error.to_string()),
        None => Companion::Missing(name),
    };
    Ok(Explanation::of(&Image::learn(file.to_path_buf(), &elf, &companion, args.plan.options())))
}

fn of_process(pid: u32, args: &ExplainArgs) -> anyhow::Result<Vec<Explanation>> {
    anyhow::ensure!(Path::new(&format!("/proc/{pid}")).exists(), "there is no process {pid}");
    let news = Discovery::default().look_again([pid]);
    if let Some(gap) = news.looks.iter().flat_map(|look| &look.gaps).next() {
        anyhow::bail!("{}: {}; are you root?", gap.library.display(), gap.reason);
    }
    let libraries: Vec<&Library> = news.looks.iter().flat_map(|look| &look.libraries).collect();
    anyhow::ensure!(
        !libraries.is_empty(),
        "process {pid} maps no libssl, and no file with OpenSSL in it"
    );
    libraries
        .into_iter()
        .map(|library| {
            let shown = &library.libssl.path;
            let mut elf = Elf::open(&library.libssl.open_at)
                .with_context(|| format!("process {pid}, {}", shown.display()))?;
            look_for_names(&mut elf, library);
            let companion = MappedCompanion::of(&elf, library);
            let image = companion.learn(library, &elf, args.plan.options());
            Ok(Explanation::of(&image))
        })
        .collect()
}
