//! Bursty traffic: a Poisson process whose rate changes between two at random (a two-state
//! Markov-modulated Poisson process).

use tidegate_core::time::Span;

use crate::rng::Stream;

/// Two states, quiet and busy, or the other way round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bursts {
    /// How the rates of the two states compare to each other; only their ratio counts, for the mean rate
    /// is the load's.
    pub rates: [f64; 2],
    /// How long each lasts on average; each time it is exponentially distributed.
    pub stays: [Span; 2],
    /// Whether all regions change at once; otherwise each has its own times.
    pub together: bool,
}

impl Bursts {
    /// How many times the mean rate each state has.
    fn paces(&self) -> [f64; 2] {
        let stays = self.stays.map(|stay| stay.0 as f64);
        let time = stays[0] + stays[1];
        let mean = (self.rates[0] * stays[0] + self.rates[1] * stays[1]) / time;
        self.rates.map(|rate| rate / mean)
    }
}

/// One region's states over time.
#[derive(Debug)]
pub(super) struct Burstiness {
    paces: [f64; 2],
    stays: [f64; 2],
    state: usize,
    until: f64,
    random: Stream,
}

impl Burstiness {
    /// States from a time in microseconds on, the first one drawn as if they had been going on for ever.
    pub(super) fn new(bursts: Bursts, seed: u64, index: u64, start: f64) -> Self {
        let stays = bursts.stays.map(|stay| stay.0 as f64);
        let index = if bursts.together { index >> 32 << 32 } else { index };
        let mut random = Stream::new(seed, "bursts", index);
        let state = usize::from(random.fraction() * (stays[0] + stays[1]) >= stays[0]);
        let until = start + random.exponential(stays[state]);
        Self { paces: bursts.paces(), stays, state, until, random }
    }

    /// The pace at a time, and until when it lasts. Times must not fall.
    pub(super) fn at(&mut self, time: f64) -> (f64, f64) {
        while self.until <= time {
            self.state = 1 - self.state;
            self.until += self.random.exponential(self.stays[self.state]);
        }
        (self.paces[self.state], self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BURSTS: Bursts =
        Bursts { rates: [1.0, 9.0], stays: [Span::secs(3), Span::secs(1)], together: false };

    #[test]
    fn the_mean_pace_is_one() {
        assert_eq!(BURSTS.paces(), [1.0 / 3.0, 3.0]);
    }

    #[test]
    fn states_last_as_long_as_they_should() {
        let mut states = Burstiness::new(BURSTS, 7, 1, 0.0);
        let (mut time, mut busy, mut changes) = (0.0, 0.0, 0);
        while time < 40_000e6 {
            let (pace, until) = states.at(time);
            assert!(until > time);
            busy += if pace > 1.0 { until - time } else { 0.0 };
            (time, changes) = (until, changes + 1);
        }
        assert!((busy / time - 0.25).abs() < 0.01, "{}", busy / time);
        assert!((19_000..21_000).contains(&changes), "{changes}");
    }

    #[test]
    fn regions_change_together_or_each_by_itself() {
        let first =
            |together, index| Burstiness::new(Bursts { together, ..BURSTS }, 7, index, 0.0).at(0.0);
        let (here, there, next_load) = (1 << 32 | 1, 1 << 32 | 2, 2 << 32 | 1);
        assert_eq!(first(true, here), first(true, there));
        assert_ne!(first(true, here), first(true, next_load));
        assert_ne!(first(false, here), first(false, there));
    }
}
