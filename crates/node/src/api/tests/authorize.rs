//! `/v1/authorize`: attributes from headers and path.

use super::*;

/// Asks from `peer`; yields the reply and the attributes that the limiter saw.
async fn authorize(
    decision: Decision,
    peer: &str,
    request: axum::http::request::Builder,
) -> (Reply, Vec<(String, String)>) {
    let (limiter, front) = Fake::deciding(decision).into_front();
    let front = front.for_peer(peer.parse().unwrap());
    let reply = send(front, request.body(Body::from("ignored, {whatever")).unwrap()).await;
    let asked = limiter.asked.lock().pop().map(|(attributes, cost)| {
        assert_eq!(cost, 1);
        attributes
    });
    (reply, asked.unwrap_or_default())
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

#[tokio::test]
async fn attributes_come_from_headers_and_path() {
    let request = Request::put("/v1/authorize/api/orders?page=2")
        .header("X-API-Key", "k")
        .header("X-User-ID", "u")
        .header("X-Tenant-ID", "t")
        .header("X-Original-URI", "/not/this")
        .header("X-Forwarded-For", "198.51.100.7")
        .header("Idempotency-Key", "of the original request");
    let (reply, asked) = authorize(admitted(), "127.0.0.1", request).await;
    assert_eq!(reply.status, 200);
    assert!(reply.headers.contains_key("ratelimit"));
    assert_eq!(reply.json()["policy"], "public-api");
    let expected = [
        ("api_key", "k"),
        ("user", "u"),
        ("tenant", "t"),
        ("route", "/api/orders"),
        ("method", "PUT"),
        ("ip", "198.51.100.7"),
    ];
    assert_eq!(asked, pairs(&expected));
}

#[tokio::test]
async fn another_spelling_of_a_path_is_the_same_route() {
    let in_path = Request::get("/v1/authorize/%61pi/orders");
    let in_header = Request::get("/v1/authorize").header("X-Original-URI", "/ap%69/orders?x=%61");
    for request in [in_path, in_header] {
        let (_, asked) = authorize(admitted(), "192.0.2.1", request).await;
        assert_eq!(asked[0], ("route".to_owned(), "/api/orders".to_owned()));
    }
}

#[tokio::test]
async fn without_a_path_the_gateways_headers_say_what_was_asked() {
    let ask = |uri: &str| Request::get(uri.to_owned());
    let peer = "192.0.2.1";
    let ip = ("ip", peer);

    let (_, asked) = authorize(admitted(), peer, ask("/v1/authorize")).await;
    assert_eq!(asked, pairs(&[("method", "GET"), ip]));

    let nginx = ask("/v1/authorize")
        .header("X-Original-URI", "/a/b?c=d")
        .header("X-Forwarded-Uri", "/not/this")
        .header("X-Original-Method", "POST")
        .header("X-Forwarded-Method", "PATCH")
        .header("X-Forwarded-For", "203.0.113.9")
        .header("X-API-Key", "");
    let (_, asked) = authorize(admitted(), peer, nginx).await;
    assert_eq!(asked, pairs(&[("route", "/a/b"), ("method", "POST"), ip]), "an untrusted peer");

    let traefik = ask("/v1/authorize")
        .header("X-Forwarded-Uri", "/e?f")
        .header("X-Forwarded-Method", "PATCH");
    let (_, asked) = authorize(admitted(), peer, traefik).await;
    assert_eq!(asked, pairs(&[("route", "/e"), ("method", "PATCH"), ip]));

    let (_, asked) = authorize(admitted(), peer, ask("/v1/authorize/")).await;
    assert_eq!(asked, pairs(&[("route", "/"), ("method", "GET"), ip]));

    let (_, asked) = authorize(admitted(), "::ffff:192.0.2.1", ask("/v1/authorize/%2Fx//y/")).await;
    assert_eq!(asked, pairs(&[("route", "/%2Fx//y/"), ("method", "GET"), ip]), "as it was sent");
}

#[tokio::test]
async fn every_method_is_taken() {
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE"] {
        let request = Request::builder().method(method).uri("/v1/authorize/x");
        let (reply, asked) = authorize(unmatched(), "192.0.2.1", request).await;
        assert_eq!(reply.status, 200, "{method}");
        assert_eq!(asked[1], ("method".to_owned(), method.to_owned()));
    }
}

#[tokio::test]
async fn a_refusal_may_have_another_status() {
    let ask = |query: &str| Request::get(format!("/v1/authorize/x?{query}"));
    let (reply, _) = authorize(refused(), "192.0.2.1", ask("")).await;
    assert_eq!(reply.status, 429);
    let (reply, _) = authorize(refused(), "192.0.2.1", ask("a=b&deny_status=403")).await;
    assert_eq!(reply.status, 403);
    assert_eq!(reply.header("retry-after"), Some("123"));
    assert_eq!(reply.json()["reason"], "limit");
    let (reply, _) = authorize(admitted(), "192.0.2.1", ask("deny_status=403")).await;
    assert_eq!(reply.status, 200);
    for bad in ["200", "500", "abc", "", "4030"] {
        let query = format!("deny_status={bad}");
        let (reply, asked) = authorize(admitted(), "192.0.2.1", ask(&query)).await;
        assert_eq!(reply.problem(), (400, vec!["deny_status".into()]), "{bad}");
        assert_eq!(asked, [], "nothing is charged");
    }
}

#[tokio::test]
async fn what_does_not_fit_an_attribute_is_named() {
    let long = "k".repeat(513);
    let request = Request::get("/v1/authorize/x")
        .header("X-API-Key", long)
        .header("X-User-ID", axum::http::HeaderValue::from_bytes(b"\xff").unwrap());
    let (reply, asked) = authorize(admitted(), "192.0.2.1", request).await;
    assert_eq!(reply.problem(), (400, vec!["X-User-ID".into(), "api_key".into()]));
    assert_eq!(asked, []);
}
