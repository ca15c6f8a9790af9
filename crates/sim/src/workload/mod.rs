//! Traffic: which requests come when, from where, for whom and at what cost.
//!
//! A load is drawn at random (Poisson, around rates that may move over regions and time) or recorded in a
//! file. Every load draws from streams of its own, one for each region, so that one more at the end of the
//! list changes none before it, and nothing that limiters do changes any.

use tidegate_core::time::Span;

pub use bursts::Bursts;
pub use cost::{COST_MAX, Cost};
pub use recording::{BYTES_MAX, Recorded, Recording, RecordingError};
pub use shape::Shape;

use crate::{
    queue::Instant,
    rng::Stream,
    scenario::{Load, Requests, Traffic},
};
use bursts::Burstiness;
use recording::Replay;

mod bursts;
mod cost;
mod recording;
mod shape;

/// A request that comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Where.
    pub region: usize,
    /// Who asks.
    pub subject: usize,
    /// What it costs.
    pub cost: u64,
}

/// Where requests come from, one after the other.
#[derive(Debug)]
pub enum Source {
    /// Those of one load from one region, drawn at random.
    Random(Box<Random>),
    /// All of a recorded load.
    Recorded(Replay),
}

/// Requests at random.
#[derive(Debug)]
pub struct Random {
    region: usize,
    first_subject: usize,
    callers: u64,
    /// Mean time between two requests at a pace of 1, in microseconds.
    mean_gap: f64,
    pace: Pace,
    cost: Cost,
    /// Time of the next request, with the fraction of a microsecond that an event's time cannot hold;
    /// in microseconds since the load began.
    next: f64,
    /// Until when it makes requests, in microseconds since the load began.
    end: f64,
    random: Stream,
    costs: Stream,
}

/// How many times as fast as usual requests come, over time.
#[derive(Debug)]
struct Pace {
    shape: Option<(Shape, usize)>,
    bursts: Option<Burstiness>,
}

impl Pace {
    /// The pace at a time in microseconds, and until when it stays so: later than that time.
    fn at(&mut self, time: f64) -> (f64, f64) {
        let (mut pace, mut until) = (1.0, f64::INFINITY);
        if let Some((shape, region)) = &self.shape {
            (pace, until) = shape.share_at(*region, time);
        }
        if let Some(bursts) = &mut self.bursts {
            let (times, ends) = bursts.at(time);
            (pace, until) = (pace * times, until.min(ends));
        }
        (pace, until)
    }
}

impl Random {
    fn new(load: &Load, traffic: &Traffic, first_subject: usize, place: Place) -> Self {
        let Place { seed, index, region, length } = place;
        // What never moves needs no looking up.
        let still = traffic.shape.still(region);
        let rate = traffic.per_second * still.unwrap_or(1.0);
        let shape = still.is_none().then(|| (traffic.shape.clone(), region));
        let bursts =
            traffic.bursts.map(|bursts| Burstiness::new(bursts, seed, index, load.start.0 as f64));
        Self {
            region,
            first_subject,
            callers: load.callers.count(),
            mean_gap: 1e6 / rate,
            pace: Pace { shape, bursts },
            cost: traffic.cost.clone(),
            next: load.start.0 as f64,
            end: load.end.unwrap_or(length).0 as f64,
            random: Stream::new(seed, "workload", index),
            costs: Stream::new(seed, "cost", index),
        }
    }

    /// When the next request comes, in microseconds since the load began.
    fn next(&mut self) -> Option<u64> {
        // What a pace of 1 would have to wait; a faster one uses it up sooner.
        let mut wait = self.random.exponential(self.mean_gap);
        while self.next < self.end {
            let (pace, until) = self.pace.at(self.next);
            let room = (until - self.next) * pace;
            if wait < room {
                self.next += wait / pace;
                break;
            }
            (wait, self.next) = (wait - room, until);
        }
        (self.next < self.end).then_some(self.next as u64)
    }

    fn arrival(&mut self) -> Arrival {
        Arrival {
            region: self.region,
            subject: self.first_subject + self.random.below(self.callers) as usize,
            cost: self.cost.draw(&mut self.costs),
        }
    }
}

/// What a source must know of its run.
#[derive(Clone, Copy)]
struct Place {
    seed: u64,
    /// Of its streams.
    index: u64,
    region: usize,
    /// Of all load.
    length: Span,
}

impl Source {
    /// The sources of all loads, which last for `length`; a region without a share in a load is none.
    pub fn all(loads: &[Load], first_of_load: &[usize], seed: u64, length: Span) -> Vec<Self> {
        let mut sources = Vec::new();
        for (n, load) in loads.iter().enumerate() {
            let first_subject = first_of_load[n];
            let traffic = match &load.requests {
                Requests::Recorded(recording) => {
                    let replay = Replay::new(recording.clone(), first_subject, load);
                    sources.push(Self::Recorded(replay));
                    continue;
                }
                Requests::Random(traffic) => traffic,
            };
            for region in (0..traffic.shape.regions()).filter(|at| traffic.shape.reaches(*at)) {
                let index = (n as u64) << 32 | region as u64;
                let place = Place { seed, index, region, length };
                let random = Random::new(load, traffic, first_subject, place);
                sources.push(Self::Random(Box::new(random)));
            }
        }
        sources
    }

    /// When the next request comes, counted from `start`; `None` if no more come.
    pub fn next(&mut self, start: Instant) -> Option<Instant> {
        let at = match self {
            Self::Random(random) => random.next(),
            Self::Recorded(replay) => replay.next(),
        };
        at.map(|at| start + Span(at))
    }

    /// The request whose time [`Self::next`] told last.
    pub fn arrival(&mut self) -> Arrival {
        match self {
            Self::Random(random) => random.arrival(),
            Self::Recorded(replay) => replay.arrival(),
        }
    }
}

#[cfg(test)]
mod tests;
