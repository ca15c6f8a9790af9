//! A scenario: whose limits, what traffic, which places, what goes wrong, and for how long.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use tidegate_core::{
    breaker,
    policy::{Algorithm, PolicySet},
    time::{ClusterTime, Span, Window},
};

pub use faults::{
    Claims, ClockFault, Faults, Lie, Pause, Restart, StoreFate, StoreFault, StoreLoss, drifted,
};

pub use reloads::Reload;
pub use source::Source;
pub use variants::{Variant, Variants};

use crate::{
    queue::Instant,
    topology::Topology,
    workload::{Bursts, Cost, Recording, Shape},
};

pub(crate) use file::Length;

mod build;
mod faults;
mod file;
mod file_faults;
mod file_load;
mod reloads;
pub(crate) mod settings;
mod source;
mod variants;

/// Virtual time before the load begins: links come up, clocks are compared, nodes get ready.
pub const LEAD_IN: Span = Span::secs(2);
/// At most so many regions.
pub const REGIONS_MAX: usize = 10;
/// At most so many nodes in one region.
pub const NODES_MAX: usize = 16;
/// At most so many callers over all loads.
pub const CALLERS_MAX: u64 = 100_000;
/// At most so many windows, warm-up included.
pub const WINDOWS_MAX: u64 = 100_000;
/// A scenario file may be so long, in bytes; its policies have a bound of their own.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What is wrong with a scenario, one line for each mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScenarioError(pub Vec<String>);

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ScenarioError {}

/// One stream of requests from every region.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// Attributes that all its requests have.
    pub attributes: Vec<(String, String)>,
    /// The attribute that tells its callers apart, if there are several.
    pub caller: Option<String>,
    /// Who asks.
    pub callers: Callers,
    /// Which requests.
    pub requests: Requests,
    /// It comes from so long after the load's beginning on …
    pub start: Span,
    /// … until just before this; `None`: to the load's end.
    pub end: Option<Span>,
}

/// What is given back of what was admitted: all of a request's cost, by the node that admitted it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Refunds {
    /// Of so many admitted requests.
    pub share: f64,
    /// After so long, in the mean of an exponential distribution.
    pub after: Span,
}

/// The callers of a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Callers {
    /// So many, called `caller-0` and so on, drawn evenly.
    Numbered(u64),
    /// Those of a recording.
    Named(Arc<Recording>),
}

impl Callers {
    /// How many.
    pub fn count(&self) -> u64 {
        match self {
            Self::Numbered(count) => *count,
            Self::Named(recording) => recording.callers.len() as u64,
        }
    }

    /// What one is called.
    pub fn name(&self, n: u64) -> String {
        match self {
            Self::Numbered(_) => format!("caller-{n}"),
            Self::Named(recording) => {
                recording.callers.get(n as usize).cloned().unwrap_or_default()
            }
        }
    }
}

/// Where the requests of a load come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Requests {
    /// From chance.
    Random(Traffic),
    /// From a file.
    Recorded(Arc<Recording>),
}

/// Requests at random.
#[derive(Debug, Clone, PartialEq)]
pub struct Traffic {
    /// Requests per second from all regions together, on average.
    pub per_second: f64,
    /// How they are spread over regions and time.
    pub shape: Shape,
    /// Whether they come in bursts.
    pub bursts: Option<Bursts>,
    /// What they cost.
    pub cost: Cost,
}

impl Load {
    /// Units asked for per second by all regions together, on average.
    pub fn units_per_second(&self) -> f64 {
        match &self.requests {
            Requests::Random(traffic) => traffic.per_second * traffic.cost.mean(),
            Requests::Recorded(recording) => recording.per_second() * recording.mean_cost(),
        }
    }
}

/// How regional stores behave when nothing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreSettings {
    /// From asking to answer; half of it before the step. Zero: at once.
    pub delay: Span,
    /// After so long a node stops waiting, and knows nothing.
    pub timeout: Span,
    /// Records that a store holds at most.
    pub records: usize,
    /// Calls that it carries out in a second, one after the other; `None`: as many as come.
    pub per_second: Option<u32>,
    /// Calls of a node that may wait for it at a time, at most; fewer while answers are late.
    pub calls_max: u32,
    /// How long a server can go on without knowing that another has taken its place: labels that began
    /// sooner after a store lost its memory are closed to limits under rights.
    pub fence: Span,
    /// When a node leaves it alone.
    pub breaker: breaker::Settings,
}

impl Default for StoreSettings {
    /// At once, as many calls as come, and a server's defaults.
    fn default() -> Self {
        Self {
            delay: Span::ZERO,
            timeout: Span::millis(30),
            records: 1_000_000,
            per_second: None,
            calls_max: 8_192,
            fence: Span::ZERO,
            breaker: breaker::Settings::default(),
        }
    }
}

