//! What the engine and the transport know at the instant of a scrape.

use std::{fmt, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use tidegate_core::{RepairStats, check::RightsUse};

use crate::memory::ProcessMemory;

/// Values that others count; asked for at each scrape.
#[derive(Debug, Clone, Default)]
pub struct NodeSample {
    /// Every peer that this node knows.
    pub peers: Vec<PeerSample>,
    /// Other regions' clocks, where known.
    pub clocks: Vec<ClockSample>,
    /// How far the own store's clock is ahead of the median of all regions', in seconds; `None` until
    /// it was read.
    pub clock_error: Option<f64>,
    /// Whether that is more than `cluster.clock_error`.
    pub clock_alarm: bool,
    /// Whether nothing may be spent by rights now.
    pub rights_suspended: bool,
    /// By which configuration of regions claims are made, what the store has adopted, and whether all have.
    pub config: ConfigSample,
    /// Whether all other nodes that live have the same policies in force, as far as is known.
    pub policies_agree: bool,
    /// Checks whose labels did not fit, and which the store was asked again.
    pub relabelled: u64,
    /// Times that there was no room to watch a key's demand.
    pub unwatched: u64,
    /// Frames that were not used, by reason.
    pub frames_dropped: Vec<(&'static str, u64)>,
    /// Connections that were refused, by reason.
    pub peers_refused: Vec<(&'static str, u64)>,
    /// Nodes that are not listened to for a while: (region, node).
    pub quarantined: Vec<(String, String)>,
    /// The listeners for callers and operators.
    pub listeners: Vec<ListenerSample>,
    /// Requests refused because there was no room for their bodies.
    pub bodies_refused: u64,
    /// When this node's certificate expires, since 1970; `None` without a cluster.
    pub certificate_expires: Option<Duration>,
    /// Broken invariants, by name.
    pub broken_invariants: Vec<(&'static str, u64)>,
    /// By how much global limits were and may be exceeded.
    pub over: Vec<OverSample>,
    /// What comparing counts with peers has come to.
    pub repair: RepairStats,
    /// Counts that peers told and there was no room for.
    pub slots_refused: u64,
    /// The regional store.
    pub store: StoreSample,
    /// Keys that the engine holds.
    pub keys: u64,
    /// What each table takes, in bytes.
    pub tables: Vec<(&'static str, u64)>,
    /// What the whole process takes; `None` where that is not known.
    pub process: Option<ProcessMemory>,
    /// The way to the store; `None` where nothing is in it.
    pub guard: Option<GuardSample>,
}

/// The breaker before the store, and the bound on calls that wait for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuardSample {
    /// 0 closed, 1 half open, 2 open.
    pub state: u64,
    /// How often it has opened, by cause.
    pub opened: Vec<(&'static str, u64)>,
    /// Calls that wait for the store now.
    pub calls: u64,
    /// Calls that may wait for it now.
    pub calls_limit: u64,
}

/// How the node stands with its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreSample {
    /// The newest epoch seen; `None` before the first answer.
    pub epoch: Option<u64>,
    /// How often a newer one was met.
    pub epochs: u64,
    /// Answers under an older epoch than the newest.
    pub old_answers: u64,
    /// Records written into new epochs.
    pub healed: u64,
    /// Whether it may forget records for want of memory.
    pub may_evict: bool,
    /// Snapshots that were written, and that could not be.
    pub snapshots: [u64; 2],
    /// Reservations and places that the node looks after, and units of cost that nobody does.
    pub reserved: [u64; 2],
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSample {
    /// Its region.
    pub region: String,
    /// Its name.
    pub node: String,
    /// Whether a connection stands.
    pub connected: bool,
    /// Age of what is known from it; `None` if it was never heard.
    pub staleness: Option<Duration>,
    /// What came from it.
    pub received: Traffic,
    /// What went to it.
    pub sent: Traffic,
}

/// How a node stands with configurations of regions.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConfigSample {
    /// By which one it goes.
    pub acting: u64,
    /// Which one its store has adopted; 0 as long as it was not asked.
    pub adopted: u64,
    /// Whether all regions have adopted the node's.
    pub agreed: bool,
}

/// The connections of one listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerSample {
    /// `http` or `admin`.
    pub listener: &'static str,
    /// Open now.
    pub open: u64,
    /// Refused, because as many as may be were open.
    pub refused: u64,
    /// Closed, because a request's head did not come in time.
    pub stalled: u64,
}

/// What went one way, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Changes of counts in them.
    pub changes: u64,
}

/// By how much a global limit was exceeded, and may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverSample {
    /// The policy's name.
    pub policy: String,
    /// The limit's.
    pub limit: String,
    /// Admitted above it in all regions, in labels that have ended.
    pub admitted: u64,
    /// What could not be weighed.
    pub unmeasured: u64,
    /// What may come on top for any one caller; `None` as long as it is not known which other regions there are.
    pub possible: Option<u64>,
    /// Where it is spent by rights, how the region stands with them, over all callers in demand.
    pub rights: Option<RightsUse>,
}

impl OverSample {
    fn labels(&self) -> [Label<'_>; 2] {
        [("policy", &self.policy), ("limit", &self.limit)]
    }
}

/// How far another region's clock is ahead.
#[derive(Debug, Clone, PartialEq)]
pub struct ClockSample {
    /// Which region.
    pub region: String,
    /// Seconds; negative if it is behind.
    pub offset_seconds: f64,
}

type Label<'a> = (&'static str, &'a str);

impl PeerSample {
    fn labels(&self) -> [Label<'_>; 2] {
        [("region", &self.region), ("node", &self.node)]
    }
}

impl Collector for NodeSample {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Writer(encoder);
        let connected = |peer: &PeerSample| Some(u64::from(peer.connected));
        out.gauges(
            "tidegate_peer_connected",
            "Whether a connection to the peer stands (1) or not (0)",
            self.peers.iter().filter_map(|p| Some((p.labels(), connected(p)?))),
        )?;
        out.gauges(
            "tidegate_peer_staleness_seconds",
            "Age of what this node knows from the peer",
            self.peers.iter().filter_map(|p| Some((p.labels(), p.staleness?.as_secs_f64()))),
        )?;
        out.traffic("tidegate_peer_frames", "Frames exchanged", &self.peers, |t| t.frames)?;
        out.traffic("tidegate_peer_bytes", "Bytes of frames exchanged", &self.peers, |t| t.bytes)?;
        out.traffic(
            "tidegate_peer_changes",
            "Changes of counts in the frames exchanged",
            &self.peers,
            |t| t.changes,
        )?;
        out.counters(
            "tidegate_frames_dropped",
            "Frames received and not used",
            self.frames_dropped.iter().map(|(reason, n)| ([("reason", *reason)], *n)),
        )?;
        out.counters(
            "tidegate_peer_refused",
            "Connections refused",
            self.peers_refused.iter().map(|(reason, n)| ([("reason", *reason)], *n)),
        )?;
        let of = |count: fn(&ListenerSample) -> u64| {
            self.listeners.iter().map(move |l| ([("listener", l.listener)], count(l)))
        };
        out.gauges("tidegate_http_connections", "Connections that are open", of(|l| l.open))?;
        out.counters(
            "tidegate_http_connections_refused",
            "Connections refused because as many as may be were open",
            of(|l| l.refused),
        )?;
        out.counters(
            "tidegate_http_connections_stalled",
            "Connections closed because a request's head did not come in time",
            of(|l| l.stalled),
        )?;
        out.counter(
            "tidegate_http_bodies_refused",
            "Requests refused because there was no room for their bodies",
            self.bodies_refused,
        )?;
        out.gauges(
            "tidegate_peer_quarantined",
            "1 for each node that is not listened to for a while, since it claimed what cannot be",
            self.quarantined.iter().map(|(region, node)| {
                ([("region", region.as_str()), ("node", node.as_str())], 1_u64)
            }),
        )?;
        if let Some(end) = self.certificate_expires {
            out.gauge(
                "tidegate_certificate_expiry_timestamp_seconds",
                "When this node's certificate expires, in seconds since 1970",
                end.as_secs(),
            )?;
        }
        out.gauges(
            "tidegate_clock_offset_seconds",
            "How far the region's clock is ahead of this node's",
            self.clocks.iter().map(|c| ([("region", &*c.region)], c.offset_seconds)),
        )?;
        if let Some(seconds) = self.clock_error {
            out.gauge(
                "tidegate_clock_error_seconds",
                "How far this region's store clock is ahead of the median of all regions'",
                seconds,
            )?;
        }
        out.gauge(
            "tidegate_clock_alarm",
            "Whether that is more than cluster.clock_error (1) or not (0)",
            u64::from(self.clock_alarm),
        )?;
        out.gauge(
            "tidegate_rights_suspended",
            "Whether nothing is spent of strict and bounded limits now (1) or not (0)",
            u64::from(self.rights_suspended),
        )?;
        out.gauge(
            "tidegate_config_epoch",
            "The configuration of regions that this node goes by",
            self.config.acting,
        )?;
        out.gauge(
            "tidegate_config_adopted",
            "The configuration of regions that its store has adopted",
            self.config.adopted,
        )?;
        out.gauge(
            "tidegate_config_agreed",
            "Whether all regions are known to have adopted this node's configuration (1) or not (0)",
            u64::from(self.config.agreed),
        )?;
        out.gauge(
            "tidegate_policies_agree",
            "Whether all nodes have the same policies in force as this one (1) or not (0)",
            u64::from(self.policies_agree),
        )?;
        out.counter(
            "tidegate_checks_relabelled",
            "Checks whose labels did not fit the store's clock, and which it was asked again",
            self.relabelled,
        )?;
        out.counter(
            "tidegate_forecasts_refused",
            "Times that there was no room to watch a key's demand: its limit was decided as a plain one",
            self.unwatched,
        )?;
        out.counters(
            "tidegate_broken_invariants",
            "Times that something was not as it must be; each is a bug",
            self.broken_invariants.iter().map(|(name, n)| ([("invariant", *name)], *n)),
        )?;
        let over = |of: fn(&OverSample) -> u64| self.over.iter().map(move |o| (o.labels(), of(o)));
        out.counters(
            "tidegate_over_admitted",
            "Admitted in all regions above a global limit, as this node found when labels had ended",
            over(|o| o.admitted),
        )?;
        out.counters(
            "tidegate_over_admitted_unmeasured",
            "Labels or late counts of a global limit that could not be weighed any more",
            over(|o| o.unmeasured),
        )?;
        out.gauges(
            "tidegate_over_admission_possible",
            "What may come above a global limit for any one caller, because news is on its way",
            self.over.iter().filter_map(|o| Some((o.labels(), o.possible?))),
        )?;
        let rights = |of: fn(&RightsUse) -> u64| {
            let limits = self.over.iter().filter_map(move |o| Some((o, o.rights?)));
            limits.map(move |(o, rights)| (o.labels(), of(&rights)))
        };
        out.gauges(
            "tidegate_rights_held",
            "What this region may spend of a limit in its current windows, used or not, over all callers in demand",
            rights(|r| r.held),
        )?;
        out.gauges(
            "tidegate_rights_granted",
            "What of it this region has granted to others",
            rights(|r| r.granted),
        )?;
        out.gauges(
            "tidegate_rights_stranded",
            "What regions that cannot be reached hold of it and have not spent, as far as is known",
            rights(|r| r.stranded),
        )?;
        let RepairStats { compared, differing, repaired } = self.repair;
        out.counters(
            "tidegate_compared_ranges",
            "Ranges of counts compared with peers, and those that differed",
            [([("result", "all")], compared), ([("result", "different")], differing)],
        )?;
        out.counter(
            "tidegate_repaired",
            "Counts that comparing brought, and the ordinary way had not",
            repaired,
        )?;
        out.counter(
            "tidegate_slots_refused",
            "Counts that peers told and this node had no room for",
            self.slots_refused,
        )?;
        if let Some(guard) = &self.guard {
            out.gauge(
                "tidegate_breaker_state",
                "Whether the store is asked (0), tried (1) or left alone (2)",
                guard.state,
            )?;
            out.counters(
                "tidegate_breaker_opened",
                "Times that the store was left alone, by what began it",
                guard.opened.iter().map(|(reason, n)| ([("reason", *reason)], *n)),
            )?;
            out.gauge("tidegate_store_calls", "Calls waiting for the store", guard.calls)?;
            out.gauge(
                "tidegate_store_calls_limit",
                "Calls that may wait for the store at a time",
                guard.calls_limit,
            )?;
        }
        self.store.encode(&mut out)?;
        out.gauge("tidegate_keys", "Keys held in memory", self.keys)?;
        let tables: u64 = self.tables.iter().map(|(_, bytes)| bytes).sum();
        out.gauge("tidegate_memory_bytes", "Memory taken by tables", tables)?;
        out.gauges(
            "tidegate_table_bytes",
            "Memory taken by each table",
            self.tables.iter().map(|(table, bytes)| ([("table", *table)], *bytes)),
        )?;
        let Some(ProcessMemory { allocated, resident }) = self.process else { return Ok(()) };
        out.gauge("tidegate_allocated_bytes", "Memory of all that lives", allocated)?;
        out.gauge(
            "tidegate_resident_bytes",
            "Memory that the allocator holds, what it keeps for later included",
            resident,
        )
    }
}

