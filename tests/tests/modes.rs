//! What limits over all regions promise, on real clusters that are asked by many at once: `strict` gives out
//! exactly what it allows, `bounded` no more than it says, `eventual` about as much; and what would break
//! the promise is refused at load.

use std::time::Duration;

use tidegate_tests::{
    child,
    dev::{Cluster, Dev},
    ensure, eventually,
    labels::{Flow, Labels},
    load::Asker,
    node::Node,
    region::{ask_redis, of},
    site::Site,
};

/// How long grants may take to move all that there is to whom asks for it.
const GRANTED: Duration = Duration::from_secs(10);

const REGIONS: [&str; 3] = ["eu", "us", "ap"];
const QUANTITY: u64 = 300;
const CALLER: [(&str, &str); 1] = [("api_key", "k")];
/// Who ask one node at once, each without a pause.
const AT_ONCE: usize = 3;
/// Refusals in a row that say that nothing is left, or at least nothing that comes by itself.
const REFUSED: u64 = 100;

const STRICT: &str = r#"consistency = "strict""#;
/// A window that no test outlasts.
const LONG: &str = "400d";

fn policies(quantity: u64, window: &str, consistency: &str) -> String {
    format!(
        r#"
[[policy]]
name = "mode"
key = ["api_key"]
[[policy.limit]]
name = "quota"
quantity = {quantity}
window = "{window}"
scope = "global"
{consistency}
"#
    )
}

fn dev(consistency: &str) -> Dev {
    Dev::new(&REGIONS, &policies(QUANTITY, LONG, consistency))
}

/// Many who ask these nodes without a pause.
struct Crowd(Vec<Asker>);

impl Crowd {
    fn gather<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Self {
        let nodes = nodes.into_iter().flat_map(|node| [node; AT_ONCE]);
        Self(nodes.map(|node| Asker::start(node, &CALLER)).collect())
    }

    fn admitted(&self) -> u64 {
        self.0.iter().map(|asker| asker.seen().admitted).sum()
    }

    /// Waits until they, with what was admitted `before`, have been admitted so often.
    async fn reaches(&self, before: u64, sum: u64) {
        eventually(GRANTED, &format!("{sum} are admitted"), async || {
            let admitted = before + self.admitted();
            ensure(admitted >= sum, || format!("{admitted} were"))
        })
        .await;
    }

    /// Ends; how often they were admitted.
    async fn leaves(self) -> u64 {
        let mut admitted = 0;
        for asker in self.0 {
            admitted += asker.stop().await.admitted;
        }
        admitted
    }
}

/// Asks these nodes, all at once, until each has refused a hundred times running; what they admitted.
async fn ask_far_beyond(nodes: &[&Node]) -> u64 {
    let mut asking = tokio::task::JoinSet::new();
    for node in nodes {
        let node = Node::clone(node);
        asking.spawn(async move {
            let (mut admitted, mut refused) = (0, 0);
            while refused < REFUSED {
                let one = node.spend(&CALLER, 1).await;
                admitted += one;
                refused = if one == 1 { 0 } else { refused + 1 };
            }
            admitted
        });
    }
    asking.join_all().await.into_iter().sum()
}

fn all(cluster: &Cluster) -> Vec<&Node> {
    cluster.nodes().collect()
}

#[tokio::test]
async fn strict_gives_one_region_all_of_it_and_the_others_nothing_more() {
    let cluster = dev(STRICT).start().await;
    let crowd = Crowd::gather(of(&cluster, "eu"));
    crowd.reaches(0, QUANTITY).await;
    // Those who come now, with the first still asking, find nothing.
    assert_eq!(ask_far_beyond(&all(&cluster)).await, 0);
    assert_eq!(crowd.leaves().await, QUANTITY);
    let by_region = [("eu", QUANTITY), ("us", 0), ("ap", 0)];
    cluster.agree_on(&CALLER, &by_region, GRANTED).await;
    cluster.stop().await;
}

/// INV-13 and INV-14 from outside: while grants move on one side of a cut, nothing is spent on both.
#[tokio::test]
async fn strict_is_kept_by_both_sides_of_a_cut_and_spent_whole_after_it() {
    let cluster = dev(STRICT).start().await;
    // A region that nobody asks gives away nearly all of its part: all are asked in turn.
    let mut sum = 0;
    for node in cluster.nodes().collect::<Vec<_>>().repeat(10) {
        sum += node.spend(&CALLER, 1).await;
    }
    cluster.cut_off("ap").await;
    // Both sides want all of it; on one of them grants move.
    let crowd = Crowd::gather(of(&cluster, "eu"));
    let (us, ap) = (of(&cluster, "us"), of(&cluster, "ap"));
    let (in_us, in_ap) = tokio::join!(ask_far_beyond(&us), ask_far_beyond(&ap));
    sum += in_us + in_ap + crowd.leaves().await;
    assert!(sum <= QUANTITY, "{sum}");

    cluster.heal().await;
    cluster.connected().await;
    let crowd = Crowd::gather(cluster.nodes());
    crowd.reaches(sum, QUANTITY).await;
    sum += ask_far_beyond(&all(&cluster)).await + crowd.leaves().await;
    assert_eq!(sum, QUANTITY);
    cluster.stop().await;
}

