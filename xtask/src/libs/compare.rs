//! What sslsess learns of a library, against the truth.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::Context as _;
use serde::Deserialize;

use super::library::{Library, Place};

/// What `sslsess explain --json` says, as far as it is compared.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Explanation {
    pub(super) version: Option<String>,
    /// `OpenSSL`, or a relative, which has other increments.
    #[serde(default)]
    pub(super) family: Option<String>,
    #[serde(default)]
    pub(super) layout: BTreeMap<String, Option<u64>>,
    #[serde(default)]
    pub(super) settings: BTreeMap<String, Option<Place>>,
    #[serde(default)]
    pub(super) probes: Vec<Probe>,
    #[serde(default)]
    pub(super) gaps: Vec<Gap>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Probe {
    pub(super) kind: String,
}

/// Something that is not known, and why.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) field: String,
    pub(super) reason: String,
}

/// Something that is wrong.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) field: String,
    pub(super) learnt: String,
    pub(super) truth: String,
}

/// A library that was compared.
#[derive(Debug)]
pub(super) struct Compared {
    pub(super) library: Library,
    pub(super) explanation: Explanation,
    pub(super) differences: Vec<Difference>,
}

/// Lets sslsess learn the library in a directory, and compares.
pub(super) fn compare(agent: &Path, directory: &Path) -> anyhow::Result<Compared> {
    let library = Library::read(directory)
        .with_context(|| format!("{} has no library.json", directory.display()))?;
    let file = directory.join(&library.file);
    let output = Command::new(agent)
        .args(["explain", "--json", "--probe-points", "all"])
        .arg(&file)
        .output()
        .with_context(|| format!("cannot run {}", agent.display()))?;
    let explanation = if output.status.success() {
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("what is said of {} is no explanation", file.display()))?
    } else {
        // Of a file that it does not take for OpenSSL it says nothing else.
        let text = String::from_utf8_lossy(&output.stderr);
        let reason = text.trim().rsplit_once(": ").map_or(text.trim(), |(_, reason)| reason);
        let gap = Gap { field: "file".to_owned(), reason: reason.to_owned() };
        Explanation { gaps: vec![gap], ..Explanation::default() }
    };
    let differences = differences(&library, &explanation);
    Ok(Compared { library, explanation, differences })
}

/// What is learnt and not true. What is not learnt is no difference, if a gap
/// says so.
fn differences(library: &Library, explanation: &Explanation) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut differs = |field: &str, learnt: String, truth: String| {
        differences.push(Difference { field: field.to_owned(), learnt, truth });
    };
    if let (Some(truth), Some(learnt)) = (&library.version, &explanation.version)
        && truth != learnt
    {
        differs("version", learnt.clone(), truth.clone());
    }
    let has_gap =
        |field: &str| explanation.gaps.iter().any(|gap| gap.field == field || gap.field == "file");
    for (field, &truth) in &library.truth {
        match explanation.layout.get(field).copied().flatten() {
            Some(learnt) if learnt != truth => {
                differs(field, format!("{learnt:#x}"), format!("{truth:#x}"));
            }
            None if !has_gap(field) => {
                differs(field, "nothing, and no gap".to_owned(), format!("{truth:#x}"));
            }
            Some(_) | None => (),
        }
    }
    for (setting, truth) in &library.settings {
        let Some(learnt) = explanation.settings.get(setting).copied().flatten() else {
            continue;
        };
        let same = |truth: Option<u64>, learnt: Option<u64>| truth.is_none() || truth == learnt;
        if learnt.offset != truth.offset
            || !same(truth.width, learnt.width)
            || !same(truth.divisor, learnt.divisor)
        {
            differs(setting, format!("{learnt:?}"), format!("{truth:?}"));
        }
    }
    differences
}

impl Compared {
    /// The settings of which sslsess knows where they are.
    pub(super) fn known_settings(&self) -> usize {
        self.explanation.settings.values().flatten().count()
    }

    /// Whether it counts as OpenSSL's sources do, in fifteen places.
    pub(super) fn is_openssl(&self) -> bool {
        self.explanation.family.as_deref().is_none_or(|family| family == "OpenSSL")
    }

    /// How many probes there are of a kind.
    pub(super) fn probes(&self, kind: &str) -> usize {
        self.explanation.probes.iter().filter(|probe| probe.kind == kind).count()
    }
}

#[cfg(test)]
mod tests {
    use super::{Explanation, Library, Place, differences};
    use crate::libs::library::Source;

    fn library() -> Library {
        let timeout = Place { offset: 88, width: Some(8), divisor: Some(1) };
        Library {
            name: "some".to_owned(),
            version: Some("3.5.5".to_owned()),
            compiler: None,
            flags: String::new(),
            arch: "x86_64".to_owned(),
            file: "libssl.so.3".into(),
            how: Source::Offsetof,
            truth: [("accept".to_owned(), 0x84), ("hits".to_owned(), 0x9c)].into(),
            settings: [("timeout".to_owned(), timeout)].into(),
        }
    }

    fn fields(explanation: &str) -> anyhow::Result<Vec<String>> {
        let explanation: Explanation = serde_json::from_str(explanation)?;
        let differences = differences(&library(), &explanation);
        Ok(differences.into_iter().map(|difference| difference.field).collect())
    }

    #[test]
    fn what_is_wrong_or_silently_absent_differs() -> anyhow::Result<()> {
        let right = r#"{"version": "3.5.5", "layout": {"accept": 132, "hits": 156},
            "settings": {"timeout": {"offset": 88, "width": 8, "divisor": 1}}}"#;
        assert!(fields(right)?.is_empty());
        let gap = r#"{"version": null, "layout": {"accept": null, "hits": 156},
            "settings": {"timeout": null}, "gaps": [{"field": "accept", "reason": "x"}]}"#;
        assert!(fields(gap)?.is_empty());
        let wrong = r#"{"version": "3.5.4", "layout": {"accept": 136, "hits": null},
            "settings": {"timeout": {"offset": 88, "width": 8, "divisor": 1000}}}"#;
        assert_eq!(fields(wrong)?, ["version", "accept", "hits", "timeout"]);
        Ok(())
    }
}
