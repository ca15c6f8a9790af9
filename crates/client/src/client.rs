//! The client: one request for one check, over kept connections.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Uri,
    header::{ACCEPT, CONTENT_TYPE, HeaderValue},
};
use hyper_util::{
    client::legacy::{Client as Pool, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde::{Serialize, Serializer};

use crate::{Answer, BadUrl, Check, Error, Problem};

/// How long a check may take, connecting included, unless [`Client::with_deadline`] says otherwise.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(1);
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
    /// The URL of the check endpoint.
    check: Uri,
    deadline: Duration,
}

/// The body of a check.
#[derive(Serialize)]
struct Asked<'a> {
    attributes: Attributes<'a>,
    cost: u64,
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
        let check = format!("{}/v1/check", url.trim_end_matches('/'));
        let check = check.parse().map_err(|_| bad("no path can be appended to it"))?;

        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .build(connector);
        Ok(Self { pool, check, deadline: DEADLINE_DEFAULT })
    }

    /// The same with another deadline: how long a check may take, connecting included.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// Asks whether a request with these attributes (at most 32, each name once) may pass, and charges
    /// `cost` (1 to 1,000,000) if so. Sent once; see the crate's first lines for what a failure means.
    pub async fn check(&self, attributes: &[(&str, &str)], cost: u64) -> Result<Answer, Error> {
        let asked = Asked { attributes: Attributes(attributes), cost };
        let body = serde_json::to_vec(&asked).expect("strings and a number always become JSON");
        let mut request = Request::post(self.check.clone())
            .body(Full::from(body))
            .expect("a URL that was checked makes a request");
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json.clone());
        request.headers_mut().insert(ACCEPT, json);

        let (status, raw) = tokio::time::timeout(self.deadline, self.exchange(request))
            .await
            .unwrap_or_else(|_| Err(Error::TimedOut { url: self.url(), after: self.deadline }))?;
        self.understand(status, raw)
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(u16, Bytes), Error> {
        let response = self.pool.request(request).await.map_err(|error| {
            let (url, reason) = (self.url(), innermost(&error));
            if error.is_connect() {
                Error::Unreachable { url, reason }
            } else {
                Error::Interrupted { url, reason }
            }
        })?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body
            .map_err(|error| Error::Interrupted { url: self.url(), reason: innermost(&*error) })?;
        Ok((status, body.to_bytes()))
    }

    fn understand(&self, status: u16, raw: Bytes) -> Result<Answer, Error> {
        if matches!(status, 200 | 429)
            && let Ok(check) = serde_json::from_slice::<Check>(&raw)
        {
            return Ok(Answer { status, allowed: check.allowed, check, raw });
        }
        match serde_json::from_slice::<Problem>(&raw) {
            Ok(problem) if status >= 400 => Err(Error::Refused(problem)),
            _ => {
                let text = String::from_utf8_lossy(&raw);
                let excerpt = text.chars().take(EXCERPT_CHARS).collect();
                Err(Error::NotUnderstood { url: self.url(), status, excerpt })
            }
        }
    }

    fn url(&self) -> String {
        self.check.to_string()
    }
}

/// What went wrong in the first place; the errors around it only say where.
fn innermost(mut error: &dyn std::error::Error) -> String {
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
