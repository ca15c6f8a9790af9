//! Puts the load on: lanes of connections, one lane for each target.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, oneshot},
    task::JoinSet,
    time::{sleep_until, timeout},
};

use super::{
    connection::{Connection, Target},
    pacer::Pacer,
    report::Report,
    requests::Requests,
    schedule::{LaneSchedule, Schedule},
};

/// For the answers that are still missing at the end; longer than any exchange may take.
const LAST_ANSWERS: Duration = Duration::from_secs(12);

/// A load that can be put on.
pub(super) struct Load {
    pub(super) targets: Vec<Target>,
    pub(super) requests: Arc<Requests>,
    pub(super) schedule: Schedule,
    /// Over all targets; at least one for each.
    pub(super) connections: u32,
}

/// The instant at which a request was due, from the start of the load.
type Due = Duration;

/// One target with its share of requests and connections.
struct Lane {
    target: Target,
    requests: Arc<Requests>,
    start: Instant,
    connections_max: usize,
    state: RefCell<LaneState>,
    report: Rc<RefCell<Report>>,
}

struct LaneState {
    schedule: LaneSchedule,
    /// Workers that wait for a request; the last to have worked is the first to work again.
    idle: Vec<oneshot::Sender<Due>>,
    open: usize,
    closed: bool,
}

impl Load {
    /// Runs the whole load. An error if a target cannot be reached at the start.
    /// Must be called within a `LocalSet`.
    pub(super) async fn run(self) -> Result<Report, String> {
        let mut first = Vec::new();
        for target in &self.targets {
            let opened = Connection::open(target).await;
            first.push(opened.map_err(|error| {
                format!("cannot reach {}: {error}. Does a node run there?", target.address())
            })?);
        }
        let report = Rc::new(RefCell::new(Report::new()));
        let start = now();
        let lanes = self.lanes(start, &report);
        let mut workers = JoinSet::new();
        for (lane, connection) in lanes.iter().zip(first) {
            lane.state.borrow_mut().open += 1;
            workers.spawn_local(Rc::clone(lane).work(Some(connection), None));
        }
        self.dispatch(start, &lanes, &mut workers).await?;
        for lane in &lanes {
            lane.close();
        }
        let last = async { while workers.join_next().await.is_some() {} };
        if timeout(LAST_ANSWERS, last).await.is_err() {
            tracing::warn!("some answers did not come; they are counted neither way");
        }
        let mut report = report.replace(Report::new());
        report.duration = start.elapsed();
        report.offered = lanes.iter().map(|lane| lane.state.borrow().schedule.offered()).sum();
        Ok(report)
    }

    fn lanes(&self, start: Instant, report: &Rc<RefCell<Report>>) -> Vec<Rc<Lane>> {
        let count = self.targets.len();
        let lane = |(index, target): (usize, &Target)| {
            let schedule = self.schedule.lane(index, count);
            let extra = usize::from(index < self.connections as usize % count);
            Rc::new(Lane {
                target: target.clone(),
                requests: Arc::clone(&self.requests),
                start,
                connections_max: self.connections as usize / count + extra,
                state: RefCell::new(LaneState {
                    schedule,
                    idle: Vec::new(),
                    open: 0,
                    closed: false,
                }),
                report: Rc::clone(report),
            })
        };
        self.targets.iter().enumerate().map(lane).collect()
    }

    /// Hands out requests until the last was due.
    async fn dispatch(
        &self,
        start: Instant,
        lanes: &[Rc<Lane>],
        workers: &mut JoinSet<()>,
    ) -> Result<(), String> {
        let end = sleep_until((start + self.schedule.duration()).into());
        tokio::pin!(end);
        let Some(period) = self.schedule.period() else {
            for lane in lanes {
                lane.open_all(workers);
            }
            end.await;
            return Ok(());
        };
        let wake = Arc::new(Notify::new());
        let _pacer = Pacer::start(start, period, Arc::clone(&wake))
            .map_err(|error| format!("no thread for the pacer: {error}"))?;
        loop {
            let over = tokio::select! {
                () = wake.notified() => false,
                () = &mut end => true,
            };
            for lane in lanes {
                lane.release(workers);
            }
            if over {
                return Ok(());
            }
        }
    }
}

impl Lane {
    /// Hands every request that is due to a worker, as long as there is one or may be one more.
    /// What is left stays due: the next worker that is done takes it.
    fn release(self: &Rc<Self>, workers: &mut JoinSet<()>) {
        loop {
            let mut state = self.state.borrow_mut();
            if state.idle.is_empty() && state.open >= self.connections_max {
                return;
            }
            let Some(due) = state.schedule.take(self.start.elapsed()) else { return };
            if let Some(worker) = state.idle.pop() {
                worker.send(due).expect("an idle worker waits until its lane is closed");
            } else {
                state.open += 1;
                workers.spawn_local(Rc::clone(self).work(None, Some(due)));
            }
        }
    }

    /// Opens all connections of a closed loop.
    fn open_all(self: &Rc<Self>, workers: &mut JoinSet<()>) {
        let mut state = self.state.borrow_mut();
        while state.open < self.connections_max {
            state.open += 1;
            workers.spawn_local(Rc::clone(self).work(None, None));
        }
    }

    /// Nothing is sent any more. Workers end once they are answered.
    fn close(&self) {
        let mut state = self.state.borrow_mut();
        state.closed = true;
        state.idle.clear();
    }

    /// One connection's life: `first`, and then one request after the other.
    async fn work(self: Rc<Self>, mut connection: Option<Connection>, first: Option<Due>) {
        let mut next = first;
        loop {
            let due = match next.take() {
                Some(due) => due,
                None => match self.next().await {
                    Some(due) => due,
                    None => return,
                },
            };
            self.report.borrow_mut().sent += 1;
            let outcome = self.exchange(&mut connection).await;
            if outcome.is_err() {
                connection = None;
            }
            let latency = self.start.elapsed().saturating_sub(due);
            self.report.borrow_mut().count(outcome, latency);
        }
    }

    /// The next request that is due, waiting for it if need be; `None` once the lane is closed.
    async fn next(&self) -> Option<Due> {
        let wait = {
            let mut state = self.state.borrow_mut();
            if state.closed {
                return None;
            }
            if let Some(due) = state.schedule.take(self.start.elapsed()) {
                return Some(due);
            }
            let (idle, wait) = oneshot::channel();
            state.idle.push(idle);
            wait
        };
        // A lane that closes drops its idle workers' senders.
        wait.await.ok()
    }

    async fn exchange(
        &self,
        connection: &mut Option<Connection>,
    ) -> Result<super::connection::Answer, String> {
        let connection = match connection {
            Some(connection) => connection,
            none => none.insert(Connection::open(&self.target).await?),
        };
        connection.ask(&self.target, self.requests.next()).await
    }
}

/// The clock of the load.
#[expect(clippy::disallowed_methods, reason = "what is measured here is real time")]
pub(super) fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests;
