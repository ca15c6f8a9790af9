//! The client: one request for one answer, over kept connections.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Uri,
    header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue},
};
use hyper_util::{
    client::legacy::{Client as Pool, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde::{Serialize, Serializer};

use crate::{Answer, BadUrl, Check, Error, Problem, Settled};

/// How long a check may take, connecting included, unless [`Client::with_deadline`] says otherwise.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(1);
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The largest answer that is read; one of a node has a few kilobytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How long a connection is kept that nobody uses.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// How much of an answer that is not understood is shown, in characters.
const EXCERPT_CHARS: usize = 120;

/// Asks one node. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    pool: Pool<HttpConnector, Full<Bytes>>,
    /// The URLs of the endpoints.
    urls: Arc<Urls>,
    deadline: Duration,
}

#[derive(Debug)]
struct Urls {
    check: Uri,
    reserve: Uri,
    settle: Uri,
    refund: Uri,
}

/// The body of a check, of a reservation, and of what is given back.
#[derive(Serialize)]
struct Asked<'a> {
    attributes: Attributes<'a>,
    cost: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<u64>,
}

/// What becomes of a reservation.
#[derive(Serialize)]
struct Settle<'a> {
    reservation: &'a str,
    actual: u64,
}

struct Attributes<'a>(&'a [(&'a str, &'a str)]);

impl Serialize for Attributes<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().copied())
    }
}