impl StoreSample {
    fn encode(&self, out: &mut Writer<'_>) -> fmt::Result {
        if let Some(epoch) = self.epoch {
            out.gauge(
                "tidegate_store_epoch",
                "The store's unbroken history, a number that grows when it may have lost counts",
                epoch,
            )?;
        }
        out.counter(
            "tidegate_store_epochs",
            "Times that the store was found in a new epoch",
            self.epochs,
        )?;
        out.counter(
            "tidegate_store_old_epoch_answers",
            "Answers of the store under an older epoch than the newest",
            self.old_answers,
        )?;
        out.counter(
            "tidegate_healed_records",
            "Records written into new epochs of the store",
            self.healed,
        )?;
        out.gauge(
            "tidegate_store_may_evict",
            "Whether the store may forget counts for want of memory (1) or not (0)",
            u64::from(self.may_evict),
        )?;
        let [open, unsettled] = self.reserved;
        out.gauge(
            "tidegate_reservations",
            "Reservations and places of this node whose time is not over",
            open,
        )?;
        out.counter(
            "tidegate_reservations_unsettled",
            "Units reserved of which other regions do not hear what became of them",
            unsettled,
        )?;
        let [written, failed] = self.snapshots;
        out.counters(
            "tidegate_store_snapshots",
            "Snapshots of the memory store",
            [([("result", "written")], written), ([("result", "failed")], failed)],
        )
    }
}

