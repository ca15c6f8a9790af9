//! The policy file: read at the start, and again when it changes or when asked, as a whole or not at all.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tidegate_core::{
    ids::ConfigEpoch,
    policy::{Limit, Mistake, Policy, PolicySet},
    time::Span,
};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::{aside, file_watch::FileWatch, view::View};
use crate::{
    clock,
    config::{Config, Store},
    store::is_cluster,
    telemetry::ReloadResult,
};

/// A policy file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    /// It cannot be read.
    #[error("cannot read the policies in {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It has limits that this node's configuration cannot serve, one a line.
    #[error("{}", refusals.join("\n"))]
    Unserved {
        /// What they lack.
        refusals: Vec<String>,
    },
    /// It has no policy, while some are in force.
    #[error(
        "{} has no policy, while {in_force} are in force: a file that is written in place may be read while it is \
         empty, so rename a whole one into place; to have no limits at all, write policy = []",
        path.display()
    )]
    Emptied {
        /// The file.
        path: PathBuf,
        /// How many policies are in force.
        in_force: usize,
    },
    /// It holds mistakes, all of which are listed, one a line.
    #[error("{}", lines(path, mistakes))]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        mistakes: Vec<Mistake>,
    },
}

fn lines(path: &Path, mistakes: &[Mistake]) -> String {
    let line = |mistake| format!("{}:{mistake}", path.display());
    mistakes.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Reads a policy file, or says everything that is wrong in it.
pub fn read_policies(path: &Path) -> Result<PolicySet, PolicyFileError> {
    parse(path, &text_of(path)?)
}

fn text_of(path: &Path) -> Result<String, PolicyFileError> {
    fs::read_to_string(path)
        .map_err(|source| PolicyFileError::Unreadable { path: path.into(), source })
}

fn parse(path: &Path, text: &str) -> Result<PolicySet, PolicyFileError> {
    PolicySet::parse(text)
        .map_err(|mistakes| PolicyFileError::Wrong { path: path.into(), mistakes })
}

/// The same for a node of this configuration: limits under rights need to know all regions. What can be
/// served, but not well, is told in the log.
pub(super) fn read_policies_for(
    path: &Path,
    config: &Config,
) -> Result<PolicySet, PolicyFileError> {
    served_by(read_policies(path)?, path, config)
}

/// Reads the file again. One that says nothing is refused while `in_force` has policies: it is far more
/// likely to be half-written than to mean that nobody is limited any more.
fn read_again(
    path: &Path,
    config: &Config,
    in_force: &PolicySet,
) -> Result<PolicySet, PolicyFileError> {
    let text = text_of(path)?;
    let policies = parse(path, &text)?;
    let says_so = || toml::from_str::<toml::Table>(&text).is_ok_and(|t| t.contains_key("policy"));
    let in_force = in_force.policies.len();
    if policies.policies.is_empty() && in_force > 0 && !says_so() {
        return Err(PolicyFileError::Emptied { path: path.into(), in_force });
    }
    served_by(policies, path, config)
}

fn served_by(
    policies: PolicySet,
    path: &Path,
    config: &Config,
) -> Result<PolicySet, PolicyFileError> {
    let spent = policies.policies.iter().flat_map(|policy| {
        let limits = policy.limits.iter().filter(|limit| limit.has_rights());
        limits.map(move |limit| (&**policy, limit))
    });
    let knows_regions = config.cluster.as_ref().is_none_or(|cluster| cluster.regions.is_some());
    let refuse = |(policy, limit): (&Policy, &Limit)| {
        let (name, consistency) = (&policy.name, limit.consistency.as_str());
        format!(
            "{}: policy \"{name}\", limit \"{}\", field \"consistency\": {consistency} needs to know all regions: write cluster.regions = {{ eu = 1, us = 1 }} in the node's configuration",
            path.display(),
            limit.name,
        )
    };
    let in_cluster = matches!(&config.store, Store::Redis(redis) if is_cluster(redis.url.secret()));
    // Each of a thousand markers would have to be told, and the region has come as far as the last of them.
    let has_changed = config.cluster.as_ref().and_then(|cluster| cluster.regions.as_ref());
    let has_changed = has_changed.is_some_and(|regions| regions.epoch() > ConfigEpoch(0));
    let refuse_changed = |(policy, limit): (&Policy, &Limit)| {
        let (name, consistency) = (&policy.name, limit.consistency.as_str());
        format!(
            "{}: policy \"{name}\", limit \"{}\", field \"consistency\": {consistency} on a Redis Cluster, as `store.url` says, cannot follow regions that change, and `cluster.config_epoch` is above 0: write consistency = \"eventual\", or give the region a standalone Redis or one with sentinels",
            path.display(),
            limit.name,
        )
    };
    let refusals: Vec<_> = if !knows_regions {
        spent.map(refuse).collect()
    } else if in_cluster && has_changed {
        spent.map(refuse_changed).collect()
    } else {
        Vec::new()
    };
    if !refusals.is_empty() {
        return Err(PolicyFileError::Unserved { refusals });
    }
    let clock_error = config.cluster.as_ref().map_or(Span::ZERO, |c| clock::span(c.clock_error));
    for warning in policies.warnings(clock_error) {
        warn!("{}: {warning}", path.display());
    }
    Ok(policies)
}

/// Reads the policy file again whenever it has changed or `asked` moves, one time after the other: what
/// was read later is in force later. A file with mistakes changes nothing. Never ends.
pub(super) async fn keep_reloading(
    mut asked: watch::Receiver<()>,
    config: &Config,
    view: &Arc<View>,
) {
    let Some(path) = &config.policies else {
        while asked.changed().await.is_ok() {
            info!("asked to reload policies, but the configuration names no policy file");
        }
        return std::future::pending().await;
    };
    let paths = [path.as_path()];
    let mut watch = FileWatch::new(&paths);
    loop {
        let asked = tokio::select! {
            // Without a sender nobody will ask any more, but the file may change all the same.
            Ok(()) = asked.changed() => true,
            () = watch.changed() => false,
        };
        let (path, view, config) = (path.clone(), Arc::clone(view), config.clone());
        aside("reloading policies", move || reload(&path, asked, &config, &view)).await;
    }
}

/// Puts the file's policies in force, if they are right. Those in force already are put there once more
/// only if somebody asked.
fn reload(path: &Path, asked: bool, config: &Config, view: &View) {
    let in_force = view.limiter.policies();
    match read_again(path, config, &in_force) {
        Ok(policies) if !asked && policies.hash == in_force.hash => {}
        Ok(policies) => {
            let policies = Arc::new(policies);
            info!(policy_hash = %policies.hash, "policies reloaded");
            // In this order: whoever sees the hash among the members compares it with what is in force.
            view.limiter.set_policies(Arc::clone(&policies));
            view.network.set_policy_hash(&policies.hash);
            view.metrics.policies_reloaded(ReloadResult::Loaded);
        }
        Err(error) => {
            error!("policies not reloaded, the old ones stay in force:\n{error}");
            view.metrics.policies_reloaded(ReloadResult::Rejected);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::tests::config;

    const ONE: &str = "[[policy]]\nname = \"a\"\nkey = []\n[[policy.limit]]\nname = \"l\"\nquantity = 1\nwindow = \"1h\"\n";

    #[test]
    fn a_file_that_was_emptied_is_refused_unless_it_says_that_there_is_no_policy() {
        let home = tempfile::tempdir().unwrap();
        let config = config(home.path(), "eu", None, "");
        let path = home.path().join("p.toml");
        let in_force = PolicySet::parse(ONE).unwrap();
        for emptied in ["", "\n", "# policies\n"] {
            fs::write(&path, emptied).unwrap();
            let error = read_again(&path, &config, &in_force).unwrap_err();
            assert!(matches!(error, PolicyFileError::Emptied { in_force: 1, .. }), "{error}");
            let (named, told) = (path.display().to_string(), error.to_string());
            assert!(told.contains(&named) && told.contains("policy = []"), "{told}");
            // Where nothing is in force nothing is lost, and a node may start so.
            assert!(read_again(&path, &config, &PolicySet::default()).is_ok());
        }
        fs::write(&path, "policy = []\n").unwrap();
        assert!(read_again(&path, &config, &in_force).unwrap().policies.is_empty());
    }
}
