//! Keeps an eye on configurations of regions: says how far this region and the others have come.

use std::{collections::BTreeMap, time::Duration};

use tidegate_core::{
    engine::ConfigStatus,
    ids::{ConfigEpoch, RegionNumber},
};
use tokio::time;
use tracing::{info, warn};

use super::view::View;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Never returns.
pub(super) async fn watch(view: &View) {
    let mut known = None;
    loop {
        let status = view.engine.config_status(view.clock.now());
        if known.as_ref() != Some(&status) {
            tell(view, &status, known.as_ref());
            known = Some(status);
        }
        time::sleep(LOOK_EVERY).await;
    }
}

/// What is worth a line.
fn tell(view: &View, now: &ConfigStatus, before: Option<&ConfigStatus>) {
    let acting = now.acting.0;
    let adopted = now.own.map_or(ConfigEpoch(0), |own| own.epoch);
    for node in &now.otherwise {
        if before.is_none_or(|before| !before.otherwise.contains(node)) {
            warn!(
                %node,
                config_epoch = acting,
                "this node has other regions or weights under the same cluster.config_epoch: nothing is spent \
                 of `strict` and `bounded` limits until they are the same"
            );
        }
    }
    if adopted > now.acting {
        warn!(
            config_epoch = acting,
            adopted = adopted.0,
            "this node's regions are older than what its store has adopted: `strict` and `bounded` limits are \
             closed to it; give it the configuration of the others"
        );
    }
    if now.acting == ConfigEpoch(0) {
        return;
    }
    if now.stuck {
        warn!(
            config_epoch = acting,
            adopted = adopted.0,
            "this region's store cannot adopt these regions, since nobody has said that those before were \
             agreed by all: see that the nodes of all regions run and are connected; if they are, give all \
             the configuration before, until it is agreed"
        );
    }
    if now.agreed {
        if before.is_none_or(|before| !before.agreed || before.acting != now.acting) {
            info!(config_epoch = acting, "regions and weights are agreed by all");
        }
    } else {
        let missing = names(view, &now.missing).join(", ");
        info!(config_epoch = acting, missing, "regions and weights are not adopted by all yet");
    }
}

/// Regions by name, where they are known.
fn names(view: &View, numbers: &[RegionNumber]) -> Vec<String> {
    let peers = view.engine.peers(view.clock.now());
    let names = peers.iter().map(|peer| &peer.session.id.region);
    let names = names.chain([&view.engine.session().id.region]);
    let names: BTreeMap<_, _> =
        names.map(|name| (RegionNumber::of(name), name.to_string())).collect();
    let unknown = |number: &RegionNumber| format!("a region that was never met ({:08x})", number.0);
    numbers.iter().map(|n| names.get(n).cloned().unwrap_or_else(|| unknown(n))).collect()
}
