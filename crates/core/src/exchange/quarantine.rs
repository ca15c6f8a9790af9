//! Who has claimed what cannot be, and for how long it is not listened to.
//!
//! A peer has proved by its certificate who it is, not that it is right. One impossible claim may be a
//! mistake on the way; several within a minute are a broken or a foreign program, and reading on would
//! only cost time and fill logs. Its node then waits outside, each time twice as long, up to a bound. The
//! sentence is the node's, not the session's: a restart does not shorten it.

use alloc::{collections::BTreeMap, vec::Vec};

use crate::{
    ids::NodeId,
    memory,
    time::{Mono, Span},
};

/// So many impossible claims within [`WITHIN`] are one too many.
const OFFENCES_MAX: u32 = 5;
/// The time within which claims are counted together.
const WITHIN: Span = Span::secs(60);
/// The first time outside.
const FIRST: Span = Span::secs(30);
/// The longest time outside.
const LONGEST: Span = Span::secs(600);
/// Who has claimed nothing impossible for so long after its time begins anew.
const FORGOTTEN_AFTER: Span = Span::secs(3_600);
/// Nodes that are remembered. Only nodes with a certificate get here.
const RECORDS_MAX: usize = 4_096;

#[derive(Debug, Clone, Copy)]
struct Record {
    /// Impossible claims since `first`.
    offences: u32,
    first: Mono,
    /// Outside until then; an instant that is past if it is not.
    until: Mono,
    /// How long the last time outside was; zero if there was none.
    sentence: Span,
}

impl Record {
    fn is_forgotten(&self, now: Mono) -> bool {
        now.since(self.until.max(self.first)) >= FORGOTTEN_AFTER
    }
}

/// The nodes that have claimed what cannot be.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    records: BTreeMap<NodeId, Record>,
}

impl Quarantine {
    /// Notes an impossible claim of a node that is listened to; if it was one too many, for how long the
    /// node is outside from now on.
    pub(super) fn handle_offence(&mut self, now: Mono, node: &NodeId) -> Option<Span> {
        if !self.records.contains_key(node) && self.records.len() == RECORDS_MAX {
            self.forget_one();
        }
        let fresh = Record { offences: 0, first: now, until: Mono(0), sentence: Span(0) };
        let record = self.records.entry(node.clone()).or_insert(fresh);
        if record.is_forgotten(now) {
            *record = fresh;
        }
        if now.since(record.first) >= WITHIN {
            (record.offences, record.first) = (0, now);
        }
        record.offences += 1;
        if record.offences < OFFENCES_MAX {
            return None;
        }
        record.offences = 0;
        record.sentence = record.sentence.times(2).max(FIRST).min(LONGEST);
        record.until = now + record.sentence;
        Some(record.sentence)
    }

    /// How much longer a node is outside; `None` if it is listened to.
    pub(super) fn left(&self, now: Mono, node: &NodeId) -> Option<Span> {
        self.records.get(node).and_then(|record| Self::time_left(now, record))
    }

    /// All that are outside, and how much longer.
    pub(super) fn all(&self, now: Mono) -> Vec<(NodeId, Span)> {
        let left = |(node, record): (&NodeId, &Record)| {
            Self::time_left(now, record).map(|left| (node.clone(), left))
        };
        self.records.iter().filter_map(left).collect()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let names = |node: &NodeId| {
            memory::of_shared(node.region.as_str()) + memory::of_shared(node.node.as_str())
        };
        memory::of_tree(&self.records) + self.records.keys().map(names).sum::<usize>()
    }

    fn time_left(now: Mono, record: &Record) -> Option<Span> {
        Some(record.until.since(now)).filter(|left| *left > Span(0))
    }

    /// Makes room: the node whose time is over first, or soonest, is forgotten.
    fn forget_one(&mut self) {
        let oldest = self.records.iter().min_by_key(|(_, r)| r.until.max(r.first));
        if let Some(node) = oldest.map(|(node, _)| node.clone()) {
            self.records.remove(&node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: usize) -> NodeId {
        NodeId::new("us", &alloc::format!("us-{n}")).expect("a name")
    }

    /// Offends until it is sentenced.
    fn offend(quarantine: &mut Quarantine, now: Mono) -> Span {
        for _ in 1..OFFENCES_MAX {
            assert_eq!(quarantine.handle_offence(now, &node(0)), None);
        }
        quarantine.handle_offence(now, &node(0)).expect("one too many")
    }

    #[test]
    fn a_few_mistakes_in_a_minute_are_forgiven() {
        let mut quarantine = Quarantine::default();
        for minute in 0..1_000 {
            let now = Mono(0) + WITHIN.times(minute);
            for _ in 1..OFFENCES_MAX {
                assert_eq!(quarantine.handle_offence(now, &node(0)), None);
            }
        }
        assert_eq!(quarantine.all(Mono(0)), []);
    }

    #[test]
    fn the_time_outside_doubles_up_to_a_bound_ends_and_is_forgotten() {
        let mut quarantine = Quarantine::default();
        let mut now = Mono(1);
        let mut sentences = Vec::new();
        for _ in 0..7 {
            let sentence = offend(&mut quarantine, now);
            sentences.push(sentence.0 / 1_000_000);
            assert_eq!(quarantine.left(now, &node(0)), Some(sentence));
            assert_eq!(quarantine.all(now), [(node(0), sentence)]);
            assert_eq!(quarantine.left(now, &node(1)), None, "its sibling is listened to");
            now += sentence;
            assert_eq!(quarantine.left(now, &node(0)), None);
        }
        assert_eq!(sentences, [30, 60, 120, 240, 480, 600, 600]);
        now += FORGOTTEN_AFTER;
        assert_eq!(offend(&mut quarantine, now), FIRST);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut quarantine = Quarantine::default();
        let sentence = offend(&mut quarantine, Mono(1));
        for n in 1..=RECORDS_MAX {
            let _ = quarantine.handle_offence(Mono(2), &node(n));
        }
        assert_eq!(quarantine.records.len(), RECORDS_MAX);
        assert!(sentence > Span(1));
        assert!(quarantine.left(Mono(2), &node(0)).is_some(), "who is outside is not let in by it");
    }
}
