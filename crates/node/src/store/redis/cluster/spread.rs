//! Commands over callers of several buckets: a hold at each of their servers, then confirmed or undone.
//!
//! What is to be done in which order is said by the core ([`Spread`]); here each step passes the door of its server,
//! and has what is left of the time.

use std::time::Duration;

use futures_util::future::join_all;
use tidegate_core::{
    ids::Key,
    store::{
        BUCKETS, CallerBucket, HoldId, NamedCharge, Next, Spread, StoreCommand, StoreReply,
        is_confirmed,
    },
};
use tokio::time::Instant;

use super::RedisCluster;
use crate::{
    clock::{self},
    store::StoreError,
};

impl RedisCluster {
    /// Carries out a command over several buckets.
    pub(super) async fn spread(&self, command: &StoreCommand) -> Result<StoreReply, StoreError> {
        let place = |key: &Key| u64::from(CallerBucket::of(key.caller, BUCKETS).0);
        let id = HoldId((rand::random::<u64>() >> 11).max(1));
        let mut spread = match Spread::new(command, place, id) {
            Ok(Some(spread)) => spread,
            // It has one place, and has been asked there.
            Ok(None) => return Err(StoreError::Refused("a command without places".into())),
            Err(NamedCharge) => {
                let said = "a check of several callers cannot have an Idempotency-Key on a Redis Cluster yet: let one \
                            policy match it, or use a store that is one server";
                return Err(StoreError::Refused(said.into()));
            }
        };
        let within = self.0.settings.timeout;
        let until = Instant::now() + within;
        let mut next = spread.begin();
        loop {
            next = match next {
                Next::Ask(key, command) => {
                    match self.at(&key, &command, until.duration_since(Instant::now())).await {
                        Ok(reply) => spread.handle(reply),
                        Err(error) => {
                            let done = spread.has_done();
                            self.everywhere(&spread.fail(), within).await;
                            // Of what is not undone nobody may say that it was not carried out.
                            return Err(if done { StoreError::Timeout } else { error });
                        }
                    }
                }
                Next::Confirm(reply, ends) => {
                    let all = self.everywhere(&ends, within).await;
                    return if all { Ok(reply) } else { Err(StoreError::Timeout) };
                }
                Next::Undo(reply, ends) => {
                    // What does not come about ends by itself.
                    self.everywhere(&ends, within).await;
                    return Ok(reply);
                }
            };
        }
    }

    /// Carries out the ends of holds, side by side. Whether each place has confirmed.
    async fn everywhere(&self, ends: &[(Key, StoreCommand)], within: Duration) -> bool {
        let each = ends.iter().map(|(key, command)| self.at(key, command, within));
        let answers = join_all(each).await;
        answers.iter().all(|answer| answer.as_ref().is_ok_and(is_confirmed))
    }

    async fn at(
        &self,
        key: &Key,
        command: &StoreCommand,
        within: Duration,
    ) -> Result<StoreReply, StoreError> {
        let bucket = CallerBucket::of(key.caller, BUCKETS);
        let door = self.door_of(bucket)?;
        let mut permit = door.guard.admit(door.reachable)?;
        let asked = clock::instant();
        let answer = self.0.step(command, bucket, within).await;
        permit.note(clock::span(asked.elapsed()), &answer);
        answer
    }
}
