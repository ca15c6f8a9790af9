//! `/v1/authorize`: what a gateway asks about a request that it holds in its hands.
//!
//! Attributes come from the headers and the path of the request that the gateway passes on; its body
//! and its own query mean nothing here. `Idempotency-Key` is left alone as well: gateways pass on the
//! headers of the original request, so it belongs to that one, not to the check.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};

use super::{
    Api, Limiter,
    bounds::{Pairs, borrowed, value_mistake},
    front::Peer,
    problem::{Mistakes, Problem},
    query,
};

const PREFIX: &str = "/v1/authorize";

/// Attributes that stand in a header as they are.
const PLAIN_HEADERS: [(&str, &str); 3] =
    [("api_key", "X-API-Key"), ("user", "X-User-ID"), ("tenant", "X-Tenant-ID")];

pub(crate) async fn any<L: Limiter>(
    State(api): State<Arc<Api<L>>>,
    request: Request,
) -> Result<Response, Problem> {
    let (request, _body) = request.into_parts();
    let headers = Headers(&request.headers);
    let mut mistakes = Mistakes::default();
    let denied = deny_status(request.uri.query().unwrap_or_default(), &mut mistakes);

    let mut pairs = Pairs::with_capacity(6);
    for (name, header) in PLAIN_HEADERS {
        pairs.extend(headers.get(header, &mut mistakes).map(|v| (name.into(), v.into())));
    }
    let route = match request.uri.path().strip_prefix(PREFIX) {
        Some(path) if !path.is_empty() => Some(path),
        _ => headers.first(["X-Original-URI", "X-Forwarded-Uri"], &mut mistakes).map(path_of),
    };
    pairs.extend(route.map(|route| ("route".into(), plain(route))));
    let method = headers.first(["X-Original-Method", "X-Forwarded-Method"], &mut mistakes);
    pairs.push(("method".into(), method.unwrap_or(request.method.as_str()).into()));
    if let Some(Peer(peer)) = request.extensions.get() {
        let ip = client_address(*peer, &request.headers, &*api.trusted_proxies);
        pairs.push(("ip".into(), Cow::Owned(ip.to_string())));
    }
    for (name, value) in &pairs {
        if let Some(message) = value_mistake(value) {
            mistakes.add(&**name, message);
        }
    }
    let denied = mistakes.or_else_ok(denied)?;
    api.answer(&borrowed(&pairs), 1, denied).await
}

/// The status of a refusal: 429, or what `?deny_status=` says.
fn deny_status(query: &str, mistakes: &mut Mistakes) -> StatusCode {
    let mut denied = StatusCode::TOO_MANY_REQUESTS;
    for value in query::values_of(query, "deny_status") {
        match StatusCode::from_bytes(value.as_bytes()) {
            Ok(status) if status.is_client_error() => denied = status,
            _ => mistakes.add("deny_status", "expected a status from 400 to 499"),
        }
    }
    denied
}

/// The headers of the request, read as text. An empty one counts as absent.
struct Headers<'a>(&'a HeaderMap);

impl<'a> Headers<'a> {
    fn get(&self, name: &str, mistakes: &mut Mistakes) -> Option<&'a str> {
        match std::str::from_utf8(self.0.get(name)?.as_bytes()) {
            Ok(value) => Some(value).filter(|value| !value.is_empty()),
            Err(_) => {
                mistakes.add(name, "the value is not UTF-8");
                None
            }
        }
    }

    fn first(&self, names: [&str; 2], mistakes: &mut Mistakes) -> Option<&'a str> {
        names.iter().find_map(|name| self.get(name, mistakes))
    }
}

/// The path of a URI, which may begin with scheme and host: without them and without the query, so
/// that the way of asking does not choose the policy.
fn path_of(uri: &str) -> &str {
    let path = uri.split(['?', '#']).next().unwrap_or(uri);
    match path.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => {
            rest.find('/').map_or("/", |start| &rest[start..])
        }
        _ => path,
    }
}

