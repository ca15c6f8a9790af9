//! Reads attributes from the query of a URL.

use std::borrow::Cow;

use percent_encoding::percent_decode;

use super::{
    bounds::{ATTRIBUTES_MAX, COST_EXPECTED, Pairs, excerpt, is_cost, name_mistake, value_mistake},
    problem::{Mistakes, Problem},
};

/// What a query says.
pub(crate) struct Query<'a> {
    /// Attributes in the order given.
    pub(crate) attributes: Pairs<'a>,
    /// What `cost` says, if it is there.
    pub(crate) cost: Option<u64>,
}

/// Reads `api_key=k&user_id=u&cost=1`: names are attribute names, `user_id` and `tenant_id` mean
/// `user` and `tenant`, and `cost` is not an attribute.
pub(crate) fn attributes(query: &str) -> Result<Query<'_>, Problem> {
    let mut mistakes = Mistakes::default();
    let mut read = Query { attributes: Pairs::new(), cost: None };
    let mut seen = 0_usize;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Some(name), Some(value)) = (decoded(name), decoded(value)) else {
            mistakes.add(excerpt(name), "not UTF-8 after percent-decoding");
            continue;
        };
        if name == "cost" {
            if read.cost.is_some() {
                mistakes.add("cost", "given twice");
            }
            let cost = whole_number(&value).filter(|cost| is_cost(*cost));
            if cost.is_none() {
                mistakes.add("cost", COST_EXPECTED);
            }
            read.cost = cost.or(Some(1));
            continue;
        }
        seen += 1;
        if seen > ATTRIBUTES_MAX {
            continue;
        }
        let name = match &*name {
            "user_id" => Cow::Borrowed("user"),
            "tenant_id" => Cow::Borrowed("tenant"),
            _ => name,
        };
        if let Some(message) = name_mistake(&name).or_else(|| value_mistake(&value)) {
            mistakes.add(excerpt(&name), message);
        }
        if read.attributes.iter().any(|(known, _)| *known == name) {
            mistakes.add(excerpt(&name), "given twice");
        }
        read.attributes.push((name, value));
    }
    if seen > ATTRIBUTES_MAX {
        let message = format!("{seen} attributes, at most {ATTRIBUTES_MAX} may be");
        mistakes.add("attributes", message);
    }
    mistakes.or_else_ok(read)
}

/// The values of one name as they are written, among others that are nobody's business here.
pub(crate) fn values_of<'a>(query: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    query.split('&').filter_map(move |pair| {
        let (found, value) = pair.split_once('=')?;
        (found == name).then_some(value)
    })
}

/// Digits only: `u64` would also take a plus sign.
fn whole_number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// `+` is a space, `%41` is `A`. Bytes that are not UTF-8 are an error: replacing them would make
/// one caller of several.
fn decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.bytes().any(|b| matches!(b, b'%' | b'+')) {
        return Some(Cow::Borrowed(text));
    }
    let spaced = text.replace('+', " ");
    let bytes: Vec<u8> = percent_decode(spaced.as_bytes()).collect();
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::{collection::btree_map, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn what_fits_is_read_as_it_was_written(
            values in btree_map("x\\PC{0,15}", "\\PC{0,100}", 0..=32),
        ) {
            let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let query: Vec<_> =
                values.iter().map(|(n, v)| format!("{}={}", encode(n), encode(v))).collect();
            let query = query.join("&");
            let read = attributes(&query).unwrap();
            prop_assert_eq!(read.attributes.len(), values.len());
            for (name, value) in read.attributes {
                prop_assert_eq!(values.get(&*name).map(String::as_str), Some(&*value));
            }
        }
    }
}
