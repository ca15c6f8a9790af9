//! Whether the cluster counts what clients were told, after all faults are over.

use std::{collections::BTreeSet, time::Duration};

use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use super::{
    ledger::{Account, Holder, Ledger},
    load::Asked,
    routes::Route,
};
use crate::{ensure, eventually, node::Node};

/// How soon all nodes must know the exact sums after the last fault: after two nodes have met again they
/// compare all that they know within 11 s, and what one learns another has yet to learn from it.
const CONVERGENCE: Duration = Duration::from_secs(30);

/// How what is counted stands to what clients were told, over all holders.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Sums {
    /// What clients were told is admitted.
    pub(super) told: u64,
    /// Requests without an answer: they may be counted or not.
    pub(super) ambiguous: u64,
    /// What nodes of other regions count.
    pub(super) counted: u64,
    /// Answered 200 by a node that was killed within a second of it: these may be missing.
    pub(super) at_risk: u64,
    /// Of these, missing.
    pub(super) lost: u64,
    /// Charged by a region's own store above what its nodes admitted: steps that a stalled store carried
    /// out after their callers had given them up.
    pub(super) surplus_in_stores: u64,
}

/// Waits until every node knows what clients were told: how long that took, and the sums by route.
pub(super) async fn converge(
    asked: &[Asked],
    regions: &[&str],
    ledger: &Ledger,
) -> (Duration, Vec<(Route, Sums)>) {
    let begun = Instant::now();
    let mut all = Vec::new();
    for route in Route::BOOKED {
        let mut sums = Sums::default();
        for caller in 0..route.callers() {
            let accounts: Vec<_> = (0..regions.len())
                .map(|region| ledger.account(Holder { route, caller, region }))
                .collect();
            let what = format!("{} of c{caller} is known everywhere", route.path());
            let left = CONVERGENCE.saturating_sub(begun.elapsed());
            let views = eventually(left, &what, async || {
                let views = views(asked, route, caller, regions).await?;
                for (region, account) in accounts.iter().enumerate() {
                    agree(asked, &views, (region, regions[region]), route, *account)?;
                }
                Ok(views)
            })
            .await;
            for (region, account) in accounts.iter().enumerate() {
                add(&mut sums, asked, &views, region, *account);
            }
        }
        all.push((route, sums));
    }
    (begun.elapsed(), all)
}

/// What each node says that each region used; 0 for what it does not speak of.
async fn views(
    asked: &[Asked],
    route: Route,
    caller: u32,
    regions: &[&str],
) -> Result<Vec<Vec<u64>>, String> {
    let name = format!("c{caller}");
    let attributes = [("api_key", &*name), ("route", route.path())];
    let mut views = Vec::new();
    for Asked { node, .. } in asked {
        let usage = node.usage(&attributes).await?;
        views.push(regions.iter().map(|region| used_in(node, &usage, region)).collect());
    }
    Ok(views)
}

fn used_in(node: &Node, usage: &Value, region: &str) -> u64 {
    let by_region = usage["regions"][region]["used"].as_u64();
    // A regional limit has no regions but its own.
    let own = if node.region == region { usage["used"].as_u64() } else { None };
    by_region.or(own).unwrap_or(0)
}

/// Whether all nodes know of a region's use what clients were told, and other regions' nodes the same.
fn agree(
    asked: &[Asked],
    views: &[Vec<u64>],
    (index, region): (usize, &str),
    route: Route,
    account: Account,
) -> Result<(), String> {
    let Account { admitted, ambiguous, degraded, untold } = account;
    let mut said = [BTreeSet::new(), BTreeSet::new()];
    for (Asked { node, region: at, .. }, view) in asked.iter().zip(views) {
        let (used, own) = (view[index], *at == index);
        if !own && !route.is_global() {
            continue;
        }
        said[usize::from(own)].insert(used);
        // Only the region's own store can have carried out what was given up.
        let most = admitted + ambiguous + if own { degraded } else { 0 };
        ensure(used + untold >= admitted && used <= most, || {
            format!("{} says {used} for {region}: told {account:?}", node.name)
        })?;
    }
    ensure(said.iter().all(|said| said.len() <= 1), || {
        format!("nodes differ about {region}: {said:?}")
    })
}

fn add(sums: &mut Sums, asked: &[Asked], views: &[Vec<u64>], index: usize, account: Account) {
    let of = |own: bool| {
        let mut views = asked.iter().zip(views).filter(|(asked, _)| (asked.region == index) == own);
        views.next().map_or(0, |(_, view)| view[index])
    };
    let (own, foreign) = (of(true), of(false));
    // Nobody else counts a regional limit.
    let counted = if foreign == 0 { own } else { foreign };
    sums.told += account.admitted;
    sums.ambiguous += account.ambiguous;
    sums.counted += counted;
    sums.at_risk += account.untold;
    sums.lost += account.admitted.saturating_sub(counted);
    sums.surplus_in_stores += own.saturating_sub(counted.max(account.admitted));
}
