//! Loads, checked: who asks, how often, at what cost, and when.

use std::{fs, path::Path, sync::Arc};

use tidegate_core::{
    check::LIMITS_MAX,
    policy::{ATTRIBUTES_MAX, Limit, PolicySet, Scope},
    time::Span,
};

use super::{Notes, file, shapes};
use crate::{
    scenario::{CALLERS_MAX, Callers, Load, Requests, Schedule, Traffic},
    topology::Topology,
    workload::{BYTES_MAX, COST_MAX, Cost, Recording},
};

/// More than any rate that can be simulated, in requests per second.
const PER_SECOND_MAX: f64 = 10_000_000.0;
/// The largest mean of a geometric cost: far enough from the largest cost that nothing is cut off.
const GEOMETRIC_MEAN_MAX: f64 = 10_000.0;
/// How heavy the tail of a cost may be, and how light.
const PARETO_SHAPES: std::ops::RangeInclusive<f64> = 0.1..=100.0;
/// Costs in one list.
const LIST_MAX: usize = 1_000;

pub(super) fn build(
    notes: &mut Notes,
    files: &[file::Load],
    topology: &Topology,
    policies: &PolicySet,
    folder: &Path,
) -> Vec<Load> {
    if files.is_empty() {
        notes.add(
            "load",
            "there is none; add a [[load]] with `multiple = 3.0` or `per_second = 3000.0`",
        );
    }
    let mut loads = Vec::new();
    for (n, file) in files.iter().enumerate() {
        let place = format!("load {}", n + 1);
        let recording = file.trace.as_ref().map(|name| {
            shapes::unfit_beside_trace(notes, &place, file);
            read_recording(notes, &place, &folder.join(name), topology)
        });
        let callers = match &recording {
            Some(recording) if !recording.callers.is_empty() => Callers::Named(recording.clone()),
            _ => Callers::Numbered(file.callers),
        };
        check_callers(notes, &place, file, &callers);
        let start = file.start.map_or(Span::ZERO, |start| start.0);
        let end = file.end.map(|end| end.0);
        if end.is_some_and(|end| end <= start) {
            notes.add(&place, "`end` must be after `start`");
        }
        let mut load = Load {
            attributes: file.attributes.clone().into_iter().collect(),
            caller: file.caller.clone(),
            callers,
            requests: Requests::Recorded(recording.clone().unwrap_or_default()),
            start,
            end,
        };
        let first = first_attributes(file, &load);
        let first: Vec<_> = first.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let met: usize = policies.matching(&first).map(|policy| policy.limits.len()).sum();
        if met > LIMITS_MAX {
            let message = format_args!(
                "its requests meet {met} limits; one check weighs at most {LIMITS_MAX}"
            );
            notes.add(&place, message);
        }
        match subject(file, &load, policies) {
            None => notes.add(
                &place,
                "no policy applies to its requests; see `match` in the policies and `attributes` here",
            ),
            Some(limit) if recording.is_none() => {
                load.requests = Requests::Random(traffic(notes, &place, file, limit, topology));
            }
            Some(_) => {}
        }
        loads.push(load);
    }
    let callers: u64 = loads.iter().fold(0, |sum, load| sum.saturating_add(load.callers.count()));
    if callers > CALLERS_MAX {
        notes.add(
            "load",
            format_args!("{callers} callers in all; at most {CALLERS_MAX} are simulated"),
        );
    }
    loads
}

fn check_callers(notes: &mut Notes, place: &str, file: &file::Load, callers: &Callers) {
    if let Callers::Named(_) = callers {
        if file.caller.is_none() {
            notes.add(place, "its trace names callers; say which attribute that is, such as `caller = \"api_key\"`");
        }
        if file.callers != 1 {
            notes.add(place, "`callers` beside a trace that names them; leave it out");
        }
    }
    if file.callers == 0 {
        notes.add(place, "`callers` must be 1 or more");
    }
    if file.callers > 1 && file.caller.is_none() {
        notes.add(place, "`callers` without `caller`; name the attribute that tells them apart, such as `caller = \"api_key\"`");
    }
    if file.callers > 1 && file.trace.is_some() && !matches!(callers, Callers::Named(_)) {
        notes
            .add(place, "`callers` beside a trace without a column `caller`; add one to the trace");
    }
    if let Some(name) = file.caller.as_ref().filter(|name| file.attributes.contains_key(*name)) {
        notes.add(place, format_args!("`{name}` is both `caller` and one of `attributes`"));
    }
    if file.attributes.len() >= ATTRIBUTES_MAX {
        notes.add(place, format_args!("too many attributes; at most {}", ATTRIBUTES_MAX - 1));
    }
}

