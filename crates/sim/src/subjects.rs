//! Who asks, and what is counted: every caller of every load, and every key that it meets.
//!
//! All of it is known before the run begins, so that the run itself works with small numbers: a subject
//! is a caller of a load, a key index is a key (of a region, where the limit is regional).

use std::collections::BTreeMap;

use tidegate_core::{
    ids::{Key, Secret},
    policy::{Consistency, OnStoreFailure, PolicySet, Scope},
    time::{ClusterTime, Label, Span, Window},
};

use crate::scenario::{Load, Reload, Schedule};

/// Nodes whose clocks agree are in the same window but for so long.
const CLOCKS_APART: Span = Span::secs(1);

/// The secret of every simulated cluster: fingerprints must repeat from run to run.
pub const SECRET: Secret = Secret(*b"tidegate-sim-key");

/// A key that is counted, and what a checker needs to know of its limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFacts {
    /// The key.
    pub key: Key,
    /// Policy and limit, as `policy/limit`.
    pub limit: String,
    /// Who is counted, for people.
    pub caller: String,
    /// How much one window holds, as the first policies say.
    pub quantity: u64,
    /// Later quantities: from when on the first node has it, from when on all have, and how much.
    pub later: Vec<(ClusterTime, ClusterTime, u64)>,
    /// How long a window is.
    pub window: Window,
    /// The region whose use counts; `None`: all regions together.
    pub region: Option<usize>,
    /// What its limit promises.
    pub consistency: Consistency,
    /// Whether a refusal of this limit refuses (not so in shadow).
    pub enforced: bool,
    /// What answers when the store does not.
    pub on_store_failure: OnStoreFailure,
}

impl KeyFacts {
    /// Whether regions admit what they have a right to, and no more than that and an overdraft.
    pub const fn has_rights(&self) -> bool {
        matches!(self.consistency, Consistency::Bounded { .. } | Consistency::Strict)
    }

    /// The quantities that some node may decide by in a window, whose clock may be off.
    fn in_force(&self, label: Label) -> impl Iterator<Item = u64> {
        let (start, end) = (self.window.start(label), self.window.end(label) + CLOCKS_APART);
        let ended = move |n: usize| {
            self.later.get(n).is_some_and(|(_, all, _)| *all + CLOCKS_APART <= start)
        };
        let later = self.later.iter().enumerate();
        let later = later.filter(move |(n, (first, ..))| *first < end && !ended(n + 1));
        let before = (!ended(0)).then_some(self.quantity);
        before.into_iter().chain(later.map(|(_, (.., quantity))| *quantity))
    }

    /// How much one window holds: the most, if that was changed in it.
    pub fn most(&self, label: Label) -> u64 {
        if self.later.is_empty() { self.quantity } else { self.in_force(label).max().unwrap_or(0) }
    }

    /// How much one window holds: the least, if that was changed in it.
    pub fn least(&self, label: Label) -> u64 {
        if self.later.is_empty() { self.quantity } else { self.in_force(label).min().unwrap_or(0) }
    }

    /// Names a window of this key, for people.
    pub fn show(&self, label: Label) -> String {
        format!("{} of {}, window {}", self.limit, self.caller, label.0)
    }
}

/// One limit that a subject meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Met {
    /// Its key, or that of the first region; the other regions' follow.
    first: u32,
    /// Whether each region has a key of its own.
    regional: bool,
}

impl Met {
    /// The key that counts in a region.
    pub const fn key_in(self, region: usize) -> usize {
        self.first as usize + if self.regional { region } else { 0 }
    }
}

/// A caller of a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// What its requests carry.
    pub attributes: Vec<(String, String)>,
    /// The limits it meets, in the order in which a decision lists them.
    pub met: Vec<Met>,
}

/// All subjects and keys of a run.
#[derive(Debug, Clone, Default)]
pub struct Subjects {
    /// Callers of the first load, then of the second, and so on.
    pub all: Vec<Subject>,
    /// Where each load's callers begin in `all`.
    pub first_of_load: Vec<usize>,
    /// What is counted.
    pub keys: Vec<KeyFacts>,
    global: BTreeMap<Key, usize>,
    regional: BTreeMap<Key, usize>,
    regions: usize,
}

impl Subjects {
    /// Finds every subject and key of a scenario.
    pub fn new(policies: &PolicySet, loads: &[Load], regions: usize) -> Self {
        let mut subjects = Self { regions, ..Self::default() };
        for load in loads {
            subjects.first_of_load.push(subjects.all.len());
            for n in 0..load.callers.count() {
                let mut attributes = load.attributes.clone();
                if let Some(name) = &load.caller {
                    attributes.push((name.clone(), load.callers.name(n)));
                }
                let met = subjects.meet(policies, &attributes);
                subjects.all.push(Subject { attributes, met });
            }
        }
        subjects
    }

