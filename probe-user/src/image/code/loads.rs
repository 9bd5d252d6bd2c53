//! Which instruction loaded which value.

use std::{cell::RefCell, rc::Rc};

use super::value::{Field, Value};

/// The loads of one question, of all its paths: machines that fork share it.
///
/// A load makes a field that all values made of it share, and is known by that:
/// by which one it is, and not by what it says. Two loads of the same field make
/// two values that are equal, and either has its own address.
#[derive(Clone, Debug, Default)]
pub struct Loads(Rc<RefCell<Vec<Load>>>);

#[derive(Debug)]
struct Load {
    made: Rc<Field>,
    at: u64,
}

impl Loads {
    /// Remembers that the instruction at an address made a value.
    pub(super) fn note(&self, value: &Value, at: u64) {
        if let Some(field) = value.field() {
            self.0.borrow_mut().push(Load { made: Rc::clone(field), at });
        }
    }

    /// The address of the instruction that loaded the field that a value is made
    /// of; `None` if the value was not made by these loads.
    #[must_use]
    pub fn of(&self, value: &Value) -> Option<u64> {
        let field = value.field()?;
        let loads = self.0.borrow();
        loads.iter().find(|load| Rc::ptr_eq(&load.made, field)).map(|load| load.at)
    }
}
