//! Checks that ask the same records as others that are at the store already wait until one of those is back, and are
//! then asked together, in one call ([`Joint`]).
//!
//! So a caller that everybody asks for costs the store a call or two at a time, however many checks there are; and
//! nobody is decided otherwise than alone. A check waits for one call of others, and then for its own.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
};

use parking_lot::Mutex;
use tidegate_core::{
    check::Ticket,
    engine::Completion,
    ids::Key,
    policy::PolicySet,
    store::{Joint, StoreCommand, StoreReply},
};
use tokio::{runtime::Handle, sync::oneshot, task::yield_now};

use super::{Asked, Inner};
use crate::{
    api::CheckError,
    store::{Permit, StoreError},
};

/// Locks.
const SHARDS: usize = 64;
/// Calls over the same records that are at the store at a time: while one is on its way back, another is carried out.
const CALLS_AT_ONCE: u32 = 2;
/// Kinds of checks over the same records that wait by themselves: where a label begins, or policies are replaced, some
/// go by what was before.
const KINDS_MAX: usize = 4;

/// What became of a check that waited.
pub(super) type Answer = Result<Asked, CheckError>;

/// The checks that are at the store, or wait for those.
pub(super) struct Together {
    shards: Box<[Mutex<HashMap<Key, Group>>]>,
}

/// The checks whose first record is the same.
#[derive(Default)]
struct Group {
    calls: u32,
    /// Whether there was no room for the last of them.
    refused: bool,
    /// By kind, who waits longest first.
    waiting: VecDeque<Waiting>,
}

/// Checks that will be asked together.
struct Waiting {
    joint: Joint<Member>,
    /// By which they were planned.
    policies: Arc<PolicySet>,
}

struct Member {
    ticket: Ticket,
    answer: oneshot::Sender<Answer>,
}

/// How a check goes on.
pub(super) enum Entered {
    /// It is asked now; others wait until the turn is over.
    Now(Turn, StoreCommand, Ticket),
    /// It is asked with others, and this is told what became of it.
    Waits(oneshot::Receiver<Answer>),
    /// It is asked now, and nobody waits for it.
    Apart(StoreCommand, Ticket),
}

/// One of the calls over the same records. When it is dropped, those are asked that have come to wait meanwhile.
pub(super) struct Turn {
    inner: Arc<Inner>,
    key: Key,
    /// For one call after the other.
    permit: Option<Permit>,
    /// Whether there was no room.
    refused: bool,
}

impl Default for Together {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Together {
    fn shard(&self, key: &Key) -> &Mutex<HashMap<Key, Group>> {
        &self.shards[key.caller.0[1] as usize % SHARDS]
    }
}

/// Where a check goes: a command that may be asked together with others, and whose records are in one place.
pub(super) fn enter(
    inner: &Arc<Inner>,
    policies: &Arc<PolicySet>,
    command: StoreCommand,
    ticket: Ticket,
) -> Entered {
    let Some(key) = command.operations.first().map(|operation| operation.key) else {
        return Entered::Apart(command, ticket);
    };
    let mut groups = inner.together.shard(&key).lock();
    let group = groups.entry(key).or_default();
    if group.calls < CALLS_AT_ONCE {
        group.calls += 1;
        drop(groups);
        let turn = Turn { inner: Arc::clone(inner), key, permit: None, refused: false };
        return Entered::Now(turn, command, ticket);
    }
    let (answer, waits) = oneshot::channel();
    match group.wait(policies, command, Member { ticket, answer }) {
        Ok(()) => Entered::Waits(waits),
        Err(apart) => {
            let (command, member) = *apart;
            Entered::Apart(command, member.ticket)
        }
    }
}

impl Group {
    /// Has a check wait with those of its kind, unless there are too many kinds or checks.
    fn wait(
        &mut self,
        policies: &Arc<PolicySet>,
        command: StoreCommand,
        member: Member,
    ) -> Result<(), Box<(StoreCommand, Member)>> {
        let mut next = Box::new((command, member));
        for waiting in &mut self.waiting {
            if Arc::ptr_eq(&waiting.policies, policies) {
                let (command, member) = *next;
                match waiting.joint.join(command, member) {
                    Ok(()) => return Ok(()),
                    Err(other) => next = other,
                }
            }
        }
        if self.waiting.len() >= KINDS_MAX {
            return Err(next);
        }
        let (command, member) = *next;
        let joint = Joint::new(command, member, self.refused);
        self.waiting.push_back(Waiting { joint, policies: Arc::clone(policies) });
        Ok(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Without a runtime nobody waits any more.
        let runtime = Handle::try_current().ok();
        let waiting = {
            let mut groups = self.inner.together.shard(&self.key).lock();
            let Entry::Occupied(mut group) = groups.entry(self.key) else { return };
            group.get_mut().refused = self.refused;
            let waiting = group.get_mut().waiting.pop_front();
            if waiting.is_none() || runtime.is_none() {
                group.get_mut().calls -= 1;
                if group.get().calls == 0 {
                    group.remove();
                }
            }
            waiting
        };
        // A runtime that ends drops what it is given, and this with it: so no lock may be held here.
        if let Some((waiting, runtime)) = waiting.zip(runtime) {
            let (inner, permit) = (Arc::clone(&self.inner), self.permit.take());
            let turn = Self { inner, permit, key: self.key, refused: self.refused };
            runtime.spawn(turn.go_on(waiting));
        }
    }
}

impl Turn {
    /// Lets a command through to the store, in the place of the one before.
    pub(super) fn pass(&mut self, command: &StoreCommand) -> Result<(), StoreError> {
        if let Some(door) = self.inner.door(command)? {
            let before = self.permit.take();
            self.permit = Some(door.guard.admit_after(before, door.reachable)?);
        }
        Ok(())
    }

