//! Keeping peers dialled: who is not connected is tried again and again, so that a healed cut is
//! found at once.
//!
//! QUIC doubles its own pauses while it hears nothing, and after a cut would wait as long as the
//! cut had lasted. So a connection that has gone silent is not waited for: new ones are dialled
//! beside it every few hundred milliseconds, and the first that stands takes its place. Attempts
//! overlap, since a slow way may need longer for a handshake than lies between two of them.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use rand::RngExt;
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
};

use super::{
    Inner, canonical,
    meet::dial,
    refusal::{Failure, Refusal},
};

/// How many addresses are kept dialled; the rest of a longer list is not.
pub(super) const ADDRESSES_MAX: usize = 1024;
/// The pause after the first attempt; it doubles with each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
/// The longest pause, so also how long a healed cut may stay unnoticed.
const PAUSE_MAX: Duration = Duration::from_millis(300);
/// By how much a pause varies, as a share, so that nodes do not dial in step.
const PAUSE_JITTER: f64 = 0.2;
/// The pause after one of both has refused the other: that takes a person to mend.
const PAUSE_REFUSED: Duration = Duration::from_secs(2);
/// After how many attempts in vain that is logged, once.
const ATTEMPTS_LOGGED: u64 = 10;
/// So many attempts are not slowed down by a name that is taken: if its former run was killed at another
/// address, that is found silent meanwhile, and this run is in before its start sync is over.
const ATTEMPTS_PATIENT: u64 = 10;
/// How many attempts to one address may be under way.
const ATTEMPTS_MAX: usize = 10;

/// The addresses that are kept dialled.
#[derive(Default)]
pub(super) struct Kept {
    tasks: HashMap<SocketAddr, AbortHandle>,
    closed: bool,
}

impl Kept {
    /// Starts what is new, stops what is not wanted any more. Connections that stand are kept.
    pub(super) fn set(&mut self, inner: &Arc<Inner>, addresses: &BTreeSet<SocketAddr>) {
        if self.closed {
            return;
        }
        let own = [canonical(inner.advertise), canonical(inner.local)];
        self.tasks.retain(|address, task| {
            let wanted = addresses.contains(address);
            if !wanted {
                task.abort();
            }
            wanted
        });
        for address in addresses {
            if self.tasks.len() >= ADDRESSES_MAX {
                tracing::warn!("only {ADDRESSES_MAX} addresses of peers are kept dialled");
                break;
            }
            if !own.contains(&canonical(*address)) && !self.tasks.contains_key(address) {
                let task = tokio::spawn(keep(inner.clone(), *address));
                self.tasks.insert(*address, task.abort_handle());
            }
        }
    }

    /// Stops all, for good.
    pub(super) fn close(&mut self) {
        self.closed = true;
        for (_, task) in self.tasks.drain() {
            task.abort();
        }
    }
}

async fn keep(inner: Arc<Inner>, address: SocketAddr) {
    let mut changes = inner.registry.changes();
    loop {
        while inner.registry.is_reachable(address) {
            if changes.changed().await.is_err() {
                return;
            }
        }
        if let Outcome::Own = reach(&inner, address, &mut changes).await {
            return;
        }
    }
}

enum Outcome {
    Reached,
    /// The address is our own.
    Own,
}

/// Dials until the address is reachable.
async fn reach(
    inner: &Arc<Inner>,
    address: SocketAddr,
    changes: &mut watch::Receiver<()>,
) -> Outcome {
    let mut attempts = JoinSet::new();
    let mut pause = PAUSE_FIRST;
    let mut tried: u64 = 0;
    loop {
        tried += 1;
        if tried == ATTEMPTS_LOGGED {
            tracing::warn!(%address, "no connection yet; trying on, a few times a second");
        }
        if attempts.len() < ATTEMPTS_MAX {
            let inner = inner.clone();
            attempts.spawn(async move { dial(&inner, address).await });
        }
        let until = tokio::time::sleep(with_jitter(pause));
        tokio::pin!(until);
        pause = (pause * 2).min(PAUSE_MAX);
        loop {
            tokio::select! {
                () = &mut until => break,
                changed = changes.changed() => {
                    if changed.is_err() || inner.registry.is_reachable(address) {
                        return Outcome::Reached;
                    }
                }
                Some(Ok(Err(failure))) = attempts.join_next() => {
                    inner.fail(address, &failure);
                    match failure {
                        Failure::Refused { reason: Refusal::Own, .. } => return Outcome::Own,
                        failure if failure.needs_a_person() && !may_pass(&failure, tried) => {
                            until.set(tokio::time::sleep(with_jitter(PAUSE_REFUSED)));
                        }
                        _ => {}
                    }
                }
            }
        }
    }
}

/// Whether a refusal may be over soon, after so many attempts.
fn may_pass(failure: &Failure, tried: u64) -> bool {
    let taken = matches!(failure, Failure::Rejected { reason: Some(Refusal::DuplicateName), .. });
    taken && tried <= ATTEMPTS_PATIENT
}

fn with_jitter(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(1.0 - PAUSE_JITTER..1.0 + PAUSE_JITTER))
}
