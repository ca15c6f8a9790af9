//! The gate: no single step of a store admits what it should not have.
//!
//! The checker keeps its own idea of every record: what the store charged since its memory was last empty,
//! lifted by all that any asking node knew of its region when it planned. A step is right only if
//!
//! - the record that the store answers with holds at least that: a floor that is left out, or a merge that
//!   forgot, shows here, and
//! - what was charged left room: record + cost + what the asking node had been told of the other regions
//!   is at most the quantity (and, of a `bounded` limit, what all regions may overdraw). Of an `eventual` limit a
//!   node that has just begun leaves their parts to regions that have not told it anything.
//!
//! What is admitted without the store is held to the same, by the policy: `degrade` by what the node knows
//! of its region, `closed` not at all.
//!
//! Unlike the bound over a whole window this has no slack at all: what a store has lost is allowed for
//! exactly as far as the asking node could not know better.

use tidegate_core::policy::{Consistency, OnStoreFailure};

use super::{Book, Checker, Seen, Violations, rights_bound::overdrafts};
use crate::queue::Instant;

/// See the module.
#[derive(Debug, Default)]
pub struct Gate {
    violations: Violations,
}

impl Checker for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn see(&mut self, book: &Book, at: Instant, seen: &Seen<'_>) {
        let (life, stepped) = match *seen {
            Seen::Stepped { life, .. } => (life, true),
            Seen::Answered { life, store: None, allowed: true, .. } => (life, false),
            _ => return,
        };
        for weighed in &book.weighed {
            let (step, facts) = (weighed.step, &book.keys[weighed.step.key]);
            match facts.on_store_failure {
                _ if stepped => {}
                OnStoreFailure::Open => continue,
                OnStoreFailure::Closed => {
                    let of = facts.show(step.label);
                    self.violations.note(at, format_args!("{of}: admitted without the store"));
                    continue;
                }
                OnStoreFailure::Degrade if facts.enforced => {}
                OnStoreFailure::Degrade => continue,
            }
            let least = weighed.record + step.cost;
            if step.holds < least {
                let of = facts.show(step.label);
                self.violations.note(
                    at,
                    format_args!(
                        "{of}: the store holds {} for life {life}, and should know of {least}",
                        step.holds
                    ),
                );
            }
            let quantity = facts.most(step.label);
            let room = match facts.consistency {
                Consistency::Bounded { overdraft_per_million } => {
                    quantity + overdrafts(book, quantity, overdraft_per_million)
                }
                _ => quantity,
            };
            // Under rights nobody goes by what others have used; and of what they were known to have used they may
            // have given back a part, and then granted it.
            let goes_by_others = !(weighed.refunds && facts.has_rights());
            if step.cost > 0 && goes_by_others && least + weighed.others + weighed.kept > room {
                let of = facts.show(step.label);
                self.violations.note(
                    at,
                    format_args!(
                        "{of}: life {life} was allowed {} above {} here and {} elsewhere, with {} kept, of {}",
                        step.cost, weighed.record, weighed.others, weighed.kept, room
                    ),
                );
            }
        }
    }

    fn violations(&self) -> &Violations {
        &self.violations
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::time::Span;

    use super::{
        super::{LifeFacts, Step, testing::*},
        *,
    };
    use crate::store::Server;

    fn bench() -> Bench<Gate> {
        Bench::new(book(), Gate::default())
    }

    fn step(bench: &mut Bench<Gate>, life: usize, cost: u64, holds: u64) {
        let planned = bench.book.mark();
        bench.step_at(Server::Current, life, planned, (cost, holds));
    }

    #[test]
    fn a_server_that_was_replaced_is_held_to_what_it_knows() {
        let of = |server, holds| {
            let mut bench = bench();
            step(&mut bench, 0, 3, 3);
            bench.see(Seen::StoreLost { region: 0, kept: None });
            let planned = bench.book.mark();
            bench.step_at(server, 0, planned, (1, holds));
            bench.finish()
        };
        assert_eq!((of(Server::Current, 1), of(Server::Replaced, 4)), (0, 0));
        assert_eq!(of(Server::Replaced, 3), 1, "it has forgotten nothing");
    }

    #[test]
    fn a_clock_that_was_set_forward_excuses_every_server() {
        let mut bench = bench();
        step(&mut bench, 0, 3, 3);
        bench.see(Seen::StoreLost { region: 0, kept: None });
        bench.see(Seen::StoreExpired { region: 0 });
        let planned = bench.book.mark();
        bench.step_at(Server::Replaced, 0, planned, (1, 1));
        bench.step_at(Server::Current, 0, planned, (1, 1));
        assert_eq!(bench.finish(), 0);
    }

    #[test]
    fn steps_within_what_is_known_are_right() {
        let mut bench = bench();
        bench.admit(0, 6);
        bench.tell(0, 1, 6);
        bench.admit(1, 4);
        step(&mut bench, 1, 0, 4);
        assert_eq!(bench.finish(), 0);
    }

    #[test]
    fn a_charge_beyond_what_was_told_of_others_is_found() {
        let mut bench = bench();
        bench.admit(0, 6);
        bench.tell(0, 1, 6);
        bench.admit(1, 5);
        assert_eq!(bench.finish(), 1);
    }

    #[test]
    fn a_store_that_forgot_must_be_lifted_by_what_the_node_knows() {
        let mut bench = bench();
        bench.admit(0, 6);
        bench.see(Seen::StoreLost { region: 0, kept: None });
        step(&mut bench, 0, 1, 7);
        step(&mut bench, 0, 1, 2);
        assert_eq!(bench.finish(), 1, "the second one was not lifted");
    }

    #[test]
    fn what_nobody_can_know_after_a_loss_may_be_admitted_again() {
        let mut bench = bench();
        // Charged, and the answer has not come: no node knows of it.
        step(&mut bench, 0, 6, 6);
        bench.see(Seen::StoreLost { region: 0, kept: None });
        step(&mut bench, 0, 9, 9);
        assert_eq!(bench.finish(), 0);
    }

    #[test]
    fn a_store_rolled_back_holds_what_it_held() {
        let mut bench = bench();
        step(&mut bench, 0, 6, 6);
        bench.see(Seen::StoreSaved { region: 0, loss: 3 });
        step(&mut bench, 0, 2, 8);
        bench.see(Seen::StoreLost { region: 0, kept: Some(3) });
        step(&mut bench, 0, 1, 7);
        step(&mut bench, 0, 4, 11);
        assert_eq!(bench.finish(), 1, "11 are beyond the limit of 10");
    }

    #[test]
    fn an_answer_without_the_store_is_held_to_its_policy() {
        let admitted = |on_store_failure, cost| {
            let mut bench = bench();
            bench.book.keys[0].on_store_failure = on_store_failure;
            bench.admit(0, 6);
            bench.admit_without_store(0, cost);
            bench.finish()
        };
        assert_eq!(admitted(OnStoreFailure::Degrade, 4), 0);
        assert_eq!(admitted(OnStoreFailure::Degrade, 5), 1);
        assert_eq!(admitted(OnStoreFailure::Closed, 1), 1);
        assert_eq!(admitted(OnStoreFailure::Open, 50), 0);
    }

    #[test]
    fn who_has_just_begun_leaves_their_parts_to_those_it_does_not_know() {
        let found = |consistency, told: bool, age: Span, cost| {
            let mut book = book();
            book.keys[0].consistency = consistency;
            book.facts.reclaim_after = Span::secs(4);
            let mut bench = Bench::new(book, Gate::default());
            bench.see_at(AT, Seen::Started(LifeFacts { node: 1, region: 1, since: AT }));
            if told {
                bench.tell(0, 2, 0);
            }
            let (planned, at) = (bench.book.mark(), AT + age);
            let steps = [Step { key: 0, label: LABEL, cost, holds: cost }];
            let server = Server::Current;
            bench.see_at(at, Seen::Stepped { life: 2, planned, server, steps: &steps });
            bench.finish()
        };
        let (eventual, soon) = (Consistency::Eventual, Span::secs(3));
        assert_eq!(found(eventual, false, soon, 5), 0);
        assert_eq!(found(eventual, false, soon, 6), 1, "half of it is not its own");
        assert_eq!(found(eventual, true, soon, 6), 0, "it has heard of the other");
        assert_eq!(found(eventual, false, Span::secs(5), 6), 0, "it has waited long enough");
        assert_eq!(found(Consistency::Plain, false, soon, 6), 0);
    }

    #[test]
    fn a_refused_step_lifts_the_record_too() {
        let mut bench = bench();
        bench.admit(0, 6);
        bench.see(Seen::StoreLost { region: 0, kept: None });
        step(&mut bench, 0, 0, 0);
        assert_eq!(bench.finish(), 1);
    }
}
