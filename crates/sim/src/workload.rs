//! Traffic: from every region, for every load, requests at random (Poisson) at a given rate.

use tidegate_core::time::Span;

use crate::{queue::Instant, rng::Stream, scenario::Load};

/// The requests of one load from one region.
#[derive(Debug)]
pub struct Source {
    /// Where they come from.
    pub region: usize,
    first_subject: usize,
    callers: u64,
    /// Mean time between two requests, in microseconds.
    mean_gap: f64,
    /// Time of the next request, with the fraction of a microsecond that an event's time cannot hold;
    /// in microseconds since the load began.
    next: f64,
    /// Until when it makes requests, in microseconds since the load began.
    end: f64,
    random: Stream,
}

impl Source {
    /// The sources of all loads; a region without a share in a load is none.
    pub fn all(loads: &[Load], first_of_load: &[usize], seed: u64) -> Vec<Self> {
        let mut sources = Vec::new();
        for (n, load) in loads.iter().enumerate() {
            for (region, rate) in
                load.per_second.iter().enumerate().filter(|(_, rate)| **rate > 0.0)
            {
                let index = (n as u64) << 32 | region as u64;
                sources.push(Self {
                    region,
                    first_subject: first_of_load[n],
                    callers: load.callers,
                    mean_gap: 1e6 / rate,
                    next: load.start.0 as f64,
                    end: load.end.map_or(f64::INFINITY, |end| end.0 as f64),
                    random: Stream::new(seed, "workload", index),
                });
            }
        }
        sources
    }

    /// When the next request comes, counted from `start`; `None` if no more come.
    pub fn next(&mut self, start: Instant) -> Option<Instant> {
        self.next += self.random.exponential(self.mean_gap);
        (self.next < self.end).then(|| start + Span(self.next as u64))
    }

    /// Who makes it.
    pub fn subject(&mut self) -> usize {
        self.first_subject + self.random.below(self.callers) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(per_second: Vec<f64>, callers: u64) -> Load {
        Load {
            attributes: Vec::new(),
            caller: Some("user".into()),
            callers,
            cost: 1,
            per_second,
            start: Span::ZERO,
            end: None,
        }
    }

    #[test]
    fn requests_come_at_their_rate() {
        let mut sources = Source::all(&[load(vec![1_000.0, 0.0, 250.0], 1)], &[0], 7);
        assert_eq!(sources.iter().map(|s| s.region).collect::<Vec<_>>(), [0, 2]);
        for (source, rate) in sources.iter_mut().zip([1_000.0, 250.0]) {
            let times = std::iter::from_fn(|| source.next(Instant(0)));
            let n = times.take_while(|at| at.0 < 40_000_000).count() as f64;
            assert!((n / (40.0 * rate) - 1.0).abs() < 0.03, "{n} at {rate}");
        }
    }

    #[test]
    fn gaps_are_as_irregular_as_poisson_says() {
        let mut source = Source::all(&[load(vec![1_000.0], 1)], &[0], 7).remove(0);
        let mut counts = vec![0_f64; 1_000];
        while let Some(at) = source.next(Instant(0))
            && let Some(count) = counts.get_mut((at.0 / 100_000) as usize)
        {
            *count += 1.0;
        }
        let mean = counts.iter().sum::<f64>() / 1_000.0;
        let variance = counts.iter().map(|n| (n - mean) * (n - mean)).sum::<f64>() / 1_000.0;
        assert!((0.85..1.15).contains(&(variance / mean)), "variance {variance}, mean {mean}");
    }

    #[test]
    fn a_surge_comes_and_goes() {
        let (start, end) = (Span::secs(2), Some(Span::secs(3)));
        let surge = Load { start, end, ..load(vec![1_000.0], 1) };
        let mut source = Source::all(&[surge], &[0], 7).remove(0);
        let times: Vec<_> = std::iter::from_fn(|| source.next(Instant(500_000))).collect();
        assert!((900..1_100).contains(&times.len()), "{}", times.len());
        assert!(times.iter().all(|at| (2_500_000..3_500_000).contains(&at.0)));
    }

    #[test]
    fn callers_are_drawn_from_their_own_load() {
        let loads = [load(vec![1.0], 3), load(vec![1.0], 2)];
        let mut source = Source::all(&loads, &[0, 3], 7).remove(1);
        let mut seen: Vec<_> = (0..100).map(|_| source.subject()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [3, 4]);
    }
}
