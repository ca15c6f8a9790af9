//! Faults on the way to other regions: cuts, delay, jitter and loss of what this node sends.
//!
//! For demonstrations and tests. [`Faults`] holds the table that `PUT /v1/faults` changes; the
//! socket in `socket` obeys it, below QUIC, so that handshakes and membership suffer as frames
//! do. Without faults the plain socket is used and none of this runs.

mod queue;
mod rules;
mod socket;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use rand::{Rng, RngExt};
use tidegate_core::ids::RegionName;

pub use rules::{Baseline, FaultsError, FaultsRequest, FaultsTable, RuleView};
use rules::{EVERYONE, Rule};
pub(crate) use socket::FaultySocket;

/// How many addresses are remembered; further ones count as addresses of an unknown region.
const ADDRESSES_MAX: usize = 4096;

/// What this node does to what it sends, by region of the receiver.
pub struct Faults {
    own: RegionName,
    table: Mutex<Table>,
    dropped: Dropped,
    delayed_bytes: AtomicUsize,
}

struct Table {
    baseline: BTreeMap<RegionName, Baseline>,
    /// Rules set for one region.
    rules: BTreeMap<RegionName, Rule>,
    /// The rule set for `"*"`; also holds for addresses of which the region is not known yet.
    everyone: Option<Rule>,
    addresses: HashMap<SocketAddr, RegionName>,
    rng: Box<dyn Rng + Send>,
}

/// Datagrams that were not sent, by cause.
#[derive(Default)]
struct Dropped {
    cut: AtomicU64,
    loss: AtomicU64,
    full: AtomicU64,
}

/// What happens to one datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Send,
    Delay(Duration),
    Drop,
}

impl Faults {
    /// A table without rules: `baseline` alone holds. Its regions are known from the start, others
    /// once an address of theirs is learned.
    pub fn new(
        own: RegionName,
        baseline: BTreeMap<RegionName, Baseline>,
        rng: Box<dyn Rng + Send>,
    ) -> Self {
        let table = Table {
            baseline,
            rules: BTreeMap::new(),
            everyone: None,
            addresses: HashMap::new(),
            rng,
        };
        Self {
            own,
            table: Mutex::new(table),
            dropped: Dropped::default(),
            delayed_bytes: AtomicUsize::new(0),
        }
    }

    /// Says that `address` belongs to `region`. The latest word holds; beyond 4096 addresses new
    /// ones are not remembered.
    pub fn learn(&self, address: SocketAddr, region: &RegionName) {
        let mut table = self.table.lock();
        let address = canonical(address);
        if table.addresses.len() < ADDRESSES_MAX || table.addresses.contains_key(&address) {
            table.addresses.insert(address, region.clone());
        }
    }

    /// Sets the rule for one region, or for all others with `"*"`, which replaces what was set for
    /// single regions. What the request leaves out returns to the baseline.
    pub fn set(&self, request: &FaultsRequest) -> Result<FaultsTable, FaultsError> {
        let rule = Rule::from_request(request)?;
        let mut table = self.table.lock();
        if request.to == EVERYONE {
            table.rules.clear();
            table.everyone = Some(rule);
        } else {
            let region = self.known(&table, &request.to)?;
            table.rules.insert(region, rule);
        }
        Ok(self.view(&table))
    }

    /// Takes all rules away; the baseline remains.
    pub fn clear(&self) -> FaultsTable {
        let mut table = self.table.lock();
        table.rules.clear();
        table.everyone = None;
        self.view(&table)
    }

    /// The table as it is.
    pub fn snapshot(&self) -> FaultsTable {
        self.view(&self.table.lock())
    }

    /// Bytes of datagrams that wait until their delay is over.
    pub fn delayed_bytes(&self) -> usize {
        self.delayed_bytes.load(Ordering::Relaxed)
    }

    /// Decides about one datagram to `to`, and counts it if it is to be dropped.
    fn fate(&self, to: SocketAddr) -> Fate {
        let mut table = self.table.lock();
        let Some((rule, baseline)) = self.holding(&table, to) else { return Fate::Send };
        if rule.cut {
            self.count(&self.dropped.cut);
            return Fate::Drop;
        }
        if rule.loss > 0.0 && table.rng.random_bool(rule.loss) {
            self.count(&self.dropped.loss);
            return Fate::Drop;
        }
        let jitter = rule.jitter(baseline);
        let jitter =
            if jitter.is_zero() { jitter } else { table.rng.random_range(Duration::ZERO..=jitter) };
        match rule.delay(baseline) + jitter {
            Duration::ZERO => Fate::Send,
            delay => Fate::Delay(delay),
        }
    }

    /// Whether a datagram that has waited may still leave; counts it if not.
    fn may_leave(&self, to: SocketAddr) -> bool {
        let cut = self.holding(&self.table.lock(), to).is_some_and(|(rule, _)| rule.cut);
        if cut {
            self.count(&self.dropped.cut);
        }
        !cut
    }

    fn count(&self, counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn count_full(&self) {
        self.count(&self.dropped.full);
    }

    /// The rule and baseline that hold for an address; none for our own region.
    fn holding(&self, table: &Table, to: SocketAddr) -> Option<(Rule, Baseline)> {
        match table.addresses.get(&canonical(to)) {
            Some(region) if *region == self.own => None,
            Some(region) => Some(table.rule(region)),
            None => Some((table.everyone.unwrap_or_default(), Baseline::default())),
        }
    }

    fn known(&self, table: &Table, name: &str) -> Result<RegionName, FaultsError> {
        self.others(table)
            .into_iter()
            .find(|region| region.as_str() == name)
            .ok_or_else(|| FaultsError::UnknownRegion(name.into()))
    }

    fn others(&self, table: &Table) -> std::collections::BTreeSet<RegionName> {
        let mut regions: std::collections::BTreeSet<RegionName> =
            table.baseline.keys().chain(table.addresses.values()).cloned().collect();
        regions.remove(&self.own);
        regions
    }

    fn view(&self, table: &Table) -> FaultsTable {
        let view = |region: RegionName| {
            let (rule, baseline) = table.rule(&region);
            (region.to_string(), RuleView::new(rule, baseline))
        };
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FaultsTable {
            region: self.own.to_string(),
            to: self.others(table).into_iter().map(view).collect(),
            dropped_cut: count(&self.dropped.cut),
            dropped_loss: count(&self.dropped.loss),
            dropped_full: count(&self.dropped.full),
        }
    }
}

impl Table {
    fn rule(&self, region: &RegionName) -> (Rule, Baseline) {
        let rule = self.rules.get(region).copied().or(self.everyone).unwrap_or_default();
        (rule, self.baseline.get(region).copied().unwrap_or_default())
    }
}

/// The form in which an address is compared: IPv4 also where an IPv6 socket shows it mapped.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
