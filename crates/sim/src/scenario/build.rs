//! From a scenario file to a scenario: every mistake is found and told at once.

use std::{collections::BTreeMap, fmt::Display};

use tidegate_core::{
    check::LIMITS_MAX,
    ids::{NAME_BYTES_MAX, RegionName},
    policy::{ATTRIBUTES_MAX, Limit, PolicySet, Scope},
    time::{ClusterTime, Span, Window},
};

use super::{
    CALLERS_MAX, LEAD_IN, Load, NODES_MAX, REGIONS_MAX, Restart, Scenario, Schedule, StoreFault,
    StoreSettings, WINDOWS_MAX, file,
};
use crate::{
    queue::Instant,
    topology::{Cut, Region, Topology, Weather},
};

/// Load begins at the first window's edge from this Unix second on: a fixed day, since runs must repeat.
const EPOCH: ClusterTime = ClusterTime(1_728_000_000_000_000);
/// The largest cost of a request, and more than any rate that can be simulated.
const COST_MAX: u64 = 1_000_000;
const PER_SECOND_MAX: f64 = 10_000_000.0;
/// The longest simulated time.
const DURATION_MAX: Span = Span::secs(400 * 86_400);
/// The shortest gossip period.
const GOSSIP_MIN: Span = Span::millis(1);

/// Collects mistakes.
#[derive(Default)]
struct Notes(Vec<String>);

impl Notes {
    fn add(&mut self, place: &str, message: impl Display) {
        self.0.push(format!("{place}: {message}"));
    }

    /// Notes a share that is none.
    fn share(&mut self, place: &str, share: f64) {
        if !(0.0..=1.0).contains(&share) {
            self.add(place, format_args!("{share} is not a share; write a number from 0 to 1"));
        }
    }

    fn region(&mut self, place: &str, topology: &Topology, name: &str) -> Option<usize> {
        let at = topology.region(name);
        if at.is_none() {
            let names: Vec<_> = topology.regions.iter().map(|r| r.name.as_str()).collect();
            self.add(
                place,
                format_args!("no region is called `{name}`; there are {}", names.join(", ")),
            );
        }
        at
    }
}

pub(super) fn build(file: file::File, policies: PolicySet) -> Result<Scenario, Vec<String>> {
    let mut notes = Notes::default();
    if file.gossip.0 < GOSSIP_MIN {
        notes.add("gossip", "must be 1ms or longer");
    }
    let mut topology = build_topology(&mut notes, &file.topology);
    let store = build_store(&mut notes, &file.store);
    let loads = build_loads(&mut notes, &file.load, &topology, &policies);
    let limit = file.load.first().and_then(|load| subject(load, &policies));
    let schedule = limit.zip(loads.first()).and_then(|(limit, load)| {
        build_schedule(&mut notes, &file, &topology, limit.window, multiple_of(load, limit))
    });
    // Without a window nothing that has a time can be judged.
    let Some(schedule) = schedule else { return Err(notes.0) };
    topology.cuts = build_cuts(&mut notes, &file.cut, &topology, &schedule);
    let restarts = build_restarts(&mut notes, &file.restart, &topology, &schedule);
    let store_faults = build_store_faults(&mut notes, &file.store_fault, &topology, &schedule);
    if !notes.0.is_empty() {
        return Err(notes.0);
    }
    Ok(Scenario {
        name: file.name,
        seed: file.seed,
        policies,
        topology,
        gossip: file.gossip.0,
        store,
        loads,
        restarts,
        store_faults,
        schedule,
    })
}

fn build_topology(notes: &mut Notes, file: &file::Topology) -> Topology {
    if file.regions.is_empty() || file.regions.len() > REGIONS_MAX {
        let n = file.regions.len();
        notes
            .add("topology.regions", format_args!("{n} regions; there must be 1 to {REGIONS_MAX}"));
    }
    if !(1..=NODES_MAX).contains(&file.nodes_per_region) {
        let n = file.nodes_per_region;
        notes.add("topology.nodes_per_region", format_args!("{n}; must be 1 to {NODES_MAX}"));
    }
    let mut regions: Vec<Region> = Vec::new();
    for name in &file.regions {
        match RegionName::new(name) {
            Err(bad) => notes.add("topology.regions", bad),
            // Its nodes are called `<region>-<k>`, which must be a name too.
            Ok(_) if name.len() + 3 > NAME_BYTES_MAX => {
                notes.add("topology.regions", format_args!("`{name}` is too long"));
            }
            Ok(name) if regions.iter().any(|region| region.name == name) => {
                notes.add("topology.regions", format_args!("`{name}` stands twice"));
            }
            Ok(name) => regions.push(Region { name, nodes: file.nodes_per_region }),
        }
    }
    notes.share("topology.jitter", file.jitter);
    notes.share("topology.loss", file.loss);
    notes.share("topology.duplication", file.duplication);
    let weather = Weather {
        jitter: file.jitter,
        jitter_tail: file.jitter_tail.0,
        loss: file.loss,
        duplication: file.duplication,
    };
    let mut topology = Topology::usual(regions, weather);
    for (a, row) in &file.round_trips {
        for (b, length) in row {
            let place = format!("topology.round_trips.{a}.{b}");
            let (Some(from), Some(to)) =
                (notes.region(&place, &topology, a), notes.region(&place, &topology, b))
            else {
                continue;
            };
            topology.round_trips[from][to] = length.0;
            topology.round_trips[to][from] = length.0;
        }
    }
    topology
}

