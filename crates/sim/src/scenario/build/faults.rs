//! What goes wrong, checked: places exist, times lie within the load, shares are shares.

use tidegate_core::{
    ids::{ConfigEpoch, RegionNumber},
    rights::{Regions, Split},
    time::Span,
};

use super::{Notes, file};
use crate::{
    queue::Instant,
    scenario::{ClockFault, Faults, Lie, Pause, Restart, Schedule, StoreFault, StoreLoss},
    topology::{Cut, LinkFault, Place, Topology},
};

/// A flapping link goes down at most so often in one table.
const FLAPS_MAX: u64 = 1_000;
/// Faults of one kind.
const FAULTS_MAX: usize = 1_000;
/// A clock is off by at most this much: a day.
const OFFSET_MAX: Span = Span::secs(86_400);
/// A clock that drifts faster is broken: 1 %.
const DRIFT_MAX: i64 = 10_000;

/// Reads one scenario's faults; those of links go into the topology.
pub(super) fn build(
    notes: &mut Notes,
    file: &file::File,
    topology: &mut Topology,
    schedule: &Schedule,
) -> Faults {
    let mut builder = Builder { notes, topology, schedule, names: Vec::new() };
    builder.names = topology_names(builder.topology);
    let lists = [
        ("cut", file.cut.len()),
        ("link_fault", file.link_fault.len()),
        ("restart", file.restart.len()),
        ("pause", file.pause.len()),
        ("lie", file.lie.len()),
        ("store_fault", file.store_fault.len()),
        ("store_loss", file.store_loss.len()),
        ("clock", file.clock.len()),
        ("config", file.config.len()),
    ];
    for (name, length) in lists {
        if length > FAULTS_MAX {
            builder.notes.add(name, format_args!("{length} of them; at most {FAULTS_MAX}"));
            return Faults::default();
        }
    }
    let cuts = builder.cuts(&file.cut);
    let link_faults = builder.link_faults(&file.link_fault);
    let restarts = builder.restarts(&file.restart);
    let faults = Faults {
        pauses: builder.pauses(&file.pause),
        lies: builder.lies(&file.lie),
        store_faults: builder.store_faults(&file.store_fault),
        store_losses: builder.store_losses(&file.store_loss),
        clocks: builder.clocks(&file.clock),
        configs: builder.configs(&file.config),
        restarts,
    };
    (topology.cuts, topology.link_faults) = (cuts, link_faults);
    faults
}

fn topology_names(topology: &Topology) -> Vec<String> {
    topology.nodes().iter().map(|(_, id)| id.node.to_string()).collect()
}

struct Builder<'a> {
    notes: &'a mut Notes,
    topology: &'a Topology,
    schedule: &'a Schedule,
    /// Of nodes, by their place.
    names: Vec<String>,
}

