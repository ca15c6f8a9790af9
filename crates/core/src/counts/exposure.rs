//! By how much a global limit may be exceeded at most from now on, because news is on its way: the formula
//! of `docs/algorithm.md`, "What `plain` guarantees", with what this node knows of rates and ages.

use alloc::{collections::BTreeMap, vec::Vec};

use super::{
    cells::{Cell, Slot},
    shard::Shard,
};
use crate::{
    ids::{Key, LimitId, RegionIndex},
    policy::Scope,
    time::{ClusterTime, Span, Window},
};

/// What is known of another region is older than this only if it cannot be heard: it speaks every second.
const OUT_OF_TOUCH: Span = Span::millis(2_500);
/// A rate is never taken over less time than this.
const RATE_OVER_MIN: Span = Span::millis(100);

/// Other regions, and the age of what is known of them; `None`: never heard.
pub(crate) type Ages = Vec<(RegionIndex, Option<Span>)>;

impl Shard {
    /// What the other regions may have admitted beyond what is known here, of one key: per region its
    /// rate times the age of its news, at most what it may admit at all; all of that where it cannot be
    /// heard.
    pub(crate) fn exposure(
        &self,
        key: Key,
        (window, quantity): (Window, u64),
        cluster: ClusterTime,
        ages: &Ages,
    ) -> u64 {
        let label = window.label_at(cluster);
        let current = self.slots_of(key, label);
        let previous = self.slots_of(key, label.previous());
        let elapsed = cluster.since(window.start(label)).max(RATE_OVER_MIN);
        let took = window.length_of(label.previous()).max(RATE_OVER_MIN);
        let of_region = |(region, age): &(RegionIndex, Option<Span>)| {
            let used = sum(current.clone(), *region, |slot| slot.tally().counts.net());
            let room = quantity.saturating_sub(used);
            let Some(age) = age.filter(|age| *age < OUT_OF_TOUCH) else { return room };
            let offered = |slot: &Slot| slot.tally().offered;
            let in_age = |offered: u64, over: Span| {
                u128::from(offered) * u128::from(age.0) / u128::from(over.0)
            };
            let now = in_age(sum(current.clone(), *region, offered), elapsed);
            let before = in_age(sum(previous.clone(), *region, offered), took);
            u64::try_from(now.max(before)).unwrap_or(u64::MAX).min(room)
        };
        ages.iter().map(of_region).fold(0, u64::saturating_add)
    }

    /// Raises `worst` to the exposure of the live cells from place `from` on, at `budget` places, under the
    /// quantities that this node decides by. Returns where to go on.
    pub(crate) fn expose(
        &self,
        cluster: ClusterTime,
        ages: &Ages,
        (from, budget): (u32, u32),
        worst: &mut BTreeMap<LimitId, u64>,
    ) -> Option<u32> {
        self.each_cell(from, budget, |cell: &Cell| {
            let Some(shape) = self.shape_of(cell).filter(|s| s.scope == Scope::Global) else {
                return true;
            };
            if let Some(quantity) = self.quantity_of(cell)
                && cell.label == shape.window.label_at(cluster)
            {
                let key = Key { caller: cell.caller, limit: shape.limit };
                let exposure = self.exposure(key, (shape.window, quantity), cluster, ages);
                let worst = worst.entry(shape.limit).or_default();
                *worst = exposure.max(*worst);
            }
            true
        })
    }
}

