//! One limit over all regions: what one spends, the others refuse.

use std::time::Duration;

use tidegate_tests::{
    dev::{Cluster, Dev},
    ensure, eventually,
};

/// How soon the regions must refuse what one of them has spent.
const NEWS: Duration = Duration::from_millis(500);

/// The example, with windows that no test outlasts.
fn example() -> String {
    let example = include_str!("../../config/policies.example.toml");
    let long = example.replace(r#"window = "1h""#, r#"window = "400d""#);
    assert_ne!(long, example, "the hourly limit is in the example");
    long.replace("quantity = 1_000", "quantity = 60")
}

/// Spends the whole hourly quota in `eu`, and sees it refused elsewhere.
async fn spent_in_one_refused_in_all(cluster: &Cluster) {
    let caller = [("api_key", "k"), ("route", "/api/orders")];
    let (eu, us, ap) = (cluster.node("eu-0"), cluster.node("us-0"), cluster.node("ap-0"));
    assert_eq!(eu.spend(&caller, 61).await, 60);

    eventually(NEWS, "what eu has spent is refused in us and ap", async || {
        for node in [us, ap] {
            let hourly = node.usage(&caller).await?;
            ensure(hourly["remaining"] == 0, || format!("{}: {hourly}", node.name))?;
        }
        Ok(())
    })
    .await;
    for node in [eu, us, ap] {
        let check = node.check(&caller, 1).await;
        assert!(!check.allowed, "{}: {check:?}", node.name);
        assert_eq!(check.limit.as_deref(), Some("hourly"));
        // Another caller has a quota of its own.
        assert!(node.check(&[("api_key", "other"), ("route", "/api/orders")], 1).await.allowed);
    }
}

#[tokio::test]
async fn what_one_region_has_spent_the_others_refuse() {
    let cluster = Dev::new(&["eu", "us", "ap"], &example()).start().await;
    spent_in_one_refused_in_all(&cluster).await;
    // They are on one machine, so their stores' clocks agree; and each has heard of the others'.
    for name in ["eu-0", "us-0", "ap-0"] {
        let node = cluster.node(name);
        let error = node.metric("tidegate_clock_error_seconds").await.expect("it was read");
        assert!(error.abs() < 0.1, "{name}: {error} s");
        assert_eq!(node.metric("tidegate_clock_alarm").await, Ok(0.0), "{name}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn as_far_apart_as_continents_too() {
    let cluster =
        Dev::new(&["eu", "us", "ap"], &example()).with(&["--wan", "typical"]).start().await;
    spent_in_one_refused_in_all(&cluster).await;
    cluster.stop().await;
}
