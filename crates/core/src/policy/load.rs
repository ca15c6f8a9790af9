//! Reads a policy file as a whole, or says everything that is wrong in it.
//!
//! What a later version brings (other algorithms, tiers, ...) is refused here by name, so that no file
//! means something else than what it says.

use alloc::{boxed::Box, collections::BTreeMap, format, string::String, sync::Arc, vec::Vec};

use toml::de::DeTable;

use super::{
    Algorithm, Consistency, Glob, Limit, OnStoreFailure, Policy, PolicySet, QUANTITY_MAX, Scope,
    fields::{Field, Fields},
    mistake::{Mistake, Notes, Shown},
    nesting::{DEPTH_MAX, too_deep},
};
use crate::{
    algorithm::{Bucket, sliding_log::QUANTITY_MAX as LOG_QUANTITY_MAX},
    ids::LimitId,
    store::HOLDS_MAX,
    time::Window,
};

mod window;

/// The longest policy file, in bytes.
pub const FILE_BYTES_MAX: usize = 4 << 20;
/// The most policies of one file.
pub const POLICIES_MAX: usize = 1_000;
/// The most limits of one policy: as many as one check may weigh.
pub const LIMITS_MAX: usize = 16;
/// The most attributes that `match` or `key` name: as many as a request may have.
pub const ATTRIBUTES_MAX: usize = 32;
/// The longest name of an attribute, in bytes.
pub const ATTRIBUTE_BYTES_MAX: usize = 64;
/// The longest name of a policy or a limit.
pub const NAME_CHARS_MAX: usize = 64;

impl PolicySet {
    /// Reads a policy file as a whole, or says everything that is wrong in it, in the order of the
    /// text. A text that is not TOML has that one mistake only.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        let notes = Notes::new(text);
        let policies = read(text, &notes);
        let mistakes = notes.into_mistakes();
        if mistakes.is_empty() { Ok(Self::new(policies)) } else { Err(mistakes) }
    }
}

/// The policies of a text; whole only if nothing was noted.
fn read(text: &str, notes: &Notes) -> Vec<Arc<Policy>> {
    if text.len() > FILE_BYTES_MAX {
        notes.add(0, "", format_args!("the file has more than {FILE_BYTES_MAX} bytes"));
        return Vec::new();
    }
    if let Some(at) = too_deep(text) {
        notes.add(at, "", format_args!("more than {DEPTH_MAX} nested brackets and dots"));
        return Vec::new();
    }
    match DeTable::parse(text) {
        Ok(root) => {
            let table = root.get_ref();
            policies(&Fields { notes, table, at: 0, place: String::new() })
        }
        Err(error) => {
            notes.add_syntax(&error);
            Vec::new()
        }
    }
}

/// What one file may say once only, with the place that has said it.
#[derive(Default)]
struct Seen<'a> {
    policies: BTreeMap<&'a str, usize>,
    limits: BTreeMap<LimitId, String>,
}

fn policies(file: &Fields<'_>) -> Vec<Arc<Policy>> {
    file.allow(&["policy"], &[]);
    let Some(field) = file.get("policy") else { return Vec::new() };
    let tables = field.list("one or more tables, each under its own [[policy]]", POLICIES_MAX);
    let mut seen = Seen::default();
    let mut policies = Vec::new();
    for (index, field) in tables.iter().flatten().enumerate() {
        let place = field.named_place("", "policy", index);
        let Some(fields) = field.table(place, "a table under [[policy]]") else { continue };
        policies.extend(policy(&fields, &mut seen).map(Arc::new));
    }
    policies
}

