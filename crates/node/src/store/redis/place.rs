//! Where the server is: at an address, or wherever sentinels say that the primary is.

use std::{collections::HashMap, time::Duration};

use futures_util::future::join_all;
use redis::{Client, ConnectionAddr, ConnectionInfo, RedisError, io::tcp::TcpSettings};
use tokio::time;

use super::{RedisSettings, StoreError};

const SENTINEL: &str = "redis-sentinel://";
/// Where sentinels listen, if the URL does not say.
const SENTINEL_PORT: u16 = 26_379;
/// Where servers listen, if the URL does not say.
const PORT: u16 = 6_379;
/// How long one sentinel may take to connect and to answer.
const ASK_MAX: Duration = Duration::from_millis(500);

/// Where the server is.
pub(super) enum Place {
    At(Client),
    /// The primary of this name, by the word of the sentinel that knows of the latest failover.
    Primary {
        name: String,
        sentinels: Vec<(String, u16)>,
        /// How it is spoken to, wherever it is.
        like: ConnectionInfo,
    },
}

/// What a URL with sentinels says: `redis-sentinel://[user:password@]host:port,host:port/name[/database]`.
struct Named<'a> {
    /// User and password of the primary, with the `@`, or nothing.
    user: &'a str,
    sentinels: Vec<(String, u16)>,
    name: &'a str,
    database: &'a str,
}

impl<'a> Named<'a> {
    fn parse(url: &'a str) -> Option<Self> {
        let rest = url.strip_prefix(SENTINEL)?;
        let at = rest.rfind('@').map_or(0, |at| at + 1);
        let (user, rest) = rest.split_at(at);
        if user.contains(',') {
            return None; // the user is the primary's: sentinels have none of their own
        }
        let mut parts = rest.split('/');
        let hosts = parts.next()?;
        let name = parts.next().filter(|name| !name.is_empty())?;
        let database = parts.next().unwrap_or("0");
        if parts.next().is_some() {
            return None;
        }
        Some(Self { user, sentinels: places(hosts, SENTINEL_PORT)?, name, database })
    }

    /// A URL of a server as the primary is, somewhere.
    fn like(&self) -> String {
        format!("redis://{}127.0.0.1:1/{}", self.user, self.database)
    }
}

/// What stands in `host:port,host,[host]:port`, with the port of those who name none. An address of version 6
/// stands in brackets.
fn places(hosts: &str, port: u16) -> Option<Vec<(String, u16)>> {
    let place = |host: &str| {
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (host, port),
        };
        let host = host.strip_prefix('[').map_or(Some(host), |host| host.strip_suffix(']'))?;
        (!host.is_empty()).then(|| (host.to_owned(), port))
    };
    hosts.split(',').map(place).collect()
}

/// Some servers of a cluster, and how all of them are spoken to.
pub(super) struct Seeds {
    pub(super) places: Vec<(String, u16)>,
    like: ConnectionInfo,
}

/// What a URL of a cluster says: `redis-cluster://[user:password@]host:port,host:port[/0]`.
struct Spread<'a> {
    /// The scheme of one of its servers.
    scheme: &'static str,
    /// User and password of each, with the `@`, or nothing.
    user: &'a str,
    places: Vec<(String, u16)>,
}

impl<'a> Spread<'a> {
    fn parse(url: &'a str) -> Result<Self, &'static str> {
        const WANTED: &str = "is not redis-cluster://host:port,host:port";
        let (scheme, rest) = url.split_once("://").ok_or(WANTED)?;
        let scheme = if scheme == "rediss-cluster" { "rediss" } else { "redis" };
        let at = rest.rfind('@').map_or(0, |at| at + 1);
        let (user, rest) = rest.split_at(at);
        if user.contains(',') {
            return Err(WANTED); // one user for all: they are one cluster
        }
        let (hosts, database) = rest.split_once('/').unwrap_or((rest, ""));
        if !matches!(database, "" | "0") {
            return Err("names a database: a Redis Cluster has only database 0, leave it out");
        }
        let places = places(hosts, PORT).ok_or(WANTED)?;
        Ok(Self { scheme, user, places })
    }

    /// A URL of a server as each is, somewhere.
    fn like(&self) -> String {
        format!("{}://{}127.0.0.1:1/0", self.scheme, self.user)
    }
}

impl Seeds {
    pub(super) fn new(settings: &RedisSettings) -> Result<Self, String> {
        let spread = Spread::parse(&settings.url)?;
        let client = match settings.tls.clone() {
            None => Client::open(spread.like()),
            Some(tls) => Client::build_with_tls(spread.like(), tls.into_certificates()),
        };
        let like = client.map_err(|error| error.to_string())?.get_connection_info().clone();
        let like = like.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        Ok(Self { places: spread.places, like })
    }