fn sum<'a>(
    slots: impl Iterator<Item = &'a Slot>,
    region: RegionIndex,
    of: impl Fn(&Slot) -> u64,
) -> u64 {
    let slots = slots.filter(|slot| slot.region == region);
    slots.map(of).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::{
        counts::{Entry, Shape, Tally, Tick},
        forecast::Note,
        ids::{Caller, SessionIndex},
        store::Counts,
        time::{Label, Unit, Zone},
    };

    const KEY: Key = Key { caller: Caller([1, 0]), limit: LimitId(1) };
    const US: RegionIndex = RegionIndex(1);
    const AP: RegionIndex = RegionIndex(2);

    /// Half of label 7 of ten seconds is over; `us` was offered 500 and admitted 100 in it, and 2,000 and
    /// 1,000 before.
    fn exposure(ages: &Ages) -> u64 {
        let window = Window::new(Span::secs(10)).expect("ten seconds");
        let mut shard = Shard::new(100);
        for (label, used, offered) in [(7, 100, 500), (6, 1_000, 2_000)] {
            let shape = Shape { limit: KEY.limit, window, scope: Scope::Global };
            let tally = Tally { counts: Counts { used, refunded: 0 }, offered };
            let session = SessionIndex(1);
            let entry = Entry {
                caller: KEY.caller,
                shape,
                label: Label(label),
                session,
                tally,
                note: Note::default(),
            };
            shard.merge(&entry, US, false, Tick::default()).expect("room");
        }
        shard.exposure(KEY, (window, 1_000), ClusterTime(75_000_000), ages)
    }

    #[test]
    fn it_is_rate_times_age_and_at_most_what_a_region_may_admit() {
        let ages = |us, ap| vec![(US, us), (AP, ap)];
        let millis = |n| Some(Span::millis(n));
        assert_eq!(exposure(&vec![]), 0, "nobody else");
        // 2,000 in ten seconds is the larger of the two rates; ap has none.
        assert_eq!(exposure(&ages(millis(100), millis(100))), 20);
        assert_eq!(exposure(&ages(millis(2_000), millis(0))), 400);
        assert_eq!(exposure(&ages(millis(60_000), millis(0))), 900, "all that is left to it");
        assert_eq!(exposure(&ages(millis(100), None)), 20 + 1_000, "never heard: anything");
    }

    #[test]
    fn behind_a_date_that_was_left_out_it_is_the_new_days_own() {
        let zone = Zone::named("Pacific/Apia").expect("a zone");
        let window = Window::calendar(Unit::Day, zone);
        // The first minute of 2011-12-31, which came after the 29th.
        let (now, label) = (ClusterTime(1_325_239_260_000_000), Label(15_339));
        assert_eq!(window.label_at(now), label);
        let shape = Shape { limit: KEY.limit, window, scope: Scope::Global };
        let tally = Tally { counts: Counts::default(), offered: 600 };
        let (caller, session, note) = (KEY.caller, SessionIndex(1), Note::default());
        let entry = Entry { caller, shape, label, session, tally, note };
        let mut shard = Shard::new(100);
        shard.merge(&entry, US, false, Tick::default()).expect("room");
        let ages = vec![(US, Some(Span::millis(100)))];
        assert_eq!(shard.exposure(KEY, (window, 1_000), now, &ages), 1, "600 in a minute");
    }

    #[test]
    fn the_worst_key_stands_for_its_limit() {
        let window = Window::new(Span::secs(10)).expect("ten seconds");
        let shape = Shape { limit: KEY.limit, window, scope: Scope::Global };
        let mut shard = Shard::new(100);
        for (caller, quantity, used) in [(1, 50, 20), (2, 80, 10)] {
            let tally = Tally { counts: Counts { used, refunded: 0 }, offered: used };
            let caller = Caller([caller, 0]);
            let asked = crate::counts::Asked {
                caller,
                shape,
                label: Label(7),
                quantity,
                add: Tally::default(),
                tell: false,
            };
            shard.add_own(&asked, Tick::default());
            let entry = Entry {
                caller,
                shape,
                label: Label(7),
                session: SessionIndex(1),
                tally,
                note: Note::default(),
            };
            shard.merge(&entry, US, false, Tick::default()).expect("room");
        }
        let mut worst = BTreeMap::new();
        let ages = vec![(US, None)];
        let on = shard.expose(ClusterTime(75_000_000), &ages, (0, 1), &mut worst);
        assert_eq!(worst.get(&KEY.limit), Some(&30));
        let from = on.expect("one cell is left");
        assert_eq!(shard.expose(ClusterTime(75_000_000), &ages, (from, 999), &mut worst), None);
        assert_eq!(worst.get(&KEY.limit), Some(&70));
    }
}