/// When what happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// The windows that are counted: those of the first global limit that the first load meets.
    pub window: Window,
    /// The load begins; the first window too.
    pub load_start: Instant,
    /// Warm-up is over: windows that begin from here on are measured …
    pub measured_from: Instant,
    /// … and that end by here.
    pub measured_to: Instant,
    /// The load ends, within one more window and before its limit is spent: so that there is something to
    /// converge, and it is still live.
    pub load_end: Instant,
    /// By then every node must know the same exact sums; the run ends.
    pub end: Instant,
    /// What cluster time is at the beginning of virtual time.
    pub epoch: ClusterTime,
}

impl Schedule {
    /// How long views may take to converge once the load has ended.
    pub const fn converge_within(&self) -> Span {
        self.end.since(self.load_end)
    }

    /// True cluster time at an instant.
    pub fn cluster_time(&self, now: Instant) -> ClusterTime {
        self.epoch + Span(now.0)
    }
}

/// Everything that a run needs, checked.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// For people.
    pub name: String,
    /// The seed, unless another is asked for.
    pub seed: u64,
    /// Whose limits.
    pub policies: PolicySet,
    /// Which places.
    pub topology: Topology,
    /// How often nodes tell each other what changed.
    pub gossip: Span,
    /// After which a node that cannot be heard is taken for dead by forecasts.
    pub reclaim_after: Span,
    /// What stores are like.
    pub store: StoreSettings,
    /// What traffic.
    pub loads: Vec<Load>,
    /// Which of it is given back.
    pub refunds: Option<Refunds>,
    /// Other quantities, one change after the other.
    pub reloads: Vec<Reload>,
    /// What goes wrong with nodes, stores and clocks; with links: see the topology.
    pub faults: Faults,
    /// How soon after the last fault all must be as if there had been none.
    pub recover_within: Span,
    /// For how long.
    pub schedule: Schedule,
}

impl Scenario {
    /// When the last fault ends, and the last surge; `None` if there is none that ends.
    pub fn healed(&self) -> Option<Instant> {
        let surges =
            self.loads.iter().filter_map(|load| Some(self.schedule.load_start + load.end?));
        surges.chain(self.faults.healed(&self.topology)).max()
    }

    /// Reads a scenario file; files that it names are looked for beside it.
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let text = read(path).map_err(|message| ScenarioError(vec![message]))?;
        Self::parse(&text, &path.display().to_string(), &folder_of(path))
    }

    /// Reads a scenario from text. `name` is what mistakes call it; `folder` is where the files are that it
    /// names.
    pub fn parse(text: &str, name: &str, folder: &Path) -> Result<Self, ScenarioError> {
        let file = file::parse(text, name)?;
        if !file.variant.is_empty() {
            let message = "it has variants, which `tidegate-sim compare` runs side by side";
            return Err(ScenarioError(vec![format!("{name}: {message}")]));
        }
        let (policies, called) = policy_text(&file.policies, name, folder)?;
        let policies = parse_policies(&policies, &called)?;
        build::build(file, policies, folder).map_err(|mistakes| {
            ScenarioError(mistakes.into_iter().map(|line| format!("{name}: {line}")).collect())
        })
    }
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().map(PathBuf::from).unwrap_or_default()
}

/// The text of policies, and what mistakes call it: `source` is the policies themselves if it has more
/// than one line, and a path otherwise.
fn policy_text(source: &str, name: &str, folder: &Path) -> Result<(String, String), ScenarioError> {
    if source.contains('\n') {
        return Ok((source.to_owned(), format!("{name}: policies")));
    }
    let path = folder.join(source);
    let text = read(&path)
        .map_err(|message| ScenarioError(vec![format!("{name}: policies: {message}")]))?;
    Ok((text, path.display().to_string()))
}

fn parse_policies(text: &str, called: &str) -> Result<PolicySet, ScenarioError> {
    let policies = PolicySet::parse(text).map_err(|mistakes| {
        let line = |m: &tidegate_core::policy::Mistake| {
            format!("{called}:{}: {}: {}", m.line, m.place, m.message)
        };
        ScenarioError(mistakes.iter().map(line).collect())
    })?;
    // The checkers and the central limiter know no other.
    let limits = policies.policies.iter().flat_map(|p| p.limits.iter().map(move |l| (p, l)));
    let unknown = limits.filter(|(_, limit)| limit.algorithm != Algorithm::FixedWindow);
    let unknown = unknown.map(|(policy, limit)| {
        format!(
            "{called}: policy \"{}\", limit \"{}\": {} is not built yet in the simulator: leave it out",
            policy.name,
            limit.name,
            limit.algorithm.as_str()
        )
    });
    let unknown: Vec<_> = unknown.collect();
    if unknown.is_empty() { Ok(policies) } else { Err(ScenarioError(unknown)) }
}

fn read(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let length = fs::metadata(path).map_err(|error| format!("{shown}: {error}"))?.len();
    if length > FILE_BYTES_MAX {
        return Err(format!("{shown}: {length} bytes; at most {FILE_BYTES_MAX} are read"));
    }
    fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))
}