impl Client {
    /// A client of the node at `url`, such as `http://127.0.0.1:8080`. Connects when first asked.
    pub fn new(url: &str) -> Result<Self, BadUrl> {
        let bad = |reason| BadUrl { url: url.to_owned(), reason };
        let base: Uri = url.parse().map_err(|_| bad("it cannot be read as a URL"))?;
        match base.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(bad("https is not supported; ask a node of the own region"));
            }
            _ => return Err(bad("it has to begin with `http://`")),
        }
        if base.query().is_some() {
            return Err(bad("it must not have a query"));
        }
        let at = |path: &str| {
            let url = format!("{}/v1/{path}", url.trim_end_matches('/'));
            url.parse().map_err(|_| bad("no path can be appended to it"))
        };
        let (check, reserve) = (at("check")?, at("reserve")?);
        let urls = Arc::new(Urls { check, reserve, settle: at("settle")?, refund: at("refund")? });

        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .build(connector);
        Ok(Self { pool, urls, deadline: DEADLINE_DEFAULT })
    }

    /// The same with another deadline: how long a check may take, connecting included.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// Asks whether a request with these attributes (at most 32, each name once) may pass, and charges
    /// `cost` (1 to 1,000,000) if so. Sent once; see the crate's first lines for what a failure means.
    pub async fn check(&self, attributes: &[(&str, &str)], cost: u64) -> Result<Answer, Error> {
        let asked = Asked { attributes: Attributes(attributes), cost, ttl_ms: None, label: None };
        let (status, raw) = self.post(&self.urls.check, &asked, None).await?;
        answer(&self.urls.check, status, raw)
    }

    /// The same under a name (`Idempotency-Key`: 1 to 255 visible characters of ASCII): however often it is asked
    /// under that, of whichever node of the region, it is charged once and answered as the first time. So it may be
    /// asked again after any failure.
    pub async fn check_once(
        &self,
        name: &str,
        attributes: &[(&str, &str)],
        cost: u64,
    ) -> Result<Answer, Error> {
        let asked = Asked { attributes: Attributes(attributes), cost, ttl_ms: None, label: None };
        let (status, raw) = self.post(&self.urls.check, &asked, Some(name)).await?;
        answer(&self.urls.check, status, raw)
    }

    /// A check whose charge is held for so long (1 ms to 24 h). [`Check::reservation`] names it; what is not
    /// [settled](Self::settle) in time is given back.
    pub async fn reserve(
        &self,
        attributes: &[(&str, &str)],
        cost: u64,
        lasts: Duration,
        name: Option<&str>,
    ) -> Result<Answer, Error> {
        let ttl_ms = Some(u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX));
        let asked = Asked { attributes: Attributes(attributes), cost, ttl_ms, label: None };
        let (status, raw) = self.post(&self.urls.reserve, &asked, name).await?;
        answer(&self.urls.reserve, status, raw)
    }

    /// Says how much of a reservation was used, at most what was reserved: the rest is given back. It may be asked
    /// again after any failure, and of any node of the region: it is settled once, and answered as the first time.
    pub async fn settle(&self, reservation: &str, actual: u64) -> Result<Settled, Error> {
        let (status, raw) =
            self.post(&self.urls.settle, &Settle { reservation, actual }, None).await?;
        settled(&self.urls.settle, status, &raw)
    }

    /// Gives back `cost` of what a check was charged in the window of this `label`, as its answer said. With a name
    /// it is given back once however often it is asked.
    pub async fn refund(
        &self,
        attributes: &[(&str, &str)],
        cost: u64,
        label: u64,
        name: Option<&str>,
    ) -> Result<Settled, Error> {
        let (ttl_ms, label) = (None, Some(label));
        let asked = Asked { attributes: Attributes(attributes), cost, ttl_ms, label };
        let (status, raw) = self.post(&self.urls.refund, &asked, name).await?;
        settled(&self.urls.refund, status, &raw)
    }

    async fn post(
        &self,
        url: &Uri,
        asked: &impl Serialize,
        name: Option<&str>,
    ) -> Result<(u16, Bytes), Error> {
        let body = serde_json::to_vec(asked).expect("strings and numbers always become JSON");
        let mut request = Request::post(url.clone())
            .body(Full::from(body))
            .expect("a URL that was checked makes a request");
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json.clone());
        request.headers_mut().insert(ACCEPT, json);
        if let Some(name) = name {
            let value = HeaderValue::from_str(name).map_err(|_| Error::BadName(name.to_owned()))?;
            request.headers_mut().insert(IDEMPOTENCY_KEY, value);
        }
        let timed_out = || Error::TimedOut { url: url.to_string(), after: self.deadline };
        tokio::time::timeout(self.deadline, self.exchange(request))
            .await
            .unwrap_or_else(|_| Err(timed_out()))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(u16, Bytes), Error> {
        let url = request.uri().to_string();
        let response = self.pool.request(request).await.map_err(|error| {
            let (url, reason) = (url.clone(), innermost(&error));
            if error.is_connect() {
                Error::Unreachable { url, reason }
            } else {
                Error::Interrupted { url, reason }
            }
        })?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| Error::Interrupted { url, reason: innermost(&*error) })?;
        Ok((status, body.to_bytes()))
    }
}

fn answer(url: &Uri, status: u16, raw: Bytes) -> Result<Answer, Error> {
    if matches!(status, 200 | 429)
        && let Ok(check) = serde_json::from_slice::<Check>(&raw)
    {
        return Ok(Answer { status, allowed: check.allowed, check, raw });
    }
    Err(not_an_answer(url, status, &raw))
}

fn settled(url: &Uri, status: u16, raw: &[u8]) -> Result<Settled, Error> {
    match serde_json::from_slice(raw) {
        Ok(settled) if status == 200 => Ok(settled),
        _ => Err(not_an_answer(url, status, raw)),
    }
}

fn not_an_answer(url: &Uri, status: u16, raw: &[u8]) -> Error {
    match serde_json::from_slice::<Problem>(raw) {
        Ok(problem) if status >= 400 => Error::Refused(problem),
        _ => {
            let text = String::from_utf8_lossy(raw);
            let excerpt = text.chars().take(EXCERPT_CHARS).collect();
            Error::NotUnderstood { url: url.to_string(), status, excerpt }
        }
    }
}

/// What went wrong in the first place; the errors around it only say where.
fn innermost(mut error: &dyn std::error::Error) -> String {
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
