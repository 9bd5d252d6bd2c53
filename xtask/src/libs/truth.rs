//! The truth about what was built here, by the compiler that built it.

use std::{collections::BTreeMap, fs, process::Command};

use anyhow::{Context as _, bail};

use super::{library::Place, tree::Tree};

const OFFSETS: &str = include_str!("offsets.c");

/// What is true of a library, by the names of fields and settings in `explain --json`.
#[derive(Debug, Default)]
pub(super) struct Truth {
    /// Offsets in bytes.
    pub(super) layout: BTreeMap<String, u64>,
    pub(super) settings: BTreeMap<String, Place>,
}

/// What the sources say.
pub(super) fn of(tree: &Tree) -> anyhow::Result<Truth> {
    fs::write(tree.path.join("offsets.c"), OFFSETS)?;
    let compiler = tree.compile_command()?;
    // Clang would assemble what is meant for our eyes.
    let as_text = if compiler.contains("clang") { "-fno-integrated-as" } else { "" };
    // To assembly, also where the flags ask for something intermediate.
    let command =
        format!("{compiler} {as_text} -I{} -fno-lto -S -o - offsets.c", tree.sources.display());
    let output = Command::new("sh").current_dir(&tree.path).args(["-c", &command]).output()?;
    if !output.status.success() {
        bail!("{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let truth = Truth::parse(&String::from_utf8(output.stdout)?)?;
    if truth.layout.is_empty() || truth.settings.is_empty() {
        bail!("{command}: says nothing");
    }
    Ok(truth)
}

impl Truth {
    /// Reads lines of `@layout NAME OFFSET` and `@setting NAME OFFSET WIDTH
    /// DIVISOR`, of which the last two may be missing.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let mut truth = Self::default();
        for line in text.lines().filter_map(|line| line.trim().strip_prefix('@')) {
            let mut words = line.split_whitespace();
            let kind = words.next();
            if !matches!(kind, Some("layout" | "setting")) {
                continue;
            }
            let name = words.next().with_context(|| format!("`{line}` has no name"))?.to_owned();
            let numbers: Vec<u64> = words
                .map(str::parse)
                .collect::<Result<_, _>>()
                .with_context(|| format!("`{line}` has no offset"))?;
            let offset = *numbers.first().with_context(|| format!("`{line}` has no offset"))?;
            if kind == Some("layout") {
                truth.layout.insert(name, offset);
            } else {
                let (width, divisor) = (numbers.get(1).copied(), numbers.get(2).copied());
                truth.settings.insert(name, Place { offset, width, divisor });
            }
        }
        Ok(truth)
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, Truth};

    #[test]
    fn lines_among_assembly_are_read() -> anyhow::Result<()> {
        let text = "\t.text\n#APP\n\n@layout connect 120\n#NO_APP\n\t@setting timeout 88 8 1000\n\
                    \t.type x, @object\n@setting options 312\n";
        let truth = Truth::parse(text)?;
        let layout: Vec<_> = truth.layout.into_iter().collect();
        assert_eq!(layout, [("connect".to_owned(), 120)]);
        let settings: Vec<_> = truth.settings.into_iter().collect();
        let timeout = Place { offset: 88, width: Some(8), divisor: Some(1000) };
        let options = Place { offset: 312, width: None, divisor: None };
        assert_eq!(settings, [("options".to_owned(), options), ("timeout".to_owned(), timeout)]);
        assert!(Truth::parse("@layout connect here").is_err());
        assert!(Truth::parse("@layout connect").is_err());
        Ok(())
    }
}
