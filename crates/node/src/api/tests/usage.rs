//! `GET /v1/usage`.

use tidegate_core::{check::RegionUse, store::Counts};

use super::*;

fn region_use(region: &str, used: u64, refunded: u64, staleness: Option<Span>) -> RegionUse {
    let region = RegionName::new(region).unwrap();
    RegionUse { region, counts: Counts { used, refunded }, staleness }
}

#[tokio::test]
async fn use_is_told_by_policy_limit_and_region() {
    let mut decision = admitted();
    decision.limits[0].regions = vec![region_use("eu", 1, 0, Some(Span::ZERO))];
    decision.limits[1].regions = vec![
        region_use("eu", 505, 5, Some(Span::ZERO)),
        region_use("us", 313, 0, Some(Span::millis(140))),
        region_use("ap", 0, 0, None),
    ];
    decision.limits[1].worst_over_admission = Some(18);
    let other = policy("other", vec![limit("daily", 7, Span::secs(86_400), Scope::Region)]);
    decision.limits.push(verdict(&other, 0, 7, Span::secs(1)));
    let mut fake = Fake::deciding(unmatched());
    fake.usage = Ok(decision);
    let (limiter, front) = fake.into_front();
    let reply = get(&front, "/v1/usage?route=/x&api_key=k").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let hourly = concat!(
        r#"{"name":"hourly","quantity":5000,"window_ms":3600000,"label":480211,"#,
        r#""algorithm":"fixed-window","scope":"global","consistency":"plain","#,
        r#""used":813,"remaining":4187,"reset_after_ms":123000,"#,
        r#""regions":{"eu":{"used":505,"refunded":5,"staleness_ms":0},"#,
        r#""us":{"used":313,"refunded":0,"staleness_ms":140},"#,
        r#""ap":{"used":0,"refunded":0,"staleness_ms":null}},"#,
        r#""staleness_ms":140,"worst_over_admission":18,"rights":null}]}"#
    );
    assert!(reply.body.contains(hourly), "{}", reply.body);
    let start = r#"{"region":"eu","policies":[{"policy":"public-api","key":{"api_key":"k"},"limits":[{"name":"burst","#;
    assert!(reply.body.starts_with(start), "{}", reply.body);
    let usage = reply.json();
    assert_eq!(usage["policies"].as_array().unwrap().len(), 2);
    assert_eq!(usage["policies"][1]["limits"][0]["remaining"], 0);
    let asked = vec![("route".into(), "/x".into()), ("api_key".into(), "k".into())];
    assert_eq!(*limiter.asked.lock(), [(asked, 0)]);
}

#[tokio::test]
async fn without_a_policy_there_is_nothing_to_tell() {
    let mut fake = Fake::deciding(unmatched());
    fake.usage = Ok(unmatched());
    let (_, front) = fake.into_front();
    assert_eq!(get(&front, "/v1/usage").await.body, r#"{"region":"eu","policies":[]}"#);
}

#[tokio::test]
async fn what_cannot_be_told_is_a_problem() {
    let mut fake = Fake::deciding(unmatched());
    fake.usage =
        Err(UsageError::StoreUnavailable { store: "redis", why: "did not answer in time" });
    let (_, front) = fake.into_front();
    let reply = get(&front, "/v1/usage?api_key=k").await;
    assert_eq!(reply.problem(), (503, vec![]));
    assert!(
        reply.body.contains("the redis store of this region did not answer in time; ask again"),
        "{}",
        reply.body
    );
    let reply = get(&front, "/v1/usage?api_key=k&cost=1").await;
    assert_eq!(reply.problem(), (400, vec!["cost".into()]));

    let mut fake = Fake::deciding(unmatched());
    fake.usage = Err(PlanError::TooManyLimits { found: 20 }.into());
    let (_, front) = fake.into_front();
    assert_eq!(get(&front, "/v1/usage").await.problem(), (400, vec!["attributes".into()]));
}
