//! The cells of a grid: every combination of options, each a scenario of its own.

use std::path::Path;

use toml::{Table, Value};

use crate::scenario::{
    Scenario, ScenarioError,
    settings::{self, one},
};

/// A grid has at most so many cells, and a cell so many seeds.
pub(super) const CELLS_MAX: usize = 1_000;
pub(super) const SEEDS_MAX: u64 = 100_000;

/// One combination, or one random world.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    /// Its options, or its seed.
    pub(super) name: String,
    /// All of it.
    pub(super) plan: Plan,
}

/// Where a cell's scenario comes from.
#[derive(Debug, Clone)]
pub(super) enum Plan {
    /// The same for each of so many seeds, from 1 on.
    Fixed { scenario: Box<Scenario>, settings: Settings, seeds: u64 },
    /// Drawn from one seed, when it is run.
    Drawn { worlds: super::worlds::Worlds, base: Settings, seed: u64 },
}

impl Cell {
    pub(super) const fn runs(&self) -> u64 {
        match &self.plan {
            Plan::Fixed { seeds, .. } => *seeds,
            Plan::Drawn { .. } => 1,
        }
    }
}

/// A scenario in the making.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    /// As of a scenario file.
    table: Table,
    /// Keys of every global limit that are set otherwise.
    limits: Table,
}

impl Settings {
    /// A scenario file as it stands.
    pub(super) fn new(table: Table) -> Self {
        Self { table, limits: Table::new() }
    }

    /// Sets some keys otherwise: as a variant does, but `load` may be a table, which goes into every load,
    /// and `limit` is one, which goes into every global limit.
    pub(super) fn set(&mut self, mut given: Table, place: &str) -> Result<(), ScenarioError> {
        match given.remove("limit") {
            None => {}
            Some(Value::Table(limits)) => settings::merge(&mut self.limits, limits),
            Some(_) => return Err(one(place, "`limit` must be a table")),
        }
        if let Some(Value::Table(load)) = given.get("load")
            && let Some(Value::Array(loads)) = self.table.get_mut("load")
        {
            for table in loads.iter_mut().filter_map(Value::as_table_mut) {
                // A split is one thing: what was set of another shape goes with it; and what a flash adds
                // takes the place of a multiple.
                if let Some(split) = load.get("split") {
                    table.remove("split");
                    if split.get("add").is_some() {
                        table.remove("multiple");
                    }
                }
                settings::merge(table, load.clone());
            }
            given.remove("load");
        }
        settings::merge(&mut self.table, given);
        Ok(())
    }

    /// Sets the mode of every global limit.
    pub(super) fn set_mode(&mut self, consistency: &str, overdraft: Option<&str>) {
        self.limits.insert("consistency".into(), consistency.into());
        self.limits.remove("overdraft");
        if let Some(overdraft) = overdraft {
            self.limits.insert("overdraft".into(), overdraft.into());
        }
    }

    /// The scenario that it is by now.
    pub(super) fn scenario(&self, place: &str, folder: &Path) -> Result<Scenario, ScenarioError> {
        settings::scenario(self.table.clone(), &self.limits, place, folder)
    }

    /// As a scenario file that stands for itself.
    pub(super) fn text(&self, folder: &Path) -> Result<String, ScenarioError> {
        let table = settings::in_place(self.table.clone(), &self.limits, "policies", folder)?;
        Ok(table.to_string())
    }
}

/// Every combination of one option from each axis, the last axis first to change.
pub(super) fn combinations(axes: &[Vec<String>]) -> Vec<Vec<&str>> {
    let mut all: Vec<Vec<&str>> = vec![Vec::new()];
    for axis in axes {
        all = all
            .iter()
            .flat_map(|chosen| {
                axis.iter().map(|option| {
                    let mut chosen = chosen.clone();
                    chosen.push(option.as_str());
                    chosen
                })
            })
            .collect();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        text.parse().expect("a table")
    }

    #[test]
    fn every_option_meets_every_other() {
        let axes = [vec!["a".to_owned(), "b".to_owned()], vec!["1".to_owned(), "2".to_owned()]];
        assert_eq!(combinations(&axes), [["a", "1"], ["a", "2"], ["b", "1"], ["b", "2"]]);
    }

    #[test]
    fn settings_go_into_every_load_and_every_global_limit() {
        let mut settings = Settings::new(table(
            "gossip = \"50ms\"\n[[load]]\nmultiple = 1.0\nsplit = { shape = \"flash\", add = 1.0 }\n[[load]]\ncost = 2\n",
        ));
        let given = table(
            "gossip = \"1s\"\nload = { split = { shape = \"one\" } }\nlimit = { quantity = 7 }",
        );
        settings.set(given, "here").expect("good");
        settings.set_mode("bounded", Some("2%"));
        settings.set_mode("strict", None);
        assert_eq!(settings.table["gossip"].as_str(), Some("1s"));
        let loads = settings.table["load"].as_array().expect("loads");
        assert_eq!(loads[0]["split"], Value::Table(table("shape = \"one\"")));
        assert_eq!(
            (loads[0]["multiple"].as_float(), loads[1]["cost"].as_integer()),
            (Some(1.0), Some(2))
        );
        assert_eq!(settings.limits, table("quantity = 7\nconsistency = \"strict\""));
        let flash = table("load = { split = { shape = \"flash\", add = 3.0 } }");
        settings.set(flash, "here").expect("good");
        let loads = settings.table["load"].as_array().expect("loads");
        assert!(loads[0].get("multiple").is_none(), "{loads:?}");
        let error = settings.set(table("limit = 3"), "here").expect_err("no table");
        assert!(error.to_string().contains("here: `limit`"), "{error}");
    }
}
