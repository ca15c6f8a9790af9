//! Limits of days, weeks and months of a time zone, on real nodes: windows are as long as the calendar says, by values
//! that are reckoned here in another way; and a day ends where a midnight does not exist.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tidegate_tests::{
    dev::{agree_on, connected},
    ensure, eventually,
    node::Node,
    site::Site,
    skewed_redis::SkewedRedis,
};
use time::{Date, Month, OffsetDateTime, Weekday};

const SOON: Duration = Duration::from_secs(20);
const KEY: [(&str, &str); 1] = [("api_key", "k")];
const DAY: i64 = 86_400;

const REGIONAL: &str = r#"
[[policy]]
name = "api"
key = ["api_key"]
[[policy.limit]]
name = "day"
quantity = 100
window = "day"
time_zone = "Europe/Zurich"
[[policy.limit]]
name = "week"
quantity = 200
window = "week"
time_zone = "Asia/Kathmandu"
[[policy.limit]]
name = "month"
quantity = 300
window = "month"
time_zone = "Europe/Zurich"
[[policy.limit]]
name = "universal"
quantity = 400
window = "month"
"#;

/// A window, as it is reckoned here: its number, and when it begins and ends, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Expected {
    number: i64,
    begins: i64,
    ends: i64,
}

/// What clocks of Zurich are ahead of UTC at an instant, by the rule of the European Union: in summer, which is from the
/// last Sunday of March to that of October, 1:00 in UTC.
fn zurich_ahead(at: i64) -> i64 {
    let year = date_of(at).year();
    let last_sunday = |month: Month| {
        let mut day = Date::from_calendar_date(year, month, 31).expect("both have 31");
        while day.weekday() != Weekday::Sunday {
            day = day.previous_day().expect("in range");
        }
        seconds_of(day) + 3_600
    };
    let summer = last_sunday(Month::March)..last_sunday(Month::October);
    if summer.contains(&at) { 7_200 } else { 3_600 }
}

/// The date in UTC at an instant.
fn date_of(at: i64) -> Date {
    OffsetDateTime::from_unix_timestamp(at).expect("in range").date()
}

/// When a date begins in UTC.
fn seconds_of(date: Date) -> i64 {
    date.midnight().assume_utc().unix_timestamp()
}

/// The window that `now` is in, of units that begin with the dates `first` and `next`, where local clocks are `ahead`.
fn window(number: i64, (first, next): (Date, Date), ahead: impl Fn(i64) -> i64) -> Expected {
    // No clock is changed within some hours of these midnights.
    let local = |date: Date| seconds_of(date) - ahead(seconds_of(date));
    Expected { number, begins: local(first), ends: local(next) }
}

fn expected(limit: &str, now: i64) -> Expected {
    let month_of = |date: Date, ahead: fn(i64) -> i64| {
        let first = date.replace_day(1).expect("there is a first");
        let next = (first + time::Duration::days(31)).replace_day(1).expect("there is a first");
        let number = i64::from(first.year() - 1970) * 12 + i64::from(u8::from(first.month())) - 1;
        window(number, (first, next), ahead)
    };
    match limit {
        "day" => {
            let today = date_of(now + zurich_ahead(now));
            let number = seconds_of(today) / DAY;
            window(number, (today, today.next_day().expect("in range")), zurich_ahead)
        }
        "week" => {
            let ahead = |_| 5 * 3_600 + 45 * 60;
            let today = date_of(now + ahead(now));
            let monday =
                today - time::Duration::days(today.weekday().number_days_from_monday().into());
            // 1970 began with a Thursday.
            let number = (seconds_of(monday) / DAY + 3) / 7;
            window(number, (monday, monday + time::Duration::WEEK), ahead)
        }
        "month" => month_of(date_of(now + zurich_ahead(now)), zurich_ahead),
        _ => month_of(date_of(now), |_| 0),
    }
}

#[expect(clippy::disallowed_methods, reason = "what is reckoned here goes by the machine's clock")]
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_millis()).expect("a few")
}

/// Whether an answer's word of a limit is what is expected of it, asked between two instants in ms.
fn assert_is(limit: &Value, name: &str, from: i64, to: i64) {
    let Expected { number, begins, ends } = expected(name, from / 1_000);
    let number_of =
        |field: &str| limit[field].as_i64().unwrap_or_else(|| panic!("{field}: {limit}"));
    assert_eq!(number_of("label"), number, "{limit}");
    assert_eq!(number_of("window_ms"), (ends - begins) * 1_000, "{limit}");
    let (reset, left) = (number_of("reset_after_ms"), |at: i64| ends * 1_000 - at);
    // Cluster time follows the machine's clock, to some milliseconds.
    assert!((left(to) - 1_000..=left(from) + 1_000).contains(&reset), "{reset} of {limit}");
}

#[tokio::test]
async fn windows_are_as_long_as_the_calendar_says() {
    let site = Site::new(REGIONAL);
    let place = site.place("eu", "eu-0");
    let served = site.serve_ready(&place, &site.config_alone(&place, "kind = \"memory\"")).await;
    let names = ["day", "week", "month", "universal"];
    let all = |at: i64| names.map(|name| expected(name, at / 1_000));
    loop {
        let from = now();
        let answer = served.node.check_raw(&KEY, 3).await;
        let usages = served.node.usages(&KEY).await.expect("there are some");
        let to = now();
        // Unless a window ended meanwhile.
        if all(from - 1_000) != all(to + 1_000) {
            continue;
        }
        let body = answer.json();
        for (at, name) in names.into_iter().enumerate() {
            let limit = &body["limits"][at];
            assert_eq!((&limit["name"], &limit["used"]), (&name.into(), &3.into()), "{limit}");
            assert_is(limit, name, from, to);
            assert_is(&usages[at], name, from, to);
        }
        let quantities = [100, 200, 300, 400];
        let policies: Vec<_> = names
            .into_iter()
            .zip(quantities)
            .zip(all(from))
            .map(|((name, q), e)| format!("\"{name}\";q={q};w={}", e.ends - e.begins))
            .collect();
        assert_eq!(answer.header("ratelimit-policy"), Some(&*policies.join(", ")));
        let state = answer.header("ratelimit").expect("it is told").to_owned();
        let resets = state.split("t=").skip(1).map(|text| {
            let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<i64>().expect("a number")
        });
        let resets: Vec<_> = resets.collect();
        assert_eq!(resets.len(), names.len(), "{state}");
        for (reset, expected) in resets.into_iter().zip(all(from)) {
            assert!((reset - (expected.ends - from / 1_000)).abs() <= 2, "{state}");
        }
        break;
    }
    served.stop().await;
}