/// Writes whole families. The library appends `_total` to the name of a counter by itself.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn gauge<V>(&mut self, name: &str, help: &str, value: V) -> fmt::Result
    where
        ConstGauge<V>: EncodeMetric,
    {
        let help = format!("{help}.");
        let encoder = self.0.encode_descriptor(name, &help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let help = format!("{help}.");
        let encoder = self.0.encode_descriptor(name, &help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(encoder)
    }

    fn gauges<'l, V, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = ([Label<'l>; N], V)>,
    ) -> fmt::Result
    where
        ConstGauge<V>: EncodeMetric,
    {
        let series = series.into_iter().map(|(labels, value)| (labels, ConstGauge::new(value)));
        self.family(name, help, MetricType::Gauge, series)
    }

    fn counters<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = ([Label<'l>; N], u64)>,
    ) -> fmt::Result {
        let series = series.into_iter().map(|(labels, value)| (labels, ConstCounter::new(value)));
        self.family(name, help, MetricType::Counter, series)
    }

    /// One counter of each peer, both ways.
    fn traffic(
        &mut self,
        name: &str,
        help: &str,
        peers: &[PeerSample],
        count: impl Fn(&Traffic) -> u64,
    ) -> fmt::Result {
        let both = peers.iter().flat_map(|peer| {
            let [region, node] = peer.labels();
            [("received", &peer.received), ("sent", &peer.sent)].map(|(direction, traffic)| {
                ([region, node, ("direction", direction)], count(traffic))
            })
        });
        self.counters(name, help, both)
    }

    fn family<L: EncodeLabelSet, M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        series: impl Iterator<Item = (L, M)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, &format!("{help}."), None, kind)?;
        for (labels, metric) in series {
            metric.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
