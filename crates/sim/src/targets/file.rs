//! A target file: TOML, unknown keys refused, every mistake told at once.
//!
//! ```toml
//! [target]
//! id = "T7"
//! what = "one times the load"
//! scenario = "base.toml"       # beside it; everything below is set on top of it
//! options = "options.toml"     # tables of settings with names
//! seeds = 5                    # 1 to 5 are run
//! set = { gossip = "50ms" }
//! short = { seeds = 1, set = { windows = 10 } }
//!
//! [[grid]]
//! mode = "strict"
//! cells = [[["R3"], ["uniform", "80/20"], ["1x"]]]   # axes of options; every combination is a cell
//! over_worst = 0.0
//! under_mean = { at_most = 0.4, accepted_miss = { limit = 0.5, reason = "…" } }
//! ```
//!
//! Instead of `cells` a grid may have `worlds`: random worlds, one for each seed.

use std::{collections::BTreeMap, fs, path::Path};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::{
    Grid, Measure, Target, Wanted,
    cells::{CELLS_MAX, Cell, Plan, SEEDS_MAX, Settings, combinations},
    worlds::Worlds,
};
use crate::scenario::{ScenarioError, settings::one};

/// A file may be so long, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    target: Head,
    grid: Vec<Rows>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    id: String,
    what: String,
    scenario: String,
    options: Option<String>,
    seeds: u64,
    #[serde(default)]
    set: Table,
    short: Option<Short>,
}

/// What `--short` sets otherwise.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Short {
    seeds: u64,
    #[serde(default)]
    set: Table,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rows {
    #[serde(default)]
    what: String,
    mode: String,
    overdraft: Option<String>,
    #[serde(default)]
    cells: Vec<Vec<Vec<String>>>,
    worlds: Option<Worlds>,
    over_mean: Option<Most>,
    over_worst: Option<Most>,
    over_first: Option<Most>,
    under_mean: Option<Most>,
    under_worst: Option<Most>,
    heal_ms: Option<Most>,
    heal_window: Option<HealWindow>,
    bytes_per_admitted: Option<Most>,
    fairness: Option<Most>,
    violations: Option<Violations>,
}

/// A number, or one with a miss that is lived with.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Most {
    Number(f64),
    Table(MostTable),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MostTable {
    at_most: f64,
    accepted_miss: Option<Accepted>,
}

/// A miss that is known, why it is lived with, and up to where.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// Beyond this it is not lived with either.
    pub limit: f64,
    /// For people.
    pub reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HealWindow {
    over: f64,
    under: f64,
    at_most: f64,
    accepted_miss: Option<Accepted>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Violations {
    #[serde(default)]
    checkers: Vec<String>,
    at_most: f64,
    accepted_miss: Option<Accepted>,
}

impl Rows {
    /// Its requirements, in the order in which they are told.
    fn wanted(&self) -> Vec<Wanted> {
        let plain = [
            (Measure::OverMean, &self.over_mean),
            (Measure::OverWorst, &self.over_worst),
            (Measure::OverFirst, &self.over_first),
            (Measure::UnderMean, &self.under_mean),
            (Measure::UnderWorst, &self.under_worst),
            (Measure::HealMs, &self.heal_ms),
            (Measure::BytesPerAdmitted, &self.bytes_per_admitted),
            (Measure::Fairness, &self.fairness),
        ];
        let mut wanted = Vec::new();
        for (measure, most) in plain {
            match most {
                None => {}
                Some(Most::Number(at_most)) => {
                    wanted.push(Wanted { measure, at_most: *at_most, accepted: None });
                }
                Some(Most::Table(MostTable { at_most, accepted_miss })) => {
                    let accepted = accepted_miss.clone();
                    wanted.push(Wanted { measure, at_most: *at_most, accepted });
                }
            }
        }
        if let Some(HealWindow { over, under, at_most, accepted_miss }) = &self.heal_window {
            wanted.push(Wanted {
                measure: Measure::HealWindow { over: *over, under: *under },
                at_most: *at_most,
                accepted: accepted_miss.clone(),
            });
        }
        if let Some(Violations { checkers, at_most, accepted_miss }) = &self.violations {
            wanted.push(Wanted {
                measure: Measure::Violations(checkers.clone()),
                at_most: *at_most,
                accepted: accepted_miss.clone(),
            });
        }
        wanted
    }
}

fn read(path: &Path) -> Result<Table, ScenarioError> {
    let shown = path.display().to_string();
    let told = |message: String| one(&shown, &message);
    let length = fs::metadata(path).map_err(|error| told(error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(told(format!("{length} bytes; at most {FILE_BYTES_MAX} are read")));
    }
    let text = fs::read_to_string(path).map_err(|error| told(error.to_string()))?;
    text.parse().map_err(|error: toml::de::Error| told(error.to_string().trim().to_owned()))
}

/// Reads one file; `None` if it is none of a target.
pub(super) fn load(path: &Path, short: bool) -> Result<Option<Target>, ScenarioError> {
    let table = read(path)?;
    if !table.contains_key("target") {
        return Ok(None);
    }
    let name = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| one(&name, &error.to_string()))?;
    let file: File = toml::from_str(&text).map_err(|error| one(&name, error.to_string().trim()))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut builder = Builder { name, folder, short, mistakes: Vec::new() };
    let target = builder.target(file)?;
    if builder.mistakes.is_empty() {
        Ok(Some(target))
    } else {
        Err(ScenarioError(builder.mistakes))
    }
}

struct Builder<'a> {
    /// What mistakes call the file.
    name: String,
    /// Where the files are that it names.
    folder: &'a Path,
    short: bool,
    mistakes: Vec<String>,
}

