//! Against small servers in this process.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::Request, http::Response, routing::post};
use http_body_util::BodyExt as _;
use tokio::{
    io::AsyncReadExt as _,
    net::TcpListener,
    sync::{Notify, mpsc},
};

use crate::{Client, Error};

const REFUSAL: &str = concat!(
    r#"{"allowed":false,"policy":"public-api","limit":"hourly","quantity":5000,"cost":2,"#,
    r#""remaining":0,"reset_after_ms":123000,"retry_after_ms":122300,"reason":"limit","#,
    r#""shadow":false,"degraded":false,"consistency":"plain","staleness_ms":140,"limits":["#,
    r#"{"policy":"public-api","name":"hourly","quantity":5000,"window_ms":3600000,"#,
    r#""label":480211,"algorithm":"fixed-window","scope":"global","consistency":"plain","#,
    r#""allowed":false,"used":5000,"remaining":0,"reset_after_ms":123000,"#,
    r#""retry_after_ms":122300,"staleness_ms":140}]}"#
);
const UNMATCHED: &str = concat!(
    r#"{"allowed":true,"policy":null,"limit":null,"quantity":null,"cost":1,"remaining":null,"#,
    r#""reset_after_ms":null,"retry_after_ms":null,"reason":null,"shadow":false,"#,
    r#""degraded":false,"consistency":null,"staleness_ms":null,"limits":[],"later":1}"#
);

/// Answers every check with this; passes on the bodies that it got.
async fn server(status: u16, body: &'static str) -> (Client, mpsc::Receiver<String>) {
    let (sender, bodies) = mpsc::channel(8);
    let answer = move |request: Request| async move {
        let asked = request.into_body().collect().await.unwrap().to_bytes();
        sender.send(String::from_utf8(asked.to_vec()).unwrap()).await.unwrap();
        Response::builder().status(status).body(Body::from(body)).unwrap()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        axum::serve(listener, Router::new().route("/v1/check", post(answer))).await
    });
    (Client::new(&url).unwrap(), bodies)
}

#[tokio::test]
async fn an_admission_and_a_refusal_are_both_answers() {
    let (client, mut bodies) = server(429, REFUSAL).await;
    let answer = client.check(&[("api_key", "a \"b\""), ("route", "/x")], 2).await.unwrap();
    let asked = r#"{"attributes":{"api_key":"a \"b\"","route":"/x"},"cost":2}"#;
    assert_eq!(bodies.recv().await.unwrap(), asked);
    assert_eq!((answer.status, answer.allowed), (429, false));
    assert_eq!(answer.raw, REFUSAL);
    assert_eq!(answer.check.retry_after_ms, Some(122_300));
    assert_eq!(answer.check.limits[0].name, "hourly");

    let (client, _bodies) = server(200, UNMATCHED).await;
    let answer = client.check(&[], 1).await.unwrap();
    assert_eq!((answer.status, answer.allowed), (200, true));
    assert_eq!(answer.check.policy, None, "and fields that are new here do no harm");
}

#[tokio::test]
async fn a_refusal_to_understand_is_shown_in_full() {
    let problem = concat!(
        r#"{"type":"about:blank","title":"Bad Request","status":400,"detail":"2 mistakes","#,
        r#""errors":[{"field":"cost","message":"too small"},{"field":"x","message":"unknown"}]}"#
    );
    let (client, _bodies) = server(400, problem).await;
    let error = client.check(&[], 0).await.unwrap_err();
    let Error::Refused(problem) = &error else { panic!("{error:?}") };
    assert_eq!((problem.status, problem.errors.len()), (400, 2));
    let text = error.to_string();
    assert!(text.contains("cost: too small") && text.contains("x: unknown"), "{text}");
}

#[tokio::test]
async fn what_does_not_speak_as_a_node_is_named() {
    for (status, body) in
        [(200, "<html>hello</html>"), (404, "nothing here"), (429, "{}"), (200, r#"{"ok":1}"#)]
    {
        let (client, _bodies) = server(status, body).await;
        let error = client.check(&[], 1).await.unwrap_err();
        assert!(
            matches!(&error, Error::NotUnderstood { status: s, excerpt, .. }
                if *s == status && excerpt == body),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn nobody_at_home_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = Client::new(&url).unwrap().check(&[], 1).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains(&url), "{error}");
}

#[tokio::test]
async fn silence_is_a_timeout_and_the_check_went_out_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Notify::new());
    let heard = asked.clone();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 4096];
        while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
            heard.notify_one();
        }
    });
    let deadline = Duration::from_millis(100);
    let client = Client::new(&url).unwrap().with_deadline(deadline);
    let error = client.check(&[], 1).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { after, .. } if after == deadline), "{error:?}");
    asked.notified().await;
}

