//! How a load is spread over regions, and how that moves over time.
//!
//! A shape gives each region its share of the load's mean rate at each time. Over regions and a whole
//! period the shares add up to 1, whatever the shape: so the load as a whole comes at the rate that the
//! scenario asks for. Shares are constant in pieces, which makes arrivals exact (and the same everywhere):
//! no rate has to be integrated.

use tidegate_core::time::Span;

/// Pieces of one period of a wave: a step is at most 1.6 % of the swing.
const STEPS: u64 = 200;

/// See the module. Regions are places of the topology.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// Each region has its share all the time; they add up to 1.
    Still(Vec<f64>),
    /// One region has most, and every so often the next one has it.
    Moving {
        /// How many regions there are.
        regions: usize,
        /// How long one region has most.
        period: Span,
        /// How much that is; the others share the rest evenly. 1 if there is one region.
        share: f64,
    },
    /// Every region goes up and down, one after the other: it follows the sun.
    Sine {
        /// How many regions there are.
        regions: usize,
        /// A day.
        period: Span,
        /// How far up and down, of a region's mean: 0 to 1.
        swing: f64,
    },
    /// Little from everywhere, and every so often, for a while, much more from one region.
    Flash {
        /// How many regions there are.
        regions: usize,
        /// What always comes, evenly from all, of the mean rate.
        base: f64,
        /// What comes beside it in a flash, of the mean rate.
        more: f64,
        /// From where.
        region: usize,
        /// From one end of a flash to the next …
        every: Span,
        /// … and how long each lasts; it is the last part of that.
        lasts: Span,
    },
}

impl Shape {
    /// How many regions it is about.
    pub fn regions(&self) -> usize {
        match self {
            Self::Still(shares) => shares.len(),
            Self::Moving { regions, .. }
            | Self::Sine { regions, .. }
            | Self::Flash { regions, .. } => *regions,
        }
    }

    /// A region's share, if it never moves.
    pub(super) fn still(&self, region: usize) -> Option<f64> {
        match self {
            Self::Still(shares) => Some(shares[region]),
            _ => None,
        }
    }

    /// Whether a region ever has a share.
    pub(super) fn reaches(&self, region: usize) -> bool {
        match self {
            Self::Still(shares) => shares[region] > 0.0,
            Self::Moving { .. } | Self::Sine { .. } => true,
            Self::Flash { base, more, region: hot, .. } => {
                *base > 0.0 || (region == *hot && *more > 0.0)
            }
        }
    }

    /// A region's share at a time in microseconds since the load began, and until when it has that:
    /// always later than that time.
    pub(super) fn share_at(&self, region: usize, time: f64) -> (f64, f64) {
        let now = time as u64;
        match *self {
            Self::Still(ref shares) => (shares[region], f64::INFINITY),
            Self::Moving { regions, period, share } => {
                let turn = now / period.0;
                let hot = (turn % regions as u64) as usize == region;
                let rest = (1.0 - share) / (regions.max(2) - 1) as f64;
                (if hot { share } else { rest }, ((turn + 1) * period.0) as f64)
            }
            Self::Sine { regions, period, swing } => {
                let within = u128::from(now % period.0);
                let (steps, length) = (u128::from(STEPS), u128::from(period.0));
                let step = within * steps / length;
                let until = now - within as u64 + ((step + 1) * length).div_ceil(steps) as u64;
                let day = (step as f64 + 0.5) / STEPS as f64 - region as f64 / regions as f64;
                let wave = libm::cos(std::f64::consts::TAU * day);
                ((1.0 + swing * wave) / regions as f64, until as f64)
            }
            Self::Flash { regions, base, more, region: hot, every, lasts } => {
                let begun = now / every.0 * every.0;
                let (flash, end) = (begun + every.0 - lasts.0, begun + every.0);
                let even = base / regions as f64;
                if now < flash {
                    (even, flash as f64)
                } else {
                    (if region == hot { even + more } else { even }, end as f64)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a region gets in all from the beginning to a time, at a mean rate of 1 per microsecond.
    fn total(shape: &Shape, region: usize, end: u64) -> f64 {
        let (mut time, mut sum) = (0.0, 0.0);
        while time < end as f64 {
            let (share, until) = shape.share_at(region, time);
            assert!(until > time, "{shape:?} stands still at {time}");
            assert!((0.0..).contains(&share), "{shape:?}: {share} at {time}");
            sum += share * (until.min(end as f64) - time);
            time = until;
        }
        sum
    }

    fn moving_ones() -> [Shape; 4] {
        let period = Span(999_983); // a prime, so that no step fits evenly
        [
            Shape::Moving { regions: 3, period, share: 0.9 },
            Shape::Sine { regions: 3, period: Span(period.0 * 3), swing: 1.0 },
            Shape::Flash {
                regions: 3,
                base: 0.3,
                more: 2.45,
                region: 2,
                every: Span(7 * period.0),
                lasts: Span(2 * period.0),
            },
            Shape::Flash {
                regions: 3,
                base: 0.0,
                more: 3.5,
                region: 0,
                every: Span(7 * period.0),
                lasts: Span(2 * period.0),
            },
        ]
    }

    #[test]
    fn over_whole_periods_and_all_regions_the_shares_add_up_to_one() {
        let end = 21 * 999_983;
        for shape in moving_ones() {
            let sum: f64 = (0..3).map(|region| total(&shape, region, end)).sum();
            assert!((sum / end as f64 - 1.0).abs() < 1e-6, "{shape:?}: {sum}");
        }
    }

    #[test]
    fn a_moving_load_hops_hard_and_comes_round() {
        let shape = Shape::Moving { regions: 3, period: Span(100), share: 0.9 };
        let hot = |time| (0..3).find(|at| shape.share_at(*at, time).0 == 0.9);
        assert_eq!([0.0, 99.9, 100.0, 250.0, 300.0].map(hot), [0, 0, 1, 2, 0].map(Some));
        let (rest, until) = shape.share_at(1, 42.5);
        assert!((rest - 0.05).abs() < 1e-12 && until == 100.0);
        let alone = Shape::Moving { regions: 1, period: Span(100), share: 1.0 };
        assert_eq!(alone.share_at(0, 150.0), (1.0, 200.0));
    }

    #[test]
    fn a_sine_has_its_noon_in_one_region_after_the_other() {
        let shape = Shape::Sine { regions: 4, period: Span(1_000), swing: 0.8 };
        for (region, noon) in [(0, 0.0), (1, 250.0), (2, 500.0), (3, 750.0)] {
            let (high, low) =
                (shape.share_at(region, noon).0, shape.share_at(region, noon + 500.0).0);
            assert!((high - 1.8 / 4.0).abs() < 0.001 && (low - 0.2 / 4.0).abs() < 0.001);
        }
    }

    #[test]
    fn a_flash_is_the_last_part_of_its_period_in_one_region() {
        let (every, lasts) = (Span(700), Span(200));
        let shape = Shape::Flash { regions: 2, base: 0.3, more: 2.45, region: 1, every, lasts };
        assert_eq!(shape.share_at(1, 499.0), (0.15, 500.0));
        assert_eq!(shape.share_at(1, 500.0), (0.15 + 2.45, 700.0));
        assert_eq!(shape.share_at(0, 500.0), (0.15, 700.0));
        assert_eq!(shape.share_at(1, 700.0), (0.15, 1_200.0));
    }
}
