//! `POST /v1/check/batch`: many checks in one body, answered in order.
//!
//! Every check is read before the first is made, so that a malformed one charges nothing. Checks of
//! one caller are made one after the other, as if they had been asked so; others run side by side.

use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::Poll,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tidegate_core::{
    check::{Decision, PlanError},
    ids::Caller,
};

use super::{
    Api, Limiter, answer,
    body::{self, BATCH_BYTES_MAX},
    bounds::borrowed,
    check::idempotency_key,
    json,
    problem::{Mistakes, Problem},
};

/// The most checks of one batch that wait for the store at one time.
const IN_FLIGHT_MAX: usize = 64;
/// After so many checks that did not wait for anything, other requests get their turn.
const TURN: usize = 128;

type Outcome = Result<Decision, PlanError>;

pub(crate) async fn post<L: Limiter>(
    State(api): State<Arc<Api<L>>>,
    request: Request,
) -> Result<Response, Problem> {
    if idempotency_key(request.headers())?.is_some() {
        let message = "is for single checks: a batch is charged check by check; send those that \
                       may be repeated by themselves";
        return Err(Problem::field("Idempotency-Key", message));
    }
    let body = body::read(request.into_body(), BATCH_BYTES_MAX).await?;
    let batch = json::batch(&body)?;
    let attributes = borrowed(&batch.pairs);
    let checks = Checks { attributes: &attributes, checks: &batch.checks };
    checks.examine(&*api.limiter)?;
    let decisions = checks.decide(&*api.limiter).await?;
    Ok(respond(&decisions, &batch.checks))
}

fn respond(decisions: &[Decision], checks: &[(Range<usize>, u64)]) -> Response {
    let mut body = Vec::with_capacity(16 + 576 * decisions.len());
    body.extend_from_slice(br#"{"results":["#);
    for (index, (decision, (_, cost))) in decisions.iter().zip(checks).enumerate() {
        if index > 0 {
            body.push(b',');
        }
        answer::write(&mut body, decision, *cost);
    }
    body.extend_from_slice(b"]}");
    answer::respond(StatusCode::OK, HeaderMap::new(), body)
}

/// The checks of a batch: each has a part of the attributes, and a cost.
struct Checks<'a> {
    attributes: &'a [(&'a str, &'a str)],
    checks: &'a [(Range<usize>, u64)],
}

impl<'a> Checks<'a> {
    fn attributes(&self, index: usize) -> &'a [(&'a str, &'a str)] {
        &self.attributes[self.checks[index].0.clone()]
    }

    /// Looks at all checks before the first is made.
    fn examine(&self, limiter: &impl Limiter) -> Result<(), Problem> {
        let mut mistakes = Mistakes::default();
        for index in 0..self.checks.len() {
            if let Err(error) = limiter.few_enough_limits(self.attributes(index)) {
                mistakes.add(attributes_of(index), error.to_string());
            }
        }
        mistakes.or_else_ok(())
    }

    /// Makes all checks. Fails only where the policies changed since [`Self::examine`].
    async fn decide(&self, limiter: &impl Limiter) -> Result<Vec<Decision>, Problem> {
        let mut outcomes = Vec::with_capacity(self.checks.len());
        for (index, (_, cost)) in self.checks.iter().enumerate() {
            if index % TURN == TURN - 1 {
                tokio::task::yield_now().await;
            }
            let mut check = Box::pin(limiter.check(self.attributes(index), *cost));
            match poll_fn(|cx| Poll::Ready(check.as_mut().poll(cx))).await {
                Poll::Ready(outcome) => outcomes.push(Some(outcome)),
                // The store is far: from here on, waits overlap.
                Poll::Pending => {
                    self.overlap(limiter, &mut outcomes, check).await;
                    break;
                }
            }
        }
        let decided = outcomes.into_iter().flatten().enumerate();
        decided
            .map(|(index, outcome)| {
                outcome.map_err(|error| Problem::field(attributes_of(index), error.to_string()))
            })
            .collect()
    }

    /// Makes the checks that have no outcome yet, the first of which, `begun`, waits already.
    async fn overlap<L: Limiter>(
        &self,
        limiter: &L,
        outcomes: &mut Vec<Option<Outcome>>,
        begun: Pin<Box<impl Future<Output = Outcome> + Send>>,
    ) {
        let first = outcomes.len();
        outcomes.resize_with(self.checks.len(), || None);
        let callers = (first..self.checks.len()).map(|i| limiter.callers(self.attributes(i)));
        let mut order = Order::new(first, callers);

        // A check begins when all earlier ones of its callers have ended.
        let mut begun = Some(begun);
        let mut in_flight = FuturesUnordered::new();
        loop {
            while in_flight.len() < IN_FLIGHT_MAX
                && let Some(index) = order.ready.pop()
            {
                let begun = if index == first { begun.take() } else { None };
                in_flight.push(async move {
                    let outcome = match begun {
                        Some(begun) => begun.await,
                        None => limiter.check(self.attributes(index), self.checks[index].1).await,
                    };
                    (index, outcome)
                });
            }
            let Some((index, outcome)) = in_flight.next().await else { break };
            outcomes[index] = Some(outcome);
            order.ended(index);
        }
    }
}

/// Which checks may begin: those whose callers' earlier checks have ended.
struct Order {
    first: usize,
    /// For each check from `first` on, how many checks it still waits for, and which wait for it.
    waits: Vec<(usize, Vec<usize>)>,
    /// May begin now; the earliest is last.
    ready: Vec<usize>,
}

impl Order {
    fn new(first: usize, callers: impl Iterator<Item = Vec<Caller>>) -> Self {
        let mut latest: HashMap<Caller, usize> = HashMap::new();
        let mut waits: Vec<(usize, Vec<usize>)> = Vec::new();
        for callers in callers {
            let index = first + waits.len();
            waits.push((0, Vec::new()));
            for caller in callers {
                if let Some(before) = latest.insert(caller, index).filter(|before| *before != index)
                {
                    waits[before - first].1.push(index);
                    waits[index - first].0 += 1;
                }
            }
        }
        let free = |(offset, wait): (usize, &(usize, Vec<usize>))| (wait.0 == 0).then_some(offset);
        let ready = waits.iter().enumerate().rev().filter_map(free).map(|o| first + o).collect();
        Self { first, waits, ready }
    }

    fn ended(&mut self, index: usize) {
        for follower in std::mem::take(&mut self.waits[index - self.first].1) {
            let wait = &mut self.waits[follower - self.first].0;
            *wait -= 1;
            if *wait == 0 {
                self.ready.push(follower);
            }
        }
    }
}

fn attributes_of(index: usize) -> String {
    format!("checks[{index}].attributes")
}
