//! `POST /v1/check/batch`: order of answers, order of checks, side by side.

use std::collections::BTreeMap;

use tokio::sync::Notify;

use super::*;

#[tokio::test]
async fn results_come_in_order() {
    let decide = |attributes: &Attributes<'_>, _| match attribute(attributes, "api_key") {
        Some("good") => Ok(admitted()),
        Some("bad") => Ok(refused()),
        _ => Ok(unmatched()),
    };
    let (limiter, front) = Fake::new(decide).into_front();
    let body = r#"{"checks":[{"attributes":{"api_key":"good"},"cost":2},
        {"attributes":{"api_key":"bad"}},{"attributes":{}},{"attributes":{"api_key":"good"}}]}"#;
    let reply = post(&front, "/v1/check/batch", body).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("ratelimit"), None);
    let batch = reply.json();
    assert_eq!(batch.as_object().unwrap().len(), 1);
    let results = batch["results"].as_array().unwrap();
    let allowed: Vec<_> = results.iter().map(|r| r["allowed"].as_bool().unwrap()).collect();
    assert_eq!(allowed, [true, false, true, true]);
    assert_eq!(results[0]["cost"], 2);
    assert_eq!(results[2]["policy"], Value::Null);
    let alone = post(&front, "/v1/check", r#"{"attributes":{"api_key":"bad"}}"#).await.json();
    assert_eq!(results[1], alone, "the same as asked alone");
    let costs: Vec<u64> = limiter.asked.lock().iter().map(|(_, cost)| *cost).collect();
    assert_eq!(costs[..4], [2, 1, 1, 1]);
}

#[tokio::test]
async fn a_thousand_checks_are_taken() {
    let (limiter, front) = Fake::deciding(unmatched()).into_front();
    let body = format!(r#"{{"checks":[{}]}}"#, vec![r#"{"attributes":{}}"#; 1000].join(","));
    let reply = post(&front, "/v1/check/batch", body).await;
    assert_eq!(reply.json()["results"].as_array().unwrap().len(), 1000);
    assert_eq!(limiter.asked.lock().len(), 1000);
}

/// Answers a check only when the test says so.
#[derive(Default)]
struct Slow {
    /// Checks begun and not yet answered, by cost; the costs of a test's checks differ.
    waiting: Mutex<BTreeMap<u64, Arc<Notify>>>,
    /// Costs in the order in which checks began.
    begun: Mutex<Vec<u64>>,
}

impl Slow {
    /// Answers the waiting check of this cost.
    fn answer(&self, cost: u64) {
        self.waiting.lock().remove(&cost).expect("the check waits").notify_one();
    }

    /// Lets everything else happen, then says which checks wait.
    async fn waiting(&self) -> Vec<u64> {
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
        self.waiting.lock().keys().copied().collect()
    }
}

impl Limiter for Slow {
    async fn check(&self, attributes: &Attributes<'_>, cost: u64) -> Result<Decision, PlanError> {
        self.begun.lock().push(cost);
        if attribute(attributes, "fast").is_none() {
            let answered = Arc::new(Notify::new());
            self.waiting.lock().insert(cost, answered.clone());
            answered.notified().await;
        }
        Ok(unmatched())
    }

    async fn check_in(
        &self,
        _: &Attributes<'_>,
        _: u64,
        _: &Wish<'_>,
    ) -> Result<Decision, CheckError> {
        panic!("a batch has no wishes")
    }

    fn token(&self, _: &Reservation) -> String {
        panic!("a batch reserves nothing")
    }

    async fn settle(&self, _: &str, _: u64) -> Result<u64, SettleError> {
        panic!("a batch settles nothing")
    }

    async fn give_back(
        &self,
        _: &Attributes<'_>,
        _: u64,
        _: u64,
        _: Option<&str>,
    ) -> Result<u64, SettleError> {
        panic!("a batch gives nothing back")
    }

    async fn usage(&self, _: &Attributes<'_>) -> Result<Decision, UsageError> {
        Ok(unmatched())
    }

    fn few_enough_limits(&self, _: &Attributes<'_>) -> Result<(), PlanError> {
        Ok(())
    }

    fn callers(&self, attributes: &Attributes<'_>) -> Vec<Caller> {
        callers_of(attributes)
    }
}

/// Begins a batch of these attributes, with the costs 1, 2, …
fn begin(limiter: &Arc<Slow>, checks: &[&str]) -> tokio::task::JoinHandle<Reply> {
    let front = service(api(limiter.clone(), ResetStyle::default()));
    let checks: Vec<_> = (1..)
        .zip(checks)
        .map(|(cost, attributes)| format!(r#"{{"attributes":{attributes},"cost":{cost}}}"#))
        .collect();
    let body = format!(r#"{{"checks":[{}]}}"#, checks.join(","));
    tokio::spawn(async move { post(&front, "/v1/check/batch", body).await })
}

async fn costs(reply: tokio::task::JoinHandle<Reply>) -> Vec<u64> {
    let batch = reply.await.unwrap().json();
    batch["results"].as_array().unwrap().iter().map(|r| r["cost"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn checks_of_one_caller_are_made_one_after_the_other_and_others_side_by_side() {
    let limiter = Arc::new(Slow::default());
    let checks = [
        r#"{"fast":"yes"}"#,
        r#"{"api_key":"a"}"#,
        r#"{"api_key":"b"}"#,
        r#"{"api_key":"a"}"#,
        r#"{"api_key":"b","user":"u"}"#,
        r#"{"user":"u","api_key":"c"}"#,
        r#"{}"#,
        r#"{}"#,
    ];
    let reply = begin(&limiter, &checks);
    assert_eq!(limiter.waiting().await, [2, 3, 7, 8]);
    limiter.answer(3);
    assert_eq!(limiter.waiting().await, [2, 5, 7, 8], "the next of `b` begins, not that of `a`");
    limiter.answer(8);
    limiter.answer(2);
    assert_eq!(limiter.waiting().await, [4, 5, 7]);
    limiter.answer(5);
    assert_eq!(limiter.waiting().await, [4, 6, 7], "6 shares a user with 5");
    for cost in [4, 7, 6] {
        limiter.answer(cost);
    }
    assert_eq!(costs(reply).await, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(*limiter.begun.lock(), [1, 2, 3, 7, 8, 5, 4, 6]);
}

#[tokio::test]
async fn so_many_wait_for_the_store_and_no_more() {
    let limiter = Arc::new(Slow::default());
    let reply = begin(&limiter, &[r#"{}"#; 100]);
    assert_eq!(limiter.waiting().await.len(), 64);
    limiter.answer(64);
    let waiting = limiter.waiting().await;
    assert_eq!((waiting.len(), waiting[63]), (64, 65));
    while let Some(first) = limiter.waiting().await.first() {
        limiter.answer(*first);
    }
    assert_eq!(costs(reply).await, (1..=100).collect::<Vec<u64>>());
}
