//! A load that goes on while something breaks and heals, and its books.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{task::JoinHandle, time::Instant};

use crate::{ensure, eventually, node::Node};

/// So many answers of the store in a row are normal.
const NORMAL: u64 = 10;

/// What one asker saw.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Answers that admitted.
    pub admitted: u64,
    /// All answers that were decisions.
    pub answers: u64,
    /// Answers that the store did not give.
    pub degraded: u64,
    /// What was no decision.
    pub errors: Vec<String>,
    /// How long each answer that the store did not give took, in order.
    pub degraded_times: Vec<Duration>,
    /// Answers of the store since the last of another kind, and when the first of them came.
    normal: u64,
    normal_since: Option<Instant>,
    /// The longest that an answer took.
    pub slowest: Duration,
}

/// One caller that asks one node for one unit after the other.
#[derive(Debug)]
pub struct Asker {
    name: String,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    task: Option<JoinHandle<()>>,
}

impl Asker {
    /// Begins.
    pub fn start(node: &Node, attributes: &'static [(&'static str, &'static str)]) -> Self {
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let task = tokio::spawn({
            let (node, seen, stop) = (node.clone(), Arc::clone(&seen), Arc::clone(&stop));
            async move {
                while !stop.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    let answer = node.try_check(attributes).await;
                    let mut seen = seen.lock();
                    let took = asked.elapsed();
                    seen.slowest = seen.slowest.max(took);
                    match answer {
                        Ok(check) => {
                            seen.answers += 1;
                            seen.admitted += u64::from(check.allowed);
                            seen.degraded += u64::from(check.degraded);
                            if check.degraded {
                                seen.degraded_times.push(took);
                                seen.normal = 0;
                            } else {
                                seen.normal += 1;
                                if seen.normal == 1 {
                                    seen.normal_since = Some(Instant::now());
                                }
                            }
                        }
                        Err(error) => {
                            seen.normal = 0;
                            seen.errors.push(error);
                        }
                    }
                }
            }
        });
        Self { name: node.name.clone(), seen, stop, task: Some(task) }
    }

    /// What it has seen so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().clone()
    }

    /// Waits until something is so.
    pub async fn sees(&self, within: Duration, what: &str, is_so: impl Fn(&Seen) -> bool) {
        eventually(within, &format!("{} sees {what}", self.name), async || {
            let seen = self.seen();
            let Seen { admitted, degraded, ref errors, normal, .. } = seen;
            ensure(is_so(&seen), || {
                format!("{admitted} admitted, {degraded} degraded, {normal} normal, {errors:?}")
            })
        })
        .await;
    }

    /// Waits until the store answers again; since when it does.
    pub async fn normal(&self, within: Duration) -> Instant {
        // What was asked before must have been answered.
        self.sees(within, "answers of the store", |seen| seen.normal >= NORMAL).await;
        self.seen().normal_since.expect("there is a first")
    }

    /// Forgets what was normal until now, for [`normal`](Self::normal) to mean what comes.
    pub fn await_anew(&self) {
        self.seen.lock().normal = 0;
    }

    /// Ends, after the answer that it waits for.
    pub async fn stop(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.task.take().expect("it is stopped once").await.expect("it does not panic");
        self.seen()
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
