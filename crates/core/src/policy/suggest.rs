//! What a mistyped name was likely meant to be.

use alloc::{format, string::String, vec::Vec};

/// Names in quotes, with commas.
pub(super) fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

/// What may be written instead of `given`, the nearest first where one is near.
pub(super) fn choices(given: &str, known: &[&str]) -> String {
    let known_are = if let [only] = known {
        format!("only \"{only}\" is known")
    } else {
        format!("known are {}", quoted(known))
    };
    match nearest(given, known) {
        Some(name) => format!("did you mean \"{name}\"? {known_are}"),
        None => known_are,
    }
}

/// The name that `given` was most likely meant to be: at most every third character mistyped.
fn nearest<'n>(given: &str, known: &[&'n str]) -> Option<&'n str> {
    const BYTES_MAX: usize = 64;
    if given.len() > BYTES_MAX {
        return None;
    }
    let with_distance = known.iter().map(|name| (edits(given, name), *name));
    let (distance, name) = with_distance.min_by_key(|(distance, _)| *distance)?;
    (distance * 3 <= given.len().max(name.len())).then_some(name)
}

/// How many characters to insert, remove or replace to make `b` of `a`.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[row.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (a, b, distance) in [
            ("", "", 0),
            ("a", "", 1),
            ("", "ab", 2),
            ("windw", "window", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(edits(a, b), distance, "{a} {b}");
        }
    }

    #[test]
    fn only_what_is_near_is_suggested() {
        let known = ["window", "quantity", "scope"];
        assert_eq!(nearest("windows", &known), Some("window"));
        assert_eq!(nearest("quantaty", &known), Some("quantity"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(nearest(&"w".repeat(10_000), &known), None);
    }
}