    /// Whether they are spoken to by certificates, which name hosts.
    pub(super) fn are_named(&self) -> bool {
        matches!(self.like.addr(), ConnectionAddr::TcpTls { .. })
    }

    /// A client of one of its servers.
    pub(super) fn client(&self, host: &str, port: u16) -> Result<Client, StoreError> {
        let address = match self.like.addr().clone() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host: host.to_owned(), port, insecure, tls_params }
            }
            _ => ConnectionAddr::Tcp(host.to_owned(), port),
        };
        let client = Client::open(self.like.clone().set_addr(address));
        client.map_err(|error| StoreError::from_redis(&error))
    }
}

/// Whether a URL is one of a cluster.
pub fn is_cluster(url: &str) -> bool {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    matches!(scheme, Some("redis-cluster" | "rediss-cluster"))
}

/// What is wrong with a URL, if anything.
pub fn wrong_with(url: &str) -> Option<&'static str> {
    let is_complete = |url: &str| Client::open(url).is_ok();
    match url.split_once("://").map(|(scheme, _)| scheme) {
        // What stands behind a `#` turns off that the server is verified; what stands behind a `?` chooses a protocol
        // in which the client library connects again without a word.
        Some("redis" | "rediss" | "redis-sentinel" | "redis-cluster" | "rediss-cluster")
            if url.contains(['#', '?']) =>
        {
            Some("has something behind a # or ?; write these as %23 and %3F in a password")
        }
        Some("redis" | "rediss") => (!is_complete(url)).then_some("is not complete"),
        Some("redis-sentinel") => {
            let nowhere = ConnectionAddr::Tcp("127.0.0.1".into(), 1);
            let like = Named::parse(url).and_then(|named| Client::open(named.like()).ok());
            let complete = like.is_some_and(|like| *like.get_connection_info().addr() == nowhere);
            (!complete)
                .then_some("is not redis-sentinel://host:port,host:port/name or …/name/database")
        }
        Some("redis-cluster" | "rediss-cluster") => match Spread::parse(url) {
            Err(wrong) => Some(wrong),
            Ok(spread) => (!is_complete(&spread.like())).then_some("is not complete"),
        },
        Some("unix" | "redis+unix") => Some("Unix sockets are not built yet"),
        Some(scheme) if scheme.contains("sentinel") => Some("TLS to sentinels is not built yet"),
        _ => Some(
            "does not begin with redis://, rediss://, redis-sentinel://, redis-cluster:// or rediss-cluster://",
        ),
    }
}

impl Place {
    pub(super) fn new(settings: &RedisSettings) -> Result<Self, String> {
        let told = |error: RedisError| error.to_string();
        let quick =
            |info: ConnectionInfo| info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let url = settings.url.as_str();
        if let Some(named) = Named::parse(url) {
            let like = Client::open(named.like()).map_err(told)?;
            let like = quick(like.get_connection_info().clone());
            return Ok(Self::Primary { name: named.name.into(), sentinels: named.sentinels, like });
        }
        let client = match settings.tls.clone() {
            None => Client::open(url),
            Some(tls) => Client::build_with_tls(url, tls.into_certificates()),
        };
        let info = quick(client.map_err(told)?.get_connection_info().clone());
        Client::open(info).map(Self::At).map_err(told)
    }

    /// A client of the server, wherever it is now.
    pub(super) async fn client(&self) -> Result<Client, StoreError> {
        let (like, address) = match self {
            Self::At(client) => return Ok(client.clone()),
            Self::Primary { like, .. } => (like, self.primary().await?),
        };
        let client = Client::open(like.clone().set_addr(address));
        client.map_err(|error| StoreError::from_redis(&error))
    }

    /// Whether the server is known to be elsewhere than at an address now. Sentinels that do not answer are no
    /// reason to leave it.
    pub(super) async fn has_left(&self, address: &ConnectionAddr) -> bool {
        self.follows() && self.primary().await.is_ok_and(|now| now != *address)
    }

    /// Whether it is only ever a primary.
    pub(super) const fn follows(&self) -> bool {
        matches!(self, Self::Primary { .. })
    }

