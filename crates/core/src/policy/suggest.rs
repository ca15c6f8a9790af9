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

/// Names in quotes, the last after an "or".
pub(super) fn any_of(names: &[&str]) -> String {
    match names {
        [names @ .., last] if !names.is_empty() => format!("{} or \"{last}\"", quoted(names)),
        names => quoted(names),
    }
}

/// The most names that are suggested of many.
const SIMILAR_MAX: usize = 3;

/// Of many names with several parts each, those that `given` was most likely meant to be, the nearest first: what
/// differs in capitals and separators only, what ends alike, and what is near.
pub(super) fn similar<'n>(given: &str, known: &[&'n str]) -> Vec<&'n str> {
    if given.len() > BYTES_MAX {
        return Vec::new();
    }
    let plain = |name: &str| {
        let name = name.trim().chars().map(|c| if matches!(c, ' ' | '-') { '_' } else { c });
        name.collect::<String>().to_ascii_lowercase()
    };
    let given = plain(given);
    let last = given.rsplit('/').next().unwrap_or_default();
    let distance = |name: &str| {
        let name = plain(name);
        let place = name.rsplit('/').next().unwrap_or_default();
        let whole = edits(&given, &name);
        // The place alone, or in another part of the world.
        let of_place = if name.contains('/') { 1 + edits(last, place) } else { whole };
        let near = |distance: usize, length: usize| (distance * 3 <= length).then_some(distance);
        near(whole, given.len().max(name.len())).into_iter().chain(near(of_place, last.len())).min()
    };
    let mut near: Vec<_> = known.iter().filter_map(|name| Some((distance(name)?, *name))).collect();
    near.sort_unstable();
    // Beside what is surely meant nothing else is worth naming.
    let nearest = near.first().map_or(0, |(distance, _)| *distance);
    let near = near.into_iter().take_while(|(distance, _)| *distance <= nearest + 1);
    near.take(SIMILAR_MAX).map(|(_, name)| name).collect()
}

/// What is longer is compared with nothing.
const BYTES_MAX: usize = 64;

/// The name that `given` was most likely meant to be: at most every third character mistyped.
pub(super) fn nearest<'n>(given: &str, known: &[&'n str]) -> Option<&'n str> {
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

    #[test]
    fn similar_names_are_the_nearest_few() {
        let known = ["America/New_York", "Asia/Tokyo", "Europe/Berlin", "Europe/Zurich", "UTC"];
        for (given, meant) in [
            ("Europe/Zürich", &["Europe/Zurich"][..]),
            ("europe/zurich", &["Europe/Zurich"]),
            ("Zurich", &["Europe/Zurich"]),
            ("Swiss/Zurich", &["Europe/Zurich"]),
            ("New York", &["America/New_York"]),
            ("utc", &["UTC"]),
            ("Moon/Tranquility", &[]),
            ("", &[]),
        ] {
            assert_eq!(similar(given, &known), meant, "{given:?}");
        }
        assert!(similar(&"w".repeat(10_000), &known).is_empty());
        assert_eq!(any_of(&["a", "b", "c"]), "\"a\", \"b\" or \"c\"");
        assert_eq!(any_of(&["a"]), "\"a\"");
    }
}
