//! How much a region grants to whom: so that what each has left lasts equally long.
//!
//! The rule of equal runway: what all live regions have left is divided in proportion to demand, but for a
//! part that is kept evenly for surprises and dwindles as the label ends. Who has more than its part grants
//! what is over to those that have less, in proportion to what they lack. All of it is an estimate, and any
//! amounts are safe: the store grants only what it holds.

use alloc::vec::Vec;

use crate::{ids::RegionNumber, time::Span};

/// Of what is left, the part that is spread evenly at the beginning of a label.
const EVEN_PART: f64 = 0.3;

/// Of its last units nobody keeps more than it needs in so long: demand is not known further ahead.
const LOOKS_AHEAD: Span = Span::secs(10);

/// Who is asked for so many times less than another gives it also its last units.
const MUCH_LESS: f64 = 4.0;

/// Who has enough for so many rounds does not wait for a grant.
const PATIENCE: f64 = 8.0;

/// What asks for units in one region.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Demand {
    /// Units per second that are asked for.
    pub rate: f64,
    /// Whether it has refused something in the label.
    pub stopped: bool,
}

/// One live region's part, as the granting node knows it. A region is live if it was heard of lately and
/// has echoed what it was told lately; of others nobody knows what they have, and whether it reaches them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// Which region.
    pub region: RegionNumber,
    /// Base and received, less given.
    pub held: u64,
    /// Net use.
    pub used: u64,
    /// What is asked for there.
    pub demand: Demand,
    /// How old that is; zero for the own region.
    pub age: Span,
    /// How long a grant takes to get there; zero for the own region.
    pub delay: Span,
}

impl Share {
    /// Whether it has refused, or may before another grant reaches it, which takes a `round` and both ways.
    pub fn is_hungry(&self, round: Span) -> bool {
        let soon = PATIENCE * seconds(round + self.delay.times(2));
        self.demand.stopped || self.left() < self.demand.rate * soon
    }

    /// What is left, by now.
    fn left(&self) -> f64 {
        let meanwhile = self.demand.rate * seconds(self.age);
        (self.held.saturating_sub(self.used) as f64 - meanwhile).max(0.0)
    }
}

fn seconds(span: Span) -> f64 {
    span.0 as f64 / 1e6
}

