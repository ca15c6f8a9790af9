//! `POST /v1/check` and `GET /check`: fields, headers, ids.

use tidegate_core::check::Reason;

use super::*;

const ASK: &str = r#"{"attributes":{"api_key":"k","route":"/orders"},"cost":1}"#;

#[tokio::test]
async fn an_answer_has_exactly_the_fields_of_the_contract_in_their_order() {
    let (limiter, front) = Fake::deciding(admitted()).into_front();
    let reply = post(&front, "/v1/check", ASK).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let expected = concat!(
        r#"{"allowed":true,"policy":"public-api","limit":"hourly","quantity":5000,"cost":1,"#,
        r#""remaining":4187,"reset_after_ms":123000,"retry_after_ms":null,"reason":null,"#,
        r#""shadow":false,"degraded":false,"consistency":"plain","staleness_ms":140,"limits":["#,
        r#"{"policy":"public-api","name":"burst","quantity":10,"window_ms":1000,"label":480211,"#,
        r#""algorithm":"fixed-window","scope":"region","consistency":null,"allowed":true,"#,
        r#""used":1,"remaining":9,"reset_after_ms":400,"retry_after_ms":null,"staleness_ms":null},"#,
        r#"{"policy":"public-api","name":"hourly","quantity":5000,"window_ms":3600000,"#,
        r#""label":480211,"algorithm":"fixed-window","scope":"global","consistency":"plain","#,
        r#""allowed":true,"used":813,"remaining":4187,"reset_after_ms":123000,"#,
        r#""retry_after_ms":null,"staleness_ms":140}]}"#
    );
    assert_eq!(reply.body, expected);
    let attributes = vec![("api_key".into(), "k".into()), ("route".into(), "/orders".into())];
    assert_eq!(*limiter.asked.lock(), [(attributes, 1)]);
}

