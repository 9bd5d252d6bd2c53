//! Whose memory on the stack it is, and whether a called function may know its
//! address.
//!
//! What one function has on its stack is one piece here: whoever is handed an
//! address in it may reach all of it, since code does not say where a variable
//! ends. What another function has there is never part of the same variable.

use super::{
    processor::Convention,
    value::{Base, Value},
};

/// The frames of the functions that are followed now, the outermost first.
#[derive(Clone, Debug)]
pub struct Frames(Vec<Frame>);

#[derive(Clone, Copy, Debug)]
struct Frame {
    /// The stack pointer at the function's entry, counted from the outermost's.
    entry: i64,
    /// Whether someone else may know an address in it.
    is_known: bool,
    /// The registers that the function has to give back as they were, and that
    /// it has not changed: as bits.
    untouched: u32,
}

impl Frames {
    /// That of one function.
    #[must_use]
    pub fn new() -> Self {
        Self(vec![Frame { entry: 0, is_known: false, untouched: 0 }])
    }

    /// A function is called whose stack pointer is this at its entry.
    pub fn open(&mut self, entry: i64, convention: &Convention) {
        let others = convention.caller_saved.iter().chain([&convention.stack_pointer]);
        let untouched = others.fold(u32::MAX, |bits, number| bits & !bit(*number));
        self.0.push(Frame { entry, is_known: false, untouched });
    }

    /// The function that was called last has returned.
    pub fn close(&mut self) {
        if self.0.len() > 1 {
            self.0.pop();
        }
    }

    /// The stack pointer at the entry of the function that was called last.
    #[must_use]
    pub fn entry(&self) -> i64 {
        self.0.last().map_or(0, |frame| frame.entry)
    }

    /// The frame that an address lies in; what is above them all counts as the
    /// outermost's.
    fn of(&self, offset: i64) -> usize {
        self.0.iter().rposition(|frame| offset < frame.entry).unwrap_or(0)
    }

    /// Whether someone else may know what an address belongs to.
    #[must_use]
    pub fn is_known(&self, offset: i64) -> bool {
        self.0.get(self.of(offset)).is_none_or(|frame| frame.is_known)
    }

    /// A value becomes known to someone else; says whether that is news.
    pub fn give_away(&mut self, value: &Value) -> bool {
        let known = match value {
            Value::Pointer { base: Base::Stack, offset } => {
                let frame = self.of(*offset);
                self.0.get_mut(frame..=frame)
            }
            Value::OnStack => Some(self.0.as_mut_slice()),
            _ => None,
        };
        let new = known.unwrap_or_default().iter_mut().filter(|frame| !frame.is_known);
        new.map(|frame| frame.is_known = true).count() > 0
    }

    /// A register is changed.
    pub fn touch(&mut self, register: usize) {
        if let Some(frame) = self.0.last_mut() {
            frame.untouched &= !bit(register);
        }
    }

    /// Whether a register holds what the caller has in it, and gets back.
    #[must_use]
    pub fn is_callers(&self, register: usize) -> bool {
        self.0.last().is_some_and(|frame| frame.untouched & bit(register) != 0)
    }
}

fn bit(register: usize) -> u32 {
    u32::try_from(register).ok().and_then(|bits| 1_u32.checked_shl(bits)).unwrap_or(0)
}

impl Default for Frames {
    fn default() -> Self {
        Self::new()
    }
}
