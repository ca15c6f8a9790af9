//! Secrets and callers' identities are nowhere that operators look: logs at their most talkative, metrics,
//! the cluster's state, error texts.

use std::{fs, time::Duration};

use hyper::Method;
use serde_json::json;
use tidegate_tests::{dev, redis_server::RedisServer, site::Site};

const SOON: Duration = Duration::from_secs(20);
const POLICIES: &str = r#"
[[policy]]
name = "all"
match = { route = "/**" }
key = ["api_key", "user"]
[[policy.limit]]
name = "quota"
quantity = 3
window = "400d"
scope = "global"
consistency = "plain"
"#;
const CLUSTER_SECRET: &str = "8f14e45fceea167a5a36dedd4bea2543";
/// The same bytes, in the other ways of writing them.
const CLUSTER_SECRET_BASE64: &str = "jxTkX87qFnpaNt7dS+olQw";
const PASSWORD: &str = "correct-horse-battery";
const CALLERS: [&str; 4] =
    ["key-of-alice-71", "bob-the-user-72", "carol-the-tenant-73", "mallory 74"];

#[tokio::test]
async fn no_secret_and_no_caller_shows_anywhere() {
    let mut redis = RedisServer::start().await.expect("redis-server");
    let mut connection = redis.connection().await.expect("connected");
    let set = ["CONFIG", "SET", "requirepass", PASSWORD];
    let mut command = redis::Cmd::new();
    command.arg(&set[..]);
    command.exec_async(&mut connection).await.expect("a password is set");

    let site = Site::new(POLICIES);
    site.write("secret", CLUSTER_SECRET);
    let (eu_place, us_place) = (site.place("eu", "eu-0"), site.place("us", "us-0"));
    let store =
        format!("kind = \"redis\"\nurl = \"redis://:{PASSWORD}@127.0.0.1:{}/0\"", redis.port());
    let eu = site.serve_traced(&eu_place, &site.config_with(&eu_place, &[&us_place], &store));
    let us = site.serve_traced(&us_place, &site.config(&us_place, &[&eu_place]));
    dev::connected([&eu.node, &us.node], SOON).await;
    eu.node.ready(SOON).await;

    let mut shown = String::new();
    let [key, user, tenant, mallory] = CALLERS;
    for node in [&eu.node, &us.node] {
        for _ in 0..5 {
            let attributes = [("api_key", key), ("route", "/x"), ("tenant", tenant)];
            assert!([200, 429].contains(&node.check_raw(&attributes, 1).await.status));
            let path = format!("/check?user_id={user}&route=/x");
            assert!([200, 429].contains(&node.ask(Method::GET, &path, &[], "").await.status));
            let headers = [("x-api-key", key), ("x-user-id", user), ("x-tenant-id", tenant)];
            let answer = node.ask(Method::GET, "/v1/authorize/x", &headers, "").await;
            assert!([200, 429].contains(&answer.status));
            let check = json!({ "attributes": { "api_key": mallory, "route": "/y" }, "cost": 1 });
            assert_eq!(node.batch(&json!([check])).await.status, 200);
        }
        // Mistakes of all kinds, about values that are nobody's business.
        let body = json!({ "attributes": { "api_key": key, "user": 7 }, "cost": -1 }).to_string();
        for (path, body) in [
            ("/v1/check", body.as_str()),
            ("/v1/check", &format!("{{\"attributes\":{{\"user\":\"{user}\"")),
            ("/v1/check/batch", &format!("[{user:?}]")),
        ] {
            let answer = node.ask(Method::POST, path, &[], body.to_owned()).await;
            assert_eq!(answer.status, 400, "{}", answer.text());
            shown += &answer.text();
        }
        let path = format!("/check?user={user}&user_id={user}&tenant={tenant}%ff");
        let answer = node.ask(Method::GET, &path, &[], "").await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        shown += &answer.text();
    }

    // A store that goes away has much to say.
    redis.kill().expect("killed");
    let usage =
        eu.node.ask(Method::GET, &format!("/v1/usage?api_key={key}&route=/x"), &[], "").await;
    assert_eq!(usage.status, 503, "{}", usage.text());
    shown += &usage.text();
    let _degraded = eu.node.check_raw(&[("api_key", key), ("route", "/x")], 1).await;

    for served in [&eu, &us] {
        for path in ["/metrics", "/v1/cluster", "/readyz", "/v1/faults"] {
            shown += &served.node.ask_admin(Method::GET, path, "").await.unwrap().text();
        }
        let log = served.process.log();
        assert!(
            log.contains("TRACE") && log.contains("tidegate"),
            "the log is at its most talkative"
        );
        shown += &log;
    }
    let keys = [&eu_place, &us_place].map(|place| {
        let key = fs::read_to_string(place.certificate.join("node.key")).expect("it is there");
        key.lines().filter(|line| !line.starts_with("-----")).collect::<Vec<_>>().join("\n")
    });
    let mut secrets: Vec<&str> = vec![CLUSTER_SECRET, CLUSTER_SECRET_BASE64, PASSWORD, "mallory"];
    secrets.extend(CALLERS);
    secrets.extend(keys.iter().flat_map(|key| key.lines()));
    let upper = CLUSTER_SECRET.to_uppercase();
    secrets.push(&upper);
    for secret in secrets {
        let line = shown.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} shows");
    }
    eu.stop().await;
    us.stop().await;
}
