//! What happened on a path, in a list whose copies share what they have in
//! common: a path that forks takes everything that happened before with it.

use std::{iter, rc::Rc};

/// A list that is only added to. A copy of it costs nothing.
#[derive(Debug)]
pub struct History<T>(Option<Rc<Entry<T>>>);

#[derive(Debug)]
struct Entry<T> {
    event: T,
    /// How many there are, with this one.
    length: usize,
    before: History<T>,
}

impl<T> History<T> {
    /// Nothing has happened.
    #[must_use]
    pub const fn new() -> Self {
        Self(None)
    }

    /// Adds what happens now.
    pub fn push(&mut self, event: T) {
        let before = Self(self.0.take());
        let length = before.len() + 1;
        self.0 = Some(Rc::new(Entry { event, length, before }));
    }

    /// How much has happened.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |entry| entry.length)
    }

    /// Whether nothing has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// What happened last.
    #[must_use]
    pub fn last(&self) -> Option<&T> {
        self.0.as_ref().map(|entry| &entry.event)
    }

    /// All of it, what happened last first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        iter::successors(self.0.as_deref(), |entry| entry.before.0.as_deref())
            .map(|entry| &entry.event)
    }

    /// What happened since there were so many, the last first.
    pub fn since(&self, length: usize) -> impl Iterator<Item = &T> {
        self.iter().take(self.len().saturating_sub(length))
    }
}

impl<T> Default for History<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for History<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Drop for History<T> {
    /// One after the other: an entry that dropped the one before would need a
    /// stack as deep as the list is long.
    fn drop(&mut self) {
        let mut next = self.0.take();
        while let Some(mut entry) = next.and_then(Rc::into_inner) {
            next = entry.before.0.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_go_their_own_ways() {
        let mut one = History::new();
        one.push(1);
        let mut other = one.clone();
        one.push(2);
        other.push(3);
        other.push(4);
        assert_eq!(one.iter().copied().collect::<Vec<_>>(), [2, 1]);
        assert_eq!(other.since(1).copied().collect::<Vec<_>>(), [4, 3]);
        assert_eq!((one.len(), other.len(), other.last()), (2, 3, Some(&4)));
    }

    #[test]
    fn a_long_one_is_dropped_on_a_small_stack() {
        let drop_long = || {
            let mut long = History::new();
            (0..1_000_000).for_each(|event| long.push(event));
            drop(long);
        };
        let thread = std::thread::Builder::new().stack_size(64 << 10).spawn(drop_long);
        assert!(thread.is_ok_and(|thread| thread.join().is_ok()));
    }
}
