//! How a node and its peers find and trust each other.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::{Range, RangeInclusive},
};

use tidegate_core::{
    ids::{ConfigEpoch, RegionName, RegionNumber, Secret},
    rights::{Regions, Split},
    store::COUNT_MAX,
    time::{ClusterTime, Span},
};
use toml::Spanned;

use super::Resolver;
use crate::config::{
    Cluster, Seed,
    raw::{self, Text},
    secret,
};

const GOSSIP: Span = Span::millis(50);
const GOSSIP_RANGE: RangeInclusive<Span> = Span::millis(10)..=Span::secs(10);
/// How far a store's clock may be off, unless `cluster.clock_error` says otherwise.
pub const CLOCK_ERROR: Span = Span::millis(500);
/// After which a node that cannot be heard is taken for dead, unless `cluster.reclaim_after` says otherwise.
const RECLAIM_AFTER: Span = Span::secs(30);
const RECLAIM_AFTER_RANGE: RangeInclusive<Span> = Span::secs(1)..=Span::secs(3_600);
const CLOCK_ERROR_RANGE: RangeInclusive<Span> = Span::millis(10)..=Span::secs(3_600);
/// In milliseconds, from 2001 to 2255: what is written in seconds or microseconds is a mistake.
const EFFECTIVE_RANGE: RangeInclusive<u64> = 1_000_000_000_000..=9_000_000_000_000;
/// What is wrong with settings of a change where nothing has changed.
const UNCHANGED: &str = "is for regions that have changed: write cluster.config_epoch = 1";

