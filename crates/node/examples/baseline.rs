//! What any limiter on axum has to pay for: reads the same request as a node, decides nothing, and
//! answers what a node once answered.
//!
//! `scripts/bench` measures nodes beside it. The request is read as one would write it at first, by
//! axum's `Json` into a derived type; the answer is a constant that is taken from a real node at the
//! start, so that it has the same size, the same headers and the same length of each.

use std::{collections::BTreeMap, error::Error, hint::black_box, net::SocketAddr};

use axum::{
    Json, Router,
    extract::State,
    http::{
        HeaderMap, Request, StatusCode, Uri,
        header::{CONTENT_LENGTH, CONTENT_TYPE, DATE},
    },
    response::{IntoResponse, Response},
    routing::post,
    serve::ListenerExt as _,
};
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde::Deserialize;
use tokio::{net::TcpListener, runtime::Runtime};

/// Answers every check as a node has answered one.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// The node whose answer is repeated: `http://host:port`.
    #[arg(long)]
    like: Uri,
    /// The body of the check that the node is asked.
    #[arg(long)]
    request: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Check {
    attributes: BTreeMap<String, String>,
    #[serde(default = "one")]
    cost: u64,
}

fn one() -> u64 {
    1
}

/// An answer that is given again and again.
#[derive(Debug, Clone)]
struct Constant {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Constant {
    /// Asks a node once.
    async fn like(node: &Uri, request: String) -> Result<Self, Box<dyn Error>> {
        let node = node.to_string();
        let request = Request::post(format!("{}/v1/check", node.trim_end_matches('/')))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(request)))?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        let (mut parts, body) = client.request(request).await?.into_parts();
        // The server adds these two by itself, here as in a node.
        parts.headers.remove(CONTENT_LENGTH);
        parts.headers.remove(DATE);
        let body = body.collect().await?.to_bytes();
        Ok(Self { status: parts.status, headers: parts.headers, body })
    }
}

async fn check(State(constant): State<Constant>, Json(check): Json<Check>) -> Response {
    black_box((check.attributes, check.cost));
    (constant.status, constant.headers, constant.body).into_response()
}

async fn serve(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let constant = Constant::like(&arguments.like, arguments.request).await?;
    let router = Router::new().route("/v1/check", post(check)).with_state(constant);
    let listener = TcpListener::bind(arguments.listen).await?;
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("a fresh connection"));
    axum::serve(listener, router).await?;
    Ok(())
}

/// The same runtime as a node's.
fn main() -> Result<(), Box<dyn Error>> {
    Runtime::new()?.block_on(serve(Arguments::parse()))
}
