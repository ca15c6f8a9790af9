//! What gateways and operators rely on: answers, headers, metrics and reports, as the contract has them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::Method;
use serde_json::{Value, json};
use tidegate_tests::{
    binary,
    dev::Dev,
    ensure, eventually,
    node::Node,
    site::{Served, Site},
};

const SOON: Duration = Duration::from_secs(10);

const POLICIES: &str = r#"
[[policy]]
name = "public-api"
match = { route = "/api/**" }
key = ["api_key", "user", "ip"]
[[policy.limit]]
name = "burst"
quantity = 10
window = "300d"
[[policy.limit]]
name = "long"
quantity = 40
window = "400d"
scope = "global"
consistency = "plain"

[[policy]]
name = "tenant"
match = { tenant = "*" }
key = ["tenant"]
[[policy.limit]]
name = "small"
quantity = 3
window = "400d"

[[policy]]
name = "trial"
match = { route = "/trial" }
key = []
shadow = true
[[policy.limit]]
name = "tiny"
quantity = 1
window = "400d"
"#;

/// The fields of an answer to a check, and of one limit in it; none may be missing, none be more.
const ANSWER: [&str; 14] = [
    "allowed",
    "policy",
    "limit",
    "quantity",
    "cost",
    "remaining",
    "reset_after_ms",
    "retry_after_ms",
    "reason",
    "shadow",
    "degraded",
    "consistency",
    "staleness_ms",
    "limits",
];
const LIMIT: [&str; 14] = [
    "policy",
    "name",
    "quantity",
    "window_ms",
    "label",
    "algorithm",
    "scope",
    "consistency",
    "allowed",
    "used",
    "remaining",
    "reset_after_ms",
    "retry_after_ms",
    "staleness_ms",
];

/// One node on its own, in a site that must outlive it.
async fn alone() -> (Site, Served) {
    let site = Site::new(POLICIES);
    let place = site.place("eu", "eu-0");
    let served = site.serve_ready(&place, &site.config_alone(&place, "")).await;
    (site, served)
}

fn has_exactly(object: &Value, fields: &[&str]) {
    let mut found: Vec<_> = object.as_object().expect("an object").keys().collect();
    let mut wanted: Vec<_> = fields.to_vec();
    found.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(found, wanted);
}