/// What the region `own` grants to each other one now, none of it zero. `shares` are the live regions with
/// the own one among them; `time_left` of the label, which is `window` long.
pub fn grants(
    own: RegionNumber,
    shares: &[Share],
    time_left: Span,
    window: Span,
) -> Vec<(RegionNumber, u64)> {
    let Some(mine) = shares.iter().find(|share| share.region == own) else { return Vec::new() };
    let others = || shares.iter().filter(|share| share.region != own);
    let demand: f64 = shares.iter().map(|share| share.demand.rate).sum();
    if demand <= 0.0 || others().all(|share| share.demand.rate <= 0.0) {
        return Vec::new();
    }
    let all_left: f64 = shares.iter().map(Share::left).sum();
    let even = EVEN_PART * (seconds(time_left) / seconds(window)).clamp(0.0, 1.0);
    let part = |share: &Share| {
        all_left * ((1.0 - even) * share.demand.rate / demand + even / shares.len() as f64)
    };
    let surplus = mine.left() - part(mine);
    let lacks = |share: &Share| {
        if share.delay < time_left { (part(share) - share.left()).max(0.0) } else { 0.0 }
    };
    let lacking: f64 = others().map(lacks).sum();
    // Of a small limit the parts are often less than one, and somebody may wait for one.
    let ahead = time_left.min(LOOKS_AHEAD);
    let spare = mine.left() - mine.demand.rate * seconds(ahead);
    let mut over = libm::floor(mine.left()) as u64;
    let mut granted = Vec::new();
    for share in others() {
        let lack = lacks(share);
        let amount = if surplus > 0.0 && lack > 0.0 { surplus * (lack / lacking) } else { 0.0 };
        let can_spare = spare >= 1.0 || mine.demand.rate * MUCH_LESS < share.demand.rate;
        let starves = share.demand.stopped && share.left() < 1.0 && lack > 0.0 && can_spare;
        let amount = if starves { libm::ceil(amount) } else { libm::floor(amount) };
        let amount = (amount as u64).min(over);
        if amount > 0 {
            over -= amount;
            granted.push((share.region, amount));
        }
    }
    granted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: RegionNumber = RegionNumber(1);
    const B: RegionNumber = RegionNumber(2);
    const C: RegionNumber = RegionNumber(3);
    const SECOND: Span = Span::secs(1);

    fn share(region: RegionNumber, held: u64, used: u64, rate: f64) -> Share {
        let demand = Demand { rate, stopped: false };
        Share { region, held, used, demand, age: Span::ZERO, delay: Span::millis(40) }
    }

    #[test]
    fn who_has_no_demand_grants_most_to_who_has() {
        let shares = [share(A, 300, 0, 0.0), share(B, 300, 100, 900.0), share(C, 300, 0, 0.0)];
        let granted = grants(A, &shares, SECOND, SECOND);
        // 800 are left; a tenth of it each is kept evenly: 80 here.
        assert_eq!(granted, [(B, 220)]);
        assert!(grants(B, &shares, SECOND, SECOND).is_empty());
        // At the end nothing is kept.
        assert_eq!(grants(A, &shares, Span::millis(50), SECOND), [(B, 296)]);
    }

    #[test]
    fn nothing_is_granted_that_comes_too_late_or_that_nobody_asks_for() {
        let shares = [share(A, 300, 0, 0.0), share(B, 300, 100, 900.0)];
        assert!(grants(A, &shares, Span::millis(40), SECOND).is_empty());
        let idle = [share(A, 300, 0, 10.0), share(B, 0, 0, 0.0)];
        assert!(grants(A, &idle, SECOND, SECOND).is_empty());
        assert!(grants(C, &shares, SECOND, SECOND).is_empty(), "not among the live");
    }

    #[test]
    fn even_demand_with_even_parts_moves_nothing() {
        let shares = [share(A, 334, 10, 500.0), share(B, 333, 10, 500.0), share(C, 333, 10, 500.0)];
        for region in [A, B, C] {
            assert!(grants(region, &shares, SECOND, SECOND).is_empty());
        }
    }

    #[test]
    fn who_starves_is_given_one_although_its_part_is_less() {
        let mut shares = [share(A, 4, 0, 0.5), share(B, 3, 3, 0.6), share(C, 3, 1, 0.5)];
        shares[1].demand.stopped = true;
        let granted = grants(A, &shares, Span::millis(500), SECOND);
        assert_eq!(granted, [(B, 3)]);
        // Nobody gives away what it needs itself.
        shares[0].demand.rate = 8.0;
        assert!(grants(A, &shares, Span::millis(500), SECOND).is_empty());
    }

    proptest! {
        /// INV-13: never more than is left, and to nobody twice.
        #[test]
        fn no_more_is_granted_than_is_left(
            parts in prop::collection::vec((0_u64..2_000, 0_u64..2_000, 0.0_f64..5e4, any::<bool>()), 1..8),
            left in 0_u64..1_000_000,
        ) {
            let shares: Vec<Share> = parts
                .iter()
                .enumerate()
                .map(|(i, (held, used, rate, stopped))| Share {
                    region: RegionNumber(i as u32),
                    held: *held,
                    used: *used,
                    demand: Demand { rate: *rate, stopped: *stopped },
                    age: Span::millis(30),
                    delay: Span::millis(20),
                })
                .collect();
            let granted = grants(RegionNumber(0), &shares, Span(left), SECOND);
            let sum: u64 = granted.iter().map(|(_, amount)| amount).sum();
            prop_assert!(sum <= shares[0].held.saturating_sub(shares[0].used));
            prop_assert!(granted.windows(2).all(|pair| pair[0].0 < pair[1].0));
            prop_assert!(granted.iter().all(|(to, n)| *n > 0 && *to != RegionNumber(0)));
        }
    }
}