    /// Asks for a check that has passed.
    pub(super) async fn take(
        mut self,
        op: &'static str,
        command: StoreCommand,
        ticket: Ticket,
    ) -> Answer {
        let inner = Arc::clone(&self.inner);
        let answer = inner.carry_out(op, command, ticket, &mut self.permit).await;
        self.refused = answer.as_ref().is_ok_and(|(decision, _)| !decision.allowed);
        answer
    }

    /// Asks until nobody waits any more.
    async fn go_on(mut self, waiting: Waiting) {
        let mut next = Some(waiting);
        while let Some(waiting) = next {
            self.ask(waiting).await;
            // Who was answered and asks again waits with the others, and does not go ahead alone.
            yield_now().await;
            let mut groups = self.inner.together.shard(&self.key).lock();
            next = groups.get_mut(&self.key).and_then(|group| {
                group.refused = self.refused;
                group.waiting.pop_front()
            });
        }
    }

    /// Asks until all of them are answered, or wait again.
    async fn ask(&mut self, Waiting { mut joint, policies }: Waiting) {
        if joint.len() > 1 {
            self.inner.metrics.asked_together(joint.len());
        }
        while !joint.is_empty()
            && let Some(command) = joint.to_ask()
        {
            let answer = match self.pass(&command) {
                Ok(()) => self.inner.call_with("check", &command, &mut self.permit).await,
                Err(why) => Err(self.inner.in_more_words(&command, why)),
            };
            match answer {
                Ok(reply) => {
                    for (member, reply) in joint.handle(&reply) {
                        self.conclude(&policies, member, Ok(reply));
                    }
                }
                Err(failure) => {
                    self.inner.note_failure(&failure);
                    for member in joint.give_up() {
                        self.conclude(&policies, member, Err(failure.clone()));
                    }
                }
            }
        }
        self.refused = joint.was_refused();
        for (command, member) in joint.rest() {
            self.wait_again(&policies, command, member);
        }
    }

    /// Says what became of one of them. One whose label did not fit is asked once more.
    fn conclude(
        &self,
        policies: &Arc<PolicySet>,
        Member { ticket, answer }: Member,
        told: Result<StoreReply, StoreError>,
    ) {
        // Who has gone away does not need it, and has been counted all the same.
        match self.inner.conclude(ticket, told) {
            (Completion::Decided(decision), failure) => {
                let _ = answer.send(Ok((decision, failure)));
            }
            (Completion::Again(command, ticket), _) => {
                self.wait_again(policies, command, Member { ticket, answer });
            }
            (Completion::OtherRequest, _) => {
                let _ = answer.send(Err(CheckError::OtherRequest));
            }
        }
    }

    /// Has a check wait for the next call; one of another kind is asked by itself.
    fn wait_again(&self, policies: &Arc<PolicySet>, command: StoreCommand, member: Member) {
        let waits = {
            let mut groups = self.inner.together.shard(&self.key).lock();
            groups.entry(self.key).or_default().wait(policies, command, member)
        };
        if let Err(apart) = waits {
            let (command, Member { ticket, answer }) = *apart;
            let inner = Arc::clone(&self.inner);
            tokio::spawn(async move {
                let _ = answer.send(inner.carry_out_admitted("check", command, ticket).await);
            });
        }
    }
}
