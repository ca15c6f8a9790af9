//! Where the server is: at an address, or wherever sentinels say that the primary is.

use std::time::Duration;

use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, io::tcp::TcpSettings};
use tokio::time;

use super::{RedisSettings, StoreError};

const SENTINEL: &str = "redis-sentinel://";
/// Where sentinels listen, if the URL does not say.
const SENTINEL_PORT: u16 = 26_379;
/// How long one sentinel may take to connect and to answer.
const ASK_MAX: Duration = Duration::from_millis(500);

/// Where the server is.
pub(super) enum Place {
    At(Client),
    /// The primary of this name, by the word of the first sentinel that answers.
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
        let mut parts = rest.split('/');
        let hosts = parts.next()?;
        let name = parts.next().filter(|name| !name.is_empty())?;
        let database = parts.next().unwrap_or("0");
        if parts.next().is_some() {
            return None;
        }
        let sentinels = hosts.split(',').map(|host| match host.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() => Some((host.to_owned(), port.parse().ok()?)),
            None if !host.is_empty() => Some((host.to_owned(), SENTINEL_PORT)),
            _ => None,
        });
        Some(Self { user, sentinels: sentinels.collect::<Option<_>>()?, name, database })
    }

    /// A URL of a server as the primary is, somewhere.
    fn like(&self) -> String {
        format!("redis://{}127.0.0.1:1/{}", self.user, self.database)
    }
}

/// What is wrong with a URL, if anything.
pub fn wrong_with(url: &str) -> Option<&'static str> {
    let is_complete = |url: &str| Client::open(url).is_ok();
    match url.split_once("://").map(|(scheme, _)| scheme) {
        // What stands behind a `#` turns off that the server is verified.
        Some("rediss") if url.contains('#') => Some("has something behind a #"),
        Some("redis" | "rediss") => (!is_complete(url)).then_some("is not complete"),
        Some("redis-sentinel") => {
            let complete = Named::parse(url).is_some_and(|named| is_complete(&named.like()));
            (!complete)
                .then_some("is not redis-sentinel://host:port,host:port/name or …/name/database")
        }
        Some("unix" | "redis+unix") => Some("Unix sockets are not built yet"),
        Some(scheme) if scheme.contains("sentinel") => Some("TLS to sentinels is not built yet"),
        Some(scheme) if scheme.contains("cluster") => Some("Redis Cluster is not built yet"),
        _ => Some("does not begin with redis://, rediss:// or redis-sentinel://"),
    }
}

impl Place {
    pub(super) fn new(settings: &RedisSettings) -> Result<Self, String> {
        let told = |error: redis::RedisError| error.to_string();
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

    /// Whether the server is known to be elsewhere than at an address now. Sentinels that do not answer at once
    /// are no reason to leave it.
    pub(super) async fn has_left(&self, address: &ConnectionAddr) -> bool {
        if !self.follows() {
            return false;
        }
        let primary = time::timeout(ASK_MAX, self.primary()).await;
        matches!(primary, Ok(Ok(now)) if now != *address)
    }

    /// Whether it is only ever a primary.
    pub(super) const fn follows(&self) -> bool {
        matches!(self, Self::Primary { .. })
    }

    /// Where the primary is, by the word of the first sentinel that knows.
    async fn primary(&self) -> Result<ConnectionAddr, StoreError> {
        let Self::Primary { name, sentinels, .. } = self else {
            return Err(StoreError::Unreachable);
        };
        let mut why = StoreError::Unreachable;
        for (host, port) in sentinels {
            match ask(host, *port, name).await {
                Ok(Some((host, port))) => return Ok(ConnectionAddr::Tcp(host, port)),
                Ok(None) => {
                    why = StoreError::Refused(format!(
                        "the sentinel {host}:{port} of `store.url` knows no primary `{name}`"
                    ));
                }
                Err(_) => {}
            }
        }
        Err(why)
    }
}

/// Asks a sentinel where a primary is.
async fn ask(host: &str, port: u16, name: &str) -> redis::RedisResult<Option<(String, u16)>> {
    let client = Client::open((host, port))?;
    let times = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ASK_MAX))
        .set_response_timeout(Some(ASK_MAX));
    let mut sentinel = client.get_multiplexed_async_connection_with_config(&times).await?;
    let mut question = redis::cmd("SENTINEL");
    question.arg("get-master-addr-by-name").arg(name).query_async(&mut sentinel).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_sentinels_and_the_primary() {
        let named = Named::parse("redis-sentinel://u:p@a:1,b/main/3").expect("complete");
        assert_eq!(named.sentinels, [("a".into(), 1), ("b".into(), SENTINEL_PORT)]);
        assert_eq!((named.name, named.database, named.user), ("main", "3", "u:p@"));
        assert_eq!(named.like(), "redis://u:p@127.0.0.1:1/3");
        for bad in ["a:1", "a:1/", "/main", "a:x/main", "a:1,/main", "a:1/main/0/1", "a:1/main/x"] {
            assert!(wrong_with(&format!("redis-sentinel://{bad}")).is_some(), "{bad}");
        }
        assert_eq!(wrong_with("redis-sentinel://a:1/main"), None);
    }
}
