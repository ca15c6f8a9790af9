//! A node as its users see it.

use std::{io, time::Duration};

use hyper::Method;
use serde_json::{Value, json};
use tidegate_client::Check;

use crate::{
    ensure, eventually,
    http::{Answer, Http},
};

/// One node that runs somewhere, asked over HTTP.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its region.
    pub region: String,
    /// Its name.
    pub name: String,
    /// Where checks are asked: address and port.
    pub http: String,
    /// Where operators ask: address and port.
    pub admin: String,
    /// Where peers reach it: address and port, UDP.
    pub cluster: String,
    client: Http,
}

/// Facts about a request.
pub type Attributes<'a> = [(&'a str, &'a str)];

impl Node {
    /// A node at these addresses.
    pub fn new(region: &str, name: &str, http: &str, admin: &str, cluster: &str) -> Self {
        let (region, name) = (region.into(), name.into());
        let (http, admin, cluster) = (http.into(), admin.into(), cluster.into());
        Self { region, name, http, admin, cluster, client: Http::default() }
    }

    /// Asks what checks are asked: `/v1/check?…` and the like.
    ///
    /// # Panics
    ///
    /// If there is no answer.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<bytes::Bytes>,
    ) -> Answer {
        let url = format!("http://{}{path}", self.http);
        let answer = self.client.ask(method, &url, headers, body).await;
        answer.unwrap_or_else(|error| panic!("{} {path}: {error}", self.name))
    }

    /// Asks what operators ask.
    ///
    /// # Errors
    ///
    /// If there is no answer.
    pub async fn ask_admin(
        &self,
        method: Method,
        path: &str,
        body: impl Into<bytes::Bytes>,
    ) -> io::Result<Answer> {
        self.client.ask(method, &format!("http://{}{path}", self.admin), &[], body).await
    }

    /// `POST /v1/check`, as it was answered.
    pub async fn check_raw(&self, attributes: &Attributes<'_>, cost: u64) -> Answer {
        let body = json!({ "attributes": object(attributes), "cost": cost });
        self.ask(Method::POST, "/v1/check", &[], body.to_string()).await
    }

    /// `POST /v1/check`.
    ///
    /// # Panics
    ///
    /// If it is answered with anything but a decision.
    pub async fn check(&self, attributes: &Attributes<'_>, cost: u64) -> Check {
        let answer = self.check_raw(attributes, cost).await;
        let check: Check = serde_json::from_slice(&answer.body).unwrap_or_else(|error| {
            panic!("{}: {error}: {} {}", self.name, answer.status, answer.text())
        });
        assert_eq!(answer.status, if check.allowed { 200 } else { 429 }, "{check:?}");
        check
    }

    /// `POST /v1/check` for one unit, whatever comes of it.
    ///
    /// # Errors
    ///
    /// What came instead of a decision.
    pub async fn try_check(&self, attributes: &Attributes<'_>) -> Result<Check, String> {
        let body = json!({ "attributes": object(attributes) }).to_string();
        let url = format!("http://{}/v1/check", self.http);
        let answer = self.client.ask(Method::POST, &url, &[], body).await;
        let answer = answer.map_err(|error| format!("{}: {error}", self.name))?;
        serde_json::from_slice(&answer.body)
            .ok()
            .filter(|check: &Check| answer.status == if check.allowed { 200 } else { 429 })
            .ok_or_else(|| format!("{}: {} {}", self.name, answer.status, answer.text()))
    }

    /// Asks so many times for one unit, one after the other; how many were admitted.
    pub async fn spend(&self, attributes: &Attributes<'_>, times: u64) -> u64 {
        let mut admitted = 0;
        for _ in 0..times {
            admitted += u64::from(self.check(attributes, 1).await.allowed);
        }
        admitted
    }

    /// `POST /v1/check/batch`.
    pub async fn batch(&self, checks: &Value) -> Answer {
        let body = json!({ "checks": checks }).to_string();
        self.ask(Method::POST, "/v1/check/batch", &[], body).await
    }

    /// What `GET /v1/usage` says of the limits of the first policy.
    ///
    /// # Errors
    ///
    /// The answer, if it is not a 200: the store does not answer, for one.
    pub async fn usages(&self, attributes: &Attributes<'_>) -> Result<Vec<Value>, String> {
        let all = self.usages_by_policy(attributes).await?;
        all.into_iter().next().ok_or_else(|| format!("{}: no policy", self.name))
    }

    /// What `GET /v1/usage` says of the limits of each policy.
    ///
    /// # Errors
    ///
    /// As for [`usages`](Self::usages).
    pub async fn usages_by_policy(
        &self,
        attributes: &Attributes<'_>,
    ) -> Result<Vec<Vec<Value>>, String> {
        let query: Vec<_> =
            attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let path = format!("/v1/usage?{}", query.join("&"));
        let answer = self.ask(Method::GET, &path, &[], "").await;
        ensure(answer.status == 200, || {
            format!("{}: {} {}", self.name, answer.status, answer.text())
        })?;
        let body = answer.json();
        let policies = body["policies"].as_array().into_iter().flatten();
        let limits = policies.map(|policy| policy["limits"].as_array().cloned());
        limits.collect::<Option<_>>().ok_or_else(|| format!("{}: no limits in {body}", self.name))
    }

    /// What `GET /v1/usage` says of the last limit of the first policy.
    ///
    /// # Errors
    ///
    /// As for [`usages`](Self::usages).
    pub async fn usage(&self, attributes: &Attributes<'_>) -> Result<Value, String> {
        self.usages(attributes).await?.pop().ok_or_else(|| format!("{}: no limit", self.name))
    }

    /// How much the last limit of the first policy says is used, over all regions if it is global.
    ///
    /// # Errors
    ///
    /// As for [`usage`](Self::usage).
    pub async fn used(&self, attributes: &Attributes<'_>) -> Result<u64, String> {
        let usage = self.usage(attributes).await?;
        usage["used"].as_u64().ok_or_else(|| format!("{}: {usage}", self.name))
    }

    /// `/readyz`: status and body.
    ///
    /// # Errors
    ///
    /// If there is no answer.
    pub async fn readyz(&self) -> Result<(u16, Value), String> {
        let answer = self.ask_admin(Method::GET, "/readyz", "").await;
        let answer = answer.map_err(|error| format!("{}: {error}", self.name))?;
        Ok((answer.status, answer.json()))
    }

    /// Waits until `/readyz` says 200.
    pub async fn ready(&self, within: Duration) {
        eventually(within, &format!("{} is ready", self.name), async || {
            let (status, body) = self.readyz().await?;
            ensure(status == 200, || format!("{status} {body}"))
        })
        .await;
    }

    /// `/v1/cluster`.
    ///
    /// # Errors
    ///
    /// If there is no answer.
    pub async fn cluster(&self) -> Result<Value, String> {
        let answer = self.ask_admin(Method::GET, "/v1/cluster", "").await;
        answer.map(|answer| answer.json()).map_err(|error| format!("{}: {error}", self.name))
    }

    /// How this node stands with another region: `connected`, `half_open`, `missing`, or null for one
    /// that it has never heard of.
    ///
    /// # Errors
    ///
    /// If there is no answer.
    pub async fn state_of(&self, region: &str) -> Result<Value, String> {
        let view = self.cluster().await?;
        let mut regions = view["regions"].as_array().into_iter().flatten();
        Ok(regions
            .find(|one| one["region"] == region)
            .map_or(Value::Null, |one| one["state"].clone()))
    }

    /// Puts a fault on what this node sends.
    ///
    /// # Panics
    ///
    /// If it is not taken.
    pub async fn put_fault(&self, fault: &Value) {
        let answer = self.ask_admin(Method::PUT, "/v1/faults", fault.to_string()).await;
        let answer = answer.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        assert_eq!(answer.status, 200, "{}: {}", self.name, answer.text());
    }

    /// Takes all faults back.
    ///
    /// # Panics
    ///
    /// If that does not work.
    pub async fn clear_faults(&self) {
        let answer = self.ask_admin(Method::DELETE, "/v1/faults", "").await;
        let answer = answer.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        assert_eq!(answer.status, 200, "{}: {}", self.name, answer.text());
    }

    /// `/metrics`.
    ///
    /// # Errors
    ///
    /// If there is no answer.
    pub async fn metrics(&self) -> Result<String, String> {
        let answer = self.ask_admin(Method::GET, "/metrics", "").await;
        answer.map(|answer| answer.text()).map_err(|error| format!("{}: {error}", self.name))
    }

    /// The value of one metric, written as in the text: `name{label="value"}`.
    ///
    /// # Errors
    ///
    /// All metrics, if it is not among them.
    pub async fn metric(&self, series: &str) -> Result<f64, String> {
        let text = self.metrics().await?;
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        value.ok_or_else(|| format!("{}: no {series} in\n{text}", self.name))
    }
}

fn object(attributes: &Attributes<'_>) -> Value {
    attributes.iter().map(|(name, value)| (name.to_string(), json!(value))).collect()
}
