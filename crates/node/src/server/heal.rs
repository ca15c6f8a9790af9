//! Writes what this node knows into a store that has begun a new epoch, and tells of it.

use futures_util::{StreamExt, stream::FuturesUnordered};
use tidegate_core::{
    engine::{Engine, HealStatus, HealTicket, Outcome},
    store::StoreCommand,
    time::Span,
};
use tokio::time;
use tracing::{info, warn};

use crate::{clock::Clock, guard::Mutexes, limiter::Limiter, store::Store};

/// How often it is looked whether the store has begun a new epoch.
const LOOK_EVERY: Span = Span::millis(100);

/// Heals the store for as long as it is polled.
pub(super) async fn keep_healed(
    engine: &Engine<Mutexes>,
    store: &Store,
    limiter: &Limiter,
    clock: Clock,
) {
    let mut told = Told::default();
    let mut under_way = FuturesUnordered::new();
    loop {
        for (bucket, epoch) in store.epochs() {
            engine.handle_epoch(clock.now(), bucket, epoch);
        }
        // A store that cannot be asked would only count as one that has failed.
        while store.is_reachable()
            && let Some((command, ticket)) = engine.poll_heal(&limiter.policies(), clock.now())
        {
            under_way.push(carry_out(limiter, command, ticket));
        }
        told.tell(engine.heal_status());
        let now = clock.now();
        let look = now + LOOK_EVERY;
        let due = engine.next_heal(now).filter(|_| store.is_reachable());
        let next = due.map_or(look, |due| due.min(look));
        tokio::select! {
            Some((ticket, outcome)) = under_way.next() => {
                engine.handle_healed(clock.now(), ticket, &outcome);
            }
            () = time::sleep_until(clock.timer_at(next)) => {}
        }
    }
}

async fn carry_out(
    limiter: &Limiter,
    command: StoreCommand,
    ticket: HealTicket,
) -> (HealTicket, Outcome) {
    let outcome = match limiter.carry_out_upkeep("heal", &command).await {
        Ok(reply) => Outcome::Reply(reply),
        Err(failure) => failure.failure().of_heal(),
    };
    (ticket, outcome)
}

/// What the log has said.
#[derive(Debug, Default)]
struct Told {
    status: HealStatus,
    /// How it stood when the walk began.
    begun: HealStatus,
    /// Whether an answer under an older epoch was told since the newest began.
    old: bool,
}

impl Told {
    fn tell(&mut self, status: HealStatus) {
        let before = std::mem::replace(&mut self.status, status);
        let Some(epoch) = status.epoch else { return };
        if status.epochs > before.epochs {
            self.old = false;
            self.begun = before;
            warn!(
                %epoch, parts = status.epochs - before.epochs,
                "the store may have lost counts: a new epoch; what this node knows is written into it"
            );
        } else if before.epoch.is_none() {
            info!(%epoch, "the store's epoch is known");
        }
        if status.old_answers > before.old_answers && !self.old {
            self.old = true;
            warn!(
                newest = %epoch,
                "the store answered under an older epoch: a server that was replaced is still asked"
            );
        }
        if before.running && !status.running {
            let healed = status.healed - self.begun.healed;
            let left_out = status.left_out - self.begun.left_out;
            info!(%epoch, healed, left_out, "the store's new epoch is healed");
        }
    }
}