/// INV-15.
#[tokio::test]
async fn strict_gives_nothing_twice_to_a_region_that_died_with_its_counts() {
    let mut cluster = dev(STRICT).with(&["--restart"]).start().await;
    // More than its part: some was granted to it.
    let crowd = Crowd::gather(of(&cluster, "eu"));
    crowd.reaches(0, 150).await;
    let before = cluster.said_of("eu-0").clone();
    child::kill(before.pid);
    let mut sum = crowd.leaves().await;
    let back = cluster.next_ready().await;
    assert_eq!((&*back.node, back.restarts), ("eu-0", before.restarts + 1));
    // It does not know what it has spent, so it spends nothing until the window ends.
    let eu = cluster.node("eu-0");
    assert_eq!(eu.spend(&CALLER, 50).await, 0);
    cluster.connected().await;
    let others: Vec<_> = cluster.nodes().filter(|node| node.region != "eu").collect();
    sum += ask_far_beyond(&others).await;
    assert!(sum <= QUANTITY, "{sum}");
    // Now that it has heard of everybody, too.
    assert_eq!(eu.spend(&CALLER, 50).await, 0);
    assert_eq!(ask_far_beyond(&others).await, 0);
    cluster.stop().await;
}

/// INV-15.
#[tokio::test]
async fn strict_gives_nothing_twice_when_redis_is_wiped_under_load() {
    let cluster = dev(STRICT).redis(2).start().await;
    let crowd = Crowd::gather(cluster.nodes());
    crowd.reaches(0, 60).await;
    for region in REGIONS {
        ask_redis::<()>(&cluster, region, &["FLUSHALL"]).await.unwrap();
    }
    // They ask on until all have been refused a hundred times.
    let mut sum = ask_far_beyond(&all(&cluster)).await;
    ask_redis::<()>(&cluster, "eu", &["FLUSHALL"]).await.unwrap();
    sum += ask_far_beyond(&all(&cluster)).await + crowd.leaves().await;
    assert!((60..=QUANTITY).contains(&sum), "{sum}");
    cluster.stop().await;
}

/// INV-16: what was spent before the wipe is not spent again, and but for the blocks nothing is lost.
#[tokio::test]
async fn strict_goes_on_in_a_long_window_after_redis_is_wiped() {
    // Of its third of 3,000 a region may lose two blocks, of 100 each.
    const PLENTY: u64 = 3_000;
    let text = policies(PLENTY, LONG, STRICT);
    let cluster = Dev::new(&REGIONS, &text).redis(2).start().await;
    let mut sum = 0;
    for node in cluster.nodes().collect::<Vec<_>>().repeat(10) {
        // A node that has just met the others spends when each of them has told it what it knows; and on a machine
        // that does a lot else a Redis may be late.
        eventually(Duration::from_secs(10), "it admits", async || {
            ensure(node.spend(&CALLER, 1).await == 1, || format!("{} refuses", node.name))
        })
        .await;
        sum += 1;
    }
    ask_redis::<()>(&cluster, "eu", &["FLUSHALL"]).await.unwrap();
    let eu = of(&cluster, "eu");
    assert_eq!(eu[0].spend(&CALLER, 1).await, 0, "the others have not been asked what they know");
    // First the fence goes by.
    eventually(Duration::from_secs(30), "eu admits again", async || {
        let admitted = eu[1].spend(&CALLER, 1).await;
        sum += admitted;
        ensure(admitted == 1, || "refused".into())
    })
    .await;
    let crowd = Crowd::gather(cluster.nodes());
    sum += ask_far_beyond(&all(&cluster)).await + crowd.leaves().await;
    assert!((PLENTY - 250..=PLENTY).contains(&sum), "{sum}");
    cluster.stop().await;
}

/// INV-13 from outside: the allowance is all that comes on top.
#[tokio::test]
async fn bounded_goes_over_by_no_more_than_each_region_may() {
    let cluster = dev("consistency = \"bounded\"\noverdraft = \"10%\"").start().await;
    // Nobody hears anybody: all spend what they have, and their overdraft.
    for region in REGIONS {
        cluster.cut_off(region).await;
    }
    let crowd = Crowd::gather(cluster.nodes());
    let mut sum = ask_far_beyond(&all(&cluster)).await;
    cluster.heal().await;
    cluster.connected().await;
    sum += ask_far_beyond(&all(&cluster)).await + crowd.leaves().await;
    let most = QUANTITY + QUANTITY / 10 / 3 * 3;
    assert!((QUANTITY..=most).contains(&sum), "{sum} of at most {most}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eventual_is_off_by_little_at_three_times_its_load() {
    const PER_SECOND: u64 = 100;
    let text = policies(PER_SECOND, "1s", r#"consistency = "eventual""#);
    let cluster = Dev::new(&REGIONS, &text).with(&["--wan", "typical"]).start().await;
    let per_second = 3.0 * PER_SECOND as f64;
    let flow = Flow { route: "/".into(), api_key: "k".into(), per_second };
    let load = Labels::start(cluster.nodes(), &[flow], 1);
    eventually(Duration::from_secs(30), "thirteen windows are asked in", async || {
        let windows = load.windows();
        ensure(windows >= 13, || format!("{windows} were"))
    })
    .await;
    let books = load.stop().await;
    assert_eq!((books.errors, books.unsent), (0, 0), "{:?}", books.first_error);
    let found = books.accuracy(2);
    // A machine that does a lot else delays what regions tell each other.
    assert!(found.windows >= 8 && found.over.0 <= 8.0 && found.under.0 <= 8.0, "{found:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn what_would_break_the_promise_is_refused_at_load() {
    let open =
        policies(QUANTITY, LONG, STRICT).replace("key =", "on_store_failure = \"open\"\nkey =");
    let site = Site::new(&open);
    let place = site.place("eu", "eu-0");
    let (code, log) = site.refused(&place, &site.config_alone(&place, "")).await;
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("on_store_failure") && log.contains("strict"), "{log}");

    let site = Site::new(&policies(QUANTITY, LONG, STRICT));
    let place = site.place("eu", "eu-0");
    let (code, log) = site.refused(&place, &site.config(&place, &[])).await;
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("cluster.regions"), "{log}");
}
