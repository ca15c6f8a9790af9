//! A scenario in several variants, for `compare`: what differs is named, what comes is the same.
//!
//! A variant is the scenario with some of its keys set otherwise. It may change anything but the requests
//! and the time in which they come: limits and their mode, gossip, places' nodes and links, stores, faults.

use std::path::Path;

use toml::{Table, Value};

use super::{
    Scenario, ScenarioError, file, folder_of, read,
    settings::{self, merge, one},
};

/// At most so many in one file: their reports are all kept.
const VARIANTS_MAX: usize = 16;
/// Keys that no variant may set: what comes, and when.
const SAME_FOR_ALL: [&str; 8] =
    ["seed", "load", "windows", "duration", "begin", "warm_up", "tail", "variant"];
/// Keys of a variant that stand for a change of every global limit.
const OF_LIMITS: [&str; 2] = ["consistency", "overdraft"];

/// One of them.
#[derive(Debug, Clone)]
pub struct Variant {
    /// What it is called.
    pub name: String,
    /// All of it.
    pub scenario: Scenario,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Variants {
    /// What the scenario is called.
    pub name: String,
    /// The seed, unless another is asked for.
    pub seed: u64,
    /// At least one; all see the same requests.
    pub all: Vec<Variant>,
}

impl Variants {
    /// Reads a scenario file with variants; files that it names are looked for beside it.
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let text = read(path).map_err(|message| ScenarioError(vec![message]))?;
        Self::parse(&text, &path.display().to_string(), &folder_of(path))
    }

    /// Reads a scenario with variants from text. `name` is what mistakes call it; `folder` is where the
    /// files are that it names.
    pub fn parse(text: &str, name: &str, folder: &Path) -> Result<Self, ScenarioError> {
        // Mistakes in what all share are told with their lines.
        let file = file::parse(text, name)?;
        let mut base: Table = toml::from_str(text).map_err(|error| one(name, error.message()))?;
        base.remove("variant");
        if file.variant.is_empty() {
            return Err(one(
                name,
                "there is nothing to compare; add a [[variant]] with a `name` and what it sets otherwise",
            ));
        }
        if file.variant.len() > VARIANTS_MAX {
            let n = file.variant.len();
            return Err(one(name, &format!("{n} variants; at most {VARIANTS_MAX} are compared")));
        }
        let (mut all, mut mistakes): (Vec<Variant>, Vec<String>) = (Vec::new(), Vec::new());
        for (n, given) in file.variant.into_iter().enumerate() {
            let called = match given.get("name") {
                Some(Value::String(called)) if !called.is_empty() => called.clone(),
                _ => {
                    mistakes.push(format!("{name}: variant {}: it has no `name`", n + 1));
                    continue;
                }
            };
            let place = format!("{name}: variant \"{called}\"");
            if all.iter().any(|other| other.name == called) {
                mistakes.push(format!("{place}: another one is called so too"));
            }
            match variant(&base, given, &place, folder) {
                Ok(scenario) => all.push(Variant { name: called, scenario }),
                Err(error) => mistakes.extend(error.0),
            }
        }
        if let Some(first) = all.first() {
            let others =
                all.iter().filter(|other| !sees_the_same(&first.scenario, &other.scenario));
            mistakes.extend(others.map(|other| format!(
                "{name}: variant \"{}\": other requests would come than in \"{}\", because its limits are what `multiple` and `windows` are measured by; give the loads `per_second` and the run a `duration`, or keep quantities, windows and regions",
                other.name, first.name
            )));
        }
        if mistakes.is_empty() {
            Ok(Self { name: file.name, seed: file.seed, all })
        } else {
            Err(ScenarioError(mistakes))
        }
    }
}

/// Whether the same requests come at the same instants, and the same part of them is measured.
fn sees_the_same(a: &Scenario, b: &Scenario) -> bool {
    let times = |scenario: &Scenario| {
        let schedule = scenario.schedule;
        let instants = [schedule.load_start, schedule.measured_from, schedule.measured_to];
        (instants, schedule.load_end, schedule.epoch)
    };
    let regions = |scenario: &Scenario| {
        scenario.topology.regions.iter().map(|region| region.name.clone()).collect::<Vec<_>>()
    };
    a.loads == b.loads && times(a) == times(b) && regions(a) == regions(b)
}

/// The scenario of one variant.
fn variant(
    base: &Table,
    mut given: Table,
    place: &str,
    folder: &Path,
) -> Result<Scenario, ScenarioError> {
    given.remove("name");
    let fixed = SAME_FOR_ALL.iter().filter(|key| given.contains_key(**key));
    let fixed: Vec<_> = fixed
        .map(|key| {
            format!("{place}: `{key}` is the same for all, so that they see the same requests")
        })
        .collect();
    if !fixed.is_empty() {
        return Err(ScenarioError(fixed));
    }
    let mut limits = Table::new();
    for key in OF_LIMITS {
        limits.extend(given.remove(key).map(|value| (key.to_owned(), value)));
    }
    let mut table = base.clone();
    merge(&mut table, given);
    settings::scenario(table, &limits, place, folder)
}
