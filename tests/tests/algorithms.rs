//! Limits by every algorithm, on real nodes: who waits as told passes, and many nodes and clients on one Redis are
//! held to the limit, no more and no less.

use std::time::Duration;

use tidegate_tests::{
    child,
    dev::Dev,
    ensure, eventually,
    node::Node,
    site::{Served, Site},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

const ALGORITHMS: [&str; 5] =
    ["fixed-window", "sliding-window", "sliding-log", "token-bucket", "leaky-bucket"];
/// The policies: one for each algorithm, a shaper, and a window of the calendar.
const ROUTES: [&str; 7] = [
    "fixed-window",
    "sliding-window",
    "sliding-log",
    "token-bucket",
    "leaky-bucket",
    "shaper",
    "calendar",
];
const QUANTITY: u64 = 40;
/// Of a day, so that a test uses it up.
const OF_CALENDAR: u64 = 10 * QUANTITY;
const WINDOW: Duration = Duration::from_secs(2);

/// A policy for each route.
fn policies(more: &str) -> String {
    let policy = |route: &str| {
        let (algorithm, quantity, window, more) = match route {
            "shaper" => ("leaky-bucket", QUANTITY, "2s", "shaper = true\n"),
            "calendar" => ("fixed-window", OF_CALENDAR, "day", ""),
            bucket if bucket.ends_with("bucket") => (bucket, QUANTITY, "2s", more),
            other => (other, QUANTITY, "2s", ""),
        };
        format!(
            "[[policy]]\nname = \"{route}\"\nmatch = {{ route = \"/{route}\" }}\nkey = [\"api_key\"]\n\
             on_store_failure = \"closed\"\n[[policy.limit]]\nname = \"limit\"\nquantity = {quantity}\n\
             window = \"{window}\"\nalgorithm = \"{algorithm}\"\n{more}"
        )
    };
    ROUTES.map(policy).concat()
}

fn route(name: &str) -> [(&'static str, String); 2] {
    [("api_key", "k".into()), ("route", format!("/{name}"))]
}

async fn alone() -> (Site, Served) {
    let site = Site::new(&policies("burst = 5\n"));
    let place = site.place("eu", "eu-0");
    let served = site.serve_ready(&place, &site.config_alone(&place, "kind = \"memory\"")).await;
    (site, served)
}

#[tokio::test]
async fn who_waits_as_told_passes() {
    let (_site, served) = alone().await;
    for algorithm in ALGORITHMS {
        let attributes = route(algorithm);
        let attributes = attributes.each_ref().map(|(name, value)| (*name, &**value));
        let most = if algorithm.ends_with("bucket") { 5 } else { QUANTITY };
        let whole = served.node.check(&attributes, most).await;
        assert!(whole.allowed, "{algorithm}: {whole:?}");
        assert_eq!(whole.remaining, Some(0), "{algorithm}");
        assert_eq!(whole.limits[0].algorithm, algorithm);
        let beyond = served.node.check(&attributes, most + 1).await;
        let reason = beyond.reason.as_deref();
        assert_eq!(
            (beyond.retry_after_ms, reason),
            (None, Some("cost_exceeds_limit")),
            "{algorithm}"
        );
        let refused = served.node.check(&attributes, 3).await;
        assert_eq!(
            (refused.allowed, refused.reason.as_deref()),
            (false, Some("limit")),
            "{algorithm}"
        );
        // Who is in no hurry passes at the first attempt.
        let wait = Duration::from_millis(refused.retry_after_ms.expect("it may pass later"));
        assert!(wait <= 2 * WINDOW, "{algorithm}: {wait:?}");
        sleep(wait).await;
        let after = served.node.check(&attributes, 3).await;
        assert!(after.allowed, "{algorithm}: {refused:?}, then {after:?}");
    }
}

#[tokio::test]
async fn a_bucket_tells_what_is_there_and_comes_back() {
    let (_site, served) = alone().await;
    let attributes = [("api_key", "k"), ("route", "/token-bucket")];
    let answer = served.node.check_raw(&attributes, 2).await;
    let header = |name: &str| answer.header(name).unwrap_or_default().to_owned();
    assert_eq!(header("ratelimit-policy"), "\"limit\";q=40;w=2");
    assert_eq!(header("ratelimit"), "\"limit\";r=3;t=1");
    assert_eq!(
        (header("x-ratelimit-limit"), header("x-ratelimit-remaining")),
        ("40".into(), "3".into())
    );
    let usage = served.node.usage(&attributes).await.expect("there is one");
    assert_eq!(usage["algorithm"], "token-bucket");
    // Twenty a second come back.
    eventually(Duration::from_secs(2), "it is full again", async || {
        let usage = served.node.usage(&attributes).await?;
        ensure(usage["remaining"] == 5 && usage["used"] == 0, || format!("{usage}"))
    })
    .await;
}

#[tokio::test]
async fn a_shaper_tells_whom_it_admits_to_wait_for_the_others() {
    let shaper = "[[policy]]\nname = \"s\"\nkey = [\"api_key\"]\n[[policy.limit]]\nname = \"l\"\n\
                  quantity = 2\nwindow = \"1s\"\nalgorithm = \"leaky-bucket\"\nburst = 4\nshaper = true\n";
    let site = Site::new(shaper);
    let place = site.place("eu", "eu-0");
    let served = site.serve_ready(&place, &site.config_alone(&place, "kind = \"memory\"")).await;
    let attributes = [("api_key", "k")];
    let begun = Instant::now();
    let mut delays = Vec::new();
    for _ in 0..4 {
        let check = served.node.check(&attributes, 1).await;
        assert!(check.allowed, "{check:?}");
        delays.push(Duration::from_millis(check.delay_ms.expect("it shapes")));
        assert_eq!(check.limits[0].delay_ms, check.delay_ms);
    }
    // Half a second apart, less what has passed since.
    let passed = begun.elapsed() + Duration::from_millis(1);
    for (n, delay) in (0_u32..).zip(&delays) {
        let due = Duration::from_millis(500) * n;
        assert!(*delay <= due && *delay + passed >= due, "{n}: {delays:?} after {passed:?}");
    }
    let refused = served.node.check(&attributes, 1).await;
    assert_eq!((refused.allowed, refused.delay_ms), (false, None));
    assert!(refused.retry_after_ms.is_some_and(|wait| wait <= 500), "{refused:?}");
    let raw = served.node.check_raw(&attributes, 1).await.json();
    assert!(
        raw["delay_ms"].is_null() && raw.as_object().is_some_and(|o| o.contains_key("delay_ms"))
    );
}

/// An admission, as its client saw it.
#[derive(Debug, Clone, Copy)]
struct Admitted {
    sent: Instant,
    answered: Instant,
    label: u64,
    /// How long it has to wait before it goes on.
    delay: Duration,
}

/// What came of the requests of one route.
#[derive(Debug, Default)]
struct Books {
    admitted: Vec<Admitted>,
    /// Nobody knows what became of them.
    lost: u64,
    /// When the first was sent, and the last.
    asked: Option<(Instant, Instant)>,
}

const CLIENTS: usize = 64;
/// What delays in milliseconds may be off by, at both ends of a stretch.
const ROUNDED: Duration = Duration::from_millis(2);
const LOAD: Duration = Duration::from_secs(12);

/// Asks one route's limit at all nodes in turn, three times as often as it allows together with the others.
async fn ask(nodes: Vec<Node>, name: &'static str, client: usize) -> Books {
    let attributes = route(name);
    let attributes = attributes.each_ref().map(|(name, value)| (*name, &**value));
    let clients = CLIENTS.div_ceil(ROUTES.len()) as u32;
    let pause = WINDOW * clients / (3 * QUANTITY as u32);
    let mut books = Books::default();
    let until = Instant::now() + LOAD;
    for node in nodes.iter().cycle().skip(client) {
        let sent = Instant::now();
        if sent >= until {
            break;
        }
        let first = books.asked.map_or(sent, |(first, _)| first);
        books.asked = Some((first, sent));
        match node.try_check(&attributes).await {
            Ok(check) if check.allowed => {
                let label = check.limits[0].label;
                let delay = Duration::from_millis(check.delay_ms.unwrap_or_default());
                books.admitted.push(Admitted { sent, answered: Instant::now(), label, delay });
            }
            Ok(_) => {}
            Err(_) => books.lost += 1,
        }
        sleep(pause.saturating_sub(sent.elapsed())).await;
    }
    books
}

impl Books {
    fn add(&mut self, mut more: Self) {
        self.admitted.append(&mut more.admitted);
        self.lost += more.lost;
        self.asked = match (self.asked, more.asked) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        };
    }

    /// The most that surely went on within any stretch of a length: it was sent and answered in it, both with the
    /// delay it was told.
    fn most_within(&self, length: Duration) -> usize {
        let starts = self.admitted.iter().map(|one| one.sent + one.delay);
        let within = |start: Instant| {
            let inside = |one: &&Admitted| {
                one.sent + one.delay >= start && one.answered + one.delay <= start + length
            };
            self.admitted.iter().filter(inside).count()
        };
        starts.map(within).max().unwrap_or_default()
    }

    /// Admissions of each window, in order.
    fn by_label(&self) -> Vec<u64> {
        let mut labels = std::collections::BTreeMap::<u64, u64>::new();
        self.admitted.iter().for_each(|one| *labels.entry(one.label).or_default() += 1);
        labels.into_values().collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_nodes_and_many_clients_are_held_to_it_while_nodes_are_killed() {
    let mut cluster = Dev::new(&["eu"], &policies("")).redis(4).with(&["--restart"]).start().await;
    let nodes: Vec<Node> = cluster.nodes().cloned().collect();
    assert_eq!(nodes.len(), 4);
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (nodes, name) = (nodes.clone(), ROUTES[client % ROUTES.len()]);
        clients.spawn(async move { (name, ask(nodes, name, client).await) });
    }
    for victim in ["eu-1", "eu-3"] {
        sleep(LOAD / 4).await;
        child::kill(cluster.said_of(victim).pid);
        while cluster.next_ready().await.node != victim {}
    }
    let mut all = std::collections::BTreeMap::<&str, Books>::new();
    while let Some(ended) = clients.join_next().await {
        let (name, books) = ended.expect("no client panics");
        all.entry(name).or_default().add(books);
    }
    for (name, books) in &all {
        let count = books.admitted.len() as u64;
        let (first, last) = books.asked.expect("it was asked");
        let told = format!("{name}: {count} admitted, {} lost", books.lost);
        // A client that meets a dead node goes on to the next one.
        assert!(count > 4 * QUANTITY, "{told}");
        match *name {
            // No label is over, and none that was asked for from beginning to end is short of more than was lost.
            "fixed-window" | "sliding-window" => {
                let sums = books.by_label();
                let sums = &sums[1..sums.len() - 1];
                assert!(sums.iter().all(|sum| *sum <= QUANTITY), "{told}: {sums:?}");
                let short: u64 = sums.iter().map(|sum| QUANTITY - sum).sum();
                // The last units of a sliding window come free at its very end, when nobody may ask.
                let late = QUANTITY / 8 * sums.len() as u64;
                let rounded = if *name == "fixed-window" { 0 } else { late };
                assert!(short <= books.lost + rounded, "{told}: {sums:?}");
            }
            // The day may end meanwhile.
            "calendar" => {
                let sums = books.by_label();
                assert!(sums.iter().all(|sum| *sum <= OF_CALENDAR), "{told}: {sums:?}");
                assert!(count + books.lost >= OF_CALENDAR, "{told}");
            }
            "sliding-log" => {
                let most = books.most_within(WINDOW) as u64;
                assert!(most <= QUANTITY, "{told}: {most} within a window");
                let windows = (last - first).as_secs_f64() / WINDOW.as_secs_f64();
                let least = (windows.floor() * QUANTITY as f64) as u64;
                assert!(count + books.lost + 2 * windows as u64 >= least, "{told} of {least}");
            }
            _ => {
                let seconds = |length: Duration| length.as_secs_f64();
                let most = |length: Duration| {
                    (QUANTITY as f64 * (1.0 + seconds(length) / seconds(WINDOW))) as u64
                };
                // What a shaper lets go on is one after the other, but for the rounding of delays.
                let evenly = |length: Duration| {
                    1 + ((length + ROUNDED).as_nanos() / (WINDOW / QUANTITY as u32).as_nanos())
                        as u64
                };
                for length in [WINDOW / 20, WINDOW / 4, WINDOW, 3 * WINDOW] {
                    let found = books.most_within(length) as u64;
                    let most = if *name == "shaper" { evenly(length) } else { most(length) };
                    assert!(found <= most, "{told}: {found} of {most} within {length:?}");
                }
                let least = most(last - first).saturating_sub(QUANTITY / 10);
                assert!(count + books.lost >= least, "{told} of {least}");
            }
        }
    }
    cluster.stop().await;
}
