//! The way of a check through a node: plan, one step of the store, complete.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::ArcSwap;
use tidegate_core::{
    calls,
    check::{
        Decision, LIMITS_MAX, Manner, PlanError, Purpose, Reservation, Reserve, Subject, Ticket,
    },
    engine::{Completion, Engine, GivenBack, Outcome, Plan, Settled},
    ids::{Caller, Secret},
    policy::{Attributes, PolicySet},
    store::{StoreCommand, StoreReply, may_be_joint},
    time::{Label, Mono, Span},
};
use tokio::sync::Notify;
use tracing::error;

use together::{Entered, Together};

use crate::{
    api::{self, CheckError, SettleError, UsageError, Wish},
    clock::{self, Clock},
    guard::Mutexes,
    store::{Complaints, Door, Permit, Store, StoreError, StoreGuard},
    telemetry::Metrics,
};

mod together;

/// How checks are counted.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// What callers are counted under at first.
    pub secret: Secret,
    /// How long requests with a name are remembered.
    pub remember: Span,
}

/// Decides checks; clones share everything.
#[derive(Clone)]
pub struct Limiter(Arc<Inner>);

/// A decision, and why the store has not made it.
type Asked = (Decision, Option<StoreError>);

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
    /// How long requests with a name are remembered.
    remember: Span,
    /// Checks that are at the store, and those that wait for them.
    together: Together,
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
        settings: Settings,
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
            secret: ArcSwap::from_pointee(settings.secret),
            metrics,
            clock,
            remember: settings.remember,
            together: Together::default(),
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
        self.0.call(op, command).await
    }

    /// The same of a command that is carried out once, which is sent again if no answer comes.
    async fn carry_out_again(&self, op: &'static str, command: &StoreCommand) -> Outcome {
        if !self.has_started() {
            return Outcome::Cancelled;
        }
        let mut answer = self.carry_out_upkeep(op, command).await;
        let may_be_done = |failure: &StoreError| !failure.nothing_done();
        if command.once.is_some() && answer.as_ref().is_err_and(may_be_done) {
            answer = self.carry_out_upkeep(op, command).await;
        }
        answer.map_or_else(|failure| failure.failure().of_check(), Outcome::Reply)
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
        manner: &Manner<'_>,
    ) -> Result<Asked, CheckError> {
        let inner = &self.0;
        let subject = [Subject { attributes, cost }];
        let (policies, secret) = (inner.policies.load(), **inner.secret.load());
        let plan = |now| inner.engine.plan_in(&policies, &secret, now, &subject, purpose, manner);
        let (command, ticket) = match plan(inner.clock.now())? {
            Plan::Unmatched => return Ok((unmatched(), None)),
            Plan::Full(ticket) => return Ok(inner.without_store(ticket, StoreError::Full)),
            Plan::Ask(command, ticket) => (command, ticket),
            Plan::Known(decision) => return Ok((*decision, None)),
            Plan::OtherRequest => return Err(CheckError::OtherRequest),
        };
        if !self.has_started() {
            return Ok(inner.without_store(ticket, StoreError::Unreachable));
        }
        let op = match purpose {
            Purpose::Charge => "check",
            Purpose::Usage => "usage",
        };
        if let Store::Memory(_) = &*inner.store {
            return inner.carry_out(op, command, ticket, &mut None).await;
        }
        let in_one_place = match inner.door(&command) {
            Ok(door) => door.is_some(),
            Err(why) => return Ok(inner.without_store(ticket, why)),
        };
        let joins = purpose == Purpose::Charge && in_one_place && may_be_joint(&command);
        let entered = if joins {
            together::enter(inner, &policies, command, ticket)
        } else {
            Entered::Apart(command, ticket)
        };
        // A task owns the ticket: whoever drops the request's future, what Redis admits is counted.
        let answered = match entered {
            Entered::Waits(answer) => {
                answer.await.map_err(|_| "the call that it waited for broke".to_owned())
            }
            Entered::Apart(command, ticket) => match inner.permit(&command) {
                Err(why) => return Ok(inner.not_let_through(&command, ticket, why)),
                Ok(mut permit) => {
                    let inner = Arc::clone(inner);
                    let check =
                        async move { inner.carry_out(op, command, ticket, &mut permit).await };
                    tokio::spawn(check).await.map_err(|panic| panic.to_string())
                }
            },
            Entered::Now(mut turn, command, ticket) => match turn.pass(&command) {
                Err(why) => return Ok(inner.not_let_through(&command, ticket, why)),
                Ok(()) => {
                    let check = async move { turn.take(op, command, ticket).await };
                    tokio::spawn(check).await.map_err(|panic| panic.to_string())
                }
            },
        };
        match answered {
            Ok(answer) => answer,
            Err(panic) => {
                error!(%panic, "a check broke; it is answered by on_store_failure");
                let why = StoreError::Broken("a check broke".into());
                Ok(match plan(inner.clock.now())? {
                    Plan::Unmatched => (unmatched(), None),
                    Plan::Full(ticket) | Plan::Ask(_, ticket) => inner.without_store(ticket, why),
                    Plan::Known(decision) => (*decision, None),
                    Plan::OtherRequest => return Err(CheckError::OtherRequest),
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
            return cluster.door(command);
        }
        Ok(self.guard.as_ref().map(|guard| Door {
            guard: Arc::clone(guard),
            reachable: self.store.is_reachable(),
            trouble: self.store.trouble(),
        }))
    }

    /// Lets a command through to the store, or says why not; one that no single server carries out needs no permit.
    fn permit(&self, command: &StoreCommand) -> Result<Option<Permit>, StoreError> {
        let Some(door) = self.door(command)? else { return Ok(None) };
        door.guard.admit(door.reachable).map(Some)
    }

    /// Answers a check that is not let through to the store.
    fn not_let_through(&self, command: &StoreCommand, ticket: Ticket, why: StoreError) -> Asked {
        self.without_store(ticket, self.in_more_words(command, why))
    }

    /// Why a check is not let through: what the store has refused says more than that it cannot be asked.
    fn in_more_words(&self, command: &StoreCommand, why: StoreError) -> StoreError {
        if why != StoreError::Unreachable {
            return why;
        }
        let trouble = self.door(command).ok().flatten().and_then(|door| door.trouble);
        trouble.filter(|trouble| matches!(trouble, StoreError::Refused(_))).unwrap_or(why)
    }

    /// Has the store carry out a command, if it is let through.
    async fn call(
        &self,
        op: &'static str,
        command: &StoreCommand,
    ) -> Result<StoreReply, StoreError> {
        let answer = match self.permit(command) {
            Ok(mut permit) => self.call_with(op, command, &mut permit).await,
            Err(why) => Err(why),
        };
        if let Err(failure) = &answer {
            self.note_failure(failure);
        }
        answer
    }

    async fn call_with(
        &self,
        op: &'static str,
        command: &StoreCommand,
        permit: &mut Option<Permit>,
    ) -> Result<StoreReply, StoreError> {
        let asked = self.clock.now();
        let answer = self.store.apply(command).await;
        let took = self.clock.now().since(asked);
        self.metrics.store_answered(op, clock::duration(took));
        if let Some(permit) = permit {
            permit.note(took, &answer);
        }
        answer
    }

    /// The same of a check, which is answered without the store if it is not let through.
    async fn carry_out_admitted(
        &self,
        op: &'static str,
        command: StoreCommand,
        ticket: Ticket,
    ) -> Result<Asked, CheckError> {
        match self.permit(&command) {
            Ok(mut permit) => self.carry_out(op, command, ticket, &mut permit).await,
            Err(why) => Ok(self.not_let_through(&command, ticket, why)),
        }
    }

    /// Has the store carry out a command, and once more if its labels did not fit.
    async fn carry_out(
        &self,
        op: &'static str,
        mut command: StoreCommand,
        mut ticket: Ticket,
        permit: &mut Option<Permit>,
    ) -> Result<Asked, CheckError> {
        loop {
            let answer = self.call_with(op, &command, permit).await;
            if let Err(failure) = &answer {
                self.note_failure(failure);
                // What is carried out once may be sent again.
                if !failure.nothing_done() && ticket.send_again() {
                    continue;
                }
            }
            match self.conclude(ticket, answer) {
                (Completion::Decided(decision), failure) => return Ok((decision, failure)),
                (Completion::Again(again, same), _) => (command, ticket) = (again, same),
                (Completion::OtherRequest, _) => return Err(CheckError::OtherRequest),
            }
        }
    }

    /// What the store's answer means for a check, and why the store has not decided it, if so.
    fn conclude(
        &self,
        ticket: Ticket,
        answer: Result<StoreReply, StoreError>,
    ) -> (Completion, Option<StoreError>) {
        let (outcome, failure) = match answer {
            Ok(reply @ StoreReply::Relabel { .. }) => {
                let why = StoreError::Refused("the clocks of node and store disagree".into());
                (Outcome::Reply(reply), Some(why))
            }
            Ok(reply) => (Outcome::Reply(reply), None),
            Err(failure) => (failure.failure().of_check(), Some(failure)),
        };
        (self.complete(self.clock.now(), ticket, outcome), failure)
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

    fn without_store(&self, ticket: Ticket, why: StoreError) -> Asked {
        self.note_failure(&why);
        match self.complete(self.clock.now(), ticket, why.failure().of_check()) {
            Completion::Decided(decision) => (decision, Some(why)),
            Completion::Again(..) | Completion::OtherRequest => {
                unreachable!("only a store says so")
            }
        }
    }
}

/// What a check without a name cannot be answered with is not there.
fn only_a_plan(error: CheckError) -> PlanError {
    match error {
        CheckError::Plan(error) => error,
        CheckError::OtherRequest => unreachable!("it has no name"),
    }
}

fn settled(became: Settled) -> Result<u64, SettleError> {
    match became {
        Settled::Charged(charged) => Ok(charged),
        Settled::Unknown => Err(SettleError::Unknown),
        Settled::Unanswered => Err(SettleError::StoreUnavailable),
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
        reservation: None,
    }
}

impl api::Limiter for Limiter {
    async fn check(&self, attributes: &Attributes<'_>, cost: u64) -> Result<Decision, PlanError> {
        let asked = self.0.clock.now();
        let manner = Manner::default();
        let asking = self.ask(attributes, cost, Purpose::Charge, &manner);
        let (decision, _) = asking.await.map_err(only_a_plan)?;
        self.0.metrics.observe(&decision, clock::duration(self.0.clock.now().since(asked)));
        Ok(decision)
    }

    async fn check_in(
        &self,
        attributes: &Attributes<'_>,
        cost: u64,
        wish: &Wish<'_>,
    ) -> Result<Decision, CheckError> {
        let inner = &self.0;
        let asked = inner.clock.now();
        let reserve = wish.reserve.map(|lasts| {
            let lasts = Span(u64::try_from(lasts.as_micros()).unwrap_or(u64::MAX));
            Reserve { id: inner.engine.hold_id(), lasts }
        });
        let manner = Manner { name: wish.name.map(|name| (name, inner.remember)), reserve };
        let (decision, _) = self.ask(attributes, cost, Purpose::Charge, &manner).await?;
        inner.metrics.observe(&decision, clock::duration(inner.clock.now().since(asked)));
        Ok(decision)
    }

    fn token(&self, reservation: &Reservation) -> String {
        reservation.to_token(&self.secret())
    }

    async fn settle(&self, reservation: &str, actual: u64) -> Result<u64, SettleError> {
        let inner = &self.0;
        let reservation = Reservation::from_token(reservation, &self.secret());
        let reservation = reservation.ok_or(SettleError::Unknown)?;
        let reserved = reservation.cost();
        if actual > reserved {
            return Err(SettleError::TooMuch { reserved });
        }
        let (policies, now) = (self.policies(), inner.clock.now());
        let (command, ticket) = inner.engine.settle(&policies, now, reservation, actual);
        let limiter = self.clone();
        // The task owns the ticket, as of a check.
        let task = tokio::spawn(async move {
            let outcome = limiter.carry_out_again("settle", &command).await;
            let inner = &limiter.0;
            inner.engine.handle_settled(inner.clock.now(), ticket, &outcome)
        });
        settled(task.await.unwrap_or(Settled::Unanswered))
    }

    async fn give_back(
        &self,
        attributes: &Attributes<'_>,
        cost: u64,
        label: u64,
        name: Option<&str>,
    ) -> Result<u64, SettleError> {
        let inner = &self.0;
        let (policies, secret) = (self.policies(), self.secret());
        let name = name.map(|name| (name, inner.remember));
        let (now, subject) = (inner.clock.now(), Subject { attributes, cost });
        let planned =
            inner.engine.plan_give_back(&policies, &secret, now, &subject, Label(label), name);
        let (command, ticket) = planned.ok_or(SettleError::Unknown)?;
        let limiter = self.clone();
        let task = tokio::spawn(async move {
            let outcome = limiter.carry_out_again("refund", &command).await;
            let inner = &limiter.0;
            inner.engine.handle_given_back(inner.clock.now(), ticket, &outcome)
        });
        match task.await.unwrap_or(GivenBack::Settled(Settled::Unanswered)) {
            GivenBack::Settled(Settled::Unanswered) if name.is_none() => Err(SettleError::Unsure),
            GivenBack::Settled(became) => settled(became),
            GivenBack::OtherRequest => Err(SettleError::OtherRequest),
        }
    }

    async fn usage(&self, attributes: &Attributes<'_>) -> Result<Decision, UsageError> {
        let manner = Manner::default();
        let asking = self.ask(attributes, 1, Purpose::Usage, &manner);
        let (decision, failure) = asking.await.map_err(only_a_plan)?;
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