impl Builder<'_> {
    /// A time within the load, from its beginning on.
    fn moment(&mut self, place: &str, length: file::Length) -> Instant {
        let at = self.schedule.load_start + length.0;
        if at > self.schedule.load_end {
            let all = self.schedule.load_end.since(self.schedule.load_start).as_millis();
            let ms = length.0.as_millis();
            self.notes.add(place, format_args!("{ms} ms is after the load's end at {all} ms"));
        }
        at
    }

    fn span(&mut self, place: &str, start: file::Length, end: file::Length) -> (Instant, Instant) {
        let start = self.moment(&format!("{place}, start"), start);
        let end = self.moment(&format!("{place}, end"), end);
        if start >= end {
            self.notes.add(place, "`end` must be after `start`");
        }
        (start, end)
    }

    fn node(&mut self, place: &str, name: &str) -> Option<usize> {
        let at = self.names.iter().position(|node| node == name);
        if at.is_none() {
            let names = self.names.join(", ");
            self.notes.add(place, format_args!("no node is called `{name}`; there are {names}"));
        }
        at
    }

    fn region(&mut self, place: &str, name: &str) -> Option<usize> {
        self.notes.region(place, self.topology, name)
    }

    /// A region or, if one is called so, a node.
    fn end(&mut self, place: &str, name: &str) -> Option<Place> {
        match self.names.iter().position(|node| node == name) {
            Some(node) => Some(Place::Node(node)),
            None => self.region(place, name).map(Place::Region),
        }
    }

    /// The pairs of places that a fault of links is about, in one direction.
    fn pairs(&mut self, place: &str, from: &str, to: &str, both_ways: bool) -> Vec<(Place, Place)> {
        let Some(from) = self.end(&format!("{place}, from"), from) else { return Vec::new() };
        let regions = self.topology.regions.len();
        let others: Vec<Place> = if to == "*" {
            let home = match from {
                Place::Region(region) => region,
                Place::Node(node) => self.topology.nodes()[node].0,
            };
            (0..regions).filter(|at| *at != home).map(Place::Region).collect()
        } else {
            self.end(&format!("{place}, to"), to).into_iter().collect()
        };
        let mut pairs = Vec::new();
        for to in others {
            if from == to && matches!(from, Place::Node(_)) {
                self.notes.add(place, "`from` and `to` are the same node");
            }
            if from == to && matches!(from, Place::Region(_)) {
                self.notes.add(place, "`from` and `to` are the same region");
            }
            pairs.push((from, to));
            if both_ways {
                pairs.push((to, from));
            }
        }
        pairs
    }

    fn cuts(&mut self, files: &[file::Cut]) -> Vec<Cut> {
        let mut cuts = Vec::new();
        for (n, cut) in files.iter().enumerate() {
            let place = format!("cut {}", n + 1);
            let (start, end) = self.span(&place, cut.start, cut.end);
            let times = self.flaps(&place, cut, start, end);
            for (from, to) in self.pairs(&place, &cut.from, &cut.to, cut.both_ways) {
                cuts.extend(times.iter().map(|(start, end)| Cut {
                    from,
                    to,
                    start: *start,
                    end: *end,
                }));
            }
        }
        cuts
    }

    /// The times in which a link is down: one, or many if it flaps.
    fn flaps(
        &mut self,
        place: &str,
        cut: &file::Cut,
        start: Instant,
        end: Instant,
    ) -> Vec<(Instant, Instant)> {
        let (on, off) = match (cut.on, cut.off) {
            (None, None) => return vec![(start, end)],
            (Some(on), Some(off)) if on.0 > Span::ZERO && off.0 > Span::ZERO => (on.0, off.0),
            _ => {
                self.notes.add(place, "a flapping link needs `on` and `off`, both above 0: how long it is cut and how long whole, in turn");
                return Vec::new();
            }
        };
        let period = on + off;
        let count = end.since(start).0.div_ceil(period.0);
        if count > FLAPS_MAX {
            self.notes.add(
                place,
                format_args!("cut {count} times; at most {FLAPS_MAX}: lengthen `on` and `off`"),
            );
            return Vec::new();
        }
        (0..count)
            .map(|n| start + period.times(n))
            .map(|down| (down, (down + on).min(end)))
            .collect()
    }

    fn link_faults(&mut self, files: &[file::LinkFault]) -> Vec<LinkFault> {
        let mut faults = Vec::new();
        for (n, fault) in files.iter().enumerate() {
            let place = format!("link_fault {}", n + 1);
            let (start, end) = self.span(&place, fault.start, fault.end);
            for (field, share) in [
                ("loss", fault.loss),
                ("duplication", fault.duplication),
                ("reorder", fault.reorder),
                ("corrupt", fault.corrupt),
            ] {
                self.notes.share(&format!("{place}, {field}"), share);
            }
            if fault.reorder > 0.0 && fault.reorder_by.is_none() {
                self.notes.add(
                    &place,
                    "`reorder` without `reorder_by`; say by how much, such as `reorder_by = \"200ms\"`",
                );
            }
            for (from, to) in self.pairs(&place, &fault.from, &fault.to, fault.both_ways) {
                faults.push(LinkFault {
                    from,
                    to,
                    start,
                    end,
                    loss: fault.loss,
                    duplication: fault.duplication,
                    reorder: fault.reorder,
                    reorder_by: fault.reorder_by.unwrap_or(file::Length::ZERO).0,
                    corrupt: fault.corrupt,
                    delay: fault.delay.unwrap_or(file::Length::ZERO).0,
                });
            }
        }
        faults
    }

    /// Later configurations: each takes the place of the one before.
    fn configs(&mut self, files: &[file::Config]) -> Vec<(Instant, Regions)> {
        if files.is_empty() {
            return Vec::new();
        }
        let mut before = self.topology.split();
        let mut configs: Vec<(Instant, Regions)> = Vec::new();
        for (n, config) in files.iter().enumerate() {
            let place = format!("config {}", n + 1);
            let at = self.moment(&format!("{place}, at"), config.at);
            if configs.last().is_some_and(|(earlier, _)| *earlier >= at) {
                self.notes.add(&place, "`at` must be after that of the one before");
            }
            let effective = config.effective.unwrap_or(file::Length::ZERO);
            let effective = self.moment(&format!("{place}, effective"), effective);
            let region = |builder: &mut Self, name: &String| {
                let at = builder.region(&place, name)?;
                Some(RegionNumber::of(&builder.topology.regions[at].name))
            };
            let named = config.weights.iter().filter(|(_, weight)| **weight > 0);
            let weights = named.filter_map(|(name, weight)| Some((region(self, name)?, *weight)));
            let split = Split::new(&weights.collect::<Vec<_>>());
            let gone: Vec<_> = config.gone.iter().filter_map(|name| region(self, name)).collect();
            match split {
                Ok(now) => {
                    let epoch = ConfigEpoch(n as u64 + 1);
                    let effective = self.schedule.cluster_time(effective);
                    let regions = Regions::next(epoch, before, now.clone(), &gone, effective);
                    configs.push((at, regions));
                    before = now;
                }
                Err(error) => {
                    self.notes.add(&format!("{place}, weights"), error);
                    return Vec::new();
                }
            }
        }
        configs
    }

    fn restarts(&mut self, files: &[file::Restart]) -> Vec<Restart> {
        let mut restarts: Vec<Restart> = Vec::new();
        for (n, restart) in files.iter().enumerate() {
            let place = format!("restart {}", n + 1);
            let at = self.moment(&format!("{place}, at"), restart.at);
            let down = restart.down.map(|length| length.0);
            if let Some(down) = down {
                self.moment(&format!("{place}, at + down"), file::Length(restart.at.0 + down));
            }
            let Some(node) = self.node(&place, &restart.node) else { continue };
            let clock_back = restart.clock_back.unwrap_or(file::Length::ZERO).0;
            if clock_back > OFFSET_MAX {
                self.notes.add(&format!("{place}, clock_back"), "more than a day");
            }
            if down.is_none() && clock_back > Span::ZERO {
                self.notes.add(
                    &format!("{place}, clock_back"),
                    "the node never comes back: it has no `down`",
                );
            }
            let restart = Restart { node, at, down, store: restart.store, clock_back };
            let end =
                |restart: &Restart| restart.down.map_or(Instant(u64::MAX), |d| restart.at + d);
            let overlaps = |other: &Restart| {
                other.node == node && at <= end(other) && other.at <= end(&restart)
            };
            if restarts.iter().any(overlaps) {
                self.notes.add(&place, "the node is still down from another restart");
            }
            restarts.push(restart);
        }
        restarts
    }

    fn pauses(&mut self, files: &[file::Pause]) -> Vec<Pause> {
        let mut pauses: Vec<Pause> = Vec::new();
        for (n, pause) in files.iter().enumerate() {
            let place = format!("pause {}", n + 1);
            let at = self.moment(&format!("{place}, at"), pause.at);
            self.moment(&format!("{place}, at + lasts"), file::Length(pause.at.0 + pause.lasts.0));
            if pause.lasts.0 == Span::ZERO {
                self.notes.add(&place, "`lasts` must be longer than nothing");
            }
            let Some(node) = self.node(&place, &pause.node) else { continue };
            let pause = Pause { node, at, lasts: pause.lasts.0 };
            let overlaps = |other: &Pause| {
                other.node == node && at <= other.at + other.lasts && other.at <= at + pause.lasts
            };
            if pauses.iter().any(overlaps) {
                self.notes.add(&place, "the node still stands still from another pause");
            }
            pauses.push(pause);
        }
        pauses
    }

    fn lies(&mut self, files: &[file::Lie]) -> Vec<Lie> {
        let mut lies = Vec::new();
        for (n, lie) in files.iter().enumerate() {
            let place = format!("lie {}", n + 1);
            let (start, end) = self.span(&place, lie.start, lie.end);
            let node = self.node(&place, &lie.node);
            lies.extend(node.map(|node| Lie { node, start, end, claims: lie.claims }));
        }
        lies
    }

    fn store_faults(&mut self, files: &[file::StoreFault]) -> Vec<StoreFault> {
        let mut faults = Vec::new();
        for (n, fault) in files.iter().enumerate() {
            let place = format!("store_fault {}", n + 1);
            let (start, end) = self.span(&place, fault.start, fault.end);
            let shares = [
                ("late", fault.late),
                ("twice", fault.twice),
                ("never", fault.never),
                ("slow", fault.slow),
                ("gone", fault.gone),
                ("refuse", fault.refuse),
            ];
            for (field, share) in shares {
                self.notes.share(&format!("{place}, {field}"), share);
            }
            if shares.iter().map(|(_, share)| share).sum::<f64>() > 1.0 {
                self.notes.add(
                    &place,
                    "`late`, `twice`, `never`, `slow`, `gone` and `refuse` add up to more than 1",
                );
            }
            for (field, share, by) in
                [("late", fault.late, fault.late_by), ("slow", fault.slow, fault.slow_by)]
            {
                if share > 0.0 && by.is_none() {
                    self.notes.add(&place, format_args!(
                        "`{field}` without `{field}_by`; say by how much, such as `{field}_by = \"50ms\"`"));
                }
            }
            let Some(region) = self.region(&format!("{place}, region"), &fault.region) else {
                continue;
            };
            faults.push(StoreFault {
                region,
                start,
                end,
                late: fault.late,
                late_by: fault.late_by.unwrap_or(file::Length::ZERO).0,
                twice: fault.twice,
                never: fault.never,
                slow: fault.slow,
                slow_by: fault.slow_by.unwrap_or(file::Length::ZERO).0,
                gone: fault.gone,
                refuse: fault.refuse,
            });
        }
        faults
    }

    fn store_losses(&mut self, files: &[file::StoreLoss]) -> Vec<StoreLoss> {
        let mut losses = Vec::new();
        for (n, loss) in files.iter().enumerate() {
            let place = format!("store_loss {}", n + 1);
            let at = self.moment(&format!("{place}, at"), loss.at);
            let back = loss.back.map(|length| length.0);
            if back.is_some_and(|back| back == Span::ZERO || back > at.since(Instant(0))) {
                self.notes.add(&place, "`back` must be above 0 and not before the run began; leave it out for a store that is empty afterwards");
            }
            let lingers = loss.lingers.unwrap_or(file::Length::ZERO).0;
            self.moment(&format!("{place}, at + lingers"), file::Length(loss.at.0 + lingers));
            if let Some(region) = self.region(&format!("{place}, region"), &loss.region) {
                losses.push(StoreLoss { region, at, back, lingers });
            }
        }
        losses
    }

    fn clocks(&mut self, files: &[file::Clock]) -> Vec<ClockFault> {
        let mut clocks = Vec::new();
        for (n, clock) in files.iter().enumerate() {
            let place = format!("clock {}", n + 1);
            let by = |length: Option<file::Length>| length.unwrap_or(file::Length::ZERO).0;
            let (ahead, behind) = (by(clock.ahead), by(clock.behind));
            if clock.ahead.is_some() && clock.behind.is_some() {
                self.notes.add(&place, "`ahead` and `behind` contradict each other; give one");
            }
            if ahead.max(behind) > OFFSET_MAX {
                self.notes.add(&place, "off by more than a day");
            }
            if clock.drift_ppm.abs() > DRIFT_MAX {
                let message = format!("{}; must be {} to {DRIFT_MAX}", clock.drift_ppm, -DRIFT_MAX);
                self.notes.add(&format!("{place}, drift_ppm"), message);
            }
            if ahead == behind && clock.drift_ppm == 0 {
                self.notes.add(&place, "is right; give `ahead`, `behind` or `drift_ppm`");
            }
            let offset = ahead.0 as i64 - behind.0 as i64;
            let drift_ppm = clock.drift_ppm;
            match (&clock.node, &clock.store) {
                (Some(node), None) => {
                    if clock.at.is_some() {
                        self.notes.add(&format!("{place}, at"), "a node reads its wall clock once, when it starts: only a store's clock steps");
                    }
                    if let Some(node) = self.node(&place, node) {
                        clocks.push(ClockFault::Node { node, offset, drift_ppm });
                    }
                }
                (None, Some(region)) => {
                    let at = clock.at.map(|at| self.moment(&format!("{place}, at"), at));
                    let at = at.unwrap_or(Instant(0));
                    if let Some(region) = self.region(&format!("{place}, store"), region) {
                        clocks.push(ClockFault::Store { region, at, offset, drift_ppm });
                    }
                }
                _ => self.notes.add(&place, "give either `node` (a node's clocks) or `store` (the clock of a region's store, by the region's name)"),
            }
        }
        clocks
    }
}