fn build_store(notes: &mut Notes, file: &file::Store) -> StoreSettings {
    let settings =
        StoreSettings { delay: file.delay.0, timeout: file.timeout.0, records: file.records };
    if settings.timeout == Span::ZERO {
        notes.add("store.timeout", "must be longer than nothing");
    }
    if settings.delay >= settings.timeout {
        notes
            .add("store.delay", "must be shorter than store.timeout, or no answer is ever in time");
    }
    if settings.records == 0 {
        notes.add("store.records", "must be 1 or more");
    }
    settings
}

/// The attributes of a load's first caller.
fn first_attributes(load: &file::Load) -> Vec<(&str, &str)> {
    let fixed = load.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    fixed.chain(load.caller.iter().map(|name| (name.as_str(), "caller-0"))).collect()
}

/// The limit that a load's multiples and the run's windows are measured by: the first global one that
/// it meets, else the first.
fn subject<'a>(load: &file::Load, policies: &'a PolicySet) -> Option<&'a Limit> {
    let attributes = first_attributes(load);
    let met =
        || policies.policies.iter().filter(|p| p.applies_to(&attributes)).flat_map(|p| &p.limits);
    met().find(|limit| limit.scope == Scope::Global).or_else(|| met().next())
}

fn build_loads(
    notes: &mut Notes,
    files: &[file::Load],
    topology: &Topology,
    policies: &PolicySet,
) -> Vec<Load> {
    if files.is_empty() {
        notes.add(
            "load",
            "there is none; add a [[load]] with `multiple = 3.0` or `per_second = 3000.0`",
        );
    }
    let callers: u64 = files.iter().fold(0, |sum, load| sum.saturating_add(load.callers));
    if callers > CALLERS_MAX {
        notes.add(
            "load",
            format_args!("{callers} callers in all; at most {CALLERS_MAX} are simulated"),
        );
    }
    let mut loads = Vec::new();
    for (n, load) in files.iter().enumerate() {
        let place = format!("load {}", n + 1);
        if load.callers == 0 {
            notes.add(&place, "`callers` must be 1 or more");
        }
        if load.callers > 1 && load.caller.is_none() {
            notes.add(&place, "`callers` without `caller`; name the attribute that tells them apart, such as `caller = \"api_key\"`");
        }
        if let Some(name) = load.caller.as_ref().filter(|name| load.attributes.contains_key(*name))
        {
            notes.add(&place, format_args!("`{name}` is both `caller` and one of `attributes`"));
        }
        if load.attributes.len() >= ATTRIBUTES_MAX {
            notes.add(&place, format_args!("too many attributes; at most {}", ATTRIBUTES_MAX - 1));
        }
        if !(1..=COST_MAX).contains(&load.cost) {
            notes.add(&place, format_args!("`cost` must be 1 to {COST_MAX}"));
        }
        let first = first_attributes(load);
        let met: usize = policies.matching(&first).map(|policy| policy.limits.len()).sum();
        if met > LIMITS_MAX {
            notes.add(
                &place,
                format_args!(
                    "its requests meet {met} limits; one check weighs at most {LIMITS_MAX}"
                ),
            );
        }
        let total = total_rate(notes, &place, load, policies);
        let weights = build_weights(notes, &place, load, topology);
        loads.push(Load {
            attributes: load.attributes.clone().into_iter().collect(),
            caller: load.caller.clone(),
            callers: load.callers,
            cost: load.cost,
            per_second: weights.iter().map(|weight| weight * total).collect(),
        });
    }
    loads
}

/// By how much a load exceeds what one of its limits allows.
fn multiple_of(load: &Load, limit: &Limit) -> f64 {
    let per_second: f64 = load.per_second.iter().sum();
    let wanted = per_second * load.cost as f64 * limit.window.length().0 as f64 / 1e6;
    wanted / (limit.quantity as f64 * load.callers.max(1) as f64)
}