impl Resolver<'_> {
    pub(super) fn cluster(
        &mut self,
        table: &Spanned<raw::Cluster>,
        own: Option<&RegionName>,
    ) -> Option<Cluster> {
        let raw = table.get_ref();
        let listen = self.required("cluster.listen", &raw.listen, table, Self::cluster_listen);
        let advertise = match &raw.advertise {
            Some(text) => self.dialled("cluster.advertise", text),
            None => listen.and_then(|listen| self.advertised(listen, table.span())),
        };
        let seeds = raw.seeds.iter().map(|text| self.seed(text));
        let seeds: Vec<_> = seeds.collect();
        let ca = self.required("cluster.ca", &raw.ca, table, Self::path);
        let cert = self.required("cluster.cert", &raw.cert, table, Self::path);
        let key = self.required("cluster.key", &raw.key, table, Self::path);
        let secret = self.required("cluster.secret_file", &raw.secret_file, table, Self::secret);
        let gossip = self.span("cluster.gossip", raw.gossip.as_ref(), GOSSIP, GOSSIP_RANGE);
        let clock_error = raw.clock_error.as_ref();
        let clock_error =
            self.span("cluster.clock_error", clock_error, CLOCK_ERROR, CLOCK_ERROR_RANGE);
        let reclaim_after = raw.reclaim_after.as_ref();
        let reclaim_after =
            self.span("cluster.reclaim_after", reclaim_after, RECLAIM_AFTER, RECLAIM_AFTER_RANGE);
        let regions = self.regions(raw, own);
        Some(Cluster {
            listen: listen?,
            advertise: advertise?,
            seeds: seeds.into_iter().collect::<Option<_>>()?,
            ca: ca?,
            cert: cert?,
            key: key?,
            secret: secret?,
            gossip: gossip?,
            relays: raw.relays,
            clock_error: clock_error?,
            reclaim_after: reclaim_after?,
            regions: regions?,
            founded: raw.founded,
        })
    }

    /// All regions and their weights, and those that they take the place of; the own one must be among them.
    fn regions(&mut self, raw: &raw::Cluster, own: Option<&RegionName>) -> Option<Option<Regions>> {
        let number = raw.config_epoch.as_ref().filter(|epoch| *epoch.get_ref() > 0);
        let Some(written) = &raw.regions else {
            if let Some(number) = number {
                let wrong =
                    "numbers a configuration of regions that is not there: write cluster.regions";
                return self.refuse("cluster.config_epoch", number, wrong);
            }
            return Some(None);
        };
        let now = self.split("cluster.regions", written);
        let Some(number) = number else {
            if let Some(before) = &raw.regions_before {
                return self.refuse("cluster.regions_before", before, UNCHANGED);
            }
            if let Some(gone) = &raw.regions_gone {
                return self.refuse("cluster.regions_gone", gone, UNCHANGED);
            }
            if let Some(effective) = &raw.config_effective {
                return self.refuse("cluster.config_effective", effective, UNCHANGED);
            }
            let now = now?;
            self.must_have(&[&now], written, own)?;
            return Some(Some(Regions::first(now)));
        };
        let Some(before) = &raw.regions_before else {
            let wrong = "needs to know what it takes the place of: write cluster.regions_before";
            return self.refuse("cluster.config_epoch", number, wrong);
        };
        let before = self.split("cluster.regions_before", before);
        let gone = match &raw.regions_gone {
            Some(gone) => self.gone(gone, now.as_ref(), before.as_ref(), own),
            None => Some(Vec::new()),
        };
        let (now, before) = (now?, before?);
        self.must_have(&[&now, &before], written, own)?;
        if *number.get_ref() > COUNT_MAX {
            return self.refuse("cluster.config_epoch", number, format!("is above {COUNT_MAX}"));
        }
        let effective = match &raw.config_effective {
            Some(written) => self.effective(written),
            None => Some(ClusterTime(0)),
        };
        let epoch = ConfigEpoch(*number.get_ref());
        Some(Some(Regions::next(epoch, before, now, &gone?, effective?)))
    }

    /// When a configuration takes hold.
    fn effective(&mut self, written: &Spanned<u64>) -> Option<ClusterTime> {
        let at = *written.get_ref();
        if at == 0 || EFFECTIVE_RANGE.contains(&at) {
            return Some(ClusterTime(at * 1_000));
        }
        let wrong =
            "must be a time in milliseconds since 1970, such as 1798761600000, or 0 for at once";
        self.refuse("cluster.config_effective", written, wrong)
    }

    /// Regions and their weights.
    fn split(&mut self, field: &str, written: &Spanned<BTreeMap<String, u32>>) -> Option<Split> {
        let split = || {
            let weight = |(name, weight): (&String, &u32)| {
                let name = RegionName::new(name).map_err(|bad| bad.to_string())?;
                Ok((RegionNumber::of(&name), *weight))
            };
            let weights =
                written.get_ref().iter().map(weight).collect::<Result<Vec<_>, String>>()?;
            Split::new(&weights).map_err(|error| error.to_string())
        };
        split().map_or_else(|wrong| self.refuse(field, written, wrong), Some)
    }

    /// One of them must have the own region.
    fn must_have(
        &mut self,
        splits: &[&Split],
        written: &Spanned<BTreeMap<String, u32>>,
        own: Option<&RegionName>,
    ) -> Option<()> {
        let has = |own: &RegionName| splits.iter().any(|split| split.has(RegionNumber::of(own)));
        match own {
            Some(own) if !has(own) => {
                let wrong =
                    format!("does not name the node's own region, \"{own}\": write {own} = 1");
                self.refuse("cluster.regions", written, wrong)
            }
            _ => Some(()),
        }
    }

    /// Regions that are no more: of those before, and neither one of those now nor the own one.
    fn gone(
        &mut self,
        written: &Spanned<Vec<String>>,
        now: Option<&Split>,
        before: Option<&Split>,
        own: Option<&RegionName>,
    ) -> Option<Vec<RegionNumber>> {
        let read = |name: &String| {
            let name = RegionName::new(name).map_err(|bad| bad.to_string())?;
            let number = RegionNumber::of(&name);
            if own == Some(&name) {
                return Err(format!("names the node's own region, \"{name}\""));
            }
            if now.is_some_and(|now| now.has(number)) {
                return Err(format!("names \"{name}\", which cluster.regions has"));
            }
            if before.is_some_and(|before| !before.has(number)) {
                return Err(format!("names \"{name}\", which cluster.regions_before has not"));
            }
            Ok(number)
        };
        let gone = written.get_ref().iter().map(read).collect::<Result<Vec<_>, String>>();
        gone.map_or_else(|wrong| self.refuse("cluster.regions_gone", written, wrong), Some)
    }

    /// A field that must be there, read by `read`.
    fn required<T>(
        &mut self,
        field: &str,
        text: &Option<Text>,
        table: &Spanned<raw::Cluster>,
        read: impl FnOnce(&mut Self, &str, &Text) -> Option<T>,
    ) -> Option<T> {
        match text {
            Some(text) => read(self, field, text),
            None => self.missing(field, table.span(), "a cluster needs it"),
        }
    }

    fn cluster_listen(&mut self, field: &str, text: &Text) -> Option<SocketAddr> {
        let address = self.address(field, text)?;
        if address.port() == 0 {
            let message = "port 0 is any free one, where no peer would look: write a port";
            return self.refuse(field, text, message);
        }
        Some(address)
    }

    /// What peers dial if nothing is said: where the node listens, unless that is every address.
    fn advertised(&mut self, listen: SocketAddr, table: Range<usize>) -> Option<SocketAddr> {
        if listen.ip().is_unspecified() {
            let message = format_args!("{listen} is no address that a peer can dial");
            return self.missing("cluster.advertise", table, message);
        }
        Some(listen)
    }

    fn seed(&mut self, text: &Text) -> Option<Seed> {
        const FIELD: &str = "cluster.seeds";
        const WANTED: &str = "must be an IP address or a host name, and a port, such as \
                              \"127.0.0.1:7946\" or \"eu.example.com:7946\"";
        let seed = text.get_ref();
        if seed.parse::<SocketAddr>().is_ok() {
            return self.dialled(FIELD, text).map(Seed::Address);
        }
        let is_name = |host: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            // Without a letter it is an address with a mistake in it.
            host.chars().all(plain) && host.chars().any(|c| c.is_ascii_alphabetic())
        };
        match seed.rsplit_once(':') {
            Some((host, port)) if is_name(host) && port.parse::<u16>().is_ok_and(|p| p > 0) => {
                Some(Seed::Name(seed.clone()))
            }
            _ => self.refuse(FIELD, text, WANTED),
        }
    }

    fn secret(&mut self, field: &str, text: &Text) -> Option<Secret> {
        let file = self.path(field, text)?;
        secret::read(&file).map_or_else(|wrong| self.refuse(field, text, wrong), Some)
    }
}
