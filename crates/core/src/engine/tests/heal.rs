//! New epochs of a store, and what is written into them.

use super::*;
use crate::{
    store::{Action, CallerBucket, Counts, OperationReply},
    time::Window,
    wire::micros_of,
};

/// The label of `hourly` at the start.
const HOUR: Label = Label(START.0 / 3_600_000_000);

fn names(count: usize) -> Vec<alloc::string::String> {
    (0..count).map(|n| alloc::format!("key-{n}")).collect()
}

/// What becomes of a healing command.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Done,
    /// It is done, and nobody hears of it.
    AnswerLost,
    /// It is not, and nobody hears of it.
    Lost,
    Refused,
}

impl World {
    fn hourly(&self, key: &str) -> Key {
        let policy = &self.policies.policies[0];
        let attributes: &Attributes<'_> = &[("route", "/api/x"), ("api_key", key)];
        Key { caller: policy.caller(&SECRET, attributes), limit: policy.limits[0].id }
    }

    /// What the store of a node holds, whoever knows it.
    fn stored(&self, at: usize, key: &str, label: Label) -> Counts {
        let record = self.nodes[at].1.get(&self.hourly(key), wall(self.now));
        record.map_or(Counts::default(), |record| match label {
            label if label == record.label => record.current,
            label if label.next() == record.label => record.previous,
            _ => Counts::default(),
        })
    }

    /// Tells an engine of the epoch its store is in, as a probe does.
    fn probe(&self, at: usize) {
        self.nodes[at].0.handle_epoch(self.now, CallerBucket::ALL, self.nodes[at].1.epoch());
    }

    /// The next healing command of a node.
    fn poll_heal(&self, node: usize) -> Option<(StoreCommand, HealTicket)> {
        self.nodes[node].0.poll_heal(&self.policies, self.now)
    }

    /// Has the healing commands of `node` carried out by the store of `store`, for a while; `carried` says
    /// of each whether it is, or else refused. Returns how many operations each had.
    fn heal(
        &mut self,
        node: usize,
        store: usize,
        steps: u64,
        mut carried: impl FnMut(&StoreCommand) -> bool,
    ) -> Vec<usize> {
        let fate =
            |command: &StoreCommand| if carried(command) { Fate::Done } else { Fate::Refused };
        self.heal_by_fate(node, store, steps, fate)
    }

    fn heal_by_fate(
        &mut self,
        node: usize,
        store: usize,
        steps: u64,
        mut fate: impl FnMut(&StoreCommand) -> Fate,
    ) -> Vec<usize> {
        let mut sizes = Vec::new();
        for _ in 0..steps {
            while let Some((command, ticket)) = self.poll_heal(node) {
                sizes.push(command.operations.len());
                let fate = fate(&command);
                let mut apply =
                    || self.nodes[store].1.apply(&command, wall(self.now)).expect("room");
                let outcome = match fate {
                    Fate::Done => Outcome::Reply(apply()),
                    Fate::AnswerLost => {
                        apply();
                        Outcome::Unknown
                    }
                    Fate::Lost => Outcome::Unknown,
                    Fate::Refused => Outcome::Cancelled,
                };
                self.nodes[node].0.handle_healed(self.now, ticket, &outcome);
            }
            self.run(10, |_, _| true);
        }
        sizes
    }
}

/// A region of two nodes, whose store is that of the first.
fn siblings() -> World {
    let world = World::new(vec![session("eu", "eu-0", 1), session("eu", "eu-1", 1)]);
    world.connect(0, 1);
    world
}

#[test]
fn the_first_epoch_begins_no_walk_and_every_newer_one_does() {
    let mut world = siblings();
    assert!(world.ask(0, "k", 10));
    let engine = &world.nodes[0].0;
    assert_eq!(engine.heal_status().epoch, Some(StoreEpoch(1)));
    assert!(!engine.heal_status().running);
    assert!(world.poll_heal(0).is_none() && engine.next_heal(world.now).is_none());
    world.wipe(0);
    // The first answer under the new epoch tells.
    assert!(world.ask(0, "other", 1));
    let status = world.nodes[0].0.heal_status();
    assert_eq!((status.epoch, status.epochs, status.running), (Some(StoreEpoch(2)), 1, true));
}

#[test]
fn a_node_that_knows_nothing_finds_the_sum_in_the_healed_store() {
    let mut world = siblings();
    assert!(world.ask(0, "k", 10) && world.ask(0, "l", 7));
    world.run(200, |_, _| true);
    world.wipe(0);
    world.probe(0);
    world.heal(0, 0, 300, |_| true);
    let status = world.nodes[0].0.heal_status();
    assert!(!status.running, "{status:?}");
    assert_eq!(status.healed, 8, "two keys with two limits, in two passes");
    // A sibling that has just started and has met nobody.
    world.nodes[0].0 = engine(session("eu", "eu-2", 1));
    assert_eq!((world.used(0, "k"), world.used(0, "l")), (10, 7));
    assert!(!world.ask(0, "k", 41), "the regional limit of 50 is healed too");
}

