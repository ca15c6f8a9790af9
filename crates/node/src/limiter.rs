//! The way of a check through a node: plan, one step of the store, complete.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::ArcSwap;
use tidegate_core::{
    calls,
    check::{Decision, LIMITS_MAX, PlanError, Purpose, Subject, Ticket},
    engine::{Completion, Engine, Outcome, Plan},
    ids::{Caller, Secret},
    policy::{Attributes, PolicySet},
    store::{StoreCommand, StoreReply},
    time::Mono,
};
use tokio::sync::Notify;
use tracing::error;

use crate::{
    api::{self, UsageError},
    clock::{self, Clock},
    guard::Mutexes,
    store::{Complaints, Door, Permit, Store, StoreError, StoreGuard},
    telemetry::Metrics,
};

/// Decides checks; clones share everything.
#[derive(Clone)]
pub struct Limiter(Arc<Inner>);

struct Inner {
    engine: Arc<Engine<Mutexes>>,
    store: Arc<Store>,
    /// What decides whether a store that is one server is asked; one in memory always is, and a cluster has one of
    /// these before each server.
    guard: Option<Arc<StoreGuard>>,
    complaints: Complaints,
    policies: ArcSwap<PolicySet>,
    secret: ArcSwap<Secret>,
    metrics: Arc<Metrics>,
    clock: Clock,
    /// Until the start is over, checks are answered by `on_store_failure`.
    started: AtomicBool,
    /// Wakes who drives the frames, when peers should hear at once of what a check brought.
    urgent: Notify,
    /// Wakes who grants, when peers have told something of limits under rights.
    grants: Notify,
}

