//! What a request may hold at most, and the checks of it that JSON, queries and headers share.

use std::borrow::Cow;

/// The most attributes of one request.
pub(crate) const ATTRIBUTES_MAX: usize = 32;
/// The longest name of an attribute, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 64;
/// The longest value of an attribute, in bytes.
pub(crate) const VALUE_BYTES_MAX: usize = 512;
/// The largest cost of one check.
pub(crate) const COST_MAX: u64 = 1_000_000;
/// The most checks of one batch.
pub(crate) const CHECKS_MAX: usize = 1000;

/// Names and values as they were read: borrowed from the request where nothing had to be decoded.
pub(crate) type Pairs<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// The pairs as the core takes them.
pub(crate) fn borrowed<'p>(pairs: &'p Pairs<'_>) -> Vec<(&'p str, &'p str)> {
    pairs.iter().map(|(name, value)| (&**name, &**value)).collect()
}

/// Whether `cost` is one that a check may have.
pub(crate) fn is_cost(cost: u64) -> bool {
    (1..=COST_MAX).contains(&cost)
}

/// What is said of a cost that is none.
pub(crate) const COST_EXPECTED: &str = "expected a whole number from 1 to 1000000";

/// What is wrong with an attribute's name, if anything.
pub(crate) fn name_mistake(name: &str) -> Option<&'static str> {
    match name.len() {
        0 => Some("an attribute's name must not be empty"),
        1..=NAME_BYTES_MAX => None,
        _ => Some("an attribute's name has at most 64 bytes"),
    }
}

/// What is wrong with an attribute's value, if anything.
pub(crate) fn value_mistake(value: &str) -> Option<&'static str> {
    (value.len() > VALUE_BYTES_MAX).then_some("an attribute's value has at most 512 bytes")
}

/// `text` as far as a message may repeat it: at most [`NAME_BYTES_MAX`] bytes, in whole characters.
pub(crate) fn excerpt(text: &str) -> &str {
    let longest = text.len().min(NAME_BYTES_MAX);
    let end = (0..=longest).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}
