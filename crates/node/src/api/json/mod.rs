//! Reads the JSON of one check and of a batch, in one pass over the bytes.
//!
//! Names and values stay borrowed from the body unless they hold an escape. What is wrong with a value
//! is noted and reading goes on, so that one answer lists several mistakes; only bytes that are no
//! JSON, or a value where an object belongs, end it.

use std::{
    fmt,
    ops::{Range, RangeInclusive},
};

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::error::Category;

use super::{
    bounds::{
        ATTRIBUTES_MAX, CHECKS_MAX, COST_EXPECTED, Pairs, excerpt, is_cost, name_mistake,
        value_mistake,
    },
    problem::{Mistakes, Problem},
};

use value::{Leaf, LeafSeed, Text, TextSeed};

mod value;

/// The checks of one batch. All their attributes stand in one list.
pub(crate) struct Batch<'a> {
    /// Names and values of all checks, one check after the other.
    pub(crate) pairs: Pairs<'a>,
    /// For each check its part of `pairs`, and its cost.
    pub(crate) checks: Vec<(Range<usize>, u64)>,
}

/// Reads `{"attributes":{…},"cost":1}`; a cost that is not given is 1.
pub(crate) fn check(body: &[u8]) -> Result<(Pairs<'_>, u64), Problem> {
    let mut reader = Reader::default();
    let read = read_all(body, CheckSeed(&mut reader));
    let pairs = std::mem::take(&mut reader.pairs);
    reader.finish(read.map(|cost| (pairs, cost)))
}

/// A number that a body has beside a check.
#[derive(Debug)]
pub(crate) struct Extra {
    pub(crate) name: &'static str,
    pub(crate) range: RangeInclusive<u64>,
    /// What is said of a value that is none.
    pub(crate) expected: &'static str,
}

/// Reads a check and one number more, which must be there.
pub(crate) fn check_with<'a>(
    body: &'a [u8],
    extra: &'static Extra,
) -> Result<(Pairs<'a>, u64, u64), Problem> {
    let mut reader = Reader { extra: Some((extra, None)), ..Reader::default() };
    let read = read_all(body, CheckSeed(&mut reader));
    let found = reader.extra.and_then(|(_, found)| found);
    if read.is_ok() && found.is_none() {
        reader.wrong(extra.name, format!("missing; {}", extra.expected));
    }
    let pairs = std::mem::take(&mut reader.pairs);
    reader.finish(read.map(|cost| (pairs, cost, found.unwrap_or_default())))
}

/// Reads `{"checks":[…]}`.
pub(crate) fn batch(body: &[u8]) -> Result<Batch<'_>, Problem> {
    let mut reader = Reader::default();
    let read = read_all(body, BatchSeed(&mut reader));
    let pairs = std::mem::take(&mut reader.pairs);
    reader.finish(read.map(|checks| Batch { pairs, checks }))
}

fn read_all<'de, S>(body: &'de [u8], seed: S) -> serde_json::Result<S::Value>
where
    S: DeserializeSeed<'de>,
{
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = seed.deserialize(&mut json)?;
    json.end()?;
    Ok(value)
}

/// What has been read so far, and where reading is.
#[derive(Default)]
struct Reader<'a> {
    pairs: Pairs<'a>,
    mistakes: Mistakes,
    /// Which check of a batch is being read.
    index: Option<usize>,
    /// Which of its members is.
    member: Option<&'static str>,
    /// What a check has beside its own members, and what was found.
    extra: Option<(&'static Extra, Option<u64>)>,
}

impl Reader<'_> {
    /// Notes what is wrong with a member of the check being read.
    fn wrong(&mut self, member: &str, message: impl Into<String>) {
        if !self.mistakes.is_full() {
            let field = match self.index {
                Some(index) => format!("checks[{index}].{member}"),
                None => member.to_owned(),
            };
            self.mistakes.add(field, message);
        }
    }

    /// The same for an attribute.
    fn wrong_attribute(&mut self, name: &str, message: impl Into<String>) {
        if !self.mistakes.is_full() {
            self.wrong(&format!("attributes.{}", excerpt(name)), message);
        }
    }

    /// What was read, or everything that is wrong.
    fn finish<T>(mut self, read: serde_json::Result<T>) -> Result<T, Problem> {
        match read {
            Ok(value) => self.mistakes.or_else_ok(value),
            Err(error) => {
                let misplaced = error.classify() == Category::Data;
                match (self.index, self.member) {
                    (_, Some(member)) if misplaced => self.wrong(member, error.to_string()),
                    (Some(index), None) if misplaced => {
                        self.mistakes.add(format!("checks[{index}]"), error.to_string());
                    }
                    _ => self.mistakes.add("body", error.to_string()),
                }
                Err(self.mistakes.into_problem())
            }
        }
    }
}