impl Limiter {
    /// A limiter that has not started: see [`start`](Self::start).
    pub fn new(
        engine: Arc<Engine<Mutexes>>,
        store: Arc<Store>,
        guard: Option<StoreGuard>,
        policies: Arc<PolicySet>,
        secret: Secret,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Self {
        metrics.policies_in_force(&policies);
        Self(Arc::new(Inner {
            engine,
            store,
            guard: guard.map(Arc::new),
            complaints: Complaints::default(),
            policies: ArcSwap::new(policies),
            secret: ArcSwap::from_pointee(secret),
            metrics,
            clock,
            started: AtomicBool::new(false),
            urgent: Notify::new(),
            grants: Notify::new(),
        }))
    }

    /// From now on the store is asked: what peers know of this region has arrived.
    pub fn start(&self) {
        self.0.started.store(true, Ordering::Release);
    }

    /// Whether the store is asked.
    pub fn has_started(&self) -> bool {
        self.0.started.load(Ordering::Acquire)
    }

    /// Completes when peers should hear at once of what a check brought.
    pub async fn urgent(&self) {
        self.0.urgent.notified().await;
    }

    /// Peers should hear at once what there is to tell.
    pub fn wake_frames(&self) {
        self.0.urgent.notify_one();
    }

    /// Completes when peers have told something of limits under rights.
    pub async fn grants_wanted(&self) {
        self.0.grants.notified().await;
    }

    /// Peers have told something of limits under rights.
    pub fn wake_grants(&self) {
        self.0.grants.notify_one();
    }

    /// The policies in force.
    pub fn policies(&self) -> Arc<PolicySet> {
        self.0.policies.load_full()
    }

    /// Puts other policies in force, for every check that begins from now on.
    pub fn set_policies(&self, policies: Arc<PolicySet>) {
        self.0.metrics.policies_in_force(&policies);
        self.0.policies.store(policies);
    }

    /// The secret that callers are counted under.
    pub fn secret(&self) -> Secret {
        **self.0.secret.load()
    }

    /// Counts callers under this secret from now on.
    pub fn set_secret(&self, secret: Secret) {
        self.0.secret.store(Arc::new(secret));
    }

    /// Asks the store for its clock, and says whether it answered: what is known of it grows old where
    /// checks are rare.
    pub async fn read_clock(&self) -> bool {
        let inner = &self.0;
        let asked = inner.clock.now();
        let Ok(reading) = inner.store.read_clock().await else { return false };
        inner.engine.handle_store_clock(asked, inner.clock.now(), reading);
        true
    }

    /// Has the store carry out a command that is no check, under the same breaker and bound as checks are.
    pub async fn carry_out_upkeep(
        &self,
        op: &'static str,
        command: &StoreCommand,
    ) -> Result<StoreReply, StoreError> {
        let inner = &self.0;
        let mut permit = match inner.door(command)? {
            Some(door) => Some(door.guard.admit(door.reachable)?),
            None => None,
        };
        let asked = inner.clock.now();
        let answer = inner.store.apply(command).await;
        let took = inner.clock.now().since(asked);
        inner.metrics.store_answered(op, clock::duration(took));
        if let Some(permit) = &mut permit {
            permit.note(took, &answer);
        }
        if let Err(failure) = &answer {
            inner.note_failure(failure);
        }
        answer
    }

    /// How the way to the store stands; `None` if nothing is in it.
    pub fn guard_state(&self) -> Option<calls::State> {
        if let Store::Cluster(cluster) = &*self.0.store {
            return Some(cluster.guard_state());
        }
        let guard = self.0.guard.as_ref()?;
        Some(guard.state(self.0.store.is_reachable()))
    }

    async fn ask(
        &self,
        attributes: &Attributes<'_>,
        cost: u64,
        purpose: Purpose,
    ) -> Result<(Decision, Option<StoreError>), PlanError> {
        let inner = &self.0;
        let subject = [Subject { attributes, cost }];
        let (policies, secret) = (inner.policies.load(), **inner.secret.load());
        let plan = |now| inner.engine.plan(&policies, &secret, now, &subject, purpose);
        let (command, ticket) = match plan(inner.clock.now())? {
            Plan::Unmatched => return Ok((unmatched(), None)),
            Plan::Full(ticket) => return Ok(inner.without_store(ticket, StoreError::Full)),
            Plan::Ask(command, ticket) => (command, ticket),
        };
        if !self.has_started() {
            return Ok(inner.without_store(ticket, StoreError::Unreachable));
        }
        let op = match purpose {
            Purpose::Charge => "check",
            Purpose::Usage => "usage",
        };
        let door = match inner.door(&command) {
            Ok(Some(door)) => door,
            Ok(None) => return Ok(inner.carry_out(op, command, ticket, None).await),
            Err(why) => return Ok(inner.without_store(ticket, why)),
        };
        let permit = match door.guard.admit(door.reachable) {
            Ok(permit) => permit,
            Err(why) => {
                // What it refused says more than that it cannot be asked.
                let refused = door.trouble.filter(|t| matches!(t, StoreError::Refused(_)));
                let why = refused.filter(|_| why == StoreError::Unreachable).unwrap_or(why);
                return Ok(inner.without_store(ticket, why));
            }
        };
        // The task owns the ticket: whoever drops the request's future, what Redis admits is counted.
        let task = tokio::spawn({
            let inner = Arc::clone(inner);
            async move { inner.carry_out(op, command, ticket, Some(permit)).await }
        });
        match task.await {
            Ok(answer) => Ok(answer),
            Err(panic) => {
                error!(%panic, "a check broke; it is answered by on_store_failure");
                let why = StoreError::Broken("a check broke".into());
                Ok(match plan(inner.clock.now())? {
                    Plan::Unmatched => (unmatched(), None),
                    Plan::Full(ticket) | Plan::Ask(_, ticket) => inner.without_store(ticket, why),
                })
            }
        }
    }
}

impl Inner {
    /// What decides whether the store is asked, or that one of its servers that has a command's records; nothing, if
    /// it is in memory.
    fn door(&self, command: &StoreCommand) -> Result<Option<Door>, StoreError> {
        if let Store::Cluster(cluster) = &*self.store {
            return cluster.door(command).map(Some);
        }
        Ok(self.guard.as_ref().map(|guard| Door {
            guard: Arc::clone(guard),
            reachable: self.store.is_reachable(),
            trouble: self.store.trouble(),
        }))
    }

