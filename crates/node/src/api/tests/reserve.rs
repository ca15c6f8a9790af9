//! `/v1/reserve`, `/v1/settle`, `/v1/refund`, and checks with an `Idempotency-Key`.

use tidegate_core::{check::Reservation, store::HoldId, time::StoreTime};

use super::*;

async fn named(front: &Front, uri: &str, name: &str, body: &'static str) -> Reply {
    let request = Request::post(uri).header("Idempotency-Key", name).body(body.into()).unwrap();
    send(front.clone(), request).await
}

#[tokio::test]
async fn a_reservation_is_answered_as_a_check_and_with_its_token() {
    let reservation = Reservation { id: HoldId(7), ends: StoreTime(1), charged: Vec::new() };
    let decision = Decision { reservation: Some(reservation), ..admitted() };
    let (limiter, front) = Fake::deciding(decision).into_front();
    let body = r#"{"attributes":{"api_key":"k"},"cost":3,"ttl_ms":2500}"#;
    let reply = named(&front, "/v1/reserve", "again", body).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("x-ratelimit-limit"), Some("5000"));
    let json = reply.json();
    assert_eq!((&json["reservation"], &json["allowed"]), (&"token-7".into(), &true.into()));
    assert_eq!(json["limits"].as_array().map(Vec::len), Some(2));
    let wish = (Some("again".to_owned()), Some(Duration::from_millis(2_500)));
    assert_eq!(*limiter.wishes.lock(), [wish]);
    assert_eq!(limiter.asked.lock()[0].1, 3);
}

#[tokio::test]
async fn what_is_refused_is_not_reserved() {
    let (_, front) = Fake::deciding(refused()).into_front();
    let reply = post(&front, "/v1/reserve", r#"{"attributes":{},"ttl_ms":1}"#).await;
    assert_eq!((reply.status.as_u16(), reply.json()["reservation"].is_null()), (429, true));
    assert!(reply.json().as_object().unwrap().contains_key("reservation"));
}

#[tokio::test]
async fn a_reservation_says_how_long() {
    let (limiter, front) = Fake::deciding(admitted()).into_front();
    for (body, field) in [
        (r#"{"attributes":{}}"#, "ttl_ms"),
        (r#"{"attributes":{},"ttl_ms":0}"#, "ttl_ms"),
        (r#"{"attributes":{},"ttl_ms":86400001}"#, "ttl_ms"),
        (r#"{"attributes":{},"ttl_ms":"1s"}"#, "ttl_ms"),
        (r#"{"attributes":{},"ttl_ms":1,"ttl_ms":1}"#, "ttl_ms"),
        (r#"{"attributes":{},"ttl_ms":1,"label":1}"#, "label"),
    ] {
        let reply = post(&front, "/v1/reserve", body).await;
        assert_eq!(reply.problem(), (400, vec![field.to_owned()]), "{body}");
    }
    assert!(limiter.asked.lock().is_empty());
}

#[tokio::test]
async fn settling_says_how_much_stays_charged() {
    let fake = Fake { settles: Ok(2), ..Fake::deciding(admitted()) };
    let (limiter, front) = fake.into_front();
    let reply = post(&front, "/v1/settle", r#"{"reservation":"t","actual":2}"#).await;
    assert_eq!((reply.status.as_u16(), &*reply.body), (200, r#"{"settled":true,"charged":2}"#));
    let reply = post(&front, "/v1/refund", r#"{"reservation":"t"}"#).await;
    assert_eq!(reply.status, 200);
    let body = r#"{"attributes":{"api_key":"k"},"cost":4,"label":480211}"#;
    assert_eq!(named(&front, "/v1/refund", "n", body).await.status, 200);
    let told = [("t".to_owned(), 2), ("t".to_owned(), 0), ("480211 Some(\"n\")".to_owned(), 4)];
    assert_eq!(*limiter.settled.lock(), told);
}

#[tokio::test]
async fn what_cannot_be_settled_is_told_why() {
    for (error, status) in [
        (SettleError::Unknown, 404),
        (SettleError::TooMuch { reserved: 3 }, 400),
        (SettleError::OtherRequest, 422),
        (SettleError::StoreUnavailable, 503),
        (SettleError::Unsure, 503),
    ] {
        let fake = Fake { settles: Err(error), ..Fake::deciding(admitted()) };
        let (_, front) = fake.into_front();
        let reply = post(&front, "/v1/settle", r#"{"reservation":"t","actual":2}"#).await;
        assert_eq!(reply.problem().0, status);
    }
    let (limiter, front) = Fake::deciding(admitted()).into_front();
    for (uri, body, field) in [
        ("/v1/settle", r#"{"reservation":"t","actual":-1}"#, "actual"),
        ("/v1/settle", r#"{"reservation":"t","actual":"2"}"#, "actual"),
        ("/v1/settle", r#"{"reservation":"t"}"#, "body"),
        ("/v1/settle", r#"{"reservation":"t","actual":1,"more":1}"#, "body"),
        ("/v1/refund", r#"{"reservation":"t","actual":1}"#, "body"),
        ("/v1/refund", r#"{"attributes":{},"cost":1}"#, "label"),
        ("/v1/refund", "nothing", "body"),
    ] {
        let reply = post(&front, uri, body).await;
        assert_eq!(reply.problem(), (400, vec![field.to_owned()]), "{uri} {body}");
    }
    assert!(limiter.settled.lock().is_empty());
}

#[tokio::test]
async fn a_check_may_have_a_name_and_a_batch_may_not() {
    let (limiter, front) = Fake::deciding(admitted()).into_front();
    let body = r#"{"attributes":{}}"#;
    assert_eq!(named(&front, "/v1/check", "a", body).await.status, 200);
    let request = Request::get("/check?api_key=k").header("Idempotency-Key", "b");
    assert_eq!(send(front.clone(), request.body(Body::empty()).unwrap()).await.status, 200);
    let wishes = [(Some("a".to_owned()), None), (Some("b".to_owned()), None)];
    assert_eq!(*limiter.wishes.lock(), wishes);
    assert_eq!(named(&front, "/v1/check", "another's", body).await.problem().0, 422);
    let wrong = (400, vec!["Idempotency-Key".to_owned()]);
    let batch = named(&front, "/v1/check/batch", "a", r#"{"checks":[{"attributes":{}}]}"#).await;
    assert_eq!(batch.problem(), wrong);
    let long: &'static str = Box::leak("x".repeat(256).into_boxed_str());
    for name in ["", long] {
        assert_eq!(named(&front, "/v1/check", name, body).await.problem(), wrong);
    }
}