fn policy<'a>(fields: &Fields<'a>, seen: &mut Seen<'a>) -> Option<Policy> {
    fields.allow(
        &["name", "match", "key", "on_store_failure", "shadow", "limit"],
        &[("tier", "tiers"), ("override", "overrides")],
    );
    let name = name(fields, "\"public-api\"", &mut seen.policies);
    let matches = fields.get("match").map_or(Some(Vec::new()), |field| matches(&field, fields));
    let key = fields
        .require("key", "key = [\"api_key\", \"ip\"], or key = [] for one count for all")
        .and_then(|field| key(&field));
    let on_store_failure =
        fields.get("on_store_failure").map_or(Some(OnStoreFailure::Degrade), |field| {
            let known = [OnStoreFailure::Degrade, OnStoreFailure::Open, OnStoreFailure::Closed];
            field.choice(&known.map(|choice| (choice.as_str(), choice)), &[])
        });
    let shadow = fields.get("shadow").map_or(Some(false), |field| field.boolean());
    let limits = fields
        .require("limit", "at least one [[policy.limit]] below the policy")
        .and_then(|field| limits(&field, fields, name, seen));
    if let (Some(limits), Some(on_store_failure)) = (&limits, on_store_failure) {
        check_rights(limits, fields, on_store_failure);
    }
    Some(Policy {
        name: name?.into(),
        matches: matches?,
        key: key?,
        on_store_failure: on_store_failure?,
        shadow: shadow?,
        limits: limits?,
    })
}

/// The name of a policy or limit, which nothing before it in `seen` may have.
fn name<'a>(
    fields: &Fields<'a>,
    example: &str,
    seen: &mut BTreeMap<&'a str, usize>,
) -> Option<&'a str> {
    let field = fields.require("name", &format!("name = {example}"))?;
    let name = field.text()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(plain) {
        return field.refuse(format_args!(
            "{} is not a name: use 1 to {NAME_CHARS_MAX} letters, digits, \"-\", \"_\" or \".\"",
            Shown(name)
        ));
    }
    if let Some(first) = seen.get(name) {
        let line = fields.notes.line(*first);
        return field.refuse(format_args!("line {line} has this name already: names are unique"));
    }
    seen.insert(name, field.offset());
    Some(name)
}

fn matches(field: &Field<'_>, policy: &Fields<'_>) -> Option<Vec<(Box<str>, Glob)>> {
    const WANTED: &str = "a table of attributes and globs, such as { route = \"/api/**\" }";
    let fields = field.table(format!("{}, field \"match\"", policy.place), WANTED)?;
    if fields.table.len() > ATTRIBUTES_MAX {
        return field.refuse(format_args!("names more than {ATTRIBUTES_MAX} attributes"));
    }
    let entries = fields.table.keys().map(|key| {
        let attribute: &str = key.get_ref();
        let field = fields.get(attribute)?;
        let attribute = attribute_name(&field, attribute);
        let glob = field
            .text()
            .and_then(|text| Glob::parse(text).map_or_else(|error| field.refuse(error), Some));
        Some((attribute?, glob?))
    });
    // Every entry is read before any decides, so that all mistakes are noted.
    entries.collect::<Vec<_>>().into_iter().collect()
}

fn key(field: &Field<'_>) -> Option<Vec<Vec<Box<str>>>> {
    const WANTED: &str = "a list of attribute names, or of lists of them, such as [\"api_key\", [\"tenant\", \"route\"]]";
    let elements = field.list(WANTED, ATTRIBUTES_MAX)?;
    let alternatives = elements.iter().map(|element| {
        let names = if element.is_list() {
            element.list(WANTED, ATTRIBUTES_MAX)?
        } else {
            [element.clone()].into()
        };
        if names.is_empty() {
            return element
                .refuse("an alternative names no attribute: for one count for all write key = []");
        }
        let names = names.iter().map(|name| attribute_name(name, name.text()?));
        names.collect::<Vec<_>>().into_iter().collect()
    });
    alternatives.collect::<Vec<_>>().into_iter().collect()
}

fn attribute_name(field: &Field<'_>, name: &str) -> Option<Box<str>> {
    if (1..=ATTRIBUTE_BYTES_MAX).contains(&name.len()) {
        return Some(name.into());
    }
    field.refuse(format_args!(
        "{} is not the name of an attribute: it has {} bytes, not 1 to {ATTRIBUTE_BYTES_MAX}",
        Shown(name),
        name.len()
    ))
}

fn limits<'a>(
    field: &Field<'a>,
    policy: &Fields<'a>,
    policy_name: Option<&str>,
    seen: &mut Seen<'a>,
) -> Option<Vec<Limit>> {
    let tables =
        field.list("one or more tables, each under its own [[policy.limit]]", LIMITS_MAX)?;
    if tables.is_empty() {
        return field.refuse("is empty: a policy has at least one [[policy.limit]]");
    }
    let mut names = BTreeMap::new();
    let mut limits = Vec::new();
    for (index, field) in tables.iter().enumerate() {
        let place = field.named_place(&policy.place, "limit", index);
        let Some(fields) = field.table(place, "a table under [[policy.limit]]") else { continue };
        limits.extend(limit(&fields, policy_name, &mut names, &mut seen.limits));
    }
    Some(limits)
}