#[test]
fn the_second_pass_brings_what_siblings_had_not_heard_of_each_other_at_the_first() {
    let mut world = siblings();
    // One store for both: what node 1 admits is charged in the other's table only by the heal.
    assert!(world.ask(0, "k", 10) && world.ask(1, "k", 15));
    world.wipe(0);
    for node in 0..2 {
        world.probe(node);
        // Its sibling's wipe is its own: they share the store.
        world.nodes[node].0.handle_epoch(world.now, CallerBucket::ALL, StoreEpoch(2));
        let polled = world.poll_heal(node);
        let (command, ticket) = polled.expect("due at once");
        let reply = world.nodes[0].1.apply(&command, wall(world.now)).expect("room");
        world.nodes[node].0.handle_healed(world.now, ticket, &Outcome::Reply(reply));
    }
    assert_eq!(world.stored(0, "k", HOUR).used, 15, "each knew its own only");
    world.heal(1, 0, 300, |_| true);
    assert_eq!(world.stored(0, "k", HOUR).used, 25);
    assert!(!world.nodes[1].0.heal_status().running);
}

#[test]
fn commands_are_bounded_and_paced_and_tell_every_key() {
    let mut world = siblings();
    world.nodes[0].1 = Table::new(100_000, StoreEpoch(1));
    let keys = names(1_000);
    for key in &keys {
        assert!(world.ask(0, key, 3));
    }
    world.nodes[0].1 = Table::new(100_000, StoreEpoch(2));
    world.probe(0);
    let mut waiting = Vec::new();
    while let Some(polled) = world.poll_heal(0) {
        waiting.push(polled);
        assert!(world.poll_heal(0).is_none(), "paced");
        world.now += EVERY_OF_TEST;
    }
    assert_eq!(waiting.len(), 4, "in flight");
    for (command, ticket) in waiting {
        assert_eq!(command.operations.len(), 64);
        assert!(command.operations.iter().all(|o| o.action == Action::Heal && !o.enforce));
        let reply = world.nodes[0].1.apply(&command, wall(world.now)).expect("room");
        world.nodes[0].0.handle_healed(world.now, ticket, &Outcome::Reply(reply));
    }
    let sizes = world.heal(0, 0, 400, |_| true);
    assert!(sizes.iter().all(|size| *size <= 64));
    assert_eq!(sizes.iter().sum::<usize>() + 4 * 64, 2 * 2 * keys.len());
    for key in &keys {
        assert_eq!(world.stored(0, key, HOUR).used, 3, "{key}");
    }
}

/// More than the engine's pace.
const EVERY_OF_TEST: Span = Span::millis(5);

#[test]
fn what_fails_is_tried_again_and_one_bad_record_holds_up_no_other() {
    let mut world = siblings();
    let keys = names(100);
    for key in &keys {
        assert!(world.ask(0, key, 3));
    }
    world.wipe(0);
    world.probe(0);
    assert_eq!(world.heal(0, 0, 100, |_| false).len(), 4, "four times a second at most");
    assert!(world.nodes[0].0.heal_status().running);
    // The store takes everything but one record.
    let bad = world.hourly("key-50");
    world.heal(0, 0, 3_000, |command| command.operations.iter().all(|o| o.key != bad));
    let status = world.nodes[0].0.heal_status();
    assert!(!status.running, "{status:?}");
    assert!((1..=3).contains(&status.left_out), "{status:?}");
    for key in keys.iter().filter(|key| *key != "key-50") {
        assert_eq!(world.stored(0, key, HOUR).used, 3, "{key}");
    }
    assert_eq!(world.stored(0, "key-50", HOUR).used, 0);
    // The floor of the next check heals it.
    assert_eq!(world.used(0, "key-50"), 3);
}