#[tokio::test]
async fn a_connection_that_breaks_is_not_asked_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, mut accepted) = mpsc::channel(8);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut byte = [0; 1];
            stream.read_exact(&mut byte).await.unwrap();
            sender.send(()).await.unwrap();
        }
    });
    let error = Client::new(&url).unwrap().check(&[], 1).await.unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error:?}");
    accepted.recv().await.unwrap();
    assert!(accepted.try_recv().is_err(), "one request, one connection");
}

#[tokio::test]
async fn connections_are_kept() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, mut peers) = mpsc::channel(8);
    let answer = move |request: Request| async move {
        let peer = request.extensions().get::<axum::extract::ConnectInfo<std::net::SocketAddr>>();
        sender.send(peer.unwrap().0).await.unwrap();
        UNMATCHED
    };
    let router = Router::new().route("/v1/check", post(answer));
    let router = router.into_make_service_with_connect_info::<std::net::SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let client = Client::new(&url).unwrap();
    client.check(&[], 1).await.unwrap();
    client.clone().check(&[], 1).await.unwrap();
    assert_eq!(peers.recv().await.unwrap(), peers.recv().await.unwrap());
}

#[test]
fn urls_are_checked() {
    for good in ["http://127.0.0.1:8080", "http://[::1]:8080/", "http://node/prefix"] {
        Client::new(good).unwrap();
    }
    for bad in ["", "127.0.0.1:8080", "https://node", "ftp://node", "/v1", "http://n?x=1", "h ttp"]
    {
        let error = Client::new(bad).unwrap_err().to_string();
        assert!(error.contains(bad) && error.contains("try `http://"), "{error}");
    }
}

/// Answers what is asked at a path with its path, name and body.
async fn echo(status: u16) -> Client {
    let answer = move |request: Request| async move {
        let name = request.headers().get("idempotency-key").cloned();
        let path = request.uri().path().to_owned();
        let asked = request.into_body().collect().await.unwrap().to_bytes();
        let said = format!("{path} {name:?} {}", String::from_utf8_lossy(&asked));
        let settled = serde_json::json!({ "settled": true, "charged": said.len() });
        let problem = serde_json::json!({ "title": "t", "status": status, "detail": said });
        let body = if status == 200 { settled } else { problem };
        Response::builder().status(status).body(Body::from(body.to_string())).unwrap()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    Client::new(&url).unwrap()
}

#[tokio::test]
async fn what_is_reserved_settled_and_given_back_goes_to_its_endpoint() {
    let client = echo(404).await;
    let told = |error: Error| match error {
        Error::Refused(problem) => problem.detail,
        other => panic!("{other:?}"),
    };
    let k = [("k", "v")];
    let reserved = client.reserve(&k, 3, Duration::from_millis(1_500), Some("a")).await;
    assert_eq!(
        told(reserved.unwrap_err()),
        r#"/v1/reserve Some("a") {"attributes":{"k":"v"},"cost":3,"ttl_ms":1500}"#
    );
    let settled = client.settle("t", 2).await;
    assert_eq!(told(settled.unwrap_err()), r#"/v1/settle None {"reservation":"t","actual":2}"#);
    let refunded = client.refund(&k, 3, 7, None).await;
    assert_eq!(
        told(refunded.unwrap_err()),
        r#"/v1/refund None {"attributes":{"k":"v"},"cost":3,"label":7}"#
    );
    let checked = client.check_once("b", &k, 1).await;
    assert_eq!(
        told(checked.unwrap_err()),
        r#"/v1/check Some("b") {"attributes":{"k":"v"},"cost":1}"#
    );
    let bad = client.check_once("a\nb", &k, 1).await;
    assert!(matches!(bad, Err(Error::BadName(_))), "{bad:?}");

    let settled = echo(200).await.settle("t", 2).await.unwrap();
    assert!(settled.settled && settled.charged > 0);
}
