//! When requests are due. Pure arithmetic: time is an argument, counted from the start of the load.

use std::time::Duration;

use super::Rate;

/// The instants at which the requests of one run are due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Schedule {
    rate: Rate,
    duration: Duration,
}

impl Schedule {
    pub(super) fn new(rate: Rate, duration: Duration) -> Self {
        Self { rate, duration }
    }

    /// How long requests are due.
    pub(super) fn duration(&self) -> Duration {
        self.duration
    }

    /// The time between two requests; `None` in a closed loop.
    pub(super) fn period(&self) -> Option<Duration> {
        match self.rate {
            Rate::PerSecond(rate) => Some(Duration::from_secs_f64(1.0 / rate)),
            Rate::Max => None,
        }
    }

    /// The part of the schedule for lane `lane` of `lanes`: every `lanes`th request.
    pub(super) fn lane(self, lane: usize, lanes: usize) -> LaneSchedule {
        let taken = 0;
        LaneSchedule { schedule: self, lane: lane as u64, lanes: lanes as u64, taken }
    }
}

/// What is due to one target.
#[derive(Debug)]
pub(super) struct LaneSchedule {
    schedule: Schedule,
    lane: u64,
    lanes: u64,
    taken: u64,
}

impl LaneSchedule {
    /// Takes the next request if it is due at `now`: the instant at which it was due.
    pub(super) fn take(&mut self, now: Duration) -> Option<Duration> {
        let due = match self.schedule.rate {
            Rate::PerSecond(rate) => {
                Duration::from_secs_f64((self.taken * self.lanes + self.lane) as f64 / rate)
            }
            Rate::Max => now,
        };
        (due <= now && due < self.schedule.duration).then(|| {
            self.taken += 1;
            due
        })
    }

    /// How many requests were due in all; in a closed loop those that were taken.
    pub(super) fn offered(&self) -> u64 {
        match self.schedule.rate {
            Rate::PerSecond(rate) => {
                let all = (self.schedule.duration.as_secs_f64() * rate).ceil() as u64;
                all.saturating_sub(self.lane).div_ceil(self.lanes)
            }
            Rate::Max => self.taken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn drained(lane: &mut LaneSchedule, now: Duration) -> Vec<u128> {
        std::iter::from_fn(|| lane.take(now)).map(|due| due.as_millis()).collect()
    }

    #[test]
    fn requests_are_due_at_even_distances_from_the_start() {
        let mut lane = Schedule::new(Rate::PerSecond(10.0), SECOND).lane(0, 1);
        assert_eq!(drained(&mut lane, Duration::ZERO), [0]);
        assert_eq!(drained(&mut lane, Duration::from_millis(250)), [100, 200]);
        assert_eq!(drained(&mut lane, SECOND * 5).len(), 7);
        assert_eq!(lane.offered(), 10);
    }

    #[test]
    fn lanes_share_the_schedule_in_turn() {
        let schedule = Schedule::new(Rate::PerSecond(10.0), SECOND);
        let mut lanes: Vec<_> = (0..3).map(|lane| schedule.lane(lane, 3)).collect();
        assert_eq!(drained(&mut lanes[1], SECOND), [100, 400, 700]);
        assert_eq!(lanes.iter().map(LaneSchedule::offered).collect::<Vec<_>>(), [4, 3, 3]);
    }

    #[test]
    fn what_was_offered_is_what_can_be_taken() {
        for rate in [0.5, 1.0, 3.0, 7.7, 999.9, 12_345.6] {
            let schedule = Schedule::new(Rate::PerSecond(rate), SECOND * 3);
            let mut lane = schedule.lane(0, 1);
            assert_eq!(drained(&mut lane, SECOND * 60).len() as u64, lane.offered(), "{rate}");
        }
    }

    #[test]
    fn a_closed_loop_is_due_always_until_the_end() {
        let mut lane = Schedule::new(Rate::Max, SECOND).lane(0, 1);
        assert_eq!(lane.take(Duration::from_millis(999)), Some(Duration::from_millis(999)));
        assert_eq!(lane.take(SECOND), None);
        assert_eq!(lane.offered(), 1);
    }
}