    /// Takes note of quantities that are changed.
    pub fn change(&mut self, reloads: &[Reload], schedule: &Schedule) {
        for facts in &mut self.keys {
            let later = reloads.iter().filter_map(|reload| {
                let (_, limit) = reload.policies.limit(facts.key.limit)?;
                let (first, all) = (reload.at, reload.at + reload.over);
                let [first, all] = [first, all].map(|at| schedule.cluster_time(at));
                Some((first, all, limit.quantity))
            });
            facts.later = later.collect();
        }
    }

    fn meet(&mut self, policies: &PolicySet, attributes: &[(String, String)]) -> Vec<Met> {
        let attributes: Vec<_> = attributes.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let mut met = Vec::new();
        for policy in policies.matching(&attributes) {
            let caller = policy.caller(&SECRET, &attributes);
            let identity: Vec<_> =
                policy.identity(&attributes).iter().map(|(n, v)| format!("{n}={v}")).collect();
            let shown = if identity.is_empty() { "everyone".into() } else { identity.join(" ") };
            for limit in &policy.limits {
                let regional = limit.scope == Scope::Region;
                let key = Key { caller, limit: limit.id };
                let index = if regional { &mut self.regional } else { &mut self.global };
                let first = *index.entry(key).or_insert_with(|| {
                    let first = self.keys.len();
                    let facts = |region| KeyFacts {
                        key,
                        limit: format!("{}/{}", policy.name, limit.name),
                        caller: shown.clone(),
                        quantity: limit.quantity,
                        later: Vec::new(),
                        window: limit.window,
                        region,
                        consistency: limit.consistency,
                        enforced: !policy.shadow,
                        on_store_failure: policy.on_store_failure,
                    };
                    if regional {
                        self.keys.extend((0..self.regions).map(|region| facts(Some(region))));
                    } else {
                        self.keys.push(facts(None));
                    }
                    first
                });
                met.push(Met { first: first as u32, regional });
            }
        }
        met
    }

    /// The index of a key that a node of `region` speaks of.
    pub fn key_index(&self, key: &Key, region: usize) -> Option<usize> {
        match self.global.get(key) {
            Some(at) => Some(*at),
            None => self.regional.get(key).map(|first| first + region),
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use std::sync::Arc;

    use tidegate_core::time::Span;

    use super::*;
    use crate::scenario::{Callers, Requests};

    /// Two regions; caller 0 of load 0 meets a global limit of 10, caller 0 of load 1 also 4 per region.
    pub(crate) fn subjects() -> Subjects {
        let policies = PolicySet::parse(
            r#"
            [[policy]]
            name = "api"
            match = { route = "**" }
            key = ["user"]
            [[policy.limit]]
            name = "all"
            quantity = 10
            window = "1s"
            algorithm = "fixed-window"
            scope = "global"
            consistency = "plain"

            [[policy]]
            name = "writes"
            match = { route = "/write" }
            key = ["user"]
            [[policy.limit]]
            name = "here"
            quantity = 4
            window = "1s"
            algorithm = "fixed-window"
            scope = "region"
            "#,
        )
        .expect("good policies");
        let load = |route: &str, user: &str| Load {
            attributes: [("route", route), ("user", user)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            caller: None,
            callers: Callers::Numbered(1),
            requests: Requests::Recorded(Arc::default()),
            start: Span::ZERO,
            end: None,
        };
        Subjects::new(&policies, &[load("/read", "a"), load("/write", "b"), load("/read", "b")], 2)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::subjects;

    #[test]
    fn callers_share_keys_and_regions_share_global_ones_only() {
        let subjects = subjects();
        let limits: Vec<_> = subjects.keys.iter().map(|key| (&*key.limit, key.region)).collect();
        let expected = [
            ("api/all", None),
            ("api/all", None),
            ("writes/here", Some(0)),
            ("writes/here", Some(1)),
        ];
        assert_eq!(limits, expected);
        let met = |subject: usize, region| {
            subjects.all[subject].met.iter().map(|met| met.key_in(region)).collect::<Vec<_>>()
        };
        assert_eq!((met(0, 0), met(0, 1)), (vec![0], vec![0]));
        assert_eq!((met(1, 0), met(1, 1)), (vec![1, 2], vec![1, 3]));
        assert_eq!(met(2, 1), [1], "the same caller through another load");
        assert_eq!(subjects.keys[1].caller, "user=b");
    }

    #[test]
    fn a_key_on_the_wire_is_found_again() {
        let subjects = subjects();
        for (at, facts) in subjects.keys.iter().enumerate() {
            assert_eq!(subjects.key_index(&facts.key, facts.region.unwrap_or(1)), Some(at));
        }
    }
}
