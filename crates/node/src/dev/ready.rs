//! Waits until a node says that it is ready.

use std::{io, net::SocketAddrV4, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

const POLL: Duration = Duration::from_millis(25);
/// A node answers at once; one that does not is asked again.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a person is told that a node is still not ready.
const REMIND: Duration = Duration::from_secs(10);
const BODY_MAX: usize = 64 * 1024;

/// Comes back when `/readyz` at `admin` has answered 200.
pub(super) async fn wait(node: &str, admin: SocketAddrV4) {
    let mut reminded = Instant::now();
    loop {
        let answer = timeout(PATIENCE, ask(admin)).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within a second"))
        });
        match &answer {
            Ok((StatusCode::OK, _)) => return,
            _ if reminded.elapsed() >= REMIND => {
                reminded = Instant::now();
                tracing::warn!(node, state = %described(answer), "still not ready");
            }
            _ => {}
        }
        sleep(POLL).await;
    }
}

fn described(answer: io::Result<(StatusCode, Bytes)>) -> String {
    match answer {
        Ok((status, body)) => format!("{status}: {}", String::from_utf8_lossy(&body).trim_end()),
        Err(error) => error.to_string(),
    }
}

async fn ask(admin: SocketAddrV4) -> io::Result<(StatusCode, Bytes)> {
    let stream = TcpStream::connect(admin).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let request = Request::get("/readyz")
        .header(HOST, admin.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_MAX);
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        Ok((status, body))
    };
    // The connection does its part until the exchange is over, and is then dropped.
    tokio::select! {
        answer = exchange => answer,
        ended = connection => {
            ended.map_err(io::Error::other)?;
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}
