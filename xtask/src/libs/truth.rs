//! The truth about what was built here, by the compiler that built it.

use std::{collections::BTreeMap, fs, process::Command};

use anyhow::{Context as _, bail};

use super::tree::Tree;

const OFFSETS: &str = include_str!("offsets.c");

/// Offsets in bytes, by name.
pub(super) type Offsets = BTreeMap<String, u64>;

/// Offsets that the sources say: of the layout, and of the settings.
pub(super) fn of(tree: &Tree) -> anyhow::Result<(Offsets, Offsets)> {
    fs::write(tree.path.join("offsets.c"), OFFSETS)?;
    // To assembly, also where the flags ask for something intermediate.
    let command = format!(
        "{} -I{} -fno-lto -S -o - offsets.c",
        tree.compile_command()?,
        tree.sources.display()
    );
    let output = Command::new("sh").current_dir(&tree.path).args(["-c", &command]).output()?;
    if !output.status.success() {
        bail!("{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let (layout, settings) = parse(&String::from_utf8(output.stdout)?)?;
    if layout.is_empty() || settings.is_empty() {
        bail!("{command}: says nothing");
    }
    Ok((layout, settings))
}

/// Reads lines of `@layout NAME OFFSET` and `@setting NAME OFFSET`.
pub(super) fn parse(text: &str) -> anyhow::Result<(Offsets, Offsets)> {
    let mut layout = Offsets::new();
    let mut settings = Offsets::new();
    for line in text.lines().filter_map(|line| line.trim().strip_prefix('@')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (into, name, offset) = match words[..] {
            ["layout", name, offset] => (&mut layout, name, offset),
            ["setting", name, offset] => (&mut settings, name, offset),
            _ => continue,
        };
        let offset = offset.parse().with_context(|| format!("`{line}` has no offset"))?;
        into.insert(name.to_owned(), offset);
    }
    Ok((layout, settings))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn lines_among_assembly_are_read() -> anyhow::Result<()> {
        let text =
            "\t.text\n#APP\n\n@layout connect 120\n#NO_APP\n\t@setting options 312\n@object\n";
        let (layout, settings) = parse(text)?;
        assert_eq!(layout.into_iter().collect::<Vec<_>>(), [("connect".to_owned(), 120)]);
        assert_eq!(settings.into_iter().collect::<Vec<_>>(), [("options".to_owned(), 312)]);
        assert!(parse("@layout connect here").is_err());
        Ok(())
    }
}
