//! Settings on top of a scenario: tables that set some of its keys otherwise, for variants and for targets.

use std::path::Path;

use serde::Deserialize;
use tidegate_core::policy::{Mistake, PolicySet};
use toml::{Table, Value};

use super::{Scenario, ScenarioError, build, file, parse_policies, policy_text};

/// A mistake in one place.
pub(crate) fn one(place: &str, mistake: &str) -> ScenarioError {
    ScenarioError(vec![format!("{place}: {mistake}")])
}

/// Sets what `given` says: tables key by key, all else as a whole.
pub(crate) fn merge(into: &mut Table, given: Table) {
    for (key, value) in given {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// The scenario that a table is. `limits` are keys of every global limit that are set otherwise.
pub(crate) fn scenario(
    table: Table,
    limits: &Table,
    place: &str,
    folder: &Path,
) -> Result<Scenario, ScenarioError> {
    let file = file::File::deserialize(Value::Table(table))
        .map_err(|error| one(place, error.message()))?;
    let (text, called) = policy_text(&file.policies, place, folder)?;
    let mut policies = parse_policies(&text, &called)?;
    if !limits.is_empty() {
        let changed = changed_limits(&text, limits, place)?;
        // Lines are those of no file now; what can be wrong is what was set.
        policies = PolicySet::parse(&changed).map_err(|mistakes| {
            let line = |m: &Mistake| format!("{place}: {}: {}", m.place, m.message);
            ScenarioError(mistakes.iter().map(line).collect())
        })?;
    }
    build::build(file, policies, folder).map_err(|mistakes| {
        ScenarioError(mistakes.into_iter().map(|line| format!("{place}: {line}")).collect())
    })
}

/// A scenario's table with its policies in place, and `limits` set in them: it stands for itself.
pub(crate) fn in_place(
    mut table: Table,
    limits: &Table,
    place: &str,
    folder: &Path,
) -> Result<Table, ScenarioError> {
    let given = table.get("policies").and_then(Value::as_str).unwrap_or_default();
    let (mut text, _) = policy_text(given, place, folder)?;
    if !limits.is_empty() {
        text = changed_limits(&text, limits, place)?;
    }
    table.insert("policies".into(), Value::String(text));
    Ok(table)
}

fn changed_limits(policies: &str, limits: &Table, place: &str) -> Result<String, ScenarioError> {
    change_limits(policies, limits).ok_or_else(|| {
        let names: Vec<_> = limits.keys().map(|name| format!("`{name}`")).collect();
        one(place, &format!("it sets {}, and no limit is global", names.join(" and ")))
    })
}

/// The policies with some keys of every global limit set; `None` if there is none. Another mode takes the
/// overdraft of the old one away.
fn change_limits(policies: &str, given: &Table) -> Option<String> {
    let mut table: Table = policies.parse().ok()?;
    let mut changed = false;
    let lists = table.get_mut("policy").and_then(Value::as_array_mut).into_iter().flatten();
    let limits = lists
        .filter_map(|policy| policy.get_mut("limit").and_then(Value::as_array_mut))
        .flatten()
        .filter_map(Value::as_table_mut);
    for limit in limits.filter(|limit| limit.get("scope").and_then(Value::as_str) == Some("global"))
    {
        changed = true;
        if given.contains_key("consistency") {
            limit.remove("overdraft");
        }
        for (key, value) in given {
            limit.insert(key.clone(), value.clone());
        }
    }
    changed.then(|| table.to_string())
}
