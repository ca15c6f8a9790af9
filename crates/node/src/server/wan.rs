//! The file by which a local cluster tells a node how far other regions are to be.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use tidegate_core::{ids::RegionName, time::Span};

use crate::clock;

/// Links to other regions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wan {
    /// One for each other region.
    pub links: Vec<Link>,
}

/// The way to one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Which region.
    pub region: RegionName,
    /// Its nodes' cluster addresses.
    pub addresses: Vec<SocketAddr>,
    /// How long the way there and back takes; `None`: as long as it does.
    pub round_trip: Option<Duration>,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WanError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It does not say what it should.
    #[error("{}: {message}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWan {
    #[serde(default)]
    link: Vec<RawLink>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLink {
    region: String,
    addresses: Vec<SocketAddr>,
    round_trip: Option<String>,
}

impl Wan {
    /// Reads the file.
    pub fn load(path: &Path) -> Result<Self, WanError> {
        let text = fs::read_to_string(path)
            .map_err(|source| WanError::Unreadable { path: path.into(), source })?;
        Self::parse(&text).map_err(|message| WanError::Wrong { path: path.into(), message })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let raw: RawWan = toml::from_str(text).map_err(|e| e.to_string())?;
        let links = raw.link.into_iter().map(RawLink::read).collect::<Result<_, _>>()?;
        Ok(Self { links })
    }
}

impl RawLink {
    fn read(self) -> Result<Link, String> {
        let region = RegionName::new(&self.region).map_err(|e| e.to_string())?;
        let round_trip = self.round_trip.map(|text| {
            let span: Span = text.parse().map_err(|e| format!("round_trip `{text}`: {e}"))?;
            Ok::<_, String>(clock::duration(span))
        });
        Ok(Link { region, addresses: self.addresses, round_trip: round_trip.transpose()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_may_leave_out_its_round_trip() {
        let wan = Wan::parse(
            "[[link]]\nregion = \"us\"\naddresses = [\"127.0.0.1:1\"]\nround_trip = \"80ms\"\n\
             [[link]]\nregion = \"ap\"\naddresses = []\n",
        )
        .expect("right");
        assert_eq!(wan.links[0].round_trip, Some(Duration::from_millis(80)));
        assert_eq!(wan.links[1].round_trip, None);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let link = "[[link]]\nregion = \"u s\"\naddresses = []\n";
        assert!(Wan::parse(link).expect_err("a bad name").contains("u s"));
        let link = "[[link]]\nregion = \"us\"\naddresses = []\nround_trip = \"80\"\n";
        assert!(Wan::parse(link).expect_err("no unit").contains("round_trip"));
        assert!(Wan::parse("[[link]]\nregio = \"us\"\n").is_err());
    }
}
