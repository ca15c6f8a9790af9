//! What chitchat holds, in bytes, and when it is too much.
//!
//! chitchat keeps whatever it is told of a run, and bounds neither runs nor what they say. It cannot be told
//! to forget some of it either; so with too much it begins anew with nothing.

use std::{collections::BTreeSet, fmt};

use chitchat::{Chitchat, ChitchatId, NodeState, VersionedValue};

use super::{GAPS, RUNS_MAX};

/// How many keys a run may have; ours have five.
const KEYS_MAX: usize = 32;
/// How many bytes a run's name, keys and values may have together. Ours have some 400 at most.
const TEXT_MAX: usize = 4 * 1024;
/// How many bytes all runs may take. As many as there may be take less than three quarters of it, if all are
/// ours and live.
const BYTES_MAX: usize = 24 * 1024 * 1024;
/// How much of a name is shown: a peer may have made it up.
const SHOWN: usize = 64;
/// A tree's nodes have so many places, and do not say how many are taken: on average two thirds.
const NODE: usize = 11;

/// What chitchat holds.
#[derive(Debug, Default)]
pub(super) struct Held {
    runs: usize,
    bytes: usize,
    /// A run that says too much.
    swollen: Option<TooMuch>,
}

/// What chitchat was told too much of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TooMuch {
    /// Runs of nodes.
    Runs(usize),
    /// By one run.
    Run { name: String, keys: usize, text: usize },
    /// By all of them.
    Bytes(usize),
}

impl fmt::Display for TooMuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Runs(runs) => {
                write!(f, "it was told of {runs} runs of nodes, more than {RUNS_MAX}")
            }
            Self::Run { name, keys, text } => write!(
                f,
                "it was told {keys} keys of {text} bytes of a run of {name:?}, more than {KEYS_MAX} or than \
                 {TEXT_MAX} bytes"
            ),
            Self::Bytes(bytes) => {
                write!(f, "what it was told takes {bytes} bytes, more than {BYTES_MAX}")
            }
        }
    }
}

impl Held {
    pub(super) fn of(chitchat: &Chitchat) -> Self {
        let live: BTreeSet<&ChitchatId> = chitchat.live_nodes().collect();
        let mut held = Self::default();
        for (id, state) in chitchat.node_states() {
            held.add(id, state, live.contains(id));
        }
        held
    }

    fn add(&mut self, id: &ChitchatId, state: &NodeState, live: bool) {
        let (mut keys, mut text) = (0, 0);
        for (key, value) in state.key_values_including_deleted() {
            keys += 1;
            text += key.len() + value.value.len();
        }
        let said = text + (keys * 3 / 2).max(NODE) * size_of::<(String, VersionedValue)>();
        // Of those that live it keeps a copy, for whoever may ask.
        let copies = if live { 2 } else { 1 };
        let entry = size_of::<(ChitchatId, NodeState)>() * 3 / 2;
        self.runs += 1;
        self.bytes += copies * (said + entry) + id.node_id.len() + GAPS * size_of::<f64>();
        text += id.node_id.len();
        if keys > KEYS_MAX || text > TEXT_MAX {
            let name = id.node_id.chars().take(SHOWN).collect();
            self.swollen = Some(TooMuch::Run { name, keys, text });
        }
    }

    /// What its runs take: their names, what they say, and what is remembered of their signs of life.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// Whether that is too much.
    pub(super) fn too_much(self) -> Option<TooMuch> {
        if self.runs > RUNS_MAX {
            Some(TooMuch::Runs(self.runs))
        } else if self.bytes > BYTES_MAX {
            Some(TooMuch::Bytes(self.bytes))
        } else {
            self.swollen
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::ids::NAME_BYTES_MAX;

    use super::*;
    use crate::membership::{
        KEY_ADDRESS, KEY_NODE, KEY_POLICY_HASH, KEY_REGION, KEY_VERSION, MEMBERS_MAX,
    };

    fn id(name: &str) -> ChitchatId {
        ChitchatId::new(name, 1 << 10, ([127, 0, 0, 1], 7946).into())
    }

    fn held(name: &str, says: &[(String, String)], runs: usize) -> Held {
        let mut state = NodeState::for_test();
        says.iter().for_each(|(key, value)| state.set(key, value));
        let mut held = Held::default();
        (0..runs).for_each(|_| held.add(&id(name), &state, true));
        held
    }

    fn says(keys: usize, length: usize) -> Vec<(String, String)> {
        (0..keys).map(|key| (format!("{key:04}"), "v".repeat(length))).collect()
    }

    #[test]
    fn as_many_runs_of_ours_as_there_may_be_are_kept() {
        let name = "n".repeat(NAME_BYTES_MAX);
        let facts = [
            (KEY_REGION, name.clone()),
            (KEY_NODE, name.clone()),
            (KEY_ADDRESS, "[1111:2222:3333:4444:5555:6666:7777:8888]:65535".into()),
            (KEY_VERSION, "1000.1000.1000-rc.1000".into()),
            (KEY_POLICY_HASH, "0123456789abcdef".into()),
        ];
        let facts = facts.map(|(key, value)| (key.to_owned(), value));
        let name = format!("{name}/{name}");
        let all = held(&name, &facts, RUNS_MAX);
        assert!(all.bytes() * 4 / 3 < BYTES_MAX as u64, "{all:?}");
        assert_eq!(all.too_much(), None);
        let more = held(&name, &facts, RUNS_MAX + 1);
        assert_eq!(more.too_much(), Some(TooMuch::Runs(RUNS_MAX + 1)));
        // A message with all members is half of what may be sent at most: a key comes with 14 bytes, a run
        // with 50.
        let of_run = facts.iter().map(|(key, value)| key.len() + value.len() + 14).sum::<usize>();
        let of_run = of_run + name.len() + 50;
        assert!(of_run * MEMBERS_MAX <= super::super::message::UNPACKED_MAX / 2, "{of_run}");
    }

    #[test]
    fn a_run_that_says_too_much_is_found() {
        assert_eq!(held("eu/eu-0", &says(KEYS_MAX, 100), 1).too_much(), None);
        let found = |name: &str, says: &[(String, String)]| held(name, says, 1).too_much();
        let keys = found("eu/eu-0", &says(KEYS_MAX + 1, 0)).unwrap();
        assert!(
            keys.to_string().contains("33 keys of 139 bytes of a run of \"eu/eu-0\""),
            "{keys}"
        );
        assert!(found("eu/eu-0", &says(1, TEXT_MAX)).is_some());
        let name = "\n".repeat(TEXT_MAX + 1);
        let by_name = found(&name, &[]).unwrap();
        assert!(
            by_name.to_string().len() < 256 && !by_name.to_string().contains('\n'),
            "{by_name}"
        );
    }

    #[test]
    fn runs_that_say_too_much_together_are_found() {
        let says = says(KEYS_MAX, 100);
        let one = held("eu/eu-0", &says, 1).bytes;
        assert!(one > 2 * KEYS_MAX * 100, "{one}");
        let fit = BYTES_MAX / one;
        assert!(fit < RUNS_MAX);
        assert_eq!(held("eu/eu-0", &says, fit).too_much(), None);
        let bytes = one * (fit + 1);
        assert_eq!(held("eu/eu-0", &says, fit + 1).too_much(), Some(TooMuch::Bytes(bytes)));
    }
}