/// Requests per second of a load over all regions.
fn total_rate(notes: &mut Notes, place: &str, load: &file::Load, policies: &PolicySet) -> f64 {
    let Some(limit) = subject(load, policies) else {
        notes.add(
            place,
            "no policy applies to its requests; see `match` in the policies and `attributes` here",
        );
        return 0.0;
    };
    let rate = match (load.multiple, load.per_second) {
        (Some(multiple), None) => {
            let per_second = limit.quantity as f64 * 1e6 / limit.window.length().0 as f64;
            multiple * per_second * load.callers as f64 / load.cost.max(1) as f64
        }
        (None, Some(per_second)) => per_second,
        _ => {
            notes.add(place, "give either `multiple` (of its limit, for every caller) or `per_second` (for all callers together)");
            return 0.0;
        }
    };
    if !(rate > 0.0 && rate <= PER_SECOND_MAX) {
        notes.add(
            place,
            format_args!(
                "{rate} requests per second; must be above 0 and at most {PER_SECOND_MAX}"
            ),
        );
        return 0.0;
    }
    rate
}

/// Each region's part of a load; the parts add up to 1.
fn build_weights(
    notes: &mut Notes,
    place: &str,
    load: &file::Load,
    topology: &Topology,
) -> Vec<f64> {
    let n = topology.regions.len();
    let weights = match (load.split.as_deref(), &load.weights) {
        (None | Some("uniform"), None) => vec![1.0; n],
        // Most of it in the first region, the rest evenly in the others.
        (Some("80/20"), None) if n > 1 => {
            let rest = 0.2 / (n - 1) as f64;
            (0..n).map(|at| if at == 0 { 0.8 } else { rest }).collect()
        }
        (Some("80/20"), None) => vec![1.0; n],
        (None, Some(table)) => given_weights(notes, place, table, topology),
        (Some(_), Some(_)) => {
            notes.add(place, "`split` and `weights` contradict each other; give one");
            vec![1.0; n]
        }
        (Some(other), None) => {
            notes.add(place, format_args!("`split = \"{other}\"` is unknown; use \"uniform\", \"80/20\", or a table `weights`"));
            vec![1.0; n]
        }
    };
    let sum: f64 = weights.iter().sum();
    if sum.is_finite() && sum > 0.0 {
        weights.iter().map(|weight| weight / sum).collect()
    } else {
        notes.add(place, "`weights` must add up to more than 0");
        vec![0.0; n]
    }
}

fn given_weights(
    notes: &mut Notes,
    place: &str,
    table: &BTreeMap<String, f64>,
    topology: &Topology,
) -> Vec<f64> {
    let mut weights = vec![0.0; topology.regions.len()];
    for (name, weight) in table {
        if !(weight.is_finite() && *weight >= 0.0) {
            notes.add(place, format_args!("weight {weight} of `{name}` must be 0 or more"));
        } else if let Some(at) = notes.region(place, topology, name) {
            weights[at] = *weight;
        }
    }
    weights
}

fn build_schedule(
    notes: &mut Notes,
    file: &file::File,
    topology: &Topology,
    window: Window,
    multiple: f64,
) -> Option<Schedule> {
    if !(1..=WINDOWS_MAX).contains(&file.windows) {
        notes.add("windows", format_args!("{}; must be 1 to {WINDOWS_MAX}", file.windows));
        return None;
    }
    if file.warm_up >= file.windows {
        notes.add(
            "warm_up",
            format_args!("{} of {} windows leaves none to measure", file.warm_up, file.windows),
        );
        return None;
    }
    let length = window.length();
    let all = length.times(file.windows);
    if all > DURATION_MAX {
        notes.add("windows", "more than 400 days; lower `windows`");
        return None;
    }
    // Two gossip periods, the way there and half of it back, and time to answer.
    let usual = file.gossip.0.times(2)
        + topology.longest_round_trip().times(3).divided_by(2)
        + Span::millis(100);
    let within = file.converge_within.map_or(usual, |length| length.0);
    if within == Span::ZERO || within > length {
        notes.add("converge_within", format_args!(
            "{} ms for counts to converge; must be above 0 and at most a window, {} ms: lengthen the window, or give `converge_within`",
            within.as_millis(), length.as_millis()));
        return None;
    }
    // The load ends when half of the limit is spent, so that there is still something to tell.
    let usual = Span((length.0 as f64 / 2.0 / multiple.max(1.0)) as u64);
    let tail = file.tail.map_or(usual, |length| length.0);
    if tail == Span::ZERO || tail >= length {
        notes.add("tail", "must be above 0 and shorter than a window: the load ends within a window, while its counts are live");
        return None;
    }
    let load_start = Instant(0) + LEAD_IN;
    let measured_to = load_start + all;
    let load_end = measured_to + tail;
    // The first edge of a window from the epoch on.
    let edge = window.start(window.label_at(EPOCH + length - Span::micros(1)));
    Some(Schedule {
        window,
        load_start,
        measured_from: load_start + length.times(file.warm_up),
        measured_to,
        load_end,
        end: load_end + within,
        epoch: edge - LEAD_IN,
    })
}

