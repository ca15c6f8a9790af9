//! Has the store grant what other regions need more of limits under rights.

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
        while limiter.has_started()
            && store.is_reachable()
            && let Some((command, ticket)) = engine.poll_grants(&limiter.policies(), clock.now())
        {
            let outcome = match limiter.carry_out_upkeep("grant", &command).await {
                Ok(reply) => Outcome::Reply(reply),
                Err(failure) => failure.failure().of_heal(),
            };
            engine.handle_granted(clock.now(), ticket, &outcome);
            // Who waits for a grant is to hear of it at once.
            limiter.wake_frames();
        }
        let now = clock.now();
        let next = engine.next_grants(now).unwrap_or(now + LOOK_EVERY).max(now + REST);
        tokio::select! {
            () = limiter.grants_wanted() => {}
            () = time::sleep_until(clock.timer_at(next)) => {}
        }
    }
}