#[tokio::test]
async fn an_answer_has_every_field_and_header_of_the_contract() {
    let (_site, served) = alone().await;
    let caller = [("api_key", "k"), ("route", "/api/orders")];
    let answer = served.node.check_raw(&caller, 3).await;
    let body = answer.json();
    assert_eq!(answer.status, 200, "{body}");
    has_exactly(&body, &ANSWER);
    for limit in body["limits"].as_array().unwrap() {
        has_exactly(limit, &LIMIT);
        assert_eq!((&limit["used"], &limit["algorithm"]), (&json!(3), &json!("fixed-window")));
    }
    // 7 of 10 are less than 37 of 40.
    assert_eq!((&body["limit"], &body["remaining"]), (&json!("burst"), &json!(7)));
    assert_eq!(
        (&body["consistency"], &body["limits"][1]["consistency"]),
        (&json!(null), &json!("plain"))
    );
    let resets =
        |limit: usize| body["limits"][limit]["reset_after_ms"].as_u64().unwrap().div_ceil(1000);
    let header =
        |name| answer.header(name).unwrap_or_else(|| panic!("{name}: {:?}", answer.headers));
    assert_eq!(header("ratelimit-policy"), r#""burst";q=10;w=25920000, "long";q=40;w=34560000"#);
    let (burst, long) = (resets(0), resets(1));
    assert_eq!(header("ratelimit"), format!(r#""burst";r=7;t={burst}, "long";r=37;t={long}"#));
    assert_eq!((header("x-ratelimit-limit"), header("x-ratelimit-remaining")), ("10", "7"));
    #[expect(clippy::disallowed_methods, reason = "the header is a time of day")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let reset: u64 = header("x-ratelimit-reset").parse().unwrap();
    assert!(reset.abs_diff(now + burst) <= 2, "{reset} is not {now} + {burst}");
    assert_eq!(answer.header("retry-after"), None);
    assert!(!header("x-request-id").is_empty());

    // Eight are more than what is left.
    let refused = served.node.check_raw(&caller, 8).await;
    let body = refused.json();
    assert_eq!(refused.status, 429, "{body}");
    has_exactly(&body, &ANSWER);
    assert_eq!((&body["allowed"], &body["reason"]), (&json!(false), &json!("limit")));
    let wait = body["retry_after_ms"].as_u64().unwrap().div_ceil(1000).to_string();
    assert_eq!(refused.header("retry-after"), Some(&*wait));
    // More than the whole limit: to wait is of no use.
    let hopeless = served.node.check_raw(&caller, 11).await;
    assert_eq!(hopeless.json()["reason"], "cost_exceeds_limit");
    assert_eq!(hopeless.header("retry-after"), None);

    // No policy: it passes, and there is nothing to say in headers.
    let unmatched = served.node.check_raw(&[("route", "/other")], 1).await;
    let body = unmatched.json();
    assert_eq!(
        (unmatched.status, &body["policy"], &body["limits"]),
        (200, &json!(null), &json!([]))
    );
    has_exactly(&body, &ANSWER);
    for name in ["ratelimit", "ratelimit-policy", "x-ratelimit-limit"] {
        assert_eq!(unmatched.header(name), None);
    }
    served.stop().await;
}

#[tokio::test]
async fn a_request_id_is_taken_or_made() {
    let (_site, served) = alone().await;
    let ask = async |headers: &[(&str, &str)]| {
        let answer = served.node.ask(Method::GET, "/check?api_key=k", headers, "").await;
        answer.header("x-request-id").expect("every answer has one").to_owned()
    };
    assert_eq!(ask(&[("x-request-id", "abc-1")]).await, "abc-1");
    let (one, other) = (ask(&[]).await, ask(&[]).await);
    assert!(!one.is_empty() && one != other, "{one} {other}");
    served.stop().await;
}

#[tokio::test]
async fn all_limits_of_all_policies_are_charged_or_none() {
    let (_site, served) = alone().await;
    let node = &served.node;
    let both = [("api_key", "k"), ("tenant", "acme"), ("route", "/api/x")];
    let check = node.check(&both, 3).await;
    let names: Vec<_> = check.limits.iter().map(|limit| limit.name.as_str()).collect();
    assert_eq!((check.allowed, names), (true, vec!["burst", "long", "small"]));
    // The tenant has nothing left: the others are not charged either.
    let check = node.check(&both, 1).await;
    assert_eq!((check.allowed, check.policy.as_deref()), (false, Some("tenant")));
    let passes: Vec<_> = check.limits.iter().map(|limit| (limit.allowed, limit.used)).collect();
    assert_eq!(passes, [(true, 3), (true, 3), (false, 3)]);
    let alone = [("api_key", "k"), ("route", "/api/x")];
    let used: Vec<_> =
        node.usages(&alone).await.unwrap().iter().map(|limit| limit["used"].clone()).collect();
    assert_eq!(used, [3, 3]);
    // A user of the same name is another caller.
    let user = node.check(&[("user", "k"), ("route", "/api/x")], 1).await;
    assert_eq!(user.limits[0].used, 1);
    served.stop().await;
}

#[tokio::test]
async fn a_shadow_policy_decides_and_counts_but_admits() {
    let (_site, served) = alone().await;
    let route = [("route", "/trial")];
    assert!(!served.node.check(&route, 1).await.shadow);
    let second = served.node.check(&route, 1).await;
    assert!(second.allowed && second.shadow && !second.limits[0].allowed, "{second:?}");
    let series =
        r#"rate_limit_requests_total{policy="trial",limit="tiny",tier="",result="shadow_refused"}"#;
    assert_eq!(served.node.metric(series).await.unwrap(), 1.0);
    served.stop().await;
}

#[tokio::test]
async fn a_batch_is_answered_in_order_and_a_query_like_a_body() {
    let (_site, served) = alone().await;
    let node = &served.node;
    let check = |key: &str, cost: u64| json!({ "attributes": { "api_key": key, "route": "/api/x" }, "cost": cost });
    let checks = json!([check("a", 10), check("b", 4), check("a", 1), { "attributes": {} }]);
    let answer = node.batch(&checks).await;
    let results = answer.json()["results"].as_array().cloned().unwrap();
    assert_eq!(answer.status, 200);
    results.iter().for_each(|result| has_exactly(result, &ANSWER));
    let passes: Vec<_> = results.iter().map(|result| result["allowed"].clone()).collect();
    assert_eq!(passes, [true, true, false, true]);
    assert_eq!((&results[1]["remaining"], &results[3]["policy"]), (&json!(6), &json!(null)));

    let query = "/check?user_id=u&tenant_id=t&route=/api/x&cost=2";
    let answer = node.ask(Method::GET, query, &[], "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    has_exactly(&answer.json(), &ANSWER);
    assert!(answer.header("ratelimit").is_some());
    assert_eq!(node.used(&[("tenant", "t")]).await.unwrap(), 2);
    assert_eq!(node.used(&[("user", "u"), ("route", "/api/x")]).await.unwrap(), 2);
    served.stop().await;
}

#[tokio::test]
async fn a_gateway_asks_with_the_headers_of_the_request() {
    let (_site, served) = alone().await;
    let node = &served.node;
    let authorize = async |method: Method, path: &str, headers: &[(&str, &str)]| {
        node.ask(method, &format!("/v1/authorize{path}"), headers, "ignored").await
    };
    let key = ("x-api-key", "k");
    let answer = authorize(Method::PUT, "/api/orders", &[key]).await;
    assert_eq!((answer.status, &answer.json()["policy"]), (200, &json!("public-api")));
    let original = ("x-original-uri", "/api/orders?page=2");
    assert_eq!(authorize(Method::GET, "", &[key, original]).await.json()["remaining"], 8);
    assert_eq!(node.used(&[("api_key", "k"), ("route", "/api/x")]).await.unwrap(), 2);
    // The tenant's third passes, its fourth not, as the gateway can understand it.
    let tenant = ("x-tenant-id", "acme");
    for _ in 0..3 {
        assert_eq!(authorize(Method::GET, "/other", &[tenant]).await.status, 200);
    }
    assert_eq!(authorize(Method::GET, "/other", &[tenant]).await.status, 429);
    let denied = authorize(Method::GET, "/other?deny_status=403", &[tenant]).await;
    assert_eq!((denied.status, &denied.json()["allowed"]), (403, &json!(false)));
    // Without a name, the peer's address is the caller.
    authorize(Method::GET, "/api/x", &[]).await;
    assert_eq!(node.used(&[("ip", "127.0.0.1"), ("route", "/api/x")]).await.unwrap(), 1);
    served.stop().await;
}

/// The metrics that have a meaning in this version, on a node with peers.
const METRICS: [&str; 25] = [
    "rate_limit_requests_total{",
    "rate_limit_exceeded_total{",
    "rate_limit_check_seconds_bucket{",
    "rate_limit_check_seconds_count",
    "rate_limit_store_seconds_bucket{",
    "tidegate_unmatched_total",
    "tidegate_joint_checks_total",
    "tidegate_peer_connected{",
    "tidegate_peer_staleness_seconds{",
    "tidegate_peer_frames_total{",
    "tidegate_peer_bytes_total{",
    "tidegate_peer_changes_total{",
    "tidegate_frames_dropped_total{",
    "tidegate_peer_refused_total{",
    "tidegate_clock_offset_seconds{",
    "tidegate_policy_info{",
    "tidegate_keys",
    "tidegate_memory_bytes",
    "tidegate_table_bytes",
    "tidegate_allocated_bytes",
    "tidegate_resident_bytes",
    r#"result="allowed""#,
    r#"result="refused""#,
    r#"direction="sent""#,
    r#"direction="received""#,
];

#[tokio::test]
async fn operators_see_the_cluster_metrics_and_faults() {
    let cluster = Dev::new(&["eu", "us"], POLICIES).start().await;
    let eu: &Node = cluster.node("eu-0");
    let caller = [("api_key", "a-secret-key"), ("route", "/api/x")];
    assert_eq!(eu.spend(&caller, 11).await, 10);
    eu.check(&[], 1).await;
    eventually(SOON, "all metrics are there", async || {
        let text = eu.metrics().await?;
        let missing: Vec<_> = METRICS.iter().filter(|name| !text.contains(**name)).collect();
        ensure(missing.is_empty(), || format!("{missing:?} in\n{text}"))
    })
    .await;
    let text = eu.metrics().await.unwrap();
    assert!(!text.contains("a-secret-key"), "a label holds a caller's identity");
    let series = r#"rate_limit_exceeded_total{policy="public-api",limit="burst"}"#;
    assert_eq!(eu.metric(series).await.unwrap(), 1.0);

    // The policies of another node are known once it has said so.
    let view = eventually(SOON, "the nodes know that their policies agree", async || {
        let view = eu.cluster().await?;
        let theirs = &view["regions"][0]["nodes"][0]["policy_hash"];
        ensure(*theirs == view["policy_hash"], || view.to_string())?;
        Ok(view)
    })
    .await;
    has_exactly(&view, &["region", "node", "boot", "version", "policy_hash", "agree", "regions"]);
    let us = &view["regions"][0];
    has_exactly(us, &["region", "state", "staleness_ms", "rtt_ms", "clock_offset_ms", "nodes"]);
    has_exactly(&us["nodes"][0], &["node", "address", "state", "policy_hash"]);
    assert_eq!((&view["agree"], &us["region"]), (&json!(true), &json!("us")));
    let (status, ready) = eu.readyz().await.unwrap();
    let expected = json!({
        "ready": true, "store": "ok", "sync": "done", "peers": { "us": "connected" }, "reasons": []
    });
    assert_eq!((status, ready), (200, expected));

    let faults = async |method: Method, body: Value| {
        let answer = eu.ask_admin(method, "/v1/faults", body.to_string()).await.unwrap();
        (answer.status, answer.json())
    };
    let put = json!({ "to": "us", "delay_ms": 5, "jitter_ms": 1, "loss": 0.01 });
    let (status, table) = faults(Method::PUT, put).await;
    let expected =
        json!({ "to": "us", "cut": false, "delay_ms": 5.0, "jitter_ms": 1.0, "loss": 0.01 });
    assert_eq!((status, &table["faults"][0]), (200, &expected));
    assert_eq!(faults(Method::GET, Value::Null).await, (200, table));
    assert_eq!(faults(Method::PUT, json!({ "to": "mars", "cut": true })).await.0, 404);
    assert_eq!(faults(Method::PUT, json!({ "to": "us", "colour": 1 })).await.0, 400);
    let (status, table) = faults(Method::DELETE, Value::Null).await;
    assert_eq!((status, &table["faults"][0]["delay_ms"]), (200, &json!(0.0)));
    cluster.stop().await;
}

#[tokio::test]
async fn faults_are_there_only_where_they_were_asked_for() {
    let site = Site::new(POLICIES);
    let place = site.place("eu", "eu-0");
    let served = site.serve_plain(&place, &site.config_alone(&place, ""));
    served.node.ready(SOON).await;
    let answer = served.node.ask_admin(Method::GET, "/v1/faults", "").await.unwrap();
    assert_eq!(answer.status, 404, "{}", answer.text());
    served.stop().await;
}

#[tokio::test]
async fn bench_reports_what_it_saw_as_json() {
    let (_site, served) = alone().await;
    let url = format!("http://{}", served.node.http);
    let load = ["--rate", "100", "--duration", "500ms", "--attribute", "route=/api/x", "--json"];
    let arguments: Vec<_> =
        ["bench", "--url", &url].into_iter().chain(load).map(String::from).collect();
    // The node is a process of its own, so that this may block the test's thread.
    let output = binary::run(arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!((output.status.code(), text.lines().count()), (Some(0), 1), "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    has_exactly(
        &report,
        &["offered", "sent", "allowed", "refused", "errors", "duration_s", "latency_us"],
    );
    has_exactly(&report["latency_us"], &["p50", "p90", "p99", "p999", "max"]);
    assert_eq!((&report["offered"], &report["errors"]), (&json!(50), &json!(0)), "{report}");
    // They name no caller, and count as one: the limit of 10 holds for all of them.
    assert_eq!((&report["allowed"], &report["refused"]), (&json!(10), &json!(40)), "{report}");
    served.stop().await;
}