impl Builder<'_> {
    fn note(&mut self, place: &str, message: &str) {
        self.mistakes.push(format!("{}: {place}: {message}", self.name));
    }

    fn target(&mut self, file: File) -> Result<Target, ScenarioError> {
        let Head { id, what, scenario, options, seeds, set, short } = file.target;
        let mut settings = Settings::new(read(&self.folder.join(scenario))?);
        settings.set(set, &format!("{}: target.set", self.name))?;
        let options = match options {
            Some(path) => read(&self.folder.join(path))?,
            None => Table::new(),
        };
        let options = self.options(options);
        let mut seeds = seeds;
        if self.short
            && let Some(short) = short
        {
            if short.seeds > seeds {
                self.note("target.short", "it has more seeds than the whole");
            }
            seeds = short.seeds;
            settings.set(short.set, &format!("{}: target.short.set", self.name))?;
        }
        if id.is_empty() || what.is_empty() {
            self.note("target", "`id` and `what` must say something");
        }
        if !(1..=SEEDS_MAX).contains(&seeds) {
            self.note("target.seeds", &format!("{seeds}; must be 1 to {SEEDS_MAX}"));
        }
        if file.grid.is_empty() {
            self.note("grid", "there is none");
        }
        let mut grids = Vec::new();
        for (n, rows) in file.grid.into_iter().enumerate() {
            let place = format!("grid {}", n + 1);
            grids.push(self.grid(&place, &rows, &settings, &options, seeds)?);
        }
        Ok(Target { id, what, grids })
    }

    fn options(&mut self, table: Table) -> BTreeMap<String, Table> {
        let mut options = BTreeMap::new();
        for (name, value) in table {
            match value {
                Value::Table(settings) => {
                    options.insert(name, settings);
                }
                _ => self.note("target.options", &format!("`{name}` is no table of settings")),
            }
        }
        options
    }

    fn grid(
        &mut self,
        place: &str,
        rows: &Rows,
        base: &Settings,
        options: &BTreeMap<String, Table>,
        seeds: u64,
    ) -> Result<Grid, ScenarioError> {
        let wanted = rows.wanted();
        if wanted.is_empty() {
            self.note(place, "nothing is wanted of it; give `over_mean` or another measure");
        }
        let rights = ["strict", "bounded"].contains(&rows.mode.as_str());
        for Wanted { measure, at_most, accepted } in &wanted {
            if !(at_most.is_finite() && *at_most >= 0.0) {
                self.note(place, &format!("{}: must be 0 or more", measure.name()));
            }
            let Some(Accepted { limit, reason }) = accepted else { continue };
            if measure.is_bound(rights) {
                self.note(place, &format!("{}: no miss of a bound is accepted", measure.name()));
            }
            if !(limit > at_most && limit.is_finite()) || reason.trim().is_empty() {
                let what = "a miss has a `limit` above the target, and a `reason`";
                self.note(place, &format!("{}: {what}", measure.name()));
            }
        }
        let mode = match &rows.overdraft {
            None => rows.mode.clone(),
            Some(overdraft) => format!("{} {overdraft}", rows.mode),
        };
        let cells = match (&rows.worlds, rows.cells.is_empty()) {
            (Some(worlds), true) => self.worlds(place, rows, worlds, base, seeds)?,
            (None, false) => self.cells(place, rows, base, options, seeds)?,
            _ => {
                self.note(place, "give either `cells` or `worlds`");
                Ok(Vec::new())
            }
        };
        Ok(Grid { what: rows.what.clone(), mode, wanted, cells })
    }

    /// A scenario in the grid's mode: the outer error is a mistake, the inner one a mode that is refused.
    fn in_mode(
        &self,
        rows: &Rows,
        settings: &Settings,
        place: &str,
    ) -> Result<Result<(Settings, crate::scenario::Scenario), String>, ScenarioError> {
        let mut plain = settings.clone();
        plain.set_mode("plain", None);
        plain.scenario(place, self.folder)?;
        let mut settings = settings.clone();
        settings.set_mode(&rows.mode, rows.overdraft.as_deref());
        Ok(match settings.scenario(place, self.folder) {
            Ok(scenario) => Ok((settings, scenario)),
            Err(error) => {
                let first = error.0.first().cloned().unwrap_or_default();
                Err(first.strip_prefix(&format!("{place}: ")).unwrap_or(&first).to_owned())
            }
        })
    }

    fn cells(
        &mut self,
        place: &str,
        rows: &Rows,
        base: &Settings,
        options: &BTreeMap<String, Table>,
        seeds: u64,
    ) -> Result<Result<Vec<Cell>, String>, ScenarioError> {
        let chosen: Vec<Vec<&str>> =
            rows.cells.iter().flat_map(|axes| combinations(axes)).collect();
        if chosen.is_empty() || chosen.len() > CELLS_MAX {
            let count = chosen.len();
            self.note(place, &format!("{count} cells; there must be 1 to {CELLS_MAX}"));
            return Ok(Ok(Vec::new()));
        }
        let mut cells = Vec::new();
        for names in chosen {
            let name = names.join(" ");
            let at = format!("{}: {place}, cell {name}", self.name);
            let mut settings = base.clone();
            for option in names {
                match options.get(option) {
                    Some(given) => settings.set(given.clone(), &at)?,
                    None => {
                        let known: Vec<_> = options.keys().map(String::as_str).collect();
                        let known = known.join(", ");
                        self.note(
                            place,
                            &format!("no option is called `{option}`; there are {known}"),
                        );
                        return Ok(Ok(Vec::new()));
                    }
                }
            }
            match self.in_mode(rows, &settings, &at)? {
                Ok((settings, scenario)) => {
                    let plan = Plan::Fixed { scenario: Box::new(scenario), settings, seeds };
                    cells.push(Cell { name, plan });
                }
                Err(refused) => return Ok(Err(refused)),
            }
        }
        Ok(Ok(cells))
    }

    fn worlds(
        &mut self,
        place: &str,
        rows: &Rows,
        worlds: &Worlds,
        base: &Settings,
        seeds: u64,
    ) -> Result<Result<Vec<Cell>, String>, ScenarioError> {
        let mistakes = worlds.mistakes();
        if !mistakes.is_empty() {
            mistakes.iter().for_each(|mistake| self.note(place, mistake));
            return Ok(Ok(Vec::new()));
        }
        // The first stands for all: whatever is drawn is a good scenario.
        let at = format!("{}: {place}, world 1", self.name);
        let mut first = base.clone();
        first.set(worlds.draw(1), &at)?;
        if let Err(refused) = self.in_mode(rows, &first, &at)? {
            return Ok(Err(refused));
        }
        let mut base = base.clone();
        base.set_mode(&rows.mode, rows.overdraft.as_deref());
        let cell = |seed: u64| Cell {
            name: format!("world {seed}"),
            plan: Plan::Drawn { worlds: worlds.clone(), base: base.clone(), seed },
        };
        Ok(Ok((1..=seeds).map(cell).collect()))
    }
}
