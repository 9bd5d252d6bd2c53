//! One change to one file.

/// Which of the two files is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Library,
    Companion,
}

/// Bytes that are put in place of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    /// Offset in the file.
    pub(crate) at: usize,
    pub(crate) bytes: Vec<u8>,
}

impl Edit {
    pub(crate) fn new(at: usize, bytes: impl Into<Vec<u8>>) -> Self {
        Self { at, bytes: bytes.into() }
    }
}

/// A file that is like another one, but for this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mutant {
    /// The kind of change.
    pub(crate) kind: &'static str,
    pub(crate) target: Target,
    /// What was changed, for people.
    pub(crate) what: String,
    pub(crate) edits: Vec<Edit>,
    /// The file ends here.
    pub(crate) end: Option<usize>,
}

/// A change before it is known of which file.
pub(crate) struct Change {
    pub(crate) what: String,
    pub(crate) edits: Vec<Edit>,
    pub(crate) end: Option<usize>,
}

impl Change {
    pub(crate) fn new(what: String, edits: Vec<Edit>) -> Self {
        Self { what, edits, end: None }
    }

    /// Whether the file is another one with it.
    pub(crate) fn changes(&self, data: &[u8]) -> bool {
        let end = self.end.unwrap_or(data.len());
        end < data.len()
            || self.edits.iter().any(|edit| {
                data.get(edit.at..edit.at + edit.bytes.len()).is_some_and(|old| old != edit.bytes)
            })
    }

    pub(crate) fn of(self, kind: &'static str, target: Target) -> Mutant {
        Mutant { kind, target, what: self.what, edits: self.edits, end: self.end }
    }
}

impl Mutant {
    /// The changed file. What lies outside of it is not changed.
    pub(crate) fn apply(&self, data: &[u8]) -> Vec<u8> {
        let mut changed = data.to_vec();
        for edit in &self.edits {
            if let Some(place) = changed.get_mut(edit.at..edit.at + edit.bytes.len()) {
                place.copy_from_slice(&edit.bytes);
            }
        }
        if let Some(end) = self.end {
            changed.truncate(end);
        }
        changed
    }
}
