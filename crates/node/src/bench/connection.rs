//! One kept-alive connection to a node, and one exchange over it.
//!
//! A connection is driven by hand: a pooled client would cost more than some of the answers measured.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, StatusCode, Uri,
    client::conn::http1::{self, SendRequest},
    header::{CONTENT_TYPE, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::spawn_local, time::timeout};

/// An exchange that takes longer is an error.
const PATIENCE: Duration = Duration::from_secs(5);

/// A node that is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// `host:port`.
    address: String,
    host: HeaderValue,
}

impl Target {
    /// Takes a base URL such as `http://127.0.0.1:8080`.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("--url {url}: {why}; expected http://HOST:PORT");
        let uri: Uri = url.parse().map_err(|_| wrong("not a URL"))?;
        let authority = uri.authority().ok_or_else(|| wrong("names no host"))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("only http is spoken here"));
        }
        if uri.path_and_query().is_some_and(|path| path != "/") {
            return Err(wrong("has a path, and the path asked is always /v1/check"));
        }
        if authority.as_str().contains('@') {
            return Err(wrong("holds credentials"));
        }
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| wrong("not a host"))?;
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self { address: format!("{}:{port}", authority.host()), host })
    }

    /// `host:port`, for messages.
    pub(super) fn address(&self) -> &str {
        &self.address
    }
}

/// What a node said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Allowed,
    Refused,
}

/// A connection that stands.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Opens a connection. Must be called within a `LocalSet`.
    pub(super) async fn open(target: &Target) -> Result<Self, String> {
        let opened = timeout(PATIENCE, TcpStream::connect(target.address())).await;
        let stream = opened.map_err(|_| "no connection within 5 s")?.map_err(text)?;
        stream.set_nodelay(true).map_err(text)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
        spawn_local(async move {
            if let Err(error) = connection.await {
                // Whoever waits for an answer hears of it as well, and counts it.
                tracing::debug!(%error, "a connection ended");
            }
        });
        Ok(Self { sender })
    }

    /// Asks once. After an error the connection is of no more use.
    pub(super) async fn ask(&mut self, target: &Target, body: Bytes) -> Result<Answer, String> {
        timeout(PATIENCE, self.exchange(target, body)).await.map_err(|_| "no answer within 5 s")?
    }

    async fn exchange(&mut self, target: &Target, body: Bytes) -> Result<Answer, String> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static("/v1/check");
        let headers = request.headers_mut();
        headers.insert(HOST, target.host.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.sender.ready().await.map_err(text)?;
        let response = self.sender.send_request(request).await.map_err(text)?;
        let status = response.status();
        let mut answer = response.into_body();
        while let Some(frame) = answer.frame().await {
            frame.map_err(text)?;
        }
        match status {
            StatusCode::OK => Ok(Answer::Allowed),
            StatusCode::TOO_MANY_REQUESTS => Ok(Answer::Refused),
            other => Err(format!("{} answered {other}", target.address())),
        }
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_plain_base_url() {
        let address = |url| Target::parse(url).map(|target| target.address);
        assert_eq!(address("http://127.0.0.1:8080"), Ok("127.0.0.1:8080".into()));
        assert_eq!(address("http://node/"), Ok("node:80".into()));
        assert_eq!(address("http://[::1]:81"), Ok("[::1]:81".into()));
        for bad in ["node:80", "https://node", "http://node/v1/check", "http://u@node", "", "/x"] {
            assert!(address(bad).is_err(), "{bad:?}");
        }
    }
}
