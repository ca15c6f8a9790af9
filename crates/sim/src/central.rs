//! The all-knowing central limiter: it sees every arrival of every region at once, in order, without
//! delay. What it admits is what could have been admitted; the shortfall against it is under-admission.

use tidegate_core::time::{ClusterTime, Label};

use crate::{checker::Charge, subjects::Subjects, workload::Arrival};

/// One fixed window per key.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    label: Label,
    used: u64,
}

/// The limiter and its counts.
#[derive(Debug)]
pub struct Central(Vec<Count>);

impl Central {
    /// Nothing is used of any key.
    pub fn new(subjects: &Subjects) -> Self {
        Self(vec![Count::default(); subjects.keys.len()])
    }

    /// Decides on one request at true cluster time: all enforced limits have room, or nothing is charged.
    /// What was charged goes to `charged`, key by key.
    pub fn offer(
        &mut self,
        subjects: &Subjects,
        request: Arrival,
        now: ClusterTime,
        mut charged: impl FnMut(usize, Label, u64),
    ) -> bool {
        let Arrival { region, subject, cost } = request;
        let asking = &subjects.all[subject];
        let mut admitted = true;
        for met in &asking.met {
            let key = met.key_in(region);
            let (facts, count) = (&subjects.keys[key], &mut self.0[key]);
            let label = facts.window.label_at(now);
            if count.label != label {
                *count = Count { label, used: 0 };
            }
            admitted &= !facts.enforced || count.used + cost <= facts.least(label);
        }
        if admitted {
            for met in &asking.met {
                let key = met.key_in(region);
                let (facts, count) = (&subjects.keys[key], &mut self.0[key]);
                if count.used + cost <= facts.least(count.label) {
                    count.used += cost;
                    charged(key, count.label, cost);
                }
            }
        }
        admitted
    }
}

impl Central {
    /// Gives back what was charged. Of a window that is over it makes no room.
    pub fn refund(&mut self, charge: &Charge) {
        let count = &mut self.0[charge.key];
        count.used -= if count.label == charge.label { charge.cost } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subjects::testing::subjects;

    const START: ClusterTime = ClusterTime(100_000_000);

    #[test]
    fn admits_a_quantity_per_window_whatever_the_region() {
        let subjects = subjects();
        let mut central = Central::new(&subjects);
        let mut offer = |region, now| {
            central.offer(&subjects, Arrival { region, subject: 0, cost: 1 }, now, |_, _, _| {})
        };
        let admitted = (0..30).filter(|n| offer(n % 2, START)).count();
        assert_eq!(admitted, 10);
        assert!(offer(0, ClusterTime(START.0 + 1_000_000)), "the next window is new");
    }

    #[test]
    fn all_limits_have_room_or_nothing_is_charged() {
        let subjects = subjects();
        let mut central = Central::new(&subjects);
        // Subject 1 meets 10 for all and 4 in each region.
        let mut charges = Vec::new();
        let mut offer = |region| {
            let request = Arrival { region, subject: 1, cost: 1 };
            central.offer(&subjects, request, START, |key, _, cost| charges.push((key, cost)))
        };
        assert_eq!((0..9).filter(|_| offer(0)).count(), 4);
        assert_eq!((0..9).filter(|_| offer(1)).count(), 4);
        let global = subjects.all[1].met[0].key_in(0);
        assert_eq!(charges.iter().filter(|(key, _)| *key == global).count(), 8);
        assert_eq!(charges.len(), 16);
    }
}