/// The attributes of a load's first caller.
fn first_attributes(file: &file::Load, load: &Load) -> Vec<(String, String)> {
    let mut attributes: Vec<_> = file.attributes.clone().into_iter().collect();
    attributes.extend(file.caller.iter().map(|name| (name.clone(), load.callers.name(0))));
    attributes
}

/// All limits that a load's first caller meets.
fn met<'a>(file: &file::Load, load: &Load, policies: &'a PolicySet) -> Vec<&'a Limit> {
    let attributes = first_attributes(file, load);
    let attributes: Vec<_> = attributes.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    policies.policies.iter().filter(|p| p.applies_to(&attributes)).flat_map(|p| &p.limits).collect()
}

/// The limit that a load's multiples and the run's windows are measured by: the first global one that
/// it meets, else the first.
pub(super) fn subject<'a>(
    file: &file::Load,
    load: &Load,
    policies: &'a PolicySet,
) -> Option<&'a Limit> {
    let met = met(file, load, policies);
    met.iter().find(|limit| limit.scope == Scope::Global).or(met.first()).copied()
}

/// The longest window of any limit that a load meets.
pub(super) fn longest_window(files: &[file::Load], loads: &[Load], policies: &PolicySet) -> Span {
    let met = files.iter().zip(loads).flat_map(|(file, load)| met(file, load, policies));
    met.map(|limit| limit.window.usual_length()).max().unwrap_or_default()
}

/// Units per second that a limit allows to all callers of a load.
fn allowed(limit: &Limit, callers: u64) -> f64 {
    limit.quantity as f64 * 1e6 / limit.window.usual_length().0 as f64 * callers.max(1) as f64
}

/// By how much a load exceeds what one of its limits allows.
pub(super) fn multiple_of(load: &Load, limit: &Limit) -> f64 {
    load.units_per_second() / allowed(limit, load.callers.count())
}

/// Notes loads that reach beyond the end of all load.
pub(super) fn check_times(notes: &mut Notes, loads: &[Load], schedule: &Schedule) {
    let all = schedule.load_end.since(schedule.load_start);
    for (n, load) in loads.iter().enumerate() {
        let place = format!("load {}", n + 1);
        if load.end.unwrap_or(load.start) > all {
            let message =
                format_args!("it begins or ends after all load, at {} ms", all.as_millis());
            notes.add(&place, message);
        }
        if let (Requests::Recorded(recording), None) = (&load.requests, load.end)
            && let Some(last) = recording.requests.last().map(|last| load.start.0 + last.at)
            && last >= all.0
        {
            let (last, all) = (last / 1_000, all.as_millis());
            notes.add(&place, format_args!(
                "its trace goes on to {last} ms, and all load ends at {all} ms; lengthen the load, or cut the trace off with `end`"));
        }
    }
}

