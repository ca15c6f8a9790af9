//! Stores' clocks that are off by minutes, and are set by minutes: cluster time follows none of them alone.

use std::time::Duration;

use tidegate_tests::{
    dev::{agree_on, connected},
    ensure, eventually,
    node::Node,
    site::{Place, Served, Site},
    skewed_redis::SkewedRedis,
};

const SOON: Duration = Duration::from_secs(20);
const CONVERGENCE: Duration = Duration::from_secs(10);
const QUANTITY: u64 = 60;
/// More than a window: whoever followed it would begin another one.
const STEP: i64 = 400;
const WINDOW: i64 = 300;
/// How far into a window a test begins, in seconds.
const INTO: i64 = 60;
const POLICIES: &str = r#"
[[policy]]
name = "api"
key = ["api_key"]
[[policy.limit]]
name = "some-minutes"
quantity = 60
window = "300s"
scope = "global"
consistency = "plain"
"#;
const KEY: [(&str, &str); 1] = [("api_key", "k")];
const REGIONS: [&str; 3] = ["eu", "us", "ap"];

/// How many seconds the stores are ahead at first: so far apart that a node which has heard of the others'
/// clocks says something else of its own than one that has not.
const APART: [i64; 3] = [9, 0, -9];

/// Three regions with a node and a Redis each, early in a window.
struct World {
    nodes: Vec<Served>,
    stores: Vec<SkewedRedis>,
    places: Vec<Place>,
    /// How many seconds a clock that is right is ahead of the machine's.
    right: i64,
    /// Last, so that it is there while the nodes' logs are shown.
    site: Site,
}

impl World {
    /// Starts it, with stores that are so many seconds ahead.
    async fn start(ahead: [i64; 3]) -> Self {
        let site = Site::new(POLICIES);
        let mut stores = Vec::new();
        for _ in REGIONS {
            stores.push(SkewedRedis::start().await.expect("a Redis starts"));
        }
        // No test may run into another window by itself, whatever a node thinks before it has heard of all.
        let right = INTO - stores[0].true_time().await % WINDOW;
        for (store, ahead) in stores.iter().zip(ahead) {
            store.set_ahead(right + ahead).await;
        }
        let places: Vec<_> = REGIONS.map(|r| site.place(r, &format!("{r}-0"))).into();
        let mut world = Self { nodes: Vec::new(), stores, places, right, site };
        for region in 0..REGIONS.len() {
            world.nodes.push(world.serve(region));
        }
        for served in &world.nodes {
            served.node.ready(SOON).await;
        }
        connected(world.nodes.iter().map(|served| &served.node), SOON).await;
        // Who has not heard yet where the others' clocks stand has its own store's alone to go by.
        for (region, ahead) in ahead.into_iter().enumerate() {
            world.is_off(region, ahead).await;
        }
        world
    }

    fn serve(&self, region: usize) -> Served {
        let seeds: Vec<_> = self.places.iter().filter(|p| p.region != REGIONS[region]).collect();
        let store = format!("kind = \"redis\"\nurl = \"{}\"", self.stores[region].url());
        let config = self.site.config_with(&self.places[region], &seeds, &store);
        self.site.serve(&self.places[region], &config)
    }

    fn node(&self, region: usize) -> &Node {
        &self.nodes[region].node
    }

    async fn set(&self, region: usize, ahead: i64) {
        self.stores[region].set_ahead(self.right + ahead).await;
    }

    /// Spends so much in a region, all of it in the window with this label.
    async fn spend(&self, region: usize, times: u64, label: u64) {
        for _ in 0..times {
            let check = self.node(region).check(&KEY, 1).await;
            assert_eq!((check.allowed, check.limits[0].label), (true, label), "{check:?}");
            assert!(!check.degraded, "{check:?}");
        }
    }

    /// Waits until every node knows that so much is used.
    async fn agree(&self, used: [u64; 3]) {
        let by_region: Vec<_> = REGIONS.into_iter().zip(used).collect();
        let nodes = self.nodes.iter().map(|served| &served.node);
        agree_on(nodes, &KEY, &by_region, CONVERGENCE).await;
    }

    /// Waits until a node says of its store's clock that it is off by about so many seconds.
    async fn is_off(&self, region: usize, seconds: i64) {
        let node = self.node(region);
        eventually(SOON, &format!("{} is off by {seconds} s", node.name), async || {
            let off = node.metric("tidegate_clock_error_seconds").await?;
            let alarm = node.metric("tidegate_clock_alarm").await?;
            let is_so = (off - seconds as f64).abs() < 2.0 && (alarm == 1.0) == (seconds != 0);
            ensure(is_so, || format!("{off} s, alarm {alarm}"))
        })
        .await;
    }

    /// Sees that just the rest of the quantity is left, and ends.
    async fn spend_the_rest(self, spent: u64, label: u64) {
        self.spend(1, QUANTITY - spent, label).await;
        for served in &self.nodes {
            eventually(CONVERGENCE, "nobody admits more", async || {
                let used = served.node.used(&KEY).await?;
                ensure(used == QUANTITY, || format!("{} knows of {used}", served.node.name))
            })
            .await;
            assert!(!served.node.check(&KEY, 1).await.allowed, "{}", served.node.name);
        }
        for served in self.nodes {
            assert!(!served.process.log().contains("panicked"));
            served.stop().await;
        }
    }
}

#[tokio::test]
async fn a_stores_clock_that_is_set_by_minutes_begins_no_window() {
    let world = World::start(APART).await;
    let label = world.node(0).check(&KEY, 1).await.limits[0].label;
    world.spend(0, 4, label).await;
    world.spend(1, 5, label).await;
    world.spend(2, 5, label).await;
    world.agree([5, 5, 5]).await;
    let relabelled = async |region: usize| {
        world.node(region).metric("tidegate_checks_relabelled_total").await.expect("it is there")
    };
    let mut used = [5, 5, 5];
    for (region, step) in [(0, STEP), (2, -STEP)] {
        let mut before = relabelled(region).await;
        for ahead in [APART[region] + step, APART[region]] {
            world.set(region, ahead).await;
            world.spend(region, 5, label).await;
            used[region] += 5;
            world.agree(used).await;
            world.is_off(region, ahead).await;
            let now = relabelled(region).await;
            assert!(now > before, "the set was met by a check");
            before = now;
        }
    }
    world.spend_the_rest(35, label).await;
}

#[tokio::test]
async fn a_store_that_is_minutes_ahead_takes_nobody_along() {
    let mut world = World::start([STEP, 0, -9]).await;
    let label = world.node(1).check(&KEY, 1).await.limits[0].label;
    world.spend(1, 4, label).await;
    world.spend(0, 5, label).await;
    world.agree([5, 5, 0]).await;

    // A node of another region comes back, and has yet to hear where the clocks stand.
    let stopped = world.nodes.remove(2);
    stopped.stop().await;
    let again = world.serve(2);
    world.nodes.push(again);
    world.node(2).ready(SOON).await;
    connected(world.nodes.iter().map(|served| &served.node), SOON).await;
    world.spend(2, 5, label).await;
    world.agree([5, 5, 5]).await;
    world.spend_the_rest(15, label).await;
}
