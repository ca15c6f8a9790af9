//! Has the store grant what other regions need more of limits under rights.

use std::iter;

use futures_util::future::join_all;
use tidegate_core::{
    engine::{Engine, Outcome},
    time::Span,
};
use tokio::time;

use crate::{clock::Clock, guard::Mutexes, limiter::Limiter, store::Store};

/// How often it is looked whether there are limits under rights at all.
const LOOK_EVERY: Span = Span::millis(500);
/// The least time between two looks.
const REST: Span = Span::millis(2);

/// Grants for as long as it is polled.
pub(super) async fn keep_granting(
    engine: &Engine<Mutexes>,
    store: &Store,
    limiter: &Limiter,
    clock: Clock,
) {
    loop {
        // Before the start is over the node does not know what its region may have granted.
        while limiter.has_started() && store.is_reachable() {
            let policies = limiter.policies();
            let openings = engine.poll_openings(&policies, clock.now());
            let opened = openings.iter().map(async |(bucket, command)| {
                if let Ok(reply) = limiter.carry_out_upkeep("grant", command).await {
                    engine.handle_opened(clock.now(), *bucket, &reply);
                }
            });
            join_all(opened).await;
            let granting = iter::from_fn(|| engine.poll_grants(&policies, clock.now()));
            let granting: Vec<_> = granting.collect();
            if granting.is_empty() {
                break;
            }
            // Side by side: a server that is slow or gone holds up no other.
            let granted = granting.into_iter().map(async |(command, ticket)| {
                let outcome = match limiter.carry_out_upkeep("grant", &command).await {
                    Ok(reply) => Outcome::Reply(reply),
                    Err(failure) => failure.failure().of_heal(),
                };
                engine.handle_granted(clock.now(), ticket, &outcome);
                // Who waits for a grant is to hear of it at once.
                limiter.wake_frames();
            });
            join_all(granted).await;
        }
        let now = clock.now();
        let next = engine.next_grants(now).unwrap_or(now + LOOK_EVERY).max(now + REST);
        tokio::select! {
            () = limiter.grants_wanted() => {}
            () = time::sleep_until(clock.timer_at(next)) => {}
        }
    }
}