#[test]
fn what_gets_no_answer_is_tried_for_longer_than_what_is_refused_and_then_left_out() {
    let mut world = siblings();
    assert!(world.ask(0, "k", 3) && world.ask(0, "l", 3));
    let bad = world.hourly("k");
    let mut tries = 0;
    for (lost, left_out) in [(31, 0), (1_000, 2)] {
        world.wipe(0);
        world.probe(0);
        let before = world.nodes[0].0.heal_status().left_out;
        let mut times = 0;
        world.heal_by_fate(0, 0, 2_500, |command| match &*command.operations {
            [one] if one.key == bad => {
                tries += 1;
                times += 1;
                if times > lost { Fate::Done } else { Fate::Lost }
            }
            several if several.iter().any(|o| o.key == bad) && times < lost => Fate::Lost,
            _ => Fate::Done,
        });
        let status = world.nodes[0].0.heal_status();
        assert!(!status.running, "{status:?}");
        assert_eq!(status.left_out - before, left_out, "after {tries} tries: {status:?}");
        assert_eq!(world.stored(0, "l", HOUR).used, 3, "it holds up no other");
        assert_eq!(world.stored(0, "k", HOUR).used, if left_out > 0 { 0 } else { 3 });
    }
    assert_eq!(
        tries,
        32 + 2 * 32,
        "31 that were lost and one that was not; then 32 in either pass"
    );
}

#[test]
fn while_the_store_is_not_asked_no_record_is_given_up() {
    let mut world = siblings();
    assert!(world.ask(0, "k", 10));
    world.wipe(0);
    world.probe(0);
    // A breaker that is open for a minute, say.
    for _ in 0..6_000 {
        while let Some((_, ticket)) = world.poll_heal(0) {
            world.nodes[0].0.handle_healed(world.now, ticket, &Outcome::Shed);
        }
        world.now += Span::millis(10);
    }
    let status = world.nodes[0].0.heal_status();
    assert!(status.running && status.left_out == 0, "{status:?}");
    assert_eq!(world.heal(0, 0, 300, |_| true)[0], 2, "one command for all of them, as at first");
    assert_eq!(world.stored(0, "k", HOUR).used, 10);
    assert!(!world.nodes[0].0.heal_status().running);
}

#[test]
fn a_newer_epoch_begins_the_walk_anew_and_late_answers_of_the_old_one_change_nothing() {
    let mut world = siblings();
    assert!(world.ask(0, "k", 10));
    world.wipe(0);
    world.probe(0);
    let (command, late) = world.poll_heal(0).expect("due");
    let reply = world.nodes[0].1.apply(&command, wall(world.now)).expect("room");
    world.wipe(0);
    world.probe(0);
    world.nodes[0].0.handle_healed(world.now, late, &Outcome::Reply(reply));
    assert_eq!(world.nodes[0].0.heal_status().old_answers, 1);
    world.heal(0, 0, 300, |_| true);
    assert_eq!(world.stored(0, "k", HOUR).used, 10);
    assert_eq!(world.nodes[0].0.heal_status().epochs, 2);
}

#[test]
fn an_answer_under_an_older_epoch_is_counted_and_its_counts_stay_exact() {
    let mut world = siblings();
    assert!(world.ask(0, "k", 10));
    let lagging = mem::replace(&mut world.nodes[0].1, Table::new(1_000, StoreEpoch(5)));
    assert!(world.ask(0, "k", 10));
    world.nodes[0].1 = lagging;
    assert_eq!(world.used(0, "k"), 20, "lifted by the floor");
    assert!(!world.ask(0, "k", 31));
    let status = world.nodes[0].0.heal_status();
    assert_eq!((status.epoch, status.old_answers), (Some(StoreEpoch(5)), 2));
}

#[test]
fn the_label_before_is_healed_too_and_older_ones_are_not() {
    let mut world = siblings();
    assert!(world.ask(0, "k", 10));
    world.now += Span::secs(3_600);
    assert!(world.ask(0, "k", 4));
    world.wipe(0);
    world.probe(0);
    world.heal(0, 0, 300, |_| true);
    assert_eq!(world.stored(0, "k", HOUR.next()).used, 4);
    assert_eq!(world.stored(0, "k", HOUR).used, 10);
    world.now += Span::secs(7_200);
    world.wipe(0);
    world.probe(0);
    assert_eq!(world.heal(0, 0, 300, |_| true).len(), 0);
}

#[test]
fn other_regions_counts_are_not_written() {
    let mut world = three_regions();
    assert!(world.ask(1, "k", 10));
    world.run(200, |_, _| true);
    world.probe(0);
    world.wipe(0);
    world.probe(0);
    assert_eq!(world.heal(0, 0, 300, |_| true).len(), 0);
    assert!(!world.nodes[0].0.heal_status().running);
    assert_eq!(world.used(0, "k"), 10);
}

