//! Bad input of people and programs: told with place and remedy, by the exit code or status that says so.

use hyper::Method;
use serde_json::{Value, json};
use tidegate_tests::{binary, site::Site};

const POLICIES: &str = r#"
[[policy]]
name = "all"
key = ["api_key"]
[[policy.limit]]
name = "quota"
quantity = 5
window = "400d"
"#;

/// Five mistakes, on the lines 4, 5, 8, 9 and 10.
const FIVE_MISTAKES: &str = r#"
[[policy]]
name = "public-api"
key = "api_key"
on_store_failure = "shrug"
[[policy.limit]]
name = "hourly"
quantity = 0
window = "1 fortnight"
scope = "galaxy"
"#;
const LINES: [u32; 5] = [4, 5, 8, 9, 10];

#[tokio::test]
async fn every_mistake_in_a_policy_file_is_told_at_once() {
    let site = Site::new(FIVE_MISTAKES);
    let file = site.home().join("policies.toml");
    let told = |text: &str| {
        LINES.map(|line| text.matches(&format!("{}:{line}: ", file.display())).count())
    };
    let output = binary::run(["policy", "check", &file.display().to_string()]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert_eq!((told(&text), text.lines().count()), ([1; 5], 5), "{text}");
    assert!(
        text.contains(r#":9: policy "public-api", limit "hourly", field "window": "#),
        "{text}"
    );

    let place = site.place("eu", "eu-0");
    let (code, log) = site.refused(&place, &site.config_alone(&place, "")).await;
    assert_eq!(code, Some(2), "{log}");
    assert_eq!(told(&log), [1; 5], "{log}");

    let sound = site.write("sound.toml", POLICIES);
    let output = binary::run(["policy", "check", &sound.display().to_string()]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0));
}

#[tokio::test]
async fn what_later_versions_bring_is_refused_by_name() {
    let site = Site::new(POLICIES);
    let limit = "scope = \"global\"\nconsistency = \"plain\"\n";
    for (more, named) in [
        (&format!("{limit}algorithm = \"concurrency\"\n"), "concurrency"),
        (&format!("{limit}algorithm = \"sliding-window\"\n"), "sliding-window"),
        (&format!("{limit}[policy.tier.premium]\nquantity.quota = 9\n"), "tier"),
        (&format!("{limit}[[policy.override]]\nquantity.quota = 9\n"), "override"),
    ] {
        let file = site.write("later.toml", &format!("{POLICIES}{more}"));
        let output = binary::run(["policy", "check", &file.display().to_string()]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(2), "{more}: {text}");
        assert!(text.contains(named) && text.contains("not built yet"), "{more}: {text}");
    }
    let zone = "month\"\ntime_zone = \"Europe/Zürich";
    let calendar = site.write("zone.toml", &POLICIES.replace("400d", zone));
    let output = binary::run(["policy", "check", &calendar.display().to_string()]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("did you mean \"Europe/Zurich\"?"), "{text}");
}

#[tokio::test]
async fn a_contradictory_configuration_is_exit_2_and_names_the_fields() {
    let site = Site::new(POLICIES);
    let place = site.place("eu", "eu-0");
    let good = site.config(&place, &[]);
    let admin = format!("admin = \"127.0.0.1:{}\"", place.admin);
    let same = format!("admin = \"127.0.0.1:{}\"", place.http);
    for (from, to, named) in [
        (&*admin, &*same, &["listen.admin", "listen.http"][..]),
        ("[store]", "grpc = \"127.0.0.1:8081\"\n[store]", &["listen.grpc", "not built yet"]),
        (
            "kind = \"memory\"",
            "kind = \"memory\"\ntimeout = \"30ms\"",
            &["store.timeout", "memory"],
        ),
        ("kind = \"memory\"", "kind = \"redis\"", &["store.url", "is missing"]),
        ("region = \"eu\"\n", "", &["region", "a cluster needs it"]),
        ("secret_file = \"secret\"\n", "", &["cluster.secret_file"]),
        ("secret_file = \"secret\"", "secret_file = \"no-such\"", &["cluster.secret_file"]),
        ("[listen]", "colour = \"blue\"\n[listen]", &["colour"]),
        ("ca = \"ca/ca.pem\"", "ca = \"secret\"", &["cluster.ca"]),
        ("policies.toml", "no-such.toml", &["no-such.toml"]),
    ] {
        assert!(good.contains(from), "{from}");
        let (code, log) = site.refused(&place, &good.replacen(from, to, 1)).await;
        assert_eq!(code, Some(2), "{to}: {log}");
        assert!(named.iter().all(|name| log.contains(name)), "{to}: {log}");
    }
    // Two at once are both told.
    let two =
        good.replace("kind = \"memory\"", "kind = \"paper\"").replace("region = \"eu\"\n", "");
    let (code, log) = site.refused(&place, &two).await;
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("store.kind") && log.contains("region"), "{log}");
}

