//! What must hold of whatever the readers of requests accept.

use super::{
    bounds::{ATTRIBUTES_MAX, CHECKS_MAX, Pairs, is_cost, name_mistake, value_mistake},
    json, query,
};

fn assert_sound(pairs: &[(std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>)], cost: u64) {
    assert!(is_cost(cost));
    assert!(pairs.len() <= ATTRIBUTES_MAX);
    for (n, (name, value)) in pairs.iter().enumerate() {
        assert_eq!((name_mistake(name), value_mistake(value)), (None, None));
        assert!(pairs[..n].iter().all(|(earlier, _)| earlier != name), "{name} twice");
    }
}

/// The body of one check: what is read is sound, and the same if it is written and read again.
pub(crate) fn fuzz_check(body: &[u8]) {
    let Ok((pairs, cost)) = json::check(body) else { return };
    assert_sound(&pairs, cost);
    let attributes: serde_json::Map<_, _> =
        pairs.iter().map(|(name, value)| (name.to_string(), value.as_ref().into())).collect();
    let written = serde_json::json!({ "attributes": attributes, "cost": cost }).to_string();
    let Ok((mut again, same_cost)) = json::check(written.as_bytes()) else {
        panic!("cannot be read again: {written}")
    };
    let mut pairs: Pairs<'_> = pairs;
    pairs.sort();
    again.sort();
    assert_eq!((pairs, cost), (again, same_cost));
}

/// The body of a batch.
pub(crate) fn fuzz_batch(body: &[u8]) {
    let Ok(batch) = json::batch(body) else { return };
    assert!((1..=CHECKS_MAX).contains(&batch.checks.len()));
    for (range, cost) in &batch.checks {
        assert_sound(&batch.pairs[range.clone()], *cost);
    }
}

/// The query of a check.
pub(crate) fn fuzz_query(text: &str) {
    let _ = query::values_of(text, "deny_status").count();
    if let Ok(read) = query::attributes(text) {
        assert_sound(&read.attributes, read.cost.unwrap_or(1));
    }
}