/// A time within the load, from its beginning on.
fn moment(notes: &mut Notes, place: &str, schedule: &Schedule, length: file::Length) -> Instant {
    let at = schedule.load_start + length.0;
    if at > schedule.load_end {
        let all = schedule.load_end.since(schedule.load_start).as_millis();
        notes.add(
            place,
            format_args!("{} ms is after the load's end at {all} ms", length.0.as_millis()),
        );
    }
    at
}

fn span_of_time(
    notes: &mut Notes,
    place: &str,
    schedule: &Schedule,
    start: file::Length,
    end: file::Length,
) -> (Instant, Instant) {
    let start = moment(notes, &format!("{place}, start"), schedule, start);
    let end = moment(notes, &format!("{place}, end"), schedule, end);
    if start >= end {
        notes.add(place, "`end` must be after `start`");
    }
    (start, end)
}

fn build_cuts(
    notes: &mut Notes,
    files: &[file::Cut],
    topology: &Topology,
    schedule: &Schedule,
) -> Vec<Cut> {
    let mut cuts = Vec::new();
    for (n, cut) in files.iter().enumerate() {
        let place = format!("cut {}", n + 1);
        let (start, end) = span_of_time(notes, &place, schedule, cut.start, cut.end);
        let Some(from) = notes.region(&format!("{place}, from"), topology, &cut.from) else {
            continue;
        };
        let others: Vec<usize> = if cut.to == "*" {
            (0..topology.regions.len()).filter(|at| *at != from).collect()
        } else {
            notes.region(&format!("{place}, to"), topology, &cut.to).into_iter().collect()
        };
        for to in others {
            if from == to {
                notes.add(&place, "`from` and `to` are the same region");
            }
            cuts.push(Cut { from, to, start, end });
            if cut.both_ways {
                cuts.push(Cut { from: to, to: from, start, end });
            }
        }
    }
    cuts
}

fn build_restarts(
    notes: &mut Notes,
    files: &[file::Restart],
    topology: &Topology,
    schedule: &Schedule,
) -> Vec<Restart> {
    let nodes = topology.nodes();
    let mut restarts: Vec<Restart> = Vec::new();
    for (n, restart) in files.iter().enumerate() {
        let place = format!("restart {}", n + 1);
        let at = moment(notes, &format!("{place}, at"), schedule, restart.at);
        let back = file::Length(restart.at.0 + restart.down.0);
        moment(notes, &format!("{place}, at + down"), schedule, back);
        let Some(node) = nodes.iter().position(|(_, id)| id.node.as_str() == restart.node) else {
            let names: Vec<_> = nodes.iter().map(|(_, id)| id.node.as_str()).collect();
            notes.add(
                &place,
                format_args!(
                    "no node is called `{}`; there are {}",
                    restart.node,
                    names.join(", ")
                ),
            );
            continue;
        };
        let restart = Restart { node, at, down: restart.down.0, store: restart.store };
        let overlaps = |other: &Restart| {
            other.node == node && at <= other.at + other.down && other.at <= at + restart.down
        };
        if restarts.iter().any(overlaps) {
            notes.add(&place, "the node is still down from another restart");
        }
        restarts.push(restart);
    }
    restarts
}

fn build_store_faults(
    notes: &mut Notes,
    files: &[file::StoreFault],
    topology: &Topology,
    schedule: &Schedule,
) -> Vec<StoreFault> {
    let mut faults = Vec::new();
    for (n, fault) in files.iter().enumerate() {
        let place = format!("store_fault {}", n + 1);
        let (start, end) = span_of_time(notes, &place, schedule, fault.start, fault.end);
        for (field, share) in [("late", fault.late), ("twice", fault.twice), ("never", fault.never)]
        {
            notes.share(&format!("{place}, {field}"), share);
        }
        if fault.late + fault.twice + fault.never > 1.0 {
            notes.add(&place, "`late`, `twice` and `never` add up to more than 1");
        }
        if fault.late > 0.0 && fault.late_by.is_none() {
            notes.add(
                &place,
                "`late` without `late_by`; say by how much, such as `late_by = \"50ms\"`",
            );
        }
        let late_by = fault.late_by.map_or(Span::ZERO, |length| length.0);
        let Some(region) = notes.region(&format!("{place}, region"), topology, &fault.region)
        else {
            continue;
        };
        faults.push(StoreFault {
            region,
            start,
            end,
            late: fault.late,
            late_by,
            twice: fault.twice,
            never: fault.never,
        });
    }
    faults
}
