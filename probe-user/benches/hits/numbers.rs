//! Numbers, as programs print them, and what is in the middle of them.

use crate::{program::Program, statistics::quartiles};

/// The numbers in so many lines of a program; words are left out.
pub(crate) fn lines(program: &mut Program, count: usize) -> Vec<Vec<f64>> {
    let numbers = |line: String| line.split(' ').filter_map(|word| word.parse().ok()).collect();
    (0..count).map(|_| numbers(program.line())).collect()
}

/// The one in the middle.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let [_, middle, _] = quartiles(values);
    middle
}