/// The path with those characters decoded that mean the same either way (RFC 3986, 6.2.2.2): the
/// service behind the gateway takes `/%61pi` for `/api`, and so must the policies. Others stay, since
/// `%2F` is not a `/`.
fn plain(path: &str) -> Cow<'_, str> {
    let mut parts = path.split('%');
    let Some(first) = parts.next().filter(|first| first.len() < path.len()) else {
        return Cow::Borrowed(path);
    };
    let mut plain = first.to_owned();
    for part in parts {
        let digits = part.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte.filter(|b| b.is_ascii_alphanumeric() || b"-._~".contains(b)) {
            Some(byte) => {
                plain.push(byte.into());
                plain.push_str(&part[2..]);
            }
            None => {
                plain.push('%');
                plain.push_str(part);
            }
        }
    }
    Cow::Owned(plain)
}

/// Who asked: the peer; where that is a trusted proxy, whom it names in `X-Forwarded-For`; and so on
/// while the one named is a trusted proxy itself. What stands left of that anyone may have written.
fn client_address(
    peer: IpAddr,
    headers: &HeaderMap,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> IpAddr {
    let mut client = peer;
    let lines = headers.get_all("X-Forwarded-For").iter().rev();
    let hops = lines.flat_map(|line| line.as_bytes().rsplit(|b| *b == b','));
    for hop in hops {
        let Some(address) = is_trusted(client).then(|| address_in(hop)).flatten() else { break };
        client = address;
    }
    client
}

/// An address as proxies write it: with or without a port, IPv6 with or without brackets.
fn address_in(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let address = text
        .parse()
        .or_else(|_| text.parse::<std::net::SocketAddr>().map(|with_port| with_port.ip()))
        .or_else(|_| text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>());
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, forwarded: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append("X-Forwarded-For", line.parse().unwrap());
        }
        let trusted = |ip: IpAddr| ip.is_loopback() || ip.to_string().starts_with("10.");
        client_address(peer.parse().unwrap(), &headers, trusted).to_string()
    }

    #[test]
    fn the_rightmost_address_that_is_no_trusted_proxy_is_the_client() {
        assert_eq!(client("192.0.2.1", &["198.51.100.7"]), "192.0.2.1", "an untrusted peer");
        assert_eq!(client("127.0.0.1", &[]), "127.0.0.1");
        assert_eq!(client("127.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(client("127.0.0.1", &["6.6.6.6, 198.51.100.7, 10.0.0.9"]), "198.51.100.7");
        assert_eq!(client("127.0.0.1", &["6.6.6.6", "198.51.100.7,10.0.0.9"]), "198.51.100.7");
        assert_eq!(client("127.0.0.1", &["10.0.0.8, 10.0.0.9"]), "10.0.0.8", "proxies all the way");
        assert_eq!(client("127.0.0.1", &["6.6.6.6, nonsense, 10.0.0.9"]), "10.0.0.9");
        assert_eq!(client("::1", &["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(client("::1", &["[2001:db8::1]"]), "2001:db8::1");
        assert_eq!(client("::1", &["::ffff:198.51.100.7"]), "198.51.100.7");
        assert_eq!(client("::1", &["198.51.100.7:1234"]), "198.51.100.7");
    }

    #[test]
    fn what_may_be_written_plainly_is_read_plainly() {
        assert_eq!(plain("/%61pi/%4Fr%64ers"), "/api/Orders");
        assert_eq!(plain("/a%2Fb%20c%C3%A9%25"), "/a%2Fb%20c%C3%A9%25");
        assert_eq!(plain("/%2561"), "/%2561", "decoded once only");
        assert_eq!(plain("/%7e%"), "/~%");
        assert_eq!(plain("/%4"), "/%4");
        assert_eq!(plain("/%é"), "/%é");
        assert_eq!(plain("%61"), "a");
    }

    #[test]
    fn a_path_is_cut_out_of_a_uri() {
        assert_eq!(path_of("/orders?x=1#y"), "/orders");
        assert_eq!(path_of("http://shop.example/orders?x=1"), "/orders");
        assert_eq!(path_of("http://shop.example"), "/");
        assert_eq!(path_of("/go/http://shop.example/"), "/go/http://shop.example/");
        assert_eq!(path_of("/orders?to=http://x/y"), "/orders");
    }
}
