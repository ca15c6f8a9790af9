//! The node's certificate, its key and the authorities: read again when the files change or when asked,
//! whole or not at all; and a warning before the certificate expires.

use std::{fs, path::Path, sync::Arc, time::Duration};

use tokio::{sync::watch, time};
use tracing::{error, info, warn};

use super::{aside, file_watch::FileWatch, view::View};
use crate::{
    certs::Validity,
    clock,
    config::{Cluster, Config},
    telemetry::ReloadResult,
};

/// How often the certificate's end is thought of.
const REMIND_EVERY: Duration = Duration::from_secs(3600);
/// A certificate is about to expire in the last of so many parts of its life.
const PARTS: u32 = 10;

/// Reads the files again whenever one of them has changed or `asked` moves, one time after the other.
/// Files that are wrong change nothing. Never ends.
pub(super) async fn keep_reloading(
    mut asked: watch::Receiver<()>,
    config: &Config,
    view: &Arc<View>,
) {
    let Some(cluster) = &config.cluster else { return std::future::pending().await };
    let paths = [&cluster.ca, &cluster.cert, &cluster.key].map(|path| path.as_path());
    let mut watch = FileWatch::new(&paths);
    let mut remind = time::interval(REMIND_EVERY);
    loop {
        tokio::select! {
            // Without a sender nobody will ask any more, but files may change all the same.
            Ok(()) = asked.changed() => {}
            () = watch.changed() => {}
            _ = remind.tick() => {
                remind_of_end(view);
                continue;
            }
        }
        let (cluster, view) = (cluster.clone(), Arc::clone(view));
        aside("reloading certificates", move || reload(&cluster, &view)).await;
    }
}

/// The texts of the three files.
struct Texts {
    ca: Vec<u8>,
    cert: Vec<u8>,
    key: Vec<u8>,
}

fn texts(cluster: &Cluster) -> Result<Texts, String> {
    let read = |field: &str, path: &Path| {
        fs::read(path)
            .map_err(|error| format!("cannot read {} (`{field}`): {error}", path.display()))
    };
    Ok(Texts {
        ca: read("cluster.ca", &cluster.ca)?,
        cert: read("cluster.cert", &cluster.cert)?,
        key: read("cluster.key", &cluster.key)?,
    })
}

/// Puts what the files say in force, if it is right and not in force already.
fn reload(cluster: &Cluster, view: &View) {
    let replaced = texts(cluster)
        .and_then(|texts| view.network.replace_credentials(&texts.ca, &texts.cert, &texts.key));
    match replaced {
        Ok(false) => {}
        Ok(true) => {
            let days = view.network.validity().map(|validity| days_left(validity, now()));
            info!(days_left = days, "certificates reloaded");
            view.metrics.certificates_reloaded(ReloadResult::Loaded);
            remind_of_end(view);
        }
        Err(error) => {
            error!("certificates not reloaded, the old ones stay in force: {error}");
            view.metrics.certificates_reloaded(ReloadResult::Rejected);
        }
    }
}

fn now() -> Duration {
    clock::unix_time()
}

fn days_left(validity: Validity, now: Duration) -> u64 {
    validity.not_after.saturating_sub(now).as_secs() / 86_400
}

fn remind_of_end(view: &View) {
    const REMEDY: &str = "make another with `tidegate certs node`; no restart is needed";
    let Some(validity) = view.network.validity() else { return };
    match end(validity, now()) {
        End::Far => {}
        End::Near(left) => {
            let hours = left.as_secs() / 3600;
            warn!(hours, "the certificate in `cluster.cert` expires soon: {REMEDY}");
        }
        End::Past => {
            error!(
                "the certificate in `cluster.cert` has expired, and peers refuse this node: {REMEDY}"
            );
        }
    }
}

/// How near a certificate's end is.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Far,
    /// In the last tenth of its life; so much is left.
    Near(Duration),
    Past,
}

fn end(validity: Validity, now: Duration) -> End {
    let life = validity.not_after.saturating_sub(validity.not_before);
    match validity.not_after.checked_sub(now) {
        None => End::Past,
        Some(left) if left <= life / PARTS => End::Near(left),
        Some(_) => End::Far,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_tenth_of_a_certificates_life_is_near_its_end() {
        let at = Duration::from_secs;
        let validity = Validity { not_before: at(1_000), not_after: at(2_000) };
        assert_eq!(end(validity, at(0)), End::Far);
        assert_eq!(end(validity, at(1_899)), End::Far);
        assert_eq!(end(validity, at(1_900)), End::Near(at(100)));
        assert_eq!(end(validity, at(2_000)), End::Near(at(0)));
        assert_eq!(end(validity, at(2_001)), End::Past);
    }
}
