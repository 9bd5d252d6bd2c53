//! What stands on the stack while functions are called: who saved it there, and
//! who may change it.

use super::{Cell, Machine};
use crate::image::code::{
    processor::Convention,
    value::{Base, Value},
};

/// Bytes of an argument on the stack.
const WORD: i64 = 8;

impl Cell {
    /// Whether a function that knows its address leaves it as it is.
    fn is_left_alone(&self) -> bool {
        // Who finds the guard changed does not return.
        self.is_saved || matches!(self.value, Value::Pointer { base: Base::Guard, .. })
    }
}

impl Machine {
    /// What was just stored at an address is all of this register. If a function
    /// saved it in its own frame for its caller, nobody else will write it there.
    pub fn note_saved(&mut self, address: &Value, register: usize) {
        if let Value::Pointer { base: Base::Stack, offset } = address
            && *offset < self.frames.entry()
            && self.frames.is_callers(register)
            && let Some(cell) = self.cells.last_mut()
            && cell.base == Base::Stack
            && cell.offset == *offset
        {
            cell.is_saved = true;
        }
    }

    /// A function is called whose stack pointer is this at its entry; `false` if
    /// it is not known where on the stack that is.
    #[must_use]
    pub fn open_frame(&mut self, stack: &Value, convention: &Convention) -> bool {
        let Value::Pointer { base: Base::Stack, offset } = stack else { return false };
        self.frames.open(*offset, convention);
        true
    }

    /// The function has returned; the stack pointer is this again. What still
    /// points to what it had on the stack points to nothing.
    pub fn close_frame(&mut self, stack: &Value) {
        self.frames.close();
        self.forget_below(stack);
        let Value::Pointer { base: Base::Stack, offset: top } = stack else { return };
        for register in &mut self.registers {
            if let Value::Pointer { base: Base::Stack, offset } = register
                && *offset < *top
            {
                *register = Value::Unknown;
            }
        }
    }

    /// Somebody else may know this value from now on.
    pub fn give_away(&mut self, value: &Value) {
        self.frames.give_away(value);
    }

    /// Somebody else may know what stands on the stack.
    pub fn give_away_stored(&mut self) {
        for cell in self.cells.iter().filter(|cell| cell.base == Base::Stack && !cell.is_saved) {
            self.frames.give_away(&cell.value);
        }
    }

    /// Forgets what stands in so many bytes from an address on; `false` if that is
    /// on the stack, and it is not known where.
    #[must_use]
    pub fn overwrite(&mut self, address: &Value, length: u64) -> bool {
        if let Value::Pointer { base: Base::Stack, offset } = address {
            let end = offset.saturating_add(i64::try_from(length).unwrap_or(i64::MAX));
            let is_apart = |cell: &Cell| {
                cell.offset >= end || cell.offset.saturating_add(cell.width.into()) <= *offset
            };
            self.cells.retain(|cell| cell.base != Base::Stack || is_apart(cell));
        }
        *address != Value::OnStack
    }

    /// A function is called, which may know from now on what it is passed.
    pub fn give_away_passed(&mut self, convention: &Convention) {
        for register in convention.caller_saved {
            if let Some(value) = self.registers.get(*register) {
                self.frames.give_away(value);
            }
        }
        let stack = self.register(convention.stack_pointer).clone();
        self.give_away_arguments(&stack);
    }

    /// Forgets what a called function may have changed: all memory, but of the
    /// stack only what it may know the address of.
    pub fn forget_memory(&mut self, convention: &Convention) {
        // Who knows an address knows what stands there.
        let mut is_news = true;
        while is_news {
            is_news = false;
            for cell in self.cells.iter().filter(|cell| cell.base == Base::Stack) {
                if !cell.is_left_alone() && self.frames.is_known(cell.offset) {
                    is_news |= self.frames.give_away(&cell.value);
                }
            }
        }
        self.cells.retain(|cell| {
            cell.base == Base::Stack && (cell.is_left_alone() || !self.frames.is_known(cell.offset))
        });
        let stack = self.register(convention.stack_pointer).clone();
        self.forget_below(&stack);
    }

    /// Arguments may stand on the stack, one in each word from its pointer on;
    /// how many is not known.
    fn give_away_arguments(&mut self, stack: &Value) {
        let on_stack = |cell: &&Cell| cell.base == Base::Stack;
        let Value::Pointer { base: Base::Stack, offset: first } = *stack else { return };
        if !self.cells.iter().filter(on_stack).any(|cell| cell.value.is_on_stack()) {
            return;
        }
        let above = |cell: &&Cell| cell.offset >= first;
        let mut cells: Vec<&Cell> = self.cells.iter().filter(on_stack).filter(above).collect();
        cells.sort_by_key(|cell| cell.offset);
        let mut words = 0;
        for cell in cells {
            let from = cell.offset.saturating_sub(first);
            if from / WORD > words {
                break;
            }
            if !cell.is_left_alone() {
                self.frames.give_away(&cell.value);
            }
            let end = from.saturating_add(i64::from(cell.width) + WORD - 1);
            words = words.max(end / WORD);
        }
    }

    /// Forgets what stands below the stack pointer: whoever is called uses that.
    fn forget_below(&mut self, stack: &Value) {
        let Value::Pointer { base: Base::Stack, offset } = *stack else {
            return self.cells.retain(|cell| cell.base != Base::Stack);
        };
        self.cells.retain(|cell| cell.base != Base::Stack || cell.offset >= offset);
    }
}
