//! The clients of a soak: for every node and route one that asks again and again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tidegate_client::Client;
use tokio::{
    sync::{RwLock, RwLockWriteGuard},
    task::JoinSet,
    time::{self, MissedTickBehavior},
};

use super::{
    ledger::{Holder, Ledger},
    routes::Route,
};
use crate::node::Node;

/// Nobody waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who is asked.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) node: Node,
    /// The index of its region.
    pub(super) region: usize,
    /// Held by requests of routes that are quiet at kills, while they are under way.
    quiet: RwLock<()>,
}

/// All clients.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) asked: Arc<Vec<Asked>>,
    pub(super) ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Load {
    /// Begins to ask these nodes, each given with the index of its region.
    pub(super) fn start(nodes: Vec<(Node, usize)>, seed: u64) -> Self {
        let asked = nodes
            .into_iter()
            .map(|(node, region)| Asked { node, region, quiet: RwLock::default() })
            .collect();
        let mut load = Self {
            asked: Arc::new(asked),
            ledger: Arc::default(),
            stop: Arc::default(),
            clients: JoinSet::new(),
        };
        for index in 0..load.asked.len() {
            for route in Route::ALL {
                let random = StdRng::seed_from_u64(seed ^ (index as u64) << 8 ^ route as u64);
                let (asked, ledger) = (Arc::clone(&load.asked), Arc::clone(&load.ledger));
                let stop = Arc::clone(&load.stop);
                load.clients.spawn(ask(asked, index, route, ledger, stop, random));
            }
        }
        load
    }

    /// Waits until no request of a route that is quiet at kills is under way to a node; none begins
    /// before the answer is dropped.
    pub(super) async fn quiet(&self, node: &str) -> RwLockWriteGuard<'_, ()> {
        let asked = self.asked.iter().find(|asked| asked.node.name == node);
        asked.expect("it is one of those that are asked").quiet.write().await
    }

    /// Ends, with every request answered or given up.
    ///
    /// # Panics
    ///
    /// If a client did.
    pub(super) async fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("no client panics");
        }
    }
}

async fn ask(
    asked: Arc<Vec<Asked>>,
    index: usize,
    route: Route,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    mut random: StdRng,
) {
    let Asked { node, region, quiet } = &asked[index];
    let client = Client::new(&format!("http://{}", node.http)).expect("a URL");
    let client = client.with_deadline(PATIENCE);
    let mut turn = time::interval(route.pause());
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.load(Ordering::Relaxed) {
        turn.tick().await;
        let caller = random.random_range(0..route.callers());
        let _asking = if route.is_quiet_at_kills() { Some(quiet.read().await) } else { None };
        let name = format!("c{caller}");
        let answer = client.check(&[("api_key", &name), ("route", route.path())], 1).await;
        ledger.note(&node.name, Holder { route, caller, region: *region }, &answer);
    }
}