/// Reads one check into the reader's pairs; yields its cost.
struct CheckSeed<'r, 'a>(&'r mut Reader<'a>);

impl<'de> DeserializeSeed<'de> for CheckSeed<'_, 'de> {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<u64, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for CheckSeed<'_, 'de> {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `attributes` and `cost`")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<u64, M::Error> {
        let reader = self.0;
        let (mut attributes_seen, mut cost) = (false, None);
        while let Some(Text(key)) = map.next_key_seed(TextSeed)? {
            match &*key {
                "attributes" => {
                    if std::mem::replace(&mut attributes_seen, true) {
                        reader.wrong("attributes", "given twice");
                    }
                    reader.member = Some("attributes");
                    map.next_value_seed(AttributesSeed(reader))?;
                    reader.member = None;
                }
                "cost" => {
                    if cost.is_some() {
                        reader.wrong("cost", "given twice");
                    }
                    cost = Some(match map.next_value_seed(LeafSeed)? {
                        Leaf::Whole(cost) if is_cost(cost) => cost,
                        other => {
                            reader.wrong("cost", format!("{COST_EXPECTED}, found {other}"));
                            1
                        }
                    });
                }
                other => match reader.extra {
                    Some((extra, found)) if extra.name == other => {
                        if found.is_some() {
                            reader.wrong(extra.name, "given twice");
                        }
                        let found = match map.next_value_seed(LeafSeed)? {
                            Leaf::Whole(number) if extra.range.contains(&number) => number,
                            other => {
                                let message = format!("{}, found {other}", extra.expected);
                                reader.wrong(extra.name, message);
                                *extra.range.start()
                            }
                        };
                        reader.extra = Some((extra, Some(found)));
                    }
                    extra => {
                        let more = extra.map_or(String::new(), |(extra, _)| {
                            format!(", and here `{}`", extra.name)
                        });
                        let message =
                            format!("no such field; a check has `attributes` and `cost`{more}");
                        reader.wrong(excerpt(other), message);
                        map.next_value::<IgnoredAny>()?;
                    }
                },
            }
        }
        if !attributes_seen {
            reader.wrong("attributes", "missing; an object of strings is expected");
        }
        Ok(cost.unwrap_or(1))
    }
}

/// Reads the attributes of one check into the reader's pairs.
struct AttributesSeed<'r, 'a>(&'r mut Reader<'a>);

impl<'de> DeserializeSeed<'de> for AttributesSeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for AttributesSeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object whose values are strings")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        let reader = self.0;
        let start = reader.pairs.len();
        let mut seen = 0_usize;
        while let Some(Text(name)) = map.next_key_seed(TextSeed)? {
            seen += 1;
            if seen > ATTRIBUTES_MAX {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if let Some(message) = name_mistake(&name) {
                reader.wrong_attribute(&name, message);
            }
            if reader.pairs[start..].iter().any(|(known, _)| *known == name) {
                reader.wrong_attribute(&name, "given twice");
            }
            match map.next_value_seed(LeafSeed)? {
                Leaf::Text(value) => {
                    if let Some(message) = value_mistake(&value) {
                        reader.wrong_attribute(&name, message);
                    }
                    reader.pairs.push((name, value));
                }
                other => reader.wrong_attribute(&name, format!("expected a string, found {other}")),
            }
        }
        if seen > ATTRIBUTES_MAX {
            reader
                .wrong("attributes", format!("{seen} attributes, at most {ATTRIBUTES_MAX} may be"));
        }
        Ok(())
    }
}