/// Requests at random, as often as a load says.
fn traffic(
    notes: &mut Notes,
    place: &str,
    file: &file::Load,
    limit: &Limit,
    topology: &Topology,
) -> Traffic {
    let cost = build_cost(notes, place, file.cost.as_ref());
    // What the limit allows, in requests.
    let once = allowed(limit, file.callers) / cost.mean();
    let added = file.split.as_ref().filter(|split| split.shape == "flash");
    let added = added.and_then(|split| {
        split.add.map(|add| shapes::mean_of_flash(split, add, limit.window.usual_length()))
    });
    let per_second = match (file.multiple, file.per_second, added) {
        (Some(multiple), None, None) => multiple * once,
        (None, Some(per_second), None) => per_second,
        (None, None, Some(mean)) => mean * once,
        (_, _, None) => {
            notes.add(place, "give either `multiple` (of its limit, for every caller) or `per_second` (for all callers together)");
            once
        }
        (_, _, Some(_)) => {
            notes.add(place, "`add` of a flash says how much comes; leave out `multiple` and `per_second`, or `add`");
            once
        }
    };
    if !(per_second > 0.0 && per_second <= PER_SECOND_MAX) {
        notes.add(
            place,
            format_args!(
                "{per_second} requests per second; must be above 0 and at most {PER_SECOND_MAX}"
            ),
        );
    }
    let window = limit.window.usual_length();
    let shape = shapes::build(notes, place, file, topology, window, per_second / once);
    let bursts = file.bursty.as_ref().map(|file| shapes::bursts(notes, place, file));
    Traffic { per_second, shape, bursts, cost }
}

fn build_cost(notes: &mut Notes, place: &str, file: Option<&file::Cost>) -> Cost {
    use file::Distribution::{Geometric, List, Pareto, Uniform};
    let told = notes.0.len();
    let range = |notes: &mut Notes, least: u64, most: u64| {
        if least < 1 || most > COST_MAX || least > most {
            notes.add(place, format_args!("`cost` must be 1 to {COST_MAX}, the least first"));
        }
    };
    let cost = match file {
        None => Cost::Constant(1),
        Some(file::Cost::Constant(cost)) => {
            range(notes, *cost, *cost);
            Cost::Constant(*cost)
        }
        Some(file::Cost::Drawn(Uniform([least, most]))) => {
            range(notes, *least, *most);
            Cost::Uniform { least: *least, most: *most }
        }
        Some(file::Cost::Drawn(Pareto(pareto))) => {
            range(notes, pareto.least, pareto.most);
            if !PARETO_SHAPES.contains(&pareto.shape) {
                let (from, to) = PARETO_SHAPES.into_inner();
                notes.add(place, format_args!("`cost.pareto.shape` must be {from} to {to}"));
            }
            Cost::Pareto { shape: pareto.shape, least: pareto.least, most: pareto.most }
        }
        Some(file::Cost::Drawn(Geometric(mean))) => {
            if !(*mean > 1.0 && *mean <= GEOMETRIC_MEAN_MAX) {
                notes.add(place, format_args!("`cost.geometric` is the mean; it must be above 1 and at most {GEOMETRIC_MEAN_MAX}"));
            }
            Cost::Geometric { mean: *mean }
        }
        Some(file::Cost::Drawn(List(list))) => {
            if list.is_empty() || list.len() > LIST_MAX {
                notes.add(place, format_args!("`cost.list` must have 1 to {LIST_MAX} costs"));
            }
            list.iter().for_each(|(cost, _)| range(notes, *cost, *cost));
            if !list.iter().all(|(_, weight)| *weight > 0.0 && weight.is_finite()) {
                notes.add(place, "`cost.list` is pairs of a cost and its weight, such as [[1, 9], [50, 1]]; weights must be above 0");
            }
            Cost::list(list)
        }
    };
    // What is wrong has been told; nothing is reckoned with it.
    if notes.0.len() == told { cost } else { Cost::Constant(1) }
}

fn read_recording(
    notes: &mut Notes,
    place: &str,
    path: &Path,
    topology: &Topology,
) -> Arc<Recording> {
    let shown = path.display();
    let read = || {
        let length = fs::metadata(path).map_err(|error| vec![error.to_string()])?.len();
        if length > BYTES_MAX {
            return Err(vec![format!("{length} bytes; at most {BYTES_MAX} are read")]);
        }
        let text = fs::read_to_string(path).map_err(|error| vec![error.to_string()])?;
        let regions: Vec<&str> = topology.regions.iter().map(|r| r.name.as_str()).collect();
        Recording::parse(&text, &regions).map_err(|error| error.0)
    };
    match read() {
        Ok(recording) => Arc::new(recording),
        Err(mistakes) => {
            for mistake in mistakes {
                notes.add(place, format_args!("{shown}: {mistake}"));
            }
            Arc::default()
        }
    }
}
