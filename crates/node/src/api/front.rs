//! What stands before the routes: request ids and the peer's address, without a task or a box of its own.

use std::{
    convert::Infallible,
    future::Future,
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    Router,
    extract::Request,
    http::{HeaderName, HeaderValue},
    response::Response,
};
use tower::Service;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest request id that is taken over from a request, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The address at the other end of the connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// The routes as one connection sees them. Every response carries the request's id: the one that the
/// request brought, if it is short and plain, else a new one.
#[derive(Clone)]
pub struct Front {
    router: Router,
    peer: Peer,
}

impl Front {
    pub(crate) fn new(router: Router) -> Self {
        Self { router, peer: Peer(Ipv4Addr::UNSPECIFIED.into()) }
    }

    /// The same for a connection from `peer`.
    #[must_use]
    pub fn for_peer(&self, peer: IpAddr) -> Self {
        Self { router: self.router.clone(), peer: Peer(peer.to_canonical()) }
    }
}

impl Service<Request> for Front {
    type Response = Response;
    type Error = Infallible;
    type Future = Identified;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Identified {
        let id = request.headers().get(REQUEST_ID).filter(|id| is_plain(id)).cloned();
        // Only these endpoints ask for it, and every other request is spared the allocation.
        if request.uri().path().starts_with("/v1/authorize") {
            request.extensions_mut().insert(self.peer);
        }
        Identified { inner: self.router.call(request), id }
    }
}

/// A response under way, and the id it will carry.
pub struct Identified {
    inner: <Router as Service<Request>>::Future,
    id: Option<HeaderValue>,
}

impl Future for Identified {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(mut response) = ready!(Pin::new(&mut self.inner).poll(cx));
        let id = self.id.take().unwrap_or_else(new_id);
        response.headers_mut().insert(REQUEST_ID, id);
        Poll::Ready(Ok(response))
    }
}

/// Whether an id may be repeated to clients and in logs as it is.
fn is_plain(id: &HeaderValue) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:/+=@".contains(b);
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.as_bytes().iter().all(plain)
}

/// 128 random bits in hexadecimal.
fn new_id() -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bits: u128 = rand::random();
    let digit = |index: usize| DIGITS[(bits >> (4 * index)) as usize & 0xf];
    let text: [u8; 32] = std::array::from_fn(digit);
    HeaderValue::from_bytes(&text).expect("hexadecimal digits are visible ASCII")
}
