//! A scenario: whose limits, what traffic, which places, what goes wrong, and for how long.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use tidegate_core::{
    breaker,
    policy::PolicySet,
    time::{ClusterTime, Span, Window},
};

pub use faults::{ClockFault, Faults, Pause, Restart, StoreFate, StoreFault, StoreLoss, drifted};

pub use source::Source;

use crate::{queue::Instant, topology::Topology};

pub(crate) use file::Length;

mod build;
mod faults;
mod file;
mod file_faults;
mod source;

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
    /// How many callers, drawn evenly.
    pub callers: u64,
    /// What one request costs.
    pub cost: u64,
    /// Requests per second, by region.
    pub per_second: Vec<f64>,
    /// It comes from so long after the load's beginning on …
    pub start: Span,
    /// … until just before this; `None`: to the load's end.
    pub end: Option<Span>,
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
    /// What stores are like.
    pub store: StoreSettings,
    /// What traffic.
    pub loads: Vec<Load>,
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

    /// Reads a scenario file; a policy file that it names is looked for beside it.
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let text = read(path).map_err(|message| ScenarioError(vec![message]))?;
        let folder = path.parent().map(PathBuf::from).unwrap_or_default();
        Self::parse(&text, &path.display().to_string(), &folder)
    }

    /// Reads a scenario from text. `name` is what mistakes call it; `folder` is where a policy file is.
    pub fn parse(text: &str, name: &str, folder: &Path) -> Result<Self, ScenarioError> {
        let file: file::File = toml::from_str(text).map_err(|error| {
            ScenarioError(vec![format!("{name}: {}", error.to_string().trim())])
        })?;
        let policies = read_policies(&file.policies, name, folder)?;
        build::build(file, policies).map_err(|mistakes| {
            ScenarioError(mistakes.into_iter().map(|line| format!("{name}: {line}")).collect())
        })
    }
}

/// `source` is the policies themselves if it has more than one line, and a path otherwise.
fn read_policies(source: &str, name: &str, folder: &Path) -> Result<PolicySet, ScenarioError> {
    let (text, called) = if source.contains('\n') {
        (source.to_owned(), format!("{name}: policies"))
    } else {
        let path = folder.join(source);
        let text = read(&path)
            .map_err(|message| ScenarioError(vec![format!("{name}: policies: {message}")]))?;
        (text, path.display().to_string())
    };
    PolicySet::parse(&text).map_err(|mistakes| {
        let line = |m: &tidegate_core::policy::Mistake| {
            format!("{called}:{}: {}: {}", m.line, m.place, m.message)
        };
        ScenarioError(mistakes.iter().map(line).collect())
    })
}

fn read(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let length = fs::metadata(path).map_err(|error| format!("{shown}: {error}"))?.len();
    if length > FILE_BYTES_MAX {
        return Err(format!("{shown}: {length} bytes; at most {FILE_BYTES_MAX} are read"));
    }
    fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))
}
