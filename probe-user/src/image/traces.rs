//! What a function does as far as it can be followed, and what of that is about
//! its first argument.

use super::{
    code::{
        explore::{self, TRACE_BOUNDS, Trace},
        machine::Increment,
        value::{Base, Field, Value, mask},
    },
    elf::Elf,
};

/// Follows a function of a file; one that is not there does nothing.
pub(super) fn trace(elf: &Elf, function: &str, arguments: &[Value]) -> Trace {
    let Some(symbol) = elf.function(function) else { return Trace::default() };
    let machine = explore::called_with(elf.processor().convention(), arguments);
    explore::trace(elf, symbol.address, machine, TRACE_BOUNDS)
}

/// Fields of the first argument that are changed by so much.
pub(super) fn changed_by(
    changes: &[Increment],
    amount: i64,
    width: u8,
) -> impl Iterator<Item = i64> {
    changes.iter().filter_map(move |change| changes_by(change, amount, width))
}

/// The field of the first argument that a change is of, if it is changed by so much.
pub(super) fn changes_by(change: &Increment, amount: i64, width: u8) -> Option<i64> {
    let amount = Value::Constant(amount as u64 & mask(width));
    let by_so_much = change.field.width == width && change.amount == amount;
    of_argument(&change.field).filter(|_| by_so_much)
}

/// The field, if a value is all of one of 64 bits.
pub(super) fn pointer(value: &Value) -> Option<&Field> {
    value.as_field().filter(|field| field.width == 8)
}

/// The offsets by which a value is reached from the first argument.
pub(super) fn path(value: &Value) -> Option<Vec<i64>> {
    let mut field = pointer(value)?;
    let mut path = vec![field.offset];
    while let Base::Field(outer) = &field.base {
        field = outer;
        path.push(field.offset);
    }
    path.reverse();
    (field.base == Base::Argument(0)).then_some(path)
}

/// The distance of a 64-bit field of the first argument, if a value is all of one.
pub(super) fn field_of_argument(value: &Value) -> Option<i64> {
    of_argument(pointer(value)?)
}

/// The distance of a field from the first argument.
pub(super) fn of_argument(field: &Field) -> Option<i64> {
    (field.base == Base::Argument(0)).then_some(field.offset)
}
