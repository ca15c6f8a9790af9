//! Requests that are not as the contract says: each is told what is wrong, and nothing is charged.

use proptest::prelude::*;

use super::*;

/// Sends a body that must be refused; yields status and fields.
async fn refused_post(uri: &str, body: impl Into<Body>) -> (u16, Vec<String>) {
    let (limiter, front) = Fake::deciding(admitted()).into_front();
    let problem = post(&front, uri, body).await.problem();
    assert_eq!(*limiter.asked.lock(), [], "nothing is charged");
    problem
}

async fn refused_get(uri: &str) -> (u16, Vec<String>) {
    let (limiter, front) = Fake::deciding(admitted()).into_front();
    let problem = get(&front, uri).await.problem();
    assert_eq!(*limiter.asked.lock(), [], "nothing is charged");
    problem
}

/// The status of a HEAD request that must charge nothing.
async fn head_of(uri: &str) -> u16 {
    let (limiter, front) = Fake::deciding(admitted()).into_front();
    let reply = send(front, Request::head(uri).body(Body::empty()).unwrap()).await;
    assert_eq!(*limiter.asked.lock(), [], "nothing is charged");
    reply.status.as_u16()
}

fn fields(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// So many attributes, `a0` and on.
fn attributes(count: usize) -> String {
    let pairs: Vec<_> = (0..count).map(|i| format!(r#""a{i}":"v""#)).collect();
    format!("{{{}}}", pairs.join(","))
}

#[tokio::test]
async fn what_is_no_json_or_no_check_is_refused() {
    for (body, field) in [
        ("", "body"),
        ("{", "body"),
        ("nonsense", "body"),
        ("[]", "body"),
        ("7", "body"),
        ("null", "body"),
        (r#"{"attributes":{}} more"#, "body"),
        (r#"{"attributes":{},}"#, "body"),
        (r#"{"attributes":{},"cost":1e400}"#, "body"),
        ("{\"attributes\":{\"a\":\"\u{1}\"}}", "body"),
        (r#"{"attributes":{"a":"\ud800"}}"#, "body"),
        ("{}", "attributes"),
        (r#"{"cost":1}"#, "attributes"),
        (r#"{"attributes":null}"#, "attributes"),
        (r#"{"attributes":[]}"#, "attributes"),
        (r#"{"attributes":"a"}"#, "attributes"),
        (r#"{"attributes":{},"attributes":{}}"#, "attributes"),
        (r#"{"attributes":{},"cost":1,"cost":1}"#, "cost"),
        (r#"{"attributes":{},"ttl_ms":5}"#, "ttl_ms"),
        (r#"{"attributes":{},"reservation":{"a":[1,{}]}}"#, "reservation"),
    ] {
        assert_eq!(refused_post("/v1/check", body).await, (400, fields(&[field])), "{body}");
    }
    let bytes = &b"{\"attributes\":{\"a\":\"\xff\"}}"[..];
    assert_eq!(refused_post("/v1/check", bytes).await, (400, fields(&["body"])));
    let deep = "[".repeat(10_000);
    assert_eq!(refused_post("/v1/check", deep).await, (400, fields(&["body"])));
    let deep = format!(r#"{{"attributes":{{"a":{}"#, "[".repeat(10_000));
    assert_eq!(refused_post("/v1/check", deep).await, (400, fields(&["body"])));
}

#[tokio::test]
async fn a_cost_is_a_whole_number_from_one_to_a_million() {
    for cost in ["0", "-1", "1000001", "1.0", "1.5", "1e3", r#""1""#, "null", "true", "[1]", "{}"] {
        let body = format!(r#"{{"attributes":{{}},"cost":{cost}}}"#);
        assert_eq!(refused_post("/v1/check", body).await, (400, fields(&["cost"])), "{cost}");
    }
    let huge = r#"{"attributes":{},"cost":18446744073709551616}"#;
    assert_eq!(refused_post("/v1/check", huge).await, (400, fields(&["cost"])));
    for cost in ["0", "-1", "+1", "1000001", "1.5", "x", "", "99999999999999999999", "1&cost=1"] {
        let uri = format!("/check?api_key=k&cost={cost}");
        assert_eq!(refused_get(&uri).await, (400, fields(&["cost"])), "{cost}");
    }
}

#[tokio::test]
async fn attributes_have_bounds() {
    let (limiter, front) = Fake::deciding(admitted()).into_front();
    let most = format!(r#"{{"attributes":{}}}"#, attributes(32));
    assert_eq!(post(&front, "/v1/check", most).await.status, 200);
    let (name, value) = ("n".repeat(64), "v".repeat(512));
    let longest = format!(r#"{{"attributes":{{"{name}":"{value}"}}}}"#);
    assert_eq!(post(&front, "/v1/check", longest).await.status, 200);
    assert_eq!(get(&front, &format!("/check?{name}={value}")).await.status, 200);
    assert_eq!(limiter.asked.lock().len(), 3);

    let body = format!(r#"{{"attributes":{}}}"#, attributes(33));
    assert_eq!(refused_post("/v1/check", body).await, (400, fields(&["attributes"])));
    let long_value = format!(r#"{{"attributes":{{"a":"{value}v"}}}}"#);
    assert_eq!(refused_post("/v1/check", long_value).await, (400, fields(&["attributes.a"])));
    let long_name = format!(r#"{{"attributes":{{"{name}n":"v"}}}}"#);
    let cut = format!("attributes.{name}");
    assert_eq!(refused_post("/v1/check", long_name).await, (400, fields(&[&cut])));
    let in_bytes = format!(r#"{{"attributes":{{"a":"{}"}}}}"#, "ü".repeat(257));
    assert_eq!(refused_post("/v1/check", in_bytes).await, (400, fields(&["attributes.a"])));

    let many: String = (0..33).map(|i| format!("a{i}=v&")).collect();
    assert_eq!(refused_get(&format!("/check?{many}")).await, (400, fields(&["attributes"])));
    assert_eq!(refused_get(&format!("/check?a={value}v")).await, (400, fields(&["a"])));
    assert_eq!(refused_get(&format!("/check?{name}n=v")).await, (400, fields(&[&name])));
}

#[tokio::test]
async fn several_mistakes_are_told_at_once() {
    let body = r#"{"attributes":{"":"x","a":5,"b":"1","b":"2","c":null},"cost":0,"foo":1}"#;
    let all = ["attributes.", "attributes.a", "attributes.b", "attributes.c", "cost", "foo"];
    assert_eq!(refused_post("/v1/check", body).await, (400, fields(&all)));
    let (_, front) = Fake::deciding(admitted()).into_front();
    let problem = post(&front, "/v1/check", body).await.json();
    assert_eq!(problem["errors"][1]["message"], "expected a string, found 5");
    assert_eq!(problem["title"], "Bad Request");
    assert_eq!(problem["type"], "about:blank");

    let unknown: Vec<_> = (0..100).map(|i| format!(r#""x{i}":1"#)).collect();
    let (status, listed) = refused_post("/v1/check", format!("{{{}}}", unknown.join(","))).await;
    assert_eq!((status, listed.len()), (400, 32), "the list has an end");
}

#[tokio::test]
async fn an_attribute_stands_once() {
    let escaped = r#"{"attributes":{"api_key":"a","api\u005fkey":"b"}}"#;
    assert_eq!(refused_post("/v1/check", escaped).await, (400, fields(&["attributes.api_key"])));
    assert_eq!(refused_get("/check?api_key=a&api_key=a").await, (400, fields(&["api_key"])));
    assert_eq!(refused_get("/check?user=a&user_id=a").await, (400, fields(&["user"])));
    assert_eq!(refused_get("/check?tenant_id=a&ten%61nt=a").await, (400, fields(&["tenant"])));
}

#[tokio::test]
async fn a_query_is_text() {
    assert_eq!(refused_get("/check?api_key=%ff").await, (400, fields(&["api_key"])));
    assert_eq!(refused_get("/check?%c3=1").await, (400, fields(&["%c3"])));
    assert_eq!(refused_get("/check?=v").await, (400, fields(&[""])));
}

#[tokio::test]
async fn bodies_have_bounds() {
    let padded = |bytes: usize| {
        let body = r#"{"attributes":{}}"#;
        format!("{body}{}", " ".repeat(bytes - body.len()))
    };
    let (_, front) = Fake::deciding(admitted()).into_front();
    assert_eq!(post(&front, "/v1/check", padded(16 << 10)).await.status, 200);
    assert_eq!(refused_post("/v1/check", padded((16 << 10) + 1)).await, (413, vec![]));
    let huge = vec![b' '; 20 << 20];
    assert_eq!(refused_post("/v1/check", huge).await, (413, vec![]));

    let batch = |bytes: usize| {
        let body = r#"{"checks":[{"attributes":{}}]}"#;
        format!("{body}{}", " ".repeat(bytes - body.len()))
    };
    assert_eq!(post(&front, "/v1/check/batch", batch(1 << 20)).await.status, 200);
    assert_eq!(refused_post("/v1/check/batch", batch((1 << 20) + 1)).await, (413, vec![]));
}

#[tokio::test]
async fn one_malformed_check_spoils_its_batch_and_is_named() {
    let good = r#"{"attributes":{"api_key":"k"},"cost":1}"#;
    for (bad, field) in [
        (r#"{"attributes":{},"cost":0}"#, "checks[3].cost"),
        (r#"{"attributes":{"a":1}}"#, "checks[3].attributes.a"),
        (r#"{"attributes":5}"#, "checks[3].attributes"),
        (r#"{"cost":1}"#, "checks[3].attributes"),
        (r#"{"attributes":{},"x":1}"#, "checks[3].x"),
        (r#"{"attributes":{"crowded":"yes"}}"#, "checks[3].attributes"),
        ("5", "checks[3]"),
        ("null", "checks[3]"),
        ("{", "body"),
    ] {
        let body = format!(r#"{{"checks":[{good},{good},{good},{bad},{good}]}}"#);
        let expected = (400, fields(&[field]));
        assert_eq!(refused_post("/v1/check/batch", body).await, expected, "{bad}");
    }
    for (body, field) in [
        ("{}".to_owned(), "checks"),
        (r#"{"checks":[]}"#.to_owned(), "checks"),
        (r#"{"checks":{}}"#.to_owned(), "checks"),
        (format!(r#"{{"checks":[{good}],"checks":[{good}]}}"#), "checks"),
        (format!(r#"{{"checks":[{good}],"cost":1}}"#), "cost"),
        (format!(r#"{{"checks":[{}]}}"#, vec!["{}"; 1001].join(",")), "checks[0].attributes"),
        (format!(r#"{{"checks":[{}]}}"#, vec![r#"{"attributes":{}}"#; 1001].join(",")), "checks"),
        ("[]".to_owned(), "body"),
    ] {
        let (status, listed) = refused_post("/v1/check/batch", body).await;
        assert_eq!((status, &*listed[0]), (400, field));
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    assert_eq!(refused_get("/").await, (404, vec![]));
    assert_eq!(refused_get("/v1/checks").await, (404, vec![]));
    assert_eq!(refused_post("/check", "{}").await, (405, vec![]));
    assert_eq!(head_of("/check?api_key=k").await, 405, "a HEAD would charge and tell nothing");
    assert_eq!(refused_get("/v1/check/batch").await, (405, vec![]));
    assert_eq!(refused_post("/v1/usage", "").await, (405, vec![]));
    let (_, front) = Fake::deciding(admitted()).into_front();
    assert_eq!(get(&front, "/v1/check").await.header("allow"), Some("POST"));
}

/// Something near JSON: parts of checks, strung together.
fn nearly_json() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just("{".to_owned()),
        Just("}".to_owned()),
        Just("[".to_owned()),
        Just("]".to_owned()),
        Just(",".to_owned()),
        Just(":".to_owned()),
        Just("\"attributes\":".to_owned()),
        Just("\"attributes\":{\"a\":\"b\"}".to_owned()),
        Just("\"cost\":".to_owned()),
        Just("\"checks\":[".to_owned()),
        Just("null".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| n.to_string()),
        any::<String>().prop_map(|s| serde_json::to_string(&s).unwrap()),
    ];
    proptest::collection::vec(part, 0..24).prop_map(|parts| parts.concat().into_bytes())
}

proptest! {
    #[test]
    fn no_bytes_are_the_servers_fault(
        body in prop_oneof![proptest::collection::vec(any::<u8>(), 0..512), nearly_json()],
        query in "[!-~]{0,64}",
        batch in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (_, front) = Fake::deciding(admitted()).into_front();
            let uri = if batch { "/v1/check/batch" } else { "/v1/check" };
            let reply = post(&front, uri, body).await;
            assert!(reply.status == 200 || reply.problem().0 == 400, "{}", reply.body);
            if let Ok(request) = Request::get(format!("/check?{query}")).body(Body::empty()) {
                let reply = send(front, request).await;
                assert!(reply.status == 200 || reply.problem().0 == 400, "{}", reply.body);
            }
        });
    }
}
