//! Asks nodes over HTTP.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::time::timeout;

/// Nobody waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A client that keeps its connections.
#[derive(Debug, Clone)]
pub(crate) struct Http(Client<HttpConnector, Full<Bytes>>);

impl Http {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self(Client::builder(TokioExecutor::new()).build(connector))
    }

    /// Sends one request; the answer's status and JSON (null if it has no body).
    pub(crate) async fn ask(
        &self,
        method: Method,
        url: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), String> {
        let wrong = |error: &dyn std::fmt::Display| format!("{method} {url}: {error}");
        let text = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(&method)
            .uri(url)
            .header("content-type", "application/json")
            .body(Full::from(text))
            .map_err(|error| wrong(&error))?;
        let exchange = async {
            let response = self.0.request(request).await.map_err(|error| wrong(&error))?;
            let status = response.status();
            let body = response.into_body().collect().await.map_err(|error| wrong(&error))?;
            Ok::<_, String>((status, body.to_bytes()))
        };
        let late = |_| format!("{method} {url}: no answer within {PATIENCE:?}");
        let (status, body) = timeout(PATIENCE, exchange).await.map_err(late)??;
        let json = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).map_err(|error| wrong(&error))?
        };
        Ok((status, json))
    }

    /// Sends one request that must be answered 200.
    pub(crate) async fn done(
        &self,
        method: Method,
        url: &str,
        body: Option<&Value>,
    ) -> Result<Value, String> {
        match self.ask(method.clone(), url, body).await? {
            (StatusCode::OK, json) => Ok(json),
            (status, json) => Err(format!("{method} {url}: {status} {json}")),
        }
    }
}