#[test]
fn a_store_that_claims_to_have_healed_and_has_not_is_not_believed() {
    let mut world = siblings();
    world.nodes[0].0.settings.strict_invariants = false;
    assert!(world.ask(0, "k", 10));
    world.wipe(0);
    world.probe(0);
    let (command, ticket) = world.poll_heal(0).expect("due");
    let lie = OperationReply::new(true, Counts { used: 9, refunded: 0 });
    let reply = StoreReply::Done {
        admitted: true,
        now: wall(world.now),
        epoch: StoreEpoch(2),
        adopted: None,
        operations: command.operations.iter().map(|_| lie.clone()).collect(),
    };
    world.nodes[0].0.handle_healed(world.now, ticket, &Outcome::Reply(reply));
    assert_eq!(world.nodes[0].0.broken().get(&Invariant::Healed), Some(&1));
    assert_eq!(world.nodes[0].0.heal_status().healed, 0);
    world.heal(0, 0, 300, |_| true);
    assert_eq!(world.stored(0, "k", HOUR).used, 10, "it was tried again");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// INV-11: whatever fails on the way and however often the store forgets, when the walk is over the
    /// store holds at least what the node knew of its region when the last pass began.
    #[test]
    fn a_finished_walk_has_brought_everything(
        steps in prop::collection::vec((0_usize..40, 1_u64..4, 0_u8..10), 1..60),
        mut luck in any::<u32>(),
    ) {
        let mut world = siblings();
        let keys = names(40);
        // The first epoch that is seen begins no walk.
        world.probe(0);
        for (key, cost, what) in steps {
            match what {
                0 => {
                    world.wipe(0);
                    world.probe(0);
                }
                1 | 2 => {
                    world.heal_by_fate(0, 0, 5, |_| {
                        luck = luck.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        [Fate::Done, Fate::AnswerLost, Fate::Lost, Fate::Refused][luck as usize >> 30]
                    });
                }
                3 => { world.ask_with(0, &keys[key], cost, Purpose::Charge, false); }
                _ => { world.ask(0, &keys[key], cost); }
            }
        }
        world.wipe(0);
        world.probe(0);
        world.heal(0, 0, 600, |_| true);
        prop_assert!(!world.nodes[0].0.heal_status().running);
        for key in &keys {
            let used = world.nodes[0].0.known(world.hourly(key), HOUR).own_region();
            let known = Counts { used, refunded: 0 };
            prop_assert_eq!(world.stored(0, key, HOUR), known);
        }
    }
}

/// A peer of another region that has told, as earlier sessions of ours, what no store could have admitted.
fn lied_to(window_of: impl Fn(&PolicySet) -> Window) -> World {
    use crate::wire::{Frame, Header, Section, SlotEntry, Slots, Speaker};
    let world = World::new(vec![session("eu", "eu-0", 2), session("us", "us-0", 1)]);
    world.connect(0, 1);
    let key = world.hourly("k");
    let window = window_of(&world.policies);
    let speaker = |boot| Speaker { region: "eu".into(), node: "eu-0".into(), boot };
    let slots = |boot| Slots {
        of: Some(speaker(boot)),
        limit: key.limit.0,
        window: micros_of(window),
        global: true,
        label: window.label_at(START).0,
        entries: vec![SlotEntry {
            caller: key.caller.to_bytes(),
            used: 90,
            refunded: 0,
            refused: 0,
            note: 0,
        }],
    };
    let sections = (0..2).map(|boot| Section::Slots(slots(boot))).collect();
    let header = Header { number: 0, open: 0, acknowledged: 0, unmerged: 0, sent: 0, echo: None };
    let bytes = Frame { header, sections }.encode();
    let us = world.nodes[1].0.session();
    world.nodes[0].0.handle_frame(world.now, us, &bytes).expect("taken");
    world
}

#[test]
fn what_is_told_of_the_own_region_is_written_up_to_the_quantity() {
    let mut world = lied_to(|policies| policies.policies[0].limits[0].window);
    assert_eq!(world.used(0, "k"), 100);
    world.wipe(0);
    world.probe(0);
    world.heal(0, 0, 300, |_| true);
    assert_eq!(world.stored(0, "k", HOUR).used, 100, "of 180");
}

#[test]
fn what_is_told_under_another_window_than_the_limits_is_not_written() {
    let mut world = lied_to(|_| Window::new(Span::millis(1)).expect("a millisecond"));
    world.probe(0);
    world.wipe(0);
    world.probe(0);
    assert_eq!(world.heal(0, 0, 300, |_| true).len(), 0);
    assert!(!world.nodes[0].0.heal_status().running);
}

#[test]
fn of_limits_without_a_policy_only_what_was_admitted_here_is_written() {
    let mut world = siblings();
    assert!(world.ask(0, "k", 10) && world.ask(1, "k", 15));
    world.run(200, |_, _| true);
    world.wipe(0);
    world.probe(0);
    let policies = mem::take(&mut world.policies);
    world.heal(0, 0, 300, |_| true);
    world.policies = policies;
    assert_eq!(world.stored(0, "k", HOUR).used, 10);
    assert_eq!(world.used(0, "k"), 25, "the floor of the next check brings the rest");
}