#[tokio::test]
async fn an_admission_has_the_rate_limit_headers() {
    let (_, front) = Fake::deciding(admitted()).into_front();
    let reply = post(&front, "/v1/check", ASK).await;
    let policy = r#""burst";q=10;w=1, "hourly";q=5000;w=3600"#;
    assert_eq!(reply.header("ratelimit-policy"), Some(policy));
    assert_eq!(reply.header("ratelimit"), Some(r#""burst";r=9;t=1, "hourly";r=4187;t=123"#));
    assert_eq!(reply.header("x-ratelimit-limit"), Some("5000"));
    assert_eq!(reply.header("x-ratelimit-remaining"), Some("4187"));
    assert_eq!(reply.header("x-ratelimit-reset"), Some("1700000124"), "rounded up");
    assert_eq!(reply.header("retry-after"), None);
}

#[tokio::test]
async fn reset_may_be_a_difference() {
    let front = service(api(Arc::new(Fake::deciding(admitted())), ResetStyle::Delta));
    assert_eq!(get(&front, "/check").await.header("x-ratelimit-reset"), Some("123"));
}

#[tokio::test]
async fn a_refusal_says_why_and_when_to_come_back() {
    let (_, front) = Fake::deciding(refused()).into_front();
    let reply = post(&front, "/v1/check", ASK).await;
    assert_eq!(reply.status, 429);
    assert_eq!(reply.header("retry-after"), Some("123"), "122.3 s, rounded up");
    assert_eq!(reply.header("ratelimit"), Some(r#""burst";r=9;t=1, "hourly";r=0;t=123"#));
    let answer = reply.json();
    assert_eq!(answer["allowed"], false);
    assert_eq!(answer["reason"], "limit");
    assert_eq!(answer["retry_after_ms"], 122_300);
    assert_eq!(answer["limits"][0]["allowed"], true);
    assert_eq!(answer["limits"][1]["allowed"], false);
    assert_eq!(answer["limits"][1]["retry_after_ms"], 122_300);
}

#[tokio::test]
async fn retry_after_is_at_least_a_second_and_absent_where_waiting_does_not_help() {
    let mut soon = refused();
    soon.limits[1].retry_after = Some(Span::micros(1));
    let (_, front) = Fake::deciding(soon).into_front();
    let reply = post(&front, "/v1/check", ASK).await;
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(reply.json()["retry_after_ms"], 1, "never told too early");

    let mut never = refused();
    never.reason = Some(Reason::CostExceedsLimit);
    never.limits[1].retry_after = None;
    let (_, front) = Fake::deciding(never).into_front();
    let reply = post(&front, "/v1/check", ASK).await;
    assert_eq!(reply.status, 429);
    assert_eq!(reply.header("retry-after"), None);
    assert!(reply.headers.contains_key("ratelimit"));
    let answer = reply.json();
    assert_eq!(answer["reason"], "cost_exceeds_limit");
    assert_eq!(answer["retry_after_ms"], Value::Null);
}

#[tokio::test]
async fn other_reasons_are_named() {
    for (reason, word) in
        [(Reason::StoreUnavailable, "store_unavailable"), (Reason::Overload, "overload")]
    {
        let mut decision = unmatched();
        (decision.allowed, decision.reason) = (false, Some(reason));
        let (_, front) = Fake::deciding(decision).into_front();
        let reply = post(&front, "/v1/check", ASK).await;
        assert_eq!(reply.status, 429);
        assert_eq!(reply.json()["reason"], word);
        assert_eq!(reply.header("retry-after"), Some("1"));
        assert_eq!(reply.header("ratelimit"), None);
    }
}

#[tokio::test]
async fn shadow_and_degraded_are_told() {
    let mut decision = refused();
    (decision.allowed, decision.shadow, decision.degraded) = (true, true, true);
    let (_, front) = Fake::deciding(decision).into_front();
    let reply = post(&front, "/v1/check", ASK).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("retry-after"), None);
    let answer = reply.json();
    assert_eq!((&answer["shadow"], &answer["degraded"]), (&true.into(), &true.into()));
}

#[tokio::test]
async fn without_a_policy_the_answer_is_yes_and_has_no_rate_limit_headers() {
    let (_, front) = Fake::deciding(unmatched()).into_front();
    let reply = post(&front, "/v1/check", r#"{"attributes":{},"cost":3}"#).await;
    assert_eq!(reply.status, 200);
    let expected = concat!(
        r#"{"allowed":true,"policy":null,"limit":null,"quantity":null,"cost":3,"#,
        r#""remaining":null,"reset_after_ms":null,"retry_after_ms":null,"reason":null,"#,
        r#""shadow":false,"degraded":false,"consistency":null,"staleness_ms":null,"limits":[]}"#
    );
    assert_eq!(reply.body, expected);
    let limits = |name: &&str| name.contains("ratelimit") || *name == "retry-after";
    assert_eq!(reply.headers.keys().map(|name| name.as_str()).find(limits), None);
}

#[tokio::test]
async fn header_values_are_structured_fields_whatever_the_names_and_sizes() {
    let odd = limit("so \"odd\" \\ ü", 1 << 53, Span::millis(250), Scope::Global);
    let long = limit("long", 5, Span::millis(1500), Scope::Region);
    let policy = policy("p", vec![odd, long]);
    let limits = vec![verdict(&policy, 0, 0, Span::ZERO), verdict(&policy, 1, 5, Span::micros(1))];
    let decision = Decision { binding: Some(0), limits, ..admitted() };
    let (_, front) = Fake::deciding(decision).into_front();
    let reply = get(&front, "/check").await;
    assert_eq!(
        reply.header("ratelimit-policy"),
        Some(r#""so \"odd\" \\ ?";q=999999999999999, "long";q=5;w=2"#)
    );
    assert_eq!(
        reply.header("ratelimit"),
        Some(r#""so \"odd\" \\ ?";r=999999999999999;t=0, "long";r=0;t=1"#)
    );
    assert_eq!(reply.header("x-ratelimit-limit"), Some("9007199254740992"));
    let answer = reply.json();
    assert_eq!(answer["limit"], "so \"odd\" \\ ü", "JSON holds every name as it is");
    assert_eq!(answer["limits"][0]["name"], answer["limit"]);
    assert_eq!(answer["quantity"], 1_u64 << 53);
}

#[tokio::test]
async fn a_cost_that_is_not_given_is_one() {
    let (limiter, front) = Fake::deciding(unmatched()).into_front();
    post(&front, "/v1/check", r#"{"attributes":{"api_key":"k"}}"#).await;
    get(&front, "/check?api_key=k").await;
    post(&front, "/v1/check", r#"{"cost":1000000,"attributes":{"api_key":"k"}}"#).await;
    let costs: Vec<u64> = limiter.asked.lock().iter().map(|(_, cost)| *cost).collect();
    assert_eq!(costs, [1, 1, 1_000_000]);
}

#[tokio::test]
async fn a_query_names_attributes() {
    let (limiter, front) = Fake::deciding(admitted()).into_front();
    let uri = "/check?api_key=a%2Bb+c&user_id=u&tenant_id=t&cost=7&ro%75te=/x%C3%BC&empty&=&";
    let reply = get(&front, &uri.replace("&=&", "")).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["cost"], 7);
    assert!(reply.headers.contains_key("ratelimit"));
    let expected =
        [("api_key", "a+b c"), ("user", "u"), ("tenant", "t"), ("route", "/xü"), ("empty", "")];
    let expected = expected.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec();
    assert_eq!(*limiter.asked.lock(), [(expected, 7)]);
}

#[tokio::test]
async fn a_request_id_is_taken_if_it_is_plain_and_made_otherwise() {
    let (_, front) = Fake::deciding(unmatched()).into_front();
    let ask = |id: Option<&'static [u8]>, uri| {
        let mut request = Request::get(uri).body(Body::empty()).unwrap();
        if let Some(id) = id {
            let id = axum::http::HeaderValue::from_bytes(id).unwrap();
            request.headers_mut().insert("x-request-id", id);
        }
        let front = front.clone();
        async move { send(front, request).await.header("x-request-id").unwrap().to_owned() }
    };
    assert_eq!(ask(Some(b"abc-123_x.y"), "/check").await, "abc-123_x.y");
    assert_eq!(ask(Some(b"abc-123_x.y"), "/nowhere").await, "abc-123_x.y");
    for bad in [None, Some(&b""[..]), Some(b"a b"), Some(b"<x>"), Some(&[b'a'; 129]), Some(b"\xff")]
    {
        let made = ask(bad, "/check").await;
        assert_eq!(made.len(), 32, "{bad:?} became {made}");
        assert!(made.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_ne!(made, ask(bad, "/check").await);
    }
}

#[tokio::test]
async fn too_many_limits_are_a_400() {
    let (_, front) = Fake::new(|_, _| Err(PlanError::TooManyLimits { found: 17 })).into_front();
    let reply = post(&front, "/v1/check", ASK).await;
    assert_eq!(reply.problem(), (400, vec!["attributes".into()]));
    assert!(reply.body.contains("17 limits"), "{}", reply.body);
}