const OVER_MIDNIGHT: &str = r#"
[[policy]]
name = "exact"
match = { route = "/exact" }
key = ["api_key"]
[[policy.limit]]
name = "day"
quantity = 200
window = "day"
time_zone = "Asia/Beirut"
scope = "global"
consistency = "strict"
[[policy]]
name = "about"
match = { route = "/about" }
key = ["api_key"]
[[policy.limit]]
name = "day"
quantity = 10
window = "day"
time_zone = "Asia/Beirut"
scope = "global"
consistency = "plain"
"#;

const ABOUT: [(&str, &str); 2] = [("api_key", "k"), ("route", "/about")];
const EXACT: [(&str, &str); 2] = [("api_key", "k"), ("route", "/exact")];

/// 2027-03-27T22:00:00Z: in Beirut 24:00 of the 27th and 1:00 of the 28th.
const CHANGE: i64 = 1_806_184_800;
/// 2027-03-27, in days since 1970.
const LAST_DAY: u64 = 20_904;

/// The label that a check falls into, how long its window is and how long it lasts, in ms.
async fn day_at(node: &Node) -> (u64, u64, u64) {
    let check = node.check_raw(&ABOUT, 1).await.json();
    let limit = &check["limits"][0];
    let of = |field: &str| limit[field].as_u64().unwrap_or_else(|| panic!("{limit}"));
    (of("label"), of("window_ms"), of("reset_after_ms"))
}

#[tokio::test]
async fn a_day_ends_everywhere_where_a_midnight_does_not_exist() {
    let site = Site::new(OVER_MIDNIGHT);
    let (mut stores, mut nodes) = (Vec::new(), Vec::new());
    let places = ["eu", "us"].map(|region| site.place(region, &format!("{region}-0")));
    for _ in &places {
        stores.push(SkewedRedis::start().await.expect("redis-server"));
    }
    // Cluster time follows the stores' clocks, which are as right as each other: nothing is spent by rights otherwise.
    let ahead = CHANGE - 40 - stores[0].true_time().await;
    for store in &stores {
        store.set_ahead(ahead).await;
    }
    // Then the first stores know all that there was, and what is spent by rights is open at once.
    let founded = (CHANGE - 37) * 1_000;
    for (place, store) in places.iter().zip(&stores) {
        let seeds: Vec<_> = places.iter().filter(|other| other.region != place.region).collect();
        let store = format!("kind = \"redis\"\nurl = \"{}\"\nfence = \"1s\"", store.url());
        let config = site.config_with(place, &seeds, &store);
        let regions = "[cluster.regions]\neu = 1\nus = 1\n";
        nodes.push(site.serve(place, &format!("{config}founded = {founded}\n{regions}")));
    }
    let of = |at: usize| &nodes[at].node;
    for served in &nodes {
        served.node.ready(SOON).await;
    }
    connected(nodes.iter().map(|served| &served.node), SOON).await;

    // The last seconds of a day of 24 hours.
    assert_eq!(of(0).spend(&ABOUT, 5).await, 5);
    agree_on(nodes.iter().map(|served| &served.node), &ABOUT, &[("eu", 5), ("us", 0)], SOON).await;
    assert_eq!(of(1).spend(&ABOUT, 5).await, 5);
    let (label, window, left) = day_at(of(1)).await;
    assert_eq!((label, window), (LAST_DAY, 86_400_000));
    assert!(left < 40_000, "{left}");
    assert!(!of(1).check(&ABOUT, 1).await.allowed, "ten are used");
    assert_eq!(of(0).spend(&EXACT, 10).await, 10);

    // It begins with 1:00, and has 23 hours, for both.
    for node in [of(0), of(1)] {
        eventually(3 * SOON, "the next day", async || {
            let (label, window, left) = day_at(node).await;
            ensure(label == LAST_DAY + 1, || format!("{label}"))?;
            assert_eq!(window, 82_800_000);
            assert!((82_700_000..=82_800_000).contains(&left), "{left}");
            Ok(())
        })
        .await;
    }
    let answer = of(0).check_raw(&ABOUT, 1).await;
    assert_eq!(answer.header("ratelimit-policy"), Some("\"day\";q=10;w=82800"));

    // Rights to the new day are spent to the last, most of them where nobody had them to begin with, and no more.
    let mut admitted = of(1).spend(&EXACT, 20).await;
    eventually(SOON, "all is granted and spent", async || {
        admitted += of(0).spend(&EXACT, 5).await;
        ensure(admitted >= 200, || format!("{admitted}"))
    })
    .await;
    assert_eq!(admitted + of(0).spend(&EXACT, 5).await + of(1).spend(&EXACT, 5).await, 200);
    let usage = of(0).usage(&EXACT).await.expect("there is one");
    assert_eq!(
        (&usage["label"], &usage["window_ms"]),
        (&(LAST_DAY + 1).into(), &82_800_000.into())
    );
}
