//! From a scenario file to a scenario: every mistake is found and told at once.

use std::{collections::BTreeMap, fmt::Display};

use tidegate_core::{
    check::LIMITS_MAX,
    ids::{NAME_BYTES_MAX, RegionName},
    policy::{ATTRIBUTES_MAX, Limit, PolicySet, Scope},
    time::{ClusterTime, Span, Window},
};

use super::{
    CALLERS_MAX, LEAD_IN, Load, NODES_MAX, REGIONS_MAX, Scenario, Schedule, WINDOWS_MAX, file,
};
use crate::{
    queue::Instant,
    topology::{Region, Topology, Weather},
};

mod faults;
mod store;

/// Load begins at the first window's edge from this Unix second on: a fixed day, since runs must repeat.
const EPOCH: ClusterTime = ClusterTime(1_728_000_000_000_000);
/// The largest cost of a request, and more than any rate that can be simulated.
const COST_MAX: u64 = 1_000_000;
const PER_SECOND_MAX: f64 = 10_000_000.0;
/// Windows that are not measured, unless the scenario says otherwise.
const WARM_UP: u64 = 2;
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
    let store = store::build(&mut notes, &file.store);
    let loads = build_loads(&mut notes, &file.load, &topology, &policies);
    let limit = file.load.first().and_then(|load| subject(load, &policies));
    let schedule = limit.zip(loads.first()).and_then(|(limit, load)| {
        let longest = longest_window(&file.load, &policies);
        let multiple = multiple_of(load, limit);
        build_schedule(&mut notes, &file, &topology, limit.window, longest, multiple)
    });
    // Without a window nothing that has a time can be judged.
    let Some(schedule) = schedule else { return Err(notes.0) };
    for (n, load) in loads.iter().enumerate() {
        let last = load.end.unwrap_or(load.start);
        if schedule.load_start + last > schedule.load_end {
            let all = schedule.load_end.since(schedule.load_start).as_millis();
            let message = format_args!("it begins or ends after all load, at {all} ms");
            notes.add(&format!("load {}", n + 1), message);
        }
    }
    let faults = faults::build(&mut notes, &file, &mut topology, &schedule);
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
        recover_within: file.recover_within.0,
        faults,
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
    topology.relays = file.relays;
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

/// The longest window of any limit that a load meets.
fn longest_window(loads: &[file::Load], policies: &PolicySet) -> Span {
    let met = loads.iter().flat_map(|load| {
        let attributes = first_attributes(load);
        let applying = policies.policies.iter().filter(move |p| p.applies_to(&attributes));
        applying.flat_map(|policy| &policy.limits)
    });
    met.map(|limit| limit.window.length()).max().unwrap_or_default()
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
        let start = load.start.map_or(Span::ZERO, |start| start.0);
        let end = load.end.map(|end| end.0);
        if end.is_some_and(|end| end <= start) {
            notes.add(&place, "`end` must be after `start`");
        }
        let total = total_rate(notes, &place, load, policies);
        let weights = build_weights(notes, &place, load, topology);
        loads.push(Load {
            attributes: load.attributes.clone().into_iter().collect(),
            caller: load.caller.clone(),
            callers: load.callers,
            cost: load.cost,
            per_second: weights.iter().map(|weight| weight * total).collect(),
            start,
            end,
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

/// How long the load lasts, and which part of it is measured, from its beginning on.
struct Lengths {
    warm_up: Span,
    measured: Span,
    all: Span,
}

fn build_schedule(
    notes: &mut Notes,
    file: &file::File,
    topology: &Topology,
    window: Window,
    longest: Span,
    multiple: f64,
) -> Option<Schedule> {
    let length = window.length();
    let lengths = match (file.windows, file.duration) {
        (Some(windows), None) => lengths_in_windows(notes, file, windows, length, multiple),
        (None, Some(all)) => lengths_in_time(notes, file, all.0, length),
        _ => {
            notes.add("windows", "give either `windows` (full windows of the limit) or `duration` (of the load, such as \"20s\")");
            None
        }
    }?;
    // Two gossip periods, the way there and half of it back, and time to answer.
    let usual = file.gossip.0.times(2)
        + topology.longest_round_trip().times(3).divided_by(2)
        + Span::millis(100);
    let within = file.converge_within.map_or(usual, |length| length.0);
    let limit = if file.duration.is_some() { longest } else { length };
    if within == Span::ZERO || within > limit {
        notes.add("converge_within", format_args!(
            "{} ms for counts to converge; must be above 0 and at most a window, {} ms: lengthen the window, or give `converge_within`",
            within.as_millis(), limit.as_millis()));
        return None;
    }
    let begin = file.begin.map_or(Span::ZERO, |length| length.0);
    if begin >= length {
        notes.add("begin", "must be shorter than a window: it is how far into one the load begins");
        return None;
    }
    let load_start = Instant(0) + LEAD_IN;
    let measured_to = load_start + lengths.measured;
    let load_end = load_start + lengths.all;
    // The first edge of a window from the epoch on.
    let edge = window.start(window.label_at(EPOCH + length - Span::micros(1)));
    Some(Schedule {
        window,
        load_start,
        measured_from: load_start + lengths.warm_up,
        measured_to,
        load_end,
        end: load_end + within,
        epoch: edge + begin - LEAD_IN,
    })
}

/// So many full windows, and a part of one more.
fn lengths_in_windows(
    notes: &mut Notes,
    file: &file::File,
    windows: u64,
    length: Span,
    multiple: f64,
) -> Option<Lengths> {
    if !(1..=WINDOWS_MAX).contains(&windows) {
        notes.add("windows", format_args!("{windows}; must be 1 to {WINDOWS_MAX}"));
        return None;
    }
    let warm_up = file.warm_up.unwrap_or(WARM_UP);
    if warm_up >= windows {
        notes.add("warm_up", format_args!("{warm_up} of {windows} windows leaves none to measure"));
        return None;
    }
    let measured = length.times(windows);
    if measured > DURATION_MAX {
        notes.add("windows", "more than 400 days; lower `windows`");
        return None;
    }
    // The load ends when half of the limit is spent, so that there is still something to tell.
    let usual = Span((length.0 as f64 / 2.0 / multiple.max(1.0)) as u64);
    let tail = file.tail.map_or(usual, |length| length.0);
    if tail == Span::ZERO || tail >= length {
        notes.add("tail", "must be above 0 and shorter than a window: the load ends within a window, while its counts are live");
        return None;
    }
    Some(Lengths { warm_up: length.times(warm_up), measured, all: measured + tail })
}

/// So much time, whatever windows it holds.
fn lengths_in_time(
    notes: &mut Notes,
    file: &file::File,
    all: Span,
    length: Span,
) -> Option<Lengths> {
    if file.tail.is_some() {
        notes.add("tail", "has no place beside `duration`, which is all of the load");
    }
    let warm_up = length.times(file.warm_up.unwrap_or(0));
    if all == Span::ZERO || all > DURATION_MAX || warm_up >= all {
        notes.add("duration", "must be above 0, longer than the warm-up, and at most 400 days");
        return None;
    }
    Some(Lengths { warm_up, measured: all, all })
}
