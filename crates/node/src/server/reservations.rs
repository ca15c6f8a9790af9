//! Looks after what was reserved by this node when its time is over, and tells a store of a new epoch which places
//! are held.

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tidegate_core::{
    engine::{Engine, Outcome},
    store::StoreCommand,
    time::Span,
};
use tokio::time;

use crate::{clock::Clock, guard::Mutexes, limiter::Limiter, store::Store};

/// How often it is looked whether anything is due.
const LOOK_EVERY: Span = Span::millis(100);

/// Does so for as long as it is polled.
pub(super) async fn keep_settled(
    engine: &Engine<Mutexes>,
    store: &Store,
    limiter: &Limiter,
    clock: Clock,
) {
    loop {
        while store.is_reachable()
            && let Some((command, ticket)) = engine.poll_places(&limiter.policies(), clock.now())
        {
            let outcome = carry_out(limiter, "hold", &command).await;
            engine.handle_told(clock.now(), ticket, &outcome);
        }
        // Several at a time: behind a balancer nearly every reservation is settled by another node.
        let mut under_way = FuturesUnordered::new();
        loop {
            while store.is_reachable()
                && let Some((command, ticket)) =
                    engine.poll_settle(&limiter.policies(), clock.now())
            {
                under_way
                    .push(async move { (ticket, carry_out(limiter, "settle", &command).await) });
            }
            let Some((ticket, outcome)) = under_way.next().await else { break };
            engine.handle_settled(clock.now(), ticket, &outcome);
        }
        time::sleep_until(clock.timer_at(clock.now() + LOOK_EVERY)).await;
    }
}

async fn carry_out(limiter: &Limiter, op: &'static str, command: &StoreCommand) -> Outcome {
    match limiter.carry_out_upkeep(op, command).await {
        Ok(reply) => Outcome::Reply(reply),
        Err(failure) => failure.failure().of_heal(),
    }
}