    /// Has the store carry out a command, and once more if its labels did not fit.
    async fn carry_out(
        &self,
        op: &'static str,
        mut command: StoreCommand,
        mut ticket: Ticket,
        mut permit: Option<Permit>,
    ) -> (Decision, Option<StoreError>) {
        loop {
            let asked = self.clock.now();
            let answer = self.store.apply(&command).await;
            let now = self.clock.now();
            let took = now.since(asked);
            self.metrics.store_answered(op, clock::duration(took));
            if let Some(permit) = &mut permit {
                permit.note(took, &answer);
            }
            let (outcome, failure) = match answer {
                Ok(reply @ StoreReply::Done { .. }) => (Outcome::Reply(reply), None),
                Ok(reply @ StoreReply::Relabel { .. }) => {
                    let why = StoreError::Refused("the clocks of node and store disagree".into());
                    (Outcome::Reply(reply), Some(why))
                }
                Err(failure) => {
                    self.note_failure(&failure);
                    (failure.failure().of_check(), Some(failure))
                }
            };
            match self.complete(now, ticket, outcome) {
                Completion::Decided(decision) => return (decision, failure),
                Completion::Again(again, same) => (command, ticket) = (again, same),
            }
        }
    }

    fn complete(&self, now: Mono, ticket: Ticket, outcome: Outcome) -> Completion {
        let completion = self.engine.complete(now, ticket, outcome);
        if self.engine.is_urgent() {
            self.urgent.notify_one();
        }
        completion
    }

    fn note_failure(&self, failure: &StoreError) {
        self.metrics.store_failed(failure.kind());
        self.complaints.note(self.clock.now(), failure);
    }

    fn without_store(&self, ticket: Ticket, why: StoreError) -> (Decision, Option<StoreError>) {
        self.note_failure(&why);
        match self.complete(self.clock.now(), ticket, why.failure().of_check()) {
            Completion::Decided(decision) => (decision, Some(why)),
            Completion::Again(..) => unreachable!("only a store asks for other labels"),
        }
    }
}

/// No policy applies: the request passes.
fn unmatched() -> Decision {
    Decision {
        allowed: true,
        reason: None,
        shadow: false,
        degraded: false,
        binding: None,
        limits: Vec::new(),
    }
}

impl api::Limiter for Limiter {
    async fn check(&self, attributes: &Attributes<'_>, cost: u64) -> Result<Decision, PlanError> {
        let asked = self.0.clock.now();
        let (decision, _) = self.ask(attributes, cost, Purpose::Charge).await?;
        self.0.metrics.observe(&decision, clock::duration(self.0.clock.now().since(asked)));
        Ok(decision)
    }

    async fn usage(&self, attributes: &Attributes<'_>) -> Result<Decision, UsageError> {
        let (decision, failure) = self.ask(attributes, 1, Purpose::Usage).await?;
        match failure.filter(|_| decision.degraded) {
            None => Ok(decision),
            Some(failure) => {
                self.0.complaints.note_untold_usage(self.0.clock.now(), &failure);
                let store = self.0.store.kind();
                Err(UsageError::StoreUnavailable { store, why: failure.in_short() })
            }
        }
    }

    fn few_enough_limits(&self, attributes: &Attributes<'_>) -> Result<(), PlanError> {
        let policies = self.0.policies.load();
        let found = policies.matching(attributes).map(|policy| policy.limits.len()).sum();
        if found > LIMITS_MAX {
            return Err(PlanError::TooManyLimits { found });
        }
        Ok(())
    }

    fn callers(&self, attributes: &Attributes<'_>) -> Vec<Caller> {
        let secret = **self.0.secret.load();
        let policies = self.0.policies.load();
        policies.matching(attributes).map(|policy| policy.caller(&secret, attributes)).collect()
    }
}
