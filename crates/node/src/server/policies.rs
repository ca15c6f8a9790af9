//! The policy file: read at the start, and again when it changes or when asked, as a whole or not at all.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tidegate_core::policy::{Mistake, PolicySet};
use tokio::sync::watch;
use tracing::{error, info};

use super::{aside, file_watch::FileWatch, view::View};
use crate::{config::Config, telemetry::ReloadResult};

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
    let text = fs::read_to_string(path)
        .map_err(|source| PolicyFileError::Unreadable { path: path.into(), source })?;
    PolicySet::parse(&text)
        .map_err(|mistakes| PolicyFileError::Wrong { path: path.into(), mistakes })
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
        let (path, view) = (path.clone(), Arc::clone(view));
        aside("reloading policies", move || reload(&path, asked, &view)).await;
    }
}

/// Puts the file's policies in force, if they are right. Those in force already are put there once more
/// only if somebody asked.
fn reload(path: &Path, asked: bool, view: &View) {
    match read_policies(path) {
        Ok(policies) if !asked && policies.hash == view.limiter.policies().hash => {}
        Ok(policies) => {
            let policies = Arc::new(policies);
            info!(policy_hash = %policies.hash, "policies reloaded");
            view.network.set_policy_hash(&policies.hash);
            view.limiter.set_policies(policies);
            view.metrics.policies_reloaded(ReloadResult::Loaded);
        }
        Err(error) => {
            error!("policies not reloaded, the old ones stay in force:\n{error}");
            view.metrics.policies_reloaded(ReloadResult::Rejected);
        }
    }
}
