//! The bodies that are sent.

use bytes::Bytes;
use serde_json::{Map, Value};

/// Makes the body of one request after the other.
#[derive(Debug)]
pub(super) struct Requests {
    fixed: Map<String, Value>,
    keys: Option<u64>,
    /// The body when nothing in it varies.
    constant: Bytes,
}

impl Requests {
    /// Requests with these attributes and, with `keys`, one of so many values of `api_key`.
    pub(super) fn new(attributes: &[(String, String)], keys: Option<u64>) -> Result<Self, String> {
        let mut fixed = Map::new();
        for (name, value) in attributes {
            if fixed.insert(name.clone(), Value::from(value.as_str())).is_some() {
                return Err(format!("--attribute names `{name}` twice"));
            }
        }
        if keys.is_some() && fixed.contains_key("api_key") {
            return Err("--keys and --attribute api_key=… contradict each other".into());
        }
        let constant = body(&fixed);
        Ok(Self { fixed, keys, constant })
    }

    /// The next body.
    pub(super) fn next(&self) -> Bytes {
        let Some(keys) = self.keys else { return self.constant.clone() };
        let mut attributes = self.fixed.clone();
        let key = rand::random_range(0..keys);
        attributes.insert("api_key".into(), format!("key-{key}").into());
        body(&attributes)
    }
}

fn body(attributes: &Map<String, Value>) -> Bytes {
    serde_json::json!({ "attributes": attributes, "cost": 1 }).to_string().into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn fixed_attributes_are_in_every_body() {
        let requests = Requests::new(&[("route".into(), "/\"x\"".into())], None).expect("sound");
        let body: Value = serde_json::from_slice(&requests.next()).expect("is JSON");
        assert_eq!(body, serde_json::json!({"attributes": {"route": "/\"x\""}, "cost": 1}));
    }

    #[test]
    fn keys_vary_over_their_whole_range_and_no_further() {
        let requests = Requests::new(&[("route".into(), "/".into())], Some(4)).expect("sound");
        let key = |body: Bytes| {
            let body: Value = serde_json::from_slice(&body).expect("is JSON");
            assert_eq!(body["attributes"]["route"], "/");
            body["attributes"]["api_key"].as_str().expect("text").to_owned()
        };
        let seen: BTreeSet<_> = (0..1_000).map(|_| key(requests.next())).collect();
        assert_eq!(seen, (0..4).map(|i| format!("key-{i}")).collect());
    }

    #[test]
    fn contradictions_are_refused() {
        let twice = [("a".into(), "1".into()), ("a".into(), "2".into())];
        assert!(Requests::new(&twice, None).is_err());
        assert!(Requests::new(&[("api_key".into(), "k".into())], Some(2)).is_err());
    }
}