fn limit<'a>(
    fields: &Fields<'a>,
    policy: Option<&str>,
    names: &mut BTreeMap<&'a str, usize>,
    ids: &mut BTreeMap<LimitId, String>,
) -> Option<Limit> {
    fields.allow(
        &[
            "name",
            "quantity",
            "window",
            "time_zone",
            "algorithm",
            "burst",
            "shaper",
            "scope",
            "consistency",
            "overdraft",
        ],
        &[],
    );
    let name = name(fields, "\"hourly\"", names);
    let quantity = fields
        .require("quantity", "how much may be used in one window, such as quantity = 5000")
        .and_then(|field| field.whole(1, QUANTITY_MAX));
    let window = window::of(fields);
    let algorithm = algorithm(fields, quantity, window);
    let scope = fields.get("scope").map_or(Some(Scope::Region), |field| {
        field.choice(&[Scope::Region, Scope::Global].map(|scope| (scope.as_str(), scope)), &[])
    });
    let consistency = consistency(fields, scope);
    let (name, window, algorithm, scope) = (name?, window?, algorithm?, scope?);
    if scope == Scope::Global
        && algorithm != Algorithm::FixedWindow
        && let Some(field) = fields.get("algorithm")
    {
        let word = algorithm.as_str();
        return field.refuse(format_args!(
            "{word} is not built yet for global limits: write algorithm = \"fixed-window\", or scope = \"region\""
        ));
    }
    let cut = window.shape();
    let mut shape = Vec::from([policy?, name, algorithm.as_str(), &cut, scope.as_str()]);
    if consistency.is_some_and(Consistency::has_rights) {
        // Of what was used without rights no region knows its part: rights begin with nothing used.
        shape.push("rights");
    }
    let id = LimitId::of(&shape);
    if let Some(other) = ids.insert(id, fields.place.clone()) {
        let message = format_args!("has by chance the same number as {other}: rename one of them");
        fields.notes.add(fields.at, &fields.place, message);
    }
    Some(Limit {
        name: name.into(),
        quantity: quantity?,
        window,
        algorithm,
        scope,
        consistency: consistency?,
        id,
    })
}

/// By what a limit counts: fixed windows if it does not say.
fn algorithm(
    fields: &Fields<'_>,
    quantity: Option<u64>,
    window: Option<Window>,
) -> Option<Algorithm> {
    const FIXED: &str = "fixed-window";
    const CONCURRENCY: &str = "concurrency";
    let known =
        [FIXED, "sliding-window", "sliding-log", "token-bucket", "leaky-bucket", CONCURRENCY];
    let word = match fields.get("algorithm") {
        Some(field) => field.choice(&known.map(|word| (word, word)), &[])?,
        None => FIXED,
    };
    if let Some((unit, _)) = window.and_then(Window::unit)
        && word != FIXED
        && let Some(field) = fields.get("algorithm")
    {
        let unit = unit.as_str();
        return field.refuse(format_args!(
            "{word} reckons with a length, and a {unit} of the calendar has none: write algorithm = \"fixed-window\", or a length as window, such as \"1d\""
        ));
    }
    let burst = fields.get("burst");
    let has_burst = word.ends_with("bucket");
    if let Some(field) = burst.as_ref().filter(|_| !has_burst) {
        return field.refuse_key(
            "is for buckets: leave it out, or write algorithm = \"token-bucket\" or \"leaky-bucket\"",
        );
    }
    let shaper = fields.get("shaper");
    if let Some(field) = shaper.as_ref().filter(|_| word != "leaky-bucket") {
        return field.refuse_key(
            "is for leaky buckets: leave it out, or write algorithm = \"leaky-bucket\"",
        );
    }
    let shapes = shaper.map_or(Some(false), |field| field.boolean())?;
    let capacity = match &burst {
        Some(field) => field.whole(1, QUANTITY_MAX)?,
        None => quantity?,
    };
    match word {
        "sliding-window" => Some(Algorithm::SlidingWindow),
        "sliding-log" => {
            if quantity? > LOG_QUANTITY_MAX {
                return fields.get("quantity")?.refuse(format_args!(
                    "is more than a sliding-log keeps apart, {LOG_QUANTITY_MAX}: write algorithm = \"sliding-window\", which keeps two numbers"
                ));
            }
            Some(Algorithm::SlidingLog)
        }
        CONCURRENCY => {
            if quantity? > HOLDS_MAX as u64 {
                return fields.get("quantity")?.refuse(format_args!(
                    "is more places than a record holds, {HOLDS_MAX}: split it by a finer key"
                ));
            }
            Some(Algorithm::Concurrency)
        }
        "token-bucket" | "leaky-bucket" => {
            let Some(bucket) = Bucket::new(quantity?, window?, capacity) else {
                let field = burst.or_else(|| fields.get("quantity"))?;
                return field.refuse(format_args!(
                    "a full bucket of {capacity} at this quantity and window cannot be counted exactly: make it smaller, or the window shorter or rounder"
                ));
            };
            let is_tokens = word == "token-bucket";
            Some(if is_tokens {
                Algorithm::TokenBucket(bucket)
            } else {
                Algorithm::LeakyBucket(if shapes { bucket.shaping() } else { bucket })
            })
        }
        _ => Some(Algorithm::FixedWindow),
    }
}

