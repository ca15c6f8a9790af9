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
use crate::{api::CheckError, store::StoreError};

/// Locks.
const SHARDS: usize = 64;
/// Calls over the same records that are at the store at a time: while one is on its way back, another is carried out.
const CALLS_AT_ONCE: u32 = 2;

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
    waiting: Option<Waiting>,
}

/// Checks that will be asked together.
struct Waiting {
    joint: Joint,
    /// In the same order.
    members: VecDeque<Member>,
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
        let turn = Turn { inner: Arc::clone(inner), key, refused: false };
        return Entered::Now(turn, command, ticket);
    }
    let (answer, waits) = oneshot::channel();
    match &mut group.waiting {
        Some(waiting) if !Arc::ptr_eq(&waiting.policies, policies) => {
            return Entered::Apart(command, ticket);
        }
        Some(waiting) => match waiting.joint.join(command) {
            Ok(()) => waiting.members.push_back(Member { ticket, answer }),
            Err(command) => return Entered::Apart(*command, ticket),
        },
        empty @ None => {
            let joint = Joint::new(command, group.refused);
            let members = [Member { ticket, answer }].into();
            *empty = Some(Waiting { joint, members, policies: Arc::clone(policies) });
        }
    }
    Entered::Waits(waits)
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut groups = self.inner.together.shard(&self.key).lock();
        let Entry::Occupied(mut group) = groups.entry(self.key) else { return };
        group.get_mut().refused = self.refused;
        // Without a runtime nobody waits any more.
        let waiting = group.get_mut().waiting.take().zip(Handle::try_current().ok());
        match waiting {
            Some((waiting, runtime)) => {
                let turn = Self { inner: Arc::clone(&self.inner), ..*self };
                runtime.spawn(turn.carry_out(waiting));
            }
            None => {
                group.get_mut().calls -= 1;
                if group.get().calls == 0 {
                    group.remove();
                }
            }
        }
    }
}

impl Turn {
    /// It is over. `refused`: whether there was no room.
    pub(super) fn end(mut self, refused: bool) {
        self.refused = refused;
    }

    /// Asks until nobody waits any more.
    async fn carry_out(mut self, waiting: Waiting) {
        let mut next = Some(waiting);
        while let Some(waiting) = next {
            self.refused = self.ask(waiting).await;
            // Who was answered and asks again waits with the others, and does not go ahead alone.
            yield_now().await;
            let mut groups = self.inner.together.shard(&self.key).lock();
            next = groups.get_mut(&self.key).and_then(|group| {
                group.refused = self.refused;
                group.waiting.take()
            });
        }
    }

    /// Asks until all of them are answered. Returns whether there was no room for the last.
    async fn ask(&self, waiting: Waiting) -> bool {
        let Waiting { mut joint, mut members, .. } = waiting;
        self.inner.metrics.asked_together(members.len());
        while let Some(command) = joint.to_ask() {
            let answer = self.inner.call("check", &command).await;
            let answers = match answer {
                Ok(reply) => joint.handle(&reply).into_iter().map(Ok).collect(),
                Err(failure) => vec![Err(failure); joint.give_up()],
            };
            for answer in answers {
                let Some(member) = members.pop_front() else { break };
                self.conclude(member, answer);
            }
        }
        joint.was_refused()
    }

    /// Says what became of one of them. One whose label did not fit is asked once more, by itself.
    fn conclude(&self, Member { ticket, answer }: Member, told: Result<StoreReply, StoreError>) {
        // Who has gone away does not need it, and has been counted all the same.
        match self.inner.conclude(ticket, told) {
            (Completion::Decided(decision), failure) => {
                let _ = answer.send(Ok((decision, failure)));
            }
            (Completion::Again(command, ticket), _) => {
                let inner = Arc::clone(&self.inner);
                tokio::spawn(async move {
                    let _ = answer.send(inner.carry_out_admitted("check", command, ticket).await);
                });
            }
            (Completion::OtherRequest, _) => {
                let _ = answer.send(Err(CheckError::OtherRequest));
            }
        }
    }
}
