//! What requests cost: always the same, or drawn anew for each.

use crate::rng::Stream;

/// No request may cost more, as in the server's interface.
pub const COST_MAX: u64 = 1_000_000;

/// A cost, or how it is distributed. All costs are from 1 to [`COST_MAX`].
#[derive(Debug, Clone, PartialEq)]
pub enum Cost {
    /// Always this.
    Constant(u64),
    /// Every whole number from the least to the most alike.
    Uniform {
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// One more with the same chance again and again: few are much above the mean.
    Geometric {
        /// The mean, above 1.
        mean: f64,
    },
    /// Mostly near the least, and now and then a great deal more (a Pareto distribution cut off at the
    /// most, its fractions dropped).
    Pareto {
        /// How steeply larger costs become rare: the smaller, the heavier the tail.
        shape: f64,
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// One of these, with the chance that it or one before it is drawn; the last chance is 1.
    List(Vec<(u64, f64)>),
}

impl Cost {
    /// A list of costs with weights, which need not add up to anything but must be above 0.
    pub fn list(weighted: &[(u64, f64)]) -> Self {
        let total: f64 = weighted.iter().map(|(_, weight)| weight).sum();
        let mut sum = 0.0;
        let upto = |(cost, weight): &(u64, f64)| {
            sum += weight / total;
            (*cost, sum)
        };
        Self::List(weighted.iter().map(upto).collect())
    }

    /// The mean.
    pub fn mean(&self) -> f64 {
        match self {
            Self::Constant(cost) => *cost as f64,
            Self::Uniform { least, most } => (*least + *most) as f64 / 2.0,
            Self::Geometric { mean } => *mean,
            // The sum over all costs of the chance that one is reached.
            Self::Pareto { shape, least, most } => {
                let beyond = |cost| 1.0 - pareto_below(*shape, *least, *most, cost);
                *least as f64 + (*least + 1..=*most).map(beyond).sum::<f64>()
            }
            Self::List(list) => {
                let mut below = 0.0;
                let part = |(cost, upto): &(u64, f64)| {
                    let chance = upto - std::mem::replace(&mut below, *upto);
                    *cost as f64 * chance
                };
                list.iter().map(part).sum()
            }
        }
    }

    /// What the next request costs. A constant draws nothing, every other cost one number.
    pub fn draw(&self, random: &mut Stream) -> u64 {
        match self {
            Self::Constant(cost) => *cost,
            Self::Uniform { least, most } => least + random.below(most - least + 1),
            Self::Geometric { mean } => {
                let more = libm::log(1.0 - random.fraction()) / libm::log(1.0 - 1.0 / mean);
                (1 + more as u64).min(COST_MAX)
            }
            Self::Pareto { shape, least, most } => {
                let (low, high) = (*least as f64, *most as f64 + 1.0);
                let tail = 1.0 - libm::pow(low / high, *shape);
                let drawn = low / libm::pow(1.0 - random.fraction() * tail, 1.0 / shape);
                (drawn as u64).clamp(*least, *most)
            }
            Self::List(list) => {
                let drawn = random.fraction();
                let at = list.partition_point(|(_, upto)| *upto <= drawn);
                list[at.min(list.len() - 1)].0
            }
        }
    }
}

/// The chance of a number below `cost`, of a Pareto distribution from the least to just above the most.
fn pareto_below(shape: f64, least: u64, most: u64, cost: u64) -> f64 {
    let (low, high, at) = (least as f64, most as f64 + 1.0, cost as f64);
    (1.0 - libm::pow(low / at, shape)) / (1.0 - libm::pow(low / high, shape))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<(Cost, u64, u64)> {
        vec![
            (Cost::Constant(7), 7, 7),
            (Cost::Uniform { least: 3, most: 11 }, 3, 11),
            (Cost::Geometric { mean: 5.0 }, 1, COST_MAX),
            (Cost::Pareto { shape: 1.5, least: 2, most: 400 }, 2, 400),
            (Cost::Pareto { shape: 1.0, least: 1, most: 1_000 }, 1, 1_000),
            (Cost::list(&[(1, 6.0), (10, 3.0), (100, 1.0)]), 1, 100),
        ]
    }

    #[test]
    fn what_is_drawn_has_the_mean_and_keeps_the_bounds() {
        for (cost, least, most) in all() {
            let mut random = Stream::new(7, "cost", 0);
            let drawn: Vec<u64> = (0..400_000).map(|_| cost.draw(&mut random)).collect();
            let mean = drawn.iter().sum::<u64>() as f64 / drawn.len() as f64;
            assert!((mean / cost.mean() - 1.0).abs() < 0.02, "{cost:?}: {mean}, {}", cost.mean());
            assert!(drawn.iter().all(|n| (least..=most).contains(n)), "{cost:?}");
            assert!(drawn.contains(&least), "{cost:?}");
        }
    }

    #[test]
    fn listed_costs_come_in_their_shares() {
        let cost = Cost::list(&[(1, 6.0), (10, 3.0), (100, 1.0)]);
        let mut random = Stream::new(7, "cost", 0);
        let drawn: Vec<u64> = (0..100_000).map(|_| cost.draw(&mut random)).collect();
        for (wanted, share) in [(1, 0.6), (10, 0.3), (100, 0.1)] {
            let n = drawn.iter().filter(|n| **n == wanted).count() as f64;
            assert!((n / 100_000.0 - share).abs() < 0.005, "{wanted}: {n}");
        }
        assert!((cost.mean() - 13.6).abs() < 1e-9);
    }

    #[test]
    fn a_heavy_tail_is_heavy() {
        let mut random = Stream::new(7, "cost", 0);
        let cost = Cost::Pareto { shape: 1.0, least: 1, most: 1_000 };
        let large = (0..100_000).filter(|_| cost.draw(&mut random) >= 100).count();
        // 1/100 less 1/1001, of all but 1/1001.
        assert!((800..1_000).contains(&large), "{large}");
    }
}
