//! The all-knowing central limiter: it sees every arrival of every region at once, in order, without
//! delay. What it admits is what could have been admitted; the shortfall against it is under-admission.

use tidegate_core::time::{ClusterTime, Label};

use crate::subjects::Subjects;

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

    /// Decides on one request of a subject at true cluster time: all enforced limits have room, or
    /// nothing is charged. What was charged goes to `charged`, key by key.
    pub fn offer(
        &mut self,
        subjects: &Subjects,
        subject: usize,
        region: usize,
        now: ClusterTime,
        mut charged: impl FnMut(usize, Label, u64),
    ) -> bool {
        let asking = &subjects.all[subject];
        let mut admitted = true;
        for met in &asking.met {
            let key = met.key_in(region);
            let (facts, count) = (&subjects.keys[key], &mut self.0[key]);
            let label = facts.window.label_at(now);
            if count.label != label {
                *count = Count { label, used: 0 };
            }
            admitted &= !facts.enforced || count.used + asking.cost <= facts.quantity;
        }
        if admitted {
            for met in &asking.met {
                let key = met.key_in(region);
                let (facts, count) = (&subjects.keys[key], &mut self.0[key]);
                if count.used + asking.cost <= facts.quantity {
                    count.used += asking.cost;
                    charged(key, count.label, asking.cost);
                }
            }
        }
        admitted
    }
}