/// What a global limit promises: `eventual` if it does not say.
fn consistency(fields: &Fields<'_>, scope: Option<Scope>) -> Option<Consistency> {
    let known = ["plain", "eventual", "bounded", "strict"];
    let word = fields.get("consistency").filter(|_| scope == Some(Scope::Global));
    let word = match word {
        Some(field) => field.choice(&known.map(|word| (word, word)), &[])?,
        None => "eventual",
    };
    let overdraft = fields.get("overdraft");
    if word != "bounded"
        && let Some(field) = &overdraft
    {
        return field
            .refuse_key("is for bounded limits: leave it out, or write consistency = \"bounded\"");
    }
    match (scope?, fields.get("consistency")) {
        (Scope::Region, None) => Some(Consistency::Plain),
        (Scope::Region, Some(field)) => field.refuse_key(
            "is for global limits: leave it out of a regional one, which is exact, or write scope = \"global\"",
        ),
        (Scope::Global, _) => Some(match word {
            "plain" => Consistency::Plain,
            "strict" => Consistency::Strict,
            "bounded" => {
                let example = "overdraft = \"2%\", the part that may be exceeded at most";
                let field = fields.require("overdraft", example)?;
                Consistency::Bounded { overdraft_per_million: percent(&field)? }
            }
            _ => Consistency::Eventual,
        }),
    }
}

/// A part as text: `"2%"` or `"0.25%"`, in millionths.
fn percent(field: &Field<'_>) -> Option<u32> {
    let text = field.text()?;
    let parsed = text.strip_suffix('%').and_then(|number| {
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || whole.len() > 3 || fraction.len() > 4 {
            return None;
        }
        let fraction = format!("{fraction:0<4}");
        Some(whole.parse::<u32>().ok()? * 10_000 + fraction.parse::<u32>().ok()?)
    });
    parsed.filter(|parsed| (1..=1_000_000).contains(parsed)).map_or_else(
        || {
            let shown = Shown(text);
            field.refuse(format_args!(
                "{shown} is not a part such as \"2%\": \"0.0001%\" to \"100%\""
            ))
        },
        Some,
    )
}

/// What a limit that is spent by rights cannot be under its policy.
fn check_rights(limits: &[Limit], policy: &Fields<'_>, on_store_failure: OnStoreFailure) {
    let spent = limits.iter().find(|limit| limit.has_rights());
    if let Some(limit) = spent.filter(|_| on_store_failure == OnStoreFailure::Open) {
        let (name, consistency) = (&limit.name, limit.consistency.as_str());
        let message = format_args!(
            "must not be \"open\": limit \"{name}\" is {consistency}, and what is admitted without the store would break its promise; write \"closed\""
        );
        if let Some(field) = policy.get("on_store_failure") {
            field.refuse::<()>(message);
        }
    }
}

#[cfg(test)]
mod tests;
