//! Where `SSL_set_SSL_CTX` gives a connection another context.
//!
//! It stores its second argument, or where that is null what the connection began
//! with, in the connection, its first argument; if that has this context already, it
//! returns before (`ssl/ssl_lib.c`, 1.1.1 to 4.0). So what stands right before the
//! store is executed for each switch, and for nothing else.

use super::{
    code::{
        flow::{Function, Origin},
        instruction::{Control, Effect, Instruction},
        processor::Convention,
    },
    layout::Layout,
    place::REACH,
    point::Argument,
};

/// How often a pointer is copied from one register to the next, at most.
const COPIES: usize = 4;

/// The nearest emulated instruction before the store at which the new context is in
/// its register.
///
/// # Errors
///
/// With what is otherwise than in the sources.
pub(super) fn find(
    function: &Function,
    layout: &Layout,
    convention: &Convention,
) -> Result<(Instruction, Argument), &'static str> {
    let field = layout.ssl_to_ctx.ok_or("it is not known where a connection has its context")?;
    let connection = *convention.arguments.first().ok_or("it has no arguments")?;
    let is_the_connection = |register, at| is_copy(function, register, at, connection, COPIES);
    let mut stores =
        function.instructions().iter().filter_map(|instruction| match instruction.effect {
            Effect::Store { from, base, displacement }
                if displacement == i64::from(field)
                    && is_the_connection(base, instruction.address) =>
            {
                Some((instruction.address, from))
            }
            _ => None,
        });
    let (store, register) = stores.next().ok_or("no register is stored as the context")?;
    if stores.next().is_some() {
        return Err("the context is stored more than once");
    }
    let mut at = store;
    for _ in 0..REACH {
        let before = before(function, at).ok_or("the paths to the store meet too near")?;
        let goes_on =
            matches!(before.control, Control::Next | Control::Call(_) | Control::CallThrough(_));
        if !goes_on || before.assigns(register) {
            return Err("the new context is in no register before the paths meet");
        }
        if before.emulated {
            return Ok((before, Argument { register, dereference: None, creates: true }));
        }
        at = before.address;
    }
    Err("too far away")
}

/// The instruction from which alone control comes to a place.
fn before(function: &Function, at: u64) -> Option<Instruction> {
    let before = *function.instructions().iter().rfind(|i| i.address < at)?;
    (before.end() == at && function.only_follows(before.address, at)).then_some(before)
}

/// Whether a register holds an argument as it was passed, on every path.
fn is_copy(function: &Function, register: usize, at: u64, argument: usize, copies: usize) -> bool {
    function.reaching(register, at).into_iter().all(|origin| match origin {
        Origin::Entry => register == argument,
        Origin::Outside => false,
        Origin::Assignment(address) => match function.at(address).map(|copy| copy.effect) {
            Some(Effect::Copy { from, .. }) => {
                copies > 0 && is_copy(function, from, address, argument, copies - 1)
            }
            _ => false,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::image::code::{CodeSource as _, specimen::Bytes};

    const RBX: usize = 3;

    fn found(bytes: &'static [u8]) -> Result<(u64, Argument), &'static str> {
        let range = 0x1000..0x1000 + bytes.len() as u64;
        let code = Bytes::new(bytes);
        let function = Function::new(&code, range, &HashSet::new()).expect("it decodes");
        let layout = Layout { ssl_to_ctx: Some(8), ..Layout::default() };
        let found = find(&function, &layout, code.processor().convention())?;
        Ok((found.0.address, found.1))
    }

    /// 1000: push %rbx / 1001: mov %rsi,%rbx / 1004: cmp %rsi,8(%rdi) / 1008: je 101b /
    /// 100a: mov %rdi,%r12 / 100d: call 1030 / 1012: mov %rbx,8(BASE) /
    /// 1017: mov %rbx,%rax / 101a: pop %rbx / 101b: ret
    macro_rules! switches {
        ($($store:literal),*) => {
            &[
                0x53, 0x48, 0x89, 0xf3, 0x48, 0x39, 0x77, 0x08, 0x74, 0x11, 0x49, 0x89, 0xfc,
                0xe8, 0x1e, 0, 0, 0, $($store),*, 0x48, 0x89, 0xd8, 0x5b, 0xc3,
            ]
        };
    }

    #[test]
    fn the_probe_stands_before_the_store_and_behind_the_comparison() {
        let bytes = switches!(0x49, 0x89, 0x5c, 0x24, 0x08);
        let argument = Argument { register: RBX, dereference: None, creates: true };
        assert_eq!(found(bytes), Ok((0x100d, argument)));
    }

    #[test]
    fn a_store_in_something_else_is_none() {
        // To 8(%r13), and to 16(%r12).
        let why = Err("no register is stored as the context");
        assert_eq!(found(switches!(0x49, 0x89, 0x5d, 0x08, 0x90)), why);
        assert_eq!(found(switches!(0x49, 0x89, 0x5c, 0x24, 0x10)), why);
    }

    #[test]
    fn a_register_that_is_assigned_in_between_does_not_count() {
        // mov %rax,8(%r12), which the call returned.
        let why = Err("the new context is in no register before the paths meet");
        assert_eq!(found(switches!(0x49, 0x89, 0x44, 0x24, 0x08)), why);
    }

    /// 1000: cmp %rsi,8(%rdi) / 1004: je 1006 / 1006: mov %rsi,8(%rdi) / 100a: ret
    #[test]
    fn where_paths_meet_before_the_store_it_is_not_known_which_was_taken() {
        let bytes = &[0x48, 0x39, 0x77, 0x08, 0x74, 0, 0x48, 0x89, 0x77, 0x08, 0xc3];
        assert_eq!(found(bytes), Err("the paths to the store meet too near"));
    }

    /// 1000: mov %rsi,8(%rdi) / 1004: nop / 1005: mov %rsi,8(%rdi) / 1009: ret
    #[test]
    fn of_two_stores_none_is_the_switch() {
        let bytes = &[0x48, 0x89, 0x77, 0x08, 0x90, 0x48, 0x89, 0x77, 0x08, 0xc3];
        assert_eq!(found(bytes), Err("the context is stored more than once"));
    }
}
