//! What clients were told, by route, caller and region: what the cluster's counts are held against.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use parking_lot::Mutex;
use serde::Serialize;
use tidegate_client::{Answer, Error};
use tokio::time::Instant;

use super::routes::Route;

/// What a node admitted so shortly before it is killed, nobody else may have heard: a gossip period,
/// with room for a machine that does a lot else.
const UNTOLD_MAX: Duration = Duration::from_secs(1);

/// Whom one account is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Holder {
    pub(super) route: Route,
    pub(super) caller: u32,
    /// The index of the region.
    pub(super) region: usize,
}

/// What clients know of one holder.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Account {
    /// Answered 200.
    pub(super) admitted: u64,
    /// Not answered, and perhaps charged: the node was killed meanwhile.
    pub(super) ambiguous: u64,
    /// Decided without the store, which may carry the step out later all the same.
    pub(super) degraded: u64,
    /// Admitted by a node so shortly before it was killed that it may have told nobody.
    pub(super) untold: u64,
}

/// Answers of all routes together.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Answers {
    pub(super) checks: u64,
    pub(super) allowed: u64,
    pub(super) refused: u64,
    /// Decided by `on_store_failure`.
    pub(super) degraded: u64,
    /// The node was not there: nothing was charged.
    pub(super) unreachable: u64,
    /// The node was killed while it was asked.
    pub(super) interrupted: u64,
    /// Anything else; there must be none.
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
}

/// The books.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Books>);

#[derive(Debug, Default)]
struct Books {
    accounts: BTreeMap<Holder, Account>,
    answers: Answers,
    /// By node, what it admitted lately.
    recent: BTreeMap<String, VecDeque<(Instant, Holder)>>,
}

impl Ledger {
    /// Takes note of what came of one request to a node.
    pub(super) fn note(&self, node: &str, holder: Holder, answer: &Result<Answer, Error>) {
        let mut books = self.0.lock();
        let Books { accounts, answers, recent } = &mut *books;
        let booked = Route::BOOKED.contains(&holder.route);
        let mut passing = Account::default();
        let account = if booked { accounts.entry(holder).or_default() } else { &mut passing };
        answers.checks += 1;
        match answer {
            Ok(answer) => {
                answers.allowed += u64::from(answer.allowed);
                answers.refused += u64::from(!answer.allowed);
                answers.degraded += u64::from(answer.check.degraded);
                account.admitted += u64::from(answer.allowed);
                account.degraded += u64::from(answer.check.degraded);
                if booked && answer.allowed {
                    let recent = recent.entry(node.to_owned()).or_default();
                    let now = Instant::now();
                    while recent.front().is_some_and(|(at, _)| now - *at > UNTOLD_MAX) {
                        recent.pop_front();
                    }
                    recent.push_back((now, holder));
                }
            }
            Err(Error::Unreachable { .. }) => answers.unreachable += 1,
            Err(Error::Interrupted { .. }) => {
                answers.interrupted += 1;
                account.ambiguous += 1;
            }
            Err(error) => {
                answers.errors += 1;
                account.ambiguous += 1;
                answers.first_error.get_or_insert_with(|| format!("{node}: {error}"));
            }
        }
    }

    /// A node is about to be killed: what it admitted last on routes that were not quieted before may be
    /// known to nobody else.
    pub(super) fn about_to_die(&self, node: &str) {
        let mut books = self.0.lock();
        let Books { accounts, recent, .. } = &mut *books;
        let now = Instant::now();
        for (at, holder) in recent.remove(node).unwrap_or_default() {
            if now - at <= UNTOLD_MAX && !holder.route.is_quiet_at_kills() {
                accounts.entry(holder).or_default().untold += 1;
            }
        }
    }

    /// As [`about_to_die`](Self::about_to_die), after the kill: for what was answered in between.
    pub(super) fn has_died(&self, node: &str) {
        self.about_to_die(node);
    }

    pub(super) fn account(&self, holder: Holder) -> Account {
        self.0.lock().accounts.get(&holder).copied().unwrap_or_default()
    }

    pub(super) fn answers(&self) -> Answers {
        self.0.lock().answers.clone()
    }
}