    /// Where the primary is. All sentinels are asked at once, and who knows of the latest failover is believed:
    /// one that was cut off still names the primary of before.
    async fn primary(&self) -> Result<ConnectionAddr, StoreError> {
        let Self::Primary { name, sentinels, .. } = self else {
            return Err(StoreError::Unreachable);
        };
        let answers = sentinels.iter().map(async |(host, port)| {
            let answer = time::timeout(ASK_MAX, ask(host, *port, name)).await;
            let answer = answer.unwrap_or(Err(StoreError::Timeout));
            answer.map_err(|error| match error {
                StoreError::Refused(said) => {
                    let of = format!("the sentinel {host}:{port} of `store.url`");
                    StoreError::Refused(format!("{of}, asked for `{name}`: {said}"))
                }
                other => other,
            })
        });
        let answers = join_all(answers).await;
        let newest = answers.iter().flatten().max_by_key(|known| known.failover);
        if let Some(Known { host, port, .. }) = newest {
            return Ok(ConnectionAddr::Tcp(host.clone(), *port));
        }
        // What a sentinel said is worth more than that another said nothing.
        let refused = |error: &StoreError| matches!(error, StoreError::Refused(_));
        let mut errors = answers.into_iter().filter_map(Result::err);
        Err(errors.find(refused).unwrap_or(StoreError::Unreachable))
    }
}

/// What a sentinel knows of a primary.
struct Known {
    host: String,
    port: u16,
    /// The number of the failover that made it one.
    failover: u64,
}

/// Asks a sentinel where a primary is.
async fn ask(host: &str, port: u16, name: &str) -> Result<Known, StoreError> {
    let told = |error: RedisError| StoreError::from_redis(&error);
    let client = Client::open((host, port)).map_err(told)?;
    let mut sentinel = client.get_multiplexed_async_connection().await.map_err(told)?;
    let mut question = redis::cmd("SENTINEL");
    let answer = question.arg("master").arg(name).query_async(&mut sentinel).await;
    let fields: HashMap<String, String> = answer.map_err(told)?;
    let number = |field: &str| fields.get(field).and_then(|number| number.parse::<u64>().ok());
    let known = || {
        let (host, port) = (fields.get("ip")?.clone(), u16::try_from(number("port")?).ok()?);
        Some(Known { host, port, failover: number("config-epoch")? })
    };
    known().ok_or_else(|| StoreError::Unreadable("it does not say where the primary is".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_sentinels_and_the_primary() {
        let named =
            Named::parse("redis-sentinel://u:p@a:1,b,[::1]:7,[::1]/main/3").expect("complete");
        let sentinels = [("a", 1), ("b", SENTINEL_PORT), ("::1", 7), ("::1", SENTINEL_PORT)];
        assert_eq!(named.sentinels, sentinels.map(|(host, port)| (host.to_owned(), port)));
        assert_eq!((named.name, named.database, named.user), ("main", "3", "u:p@"));
        assert_eq!(named.like(), "redis://u:p@127.0.0.1:1/3");
        let bad = ["a:1", "a:1/", "/main", "a:x/main", "a:1,/main", "a:1/main/0/1", "a:1/main/x"];
        let worse =
            ["u:p@a:1,u:p@b:1/main", "u:p?x@a:1/main", "u:p#@a/main", "[::1/main", "a/main?x"];
        for bad in bad.into_iter().chain(worse) {
            assert!(wrong_with(&format!("redis-sentinel://{bad}")).is_some(), "{bad}");
        }
        assert_eq!(wrong_with("redis-sentinel://a:1/main"), None);
        assert!(wrong_with("redis://a:1/0?protocol=resp3").is_some());
    }

    #[test]
    fn a_url_names_servers_of_a_cluster() {
        let url = "rediss-cluster://u:p@a:1,b,[::1]:7/0";
        let spread = Spread::parse(url).expect("complete");
        let places = [("a", 1), ("b", PORT), ("::1", 7)];
        assert_eq!(spread.places, places.map(|(host, port)| (host.to_owned(), port)));
        assert_eq!(spread.like(), "rediss://u:p@127.0.0.1:1/0");
        for good in [url, "redis-cluster://a", "redis-cluster://a:1,b:2/"] {
            assert!(wrong_with(good).is_none() && is_cluster(good), "{good}");
        }
        for (bad, said) in [
            ("a:1/3", "only database 0"),
            ("a:1/main", "only database 0"),
            ("a:x", "is not redis-cluster://"),
            ("a:1,", "is not redis-cluster://"),
            ("u:p@a:1,u:p@b:1", "is not redis-cluster://"),
            ("u:p#@a:1", "a # or ?"),
            ("", "is not redis-cluster://"),
        ] {
            let wrong = wrong_with(&format!("redis-cluster://{bad}")).expect("it is refused");
            assert!(wrong.contains(said), "{bad}: {wrong}");
        }
        assert!(!is_cluster("redis://cluster:1/0"));
    }
}