/// Reads a batch; yields each check's part of the reader's pairs, and its cost.
struct BatchSeed<'r, 'a>(&'r mut Reader<'a>);

impl<'de> DeserializeSeed<'de> for BatchSeed<'_, 'de> {
    type Value = Vec<(Range<usize>, u64)>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for BatchSeed<'_, 'de> {
    type Value = Vec<(Range<usize>, u64)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `checks`")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let reader = self.0;
        let mut checks = None;
        while let Some(Text(key)) = map.next_key_seed(TextSeed)? {
            if key == "checks" {
                if checks.is_some() {
                    reader.mistakes.add("checks", "given twice");
                }
                reader.member = Some("checks");
                checks = Some(map.next_value_seed(ChecksSeed(reader))?);
                reader.member = None;
            } else {
                reader.wrong(excerpt(&key), "no such field; a batch has `checks`");
                map.next_value::<IgnoredAny>()?;
            }
        }
        match &checks {
            None => reader.mistakes.add("checks", "missing; an array of checks is expected"),
            Some(checks) if checks.is_empty() => {
                reader.mistakes.add("checks", "empty; a batch has 1 to 1000 checks");
            }
            Some(_) => {}
        }
        Ok(checks.unwrap_or_default())
    }
}

/// Reads the array of a batch.
struct ChecksSeed<'r, 'a>(&'r mut Reader<'a>);

impl<'de> DeserializeSeed<'de> for ChecksSeed<'_, 'de> {
    type Value = Vec<(Range<usize>, u64)>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ChecksSeed<'_, 'de> {
    type Value = Vec<(Range<usize>, u64)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of checks")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Self::Value, S::Error> {
        let reader = self.0;
        let mut checks = Vec::new();
        loop {
            if checks.len() == CHECKS_MAX {
                if seq.next_element::<IgnoredAny>()?.is_none() {
                    break;
                }
                reader.index = None;
                reader.member = Some("checks");
                return Err(S::Error::custom("more than 1000 checks in one batch"));
            }
            (reader.index, reader.member) = (Some(checks.len()), None);
            let start = reader.pairs.len();
            let Some(cost) = seq.next_element_seed(CheckSeed(reader))? else { break };
            checks.push((start..reader.pairs.len(), cost));
        }
        reader.index = None;
        Ok(checks)
    }
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, collections::BTreeMap};

    use proptest::{collection::btree_map, prelude::*};

    use super::*;

    #[test]
    fn plain_strings_are_borrowed_and_escapes_are_decoded() {
        let (pairs, cost) = check(br#"{"attributes":{"api_key":"k","us\u0065r":"a\nb"}}"#).unwrap();
        assert_eq!(cost, 1);
        assert!(matches!(pairs[0], (Cow::Borrowed("api_key"), Cow::Borrowed("k"))));
        assert_eq!(pairs[1], ("user".into(), "a\nb".into()));
    }

    #[test]
    fn a_batch_keeps_its_checks_apart() {
        let body = br#"{"checks":[{"attributes":{"a":"1","b":"2"}},{"attributes":{}},
                                   {"cost":7,"attributes":{"a":"3"}}]}"#;
        let batch = batch(body).unwrap();
        assert_eq!(batch.checks, [(0..2, 1), (2..2, 1), (2..3, 7)]);
        assert_eq!(batch.pairs[2], ("a".into(), "3".into()));
    }

    fn fitting_attributes() -> impl Strategy<Value = BTreeMap<String, String>> {
        let value = any::<String>().prop_filter("at most 512 bytes", |value| value.len() <= 512);
        btree_map("\\PC{1,16}", value, 0..=32)
    }

    proptest! {
        #[test]
        fn what_fits_is_read_as_it_was_written(
            attributes in fitting_attributes(),
            cost in 1_u64..=1_000_000,
        ) {
            let body = serde_json::json!({"attributes": attributes, "cost": cost}).to_string();
            let (pairs, read) = check(body.as_bytes()).unwrap();
            prop_assert_eq!(read, cost);
            prop_assert_eq!(pairs.len(), attributes.len());
            for (name, value) in pairs {
                prop_assert_eq!(attributes.get(&*name).map(String::as_str), Some(&*value));
            }
        }
    }
}
