//! What is in the middle.

/// A quarter is below the first, a half below the second: the median.
///
/// Between two values if none is there, as R's type 7: of an even number, neither of the
/// two in the middle is the median, and one of them for it would be a bias.
pub(crate) fn quartiles(values: impl IntoIterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let last = values.len() - 1;
    [1, 2, 3].map(|quarter| {
        let (below, part) = (last * quarter / 4, (last * quarter % 4) as f64 / 4.0);
        let [below, above] = [values[below], values[(below + 1).min(last)]];
        below + (above - below) * part
    })
}
