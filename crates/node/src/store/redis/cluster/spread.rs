//! Commands over callers of several buckets: a hold at each of their servers, then confirmed or undone.
//!
//! What is to be done in which order is said by the core ([`Spread`]); here each step passes the door of its server,
//! and has what is left of the time.

use std::time::Duration;

use futures_util::future::join_all;
use tidegate_core::{
    ids::Key,
    store::{BUCKETS, CallerBucket, HoldId, Next, Spread, StoreCommand, StoreReply},
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
        let Some(mut spread) = Spread::new(command, place, id) else {
            // It has one place, and has been asked there.
            return Err(StoreError::Refused("a command without places".into()));
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
                            let (done, undo) = spread.fail(!error.nothing_done());
                            self.everywhere(&undo, within).await;
                            // Of what is not undone nobody may say that it was not carried out.
                            return Err(if done { StoreError::Timeout } else { error });
                        }
                    }
                }
                Next::AskAll(commands) => {
                    let answers = self.everywhere(&commands, within).await;
                    spread.handle_all(answers)
                }
                // What is not undone ends by itself.
                Next::Answer(reply, undo) => {
                    self.everywhere(&undo, within).await;
                    return Ok(reply);
                }
                Next::Unknown(undo) => {
                    self.everywhere(&undo, within).await;
                    return Err(StoreError::Timeout);
                }
            };
        }
    }

    /// Carries out commands at a place each, side by side. What each has answered, if it has.
    async fn everywhere(
        &self,
        commands: &[(Key, StoreCommand)],
        within: Duration,
    ) -> Vec<Option<StoreReply>> {
        let each = commands.iter().map(|(key, command)| self.at(key, command, within));
        join_all(each).await.into_iter().map(Result::ok).collect()
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
