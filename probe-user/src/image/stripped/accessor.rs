//! `SSL_CTX_ctrl`, by who calls it: `SSL_CTX_add_session` asks it for the
//! number of sessions and for the size of the cache, before it makes room and
//! counts `cache_full` (`ssl/ssl_sess.c`, 1.1.1 to 4.0).

use std::collections::BTreeMap;

use probe_common::Counter;

use super::{block::Block, functions::Functions, origin::Held};
use crate::image::code::instruction::Control;

/// `SSL_CTRL_SESS_NUMBER` (`include/openssl/ssl.h`).
const SESS_NUMBER: u64 = 20;
/// `SSL_CTRL_GET_SESS_CACHE_SIZE`.
const GET_SESS_CACHE_SIZE: u64 = 43;

/// The entry of `SSL_CTX_ctrl`, if one function is asked for both values with
/// the context whose cache is full.
pub(super) fn find(functions: &Functions<'_>, block: &Block) -> Option<u64> {
    let site = block.increments.iter().find(|site| site.counter == Counter::CacheFull)?;
    let context = functions.held(&site.function, site.base, site.address);
    let arguments = functions.elf.processor().convention().arguments;
    let mut asked: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for instruction in functions.instructions(&site.function) {
        let Control::Call(target) = instruction.control else { continue };
        let argument = |n: usize| functions.held(&site.function, arguments[n], instruction.address);
        if let Held::Constant(command @ (SESS_NUMBER | GET_SESS_CACHE_SIZE)) = argument(1)
            && argument(0) == context
            && argument(2) == Held::Constant(0)
        {
            asked.entry(target).or_default().push(command);
        }
    }
    let both = |commands: &Vec<u64>| {
        commands.contains(&SESS_NUMBER) && commands.contains(&GET_SESS_CACHE_SIZE)
    };
    let mut found = asked.into_iter().filter(|(_, commands)| both(commands));
    let (entry, _) = found.next()?;
    (found.next().is_none() && functions.ranges.is_entry(entry)).then_some(entry)
}
