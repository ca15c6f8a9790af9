//! From a scenario file to a scenario: every mistake is found and told at once.

use std::{fmt::Display, path::Path};

use tidegate_core::{
    ids::{NAME_BYTES_MAX, RegionName, RegionNumber},
    policy::PolicySet,
    rights::Split,
    time::{ClusterTime, Span, Window},
};

use super::{
    LEAD_IN, NODES_MAX, REGIONS_MAX, Refunds, Reload, Scenario, ScenarioError, Schedule,
    WINDOWS_MAX, file, parse_policies, policy_text, reloads::differ_in_quantities,
};
use crate::{
    queue::Instant,
    topology::{Region, Topology, Weather},
};

mod faults;
mod loads;
mod shapes;
mod store;

/// Load begins at the first window's edge from this Unix second on: a fixed day, since runs must repeat.
const EPOCH: ClusterTime = ClusterTime(1_728_000_000_000_000);
/// Windows that are not measured, unless the scenario says otherwise.
const WARM_UP: u64 = 2;
/// The longest simulated time.
const DURATION_MAX: Span = Span::secs(400 * 86_400);
/// Changes of policies.
const RELOADS_MAX: usize = 16;
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

/// `folder` is where recorded loads are looked for.
pub(super) fn build(
    file: file::File,
    policies: PolicySet,
    folder: &Path,
) -> Result<Scenario, Vec<String>> {
    let mut notes = Notes::default();
    if file.gossip.0 < GOSSIP_MIN {
        notes.add("gossip", "must be 1ms or longer");
    }
    if !(Span::secs(1)..=Span::secs(3_600)).contains(&file.reclaim_after.0) {
        notes.add("reclaim_after", "must be from 1s to 1h");
    }
    let mut topology = build_topology(&mut notes, &file.topology);
    let store = store::build(&mut notes, &file.store);
    let loads = loads::build(&mut notes, &file.load, &topology, &policies, folder);
    let limit = file.load.first().zip(loads.first());
    let limit = limit.and_then(|(file, load)| Some((load, loads::subject(file, load, &policies)?)));
    let schedule = limit.and_then(|(load, limit)| {
        let longest = loads::longest_window(&file.load, &loads, &policies);
        let multiple = loads::multiple_of(load, limit);
        build_schedule(&mut notes, &file, &topology, limit.window, longest, multiple)
    });
    // Without a window nothing that has a time can be judged.
    let Some(schedule) = schedule else { return Err(notes.0) };
    loads::check_times(&mut notes, &loads, &schedule);
    let refunds = file.refunds.as_ref().map(|refunds| {
        notes.share("refunds.share", refunds.share);
        if !(Span::millis(1)..=Span::secs(60)).contains(&refunds.after.0) {
            notes.add("refunds.after", "must be from 1ms to 60s");
        }
        Refunds { share: refunds.share, after: refunds.after.0 }
    });
    let reloads = build_reloads(&mut notes, &file.reload, &policies, &schedule, folder);
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
        reclaim_after: file.reclaim_after.0,
        store,
        loads,
        refunds,
        reloads,
        recover_within: file.recover_within.0,
        faults,
        schedule,
    })
}

/// Policies that take the place of others while they are in use.
fn build_reloads(
    notes: &mut Notes,
    written: &[file::Reload],
    policies: &PolicySet,
    schedule: &Schedule,
    folder: &Path,
) -> Vec<Reload> {
    if written.len() > RELOADS_MAX {
        notes.add("reload", format_args!("{} of them; at most {RELOADS_MAX}", written.len()));
        return Vec::new();
    }
    let mut reloads: Vec<Reload> = Vec::new();
    for (n, reload) in written.iter().enumerate() {
        let place = format!("reload {}", n + 1);
        let read = policy_text(&reload.policies, &place, folder);
        let policies_now = match read.and_then(|(text, called)| parse_policies(&text, &called)) {
            Ok(policies) => policies,
            Err(ScenarioError(mistakes)) => {
                notes.0.extend(mistakes);
                continue;
            }
        };
        if !differ_in_quantities(policies, &policies_now) {
            notes.add(
                &place,
                "the policies differ in more than quantities, which the simulator does not know",
            );
        }
        let at = schedule.load_start + reload.at.0;
        let ends = at + reload.over.0;
        if ends >= schedule.load_end {
            notes.add(&place, "ends after the load does");
        }
        if reloads.last().is_some_and(|before| at <= before.at + before.over) {
            notes.add(&place, "begins before the one before it is over");
        }
        reloads.push(Reload { at, over: reload.over.0, policies: policies_now });
    }
    reloads
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
            Ok(name) => {
                let weight = file.weights.get(name.as_str()).copied().unwrap_or(1);
                regions.push(Region { name, nodes: file.nodes_per_region, weight });
            }
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
    for name in
        file.weights.keys().filter(|name| !regions.iter().any(|r| r.name.as_str() == **name))
    {
        notes.add("topology.weights", format_args!("`{name}` is none of the regions"));
    }
    let weights: Vec<_> = regions.iter().map(|r| (RegionNumber::of(&r.name), r.weight)).collect();
    if let (Err(error), false) = (Split::new(&weights), weights.is_empty()) {
        notes.add("topology.weights", error);
    }
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
    let length = window.usual_length();
    if let (Some(_), Some((unit, _))) = (file.windows, window.unit()) {
        let unit = unit.as_str();
        notes.add("windows", format_args!("the limit's windows are each a {unit} of the calendar, which differ in length: give `duration`"));
        return None;
    }
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
    // The first edge of a window from the epoch on.
    let from = file.date.map_or(EPOCH, |date| date.0);
    let label = window.label_at(from);
    let first = if window.start(label) == from { label } else { label.next() };
    if begin >= window.length_of(first) {
        notes.add("begin", "must be shorter than a window: it is how far into one the load begins");
        return None;
    }
    let load_start = Instant(0) + LEAD_IN;
    let measured_to = load_start + lengths.measured;
    let load_end = load_start + lengths.all;
    Some(Schedule {
        window,
        load_start,
        measured_from: load_start + lengths.warm_up,
        measured_to,
        load_end,
        end: load_end + within,
        epoch: window.start(first) + begin - LEAD_IN,
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