#[tokio::test]
async fn malformed_and_oversized_requests_charge_nothing() {
    let site = Site::new(POLICIES);
    let place = site.place("eu", "eu-0");
    let served = site.serve_ready(&place, &site.config_alone(&place, "")).await;
    let node = &served.node;
    let many: Value = (0..33).map(|n| (format!("a{n}"), json!("v"))).collect();
    let attributes = |attributes: Value| json!({ "attributes": attributes }).to_string();
    let batch = |checks: Value| json!({ "checks": checks }).to_string();
    let k = || json!({ "attributes": { "api_key": "k" } });
    let bad_third = [k(), k(), k(), json!({ "attributes": { "api_key": "k" }, "cost": 0 })];
    for (path, body, status, field) in [
        ("/v1/check", String::new(), 400, "body"),
        ("/v1/check", "{".into(), 400, "body"),
        ("/v1/check", "[]".into(), 400, "body"),
        ("/v1/check", "\u{0}\u{1}\u{2}".into(), 400, "body"),
        ("/v1/check", "[".repeat(16_000), 400, "body"),
        ("/v1/check", "{}".into(), 400, "attributes"),
        ("/v1/check", attributes(json!({ "api_key": 7 })), 400, "attributes.api_key"),
        ("/v1/check", attributes(json!({ "api_key": "v".repeat(513) })), 400, "attributes.api_key"),
        ("/v1/check", attributes(json!({ "n".repeat(65): "v" })), 400, "attributes"),
        ("/v1/check", attributes(many), 400, "attributes"),
        ("/v1/check", r#"{"attributes":{"api_key":"k"},"cost":0}"#.into(), 400, "cost"),
        ("/v1/check", r#"{"attributes":{"api_key":"k"},"cost":1000001}"#.into(), 400, "cost"),
        ("/v1/check", r#"{"attributes":{"api_key":"k"},"cost":-1}"#.into(), 400, "cost"),
        ("/v1/check", r#"{"attributes":{"api_key":"k"},"colour":1}"#.into(), 400, "colour"),
        ("/v1/check", " ".repeat(16 * 1024 + 1), 413, ""),
        ("/v1/check/batch", batch(json!([])), 400, "checks"),
        ("/v1/check/batch", batch(vec![k(); 1_001].into()), 400, "checks"),
        ("/v1/check/batch", batch(bad_third.to_vec().into()), 400, "checks[3].cost"),
        ("/v1/check/batch", " ".repeat(1024 * 1024 + 1), 413, ""),
        ("/v1/reserve", k().to_string(), 400, "ttl_ms"),
        ("/v1/settle", r#"{"reservation":"x","actual":1}"#.into(), 404, ""),
        ("/v1/refund", k().to_string(), 400, "label"),
        ("/v1/nothing", String::new(), 404, ""),
    ] {
        let start: String = body.chars().take(80).collect();
        let answer = node.ask(Method::POST, path, &[], body).await;
        let problem = answer.json();
        assert_eq!(answer.status, status, "{path} {start}: {problem}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(problem["status"], status, "{problem}");
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
        if !field.is_empty() {
            let told = problem["errors"][0]["field"].as_str().unwrap_or_default();
            assert!(told.starts_with(field), "{path} {start}: {field} in {problem}");
        }
    }
    let answer = node.ask(Method::DELETE, "/v1/check", &[], "").await;
    assert_eq!(answer.status, 405, "{}", answer.text());
    for query in ["api_key=k&api_key=l", "api_key=k&cost=x", "api_key=%ff"] {
        let answer = node.ask(Method::GET, &format!("/check?{query}"), &[], "").await;
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
    }
    let key = [("idempotency-key", "")];
    let answer = node.ask(Method::POST, "/v1/check", &key, k().to_string()).await;
    assert_eq!(answer.status, 400, "{}", answer.text());

    assert_eq!(node.used(&[("api_key", "k")]).await.unwrap(), 0);
    assert!(!served.process.log().contains("panicked"));
    served.stop().await;
}

#[tokio::test]
async fn check_says_by_its_exit_code_how_it_went() {
    let site = Site::new(POLICIES);
    let place = site.place("eu", "eu-0");
    let served = site.serve_ready(&place, &site.config_alone(&place, "")).await;
    let url = format!("http://{}", served.node.http);
    let check = |url: &str, rest: &[&str]| binary::run([&["check", "--url", url], rest].concat());

    let allowed = check(&url, &["--cost", "5", "api_key=k"]);
    assert_eq!(allowed.status.code(), Some(0));
    let text = String::from_utf8(allowed.stdout).unwrap();
    assert_eq!(text.lines().count(), 1);
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&answer["allowed"], &answer["remaining"]), (&json!(true), &json!(0)));

    let refused = check(&url, &["api_key=k"]);
    assert_eq!(refused.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!((&answer["allowed"], &answer["reason"]), (&json!(false), &json!("limit")));

    for wrong in [&["novalue"][..], &["--cost", "0", "api_key=k"], &["--frobnicate"]] {
        let output = check(&url, wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
    // The node, not the command line, says no: an attribute that is too long.
    let long = format!("api_key={}", "v".repeat(513));
    assert_eq!(check(&url, &[&long]).status.code(), Some(2));

    served.stop().await;
    let gone = check(&url, &["api_key=k"]);
    assert_eq!(gone.status.code(), Some(3));
    assert!(gone.stdout.is_empty() && !gone.stderr.is_empty());
}
