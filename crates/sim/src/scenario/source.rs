//! A scenario file, or a swarm file: what `run` and `explore` are given.

use std::{borrow::Cow, path::Path};

use super::{Scenario, ScenarioError, read};
use crate::swarm::{Drawn, Kind, Swarm};

/// Where a run's scenario comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// The same for every seed.
    One(Box<Scenario>),
    /// Drawn from the seed.
    Swarm(Swarm),
}

impl Source {
    /// Reads a file; one with a table `swarm` is a swarm.
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let text = read(path).map_err(|message| ScenarioError(vec![message]))?;
        // What is no TOML at all is told by the reader of scenarios.
        let is_swarm = text.parse::<toml::Table>().is_ok_and(|table| table.contains_key("swarm"));
        if !is_swarm {
            return Ok(Self::One(Box::new(Scenario::load(path)?)));
        }
        let named = |mistake: String| format!("{}: {mistake}", path.display());
        let swarm = Swarm::parse(&text)
            .map_err(|mistakes| ScenarioError(mistakes.into_iter().map(named).collect()))?;
        Ok(Self::Swarm(swarm))
    }

    /// A world that was drawn already, as the one scenario of any seed.
    pub fn drawn(drawn: &Drawn) -> Result<Self, ScenarioError> {
        let scenario = Scenario::parse(&drawn.text, "drawn", Path::new("."))?;
        Ok(Self::One(Box::new(scenario)))
    }

    /// The seed, unless another is asked for.
    pub const fn seed(&self) -> u64 {
        match self {
            Self::One(scenario) => scenario.seed,
            Self::Swarm(swarm) => swarm.seed,
        }
    }

    /// The scenario of a seed.
    pub fn scenario(&self, seed: u64) -> Result<Cow<'_, Scenario>, ScenarioError> {
        match self {
            Self::One(scenario) => Ok(Cow::Borrowed(scenario)),
            Self::Swarm(swarm) => {
                let name = format!("world {seed}");
                Scenario::parse(&swarm.draw(seed).text, &name, Path::new(".")).map(Cow::Owned)
            }
        }
    }

    /// The kinds of faults that a seed has, if they are drawn.
    pub fn kinds(&self, seed: u64) -> Vec<Kind> {
        match self {
            Self::One(_) => Vec::new(),
            Self::Swarm(swarm) => swarm.draw(seed).kinds,
        }
    }
}
