//! The composition root: where configuration becomes a running node.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rand::{SeedableRng, rngs::StdRng};
use tidegate_core::{
    engine::{Engine, Settings},
    ids::{Boot, Secret, Session},
    policy::PolicySet,
};
use tokio::{net::TcpListener, sync::watch};
use tracing::{info, warn};

use crate::{
    api::{self, Api, ResetStyle},
    clock::{self, Clock},
    config::{self, Cluster, Config, ConfigError, Seed},
    faults::{Baseline, Faults},
    guard::Mutexes,
    limiter::Limiter,
    membership::{self, Membership, MembershipError},
    store::{GuardSettings, MemoryStore, RedisSettings, RedisStore, Store, StoreGuard},
    telemetry::Metrics,
    transport::{self, Transport, TransportError},
};

use peers::Peers;
use view::View;

pub use policies::{PolicyFileError, read_policies};
pub use wan::{Wan, WanError};

mod clocks;
mod file_watch;
mod peers;
mod policies;
mod readiness;
mod view;
mod wan;

/// What may be asked of a node beside its configuration.
#[derive(Debug, Default)]
pub struct Options {
    /// Offer `/v1/faults`.
    pub enable_faults: bool,
    /// How far other regions are made to be.
    pub wan: Option<Wan>,
}

/// Why a node cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The policy file is wrong.
    #[error(transparent)]
    Policies(#[from] PolicyFileError),
    /// The file that says how far regions are is wrong.
    #[error(transparent)]
    Wan(#[from] WanError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address} (`{field}`): {source}; is another process using it?")]
    Listen {
        /// The setting.
        field: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A file that the configuration names cannot be read.
    #[error("cannot read {} (`{field}`): {source}", path.display())]
    File {
        /// The setting.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The store's URL is wrong.
    #[error("`store.url` is wrong: {0}")]
    Store(String),
    /// QUIC cannot start: certificates, mostly.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Membership cannot start.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// A listener broke while running.
    #[error("the server stopped: {0}")]
    Broken(#[from] io::Error),
}

/// A node that is listening, and not answering yet.
pub struct Server {
    http: TcpListener,
    admin: TcpListener,
    limiter: Limiter,
    store: Arc<Store>,
    view: Arc<View>,
    peers: Peers,
    config: Config,
    clock: Clock,
}

impl Server {
    /// Reads what the configuration names, and listens. Must be called within a tokio runtime.
    pub async fn bind(config: Config, options: Options) -> Result<Self, ServerError> {
        let policies = Arc::new(match &config.policies {
            Some(path) => read_policies(path)?,
            None => PolicySet::default(),
        });
        let http = listen("listen.http", config.listen.http).await?;
        let admin = listen("listen.admin", config.listen.admin).await?;

        let clock = Clock::start();
        let boot = Boot(Clock::boot_number(rand::random()));
        let session = Session { id: config.id.clone(), boot };
        let store = Arc::new(store(&config, clock)?);
        let metrics = Arc::new(Metrics::new());

        let mut settings = Settings::new(session.clone());
        if let config::Store::Redis(redis) = &config.store {
            settings.call_max = Some(clock::span(redis.timeout));
        }
        if let Some(cluster) = &config.cluster {
            settings.gossip = clock::span(cluster.gossip);
            settings.relays = cluster.relays;
            settings.clock_error = clock::span(cluster.clock_error);
            settings.expects_peers = !foreign_seeds(cluster).is_empty();
        }
        let random = Box::new(StdRng::from_rng(&mut rand::rng()));
        let engine: Engine<Mutexes> =
            Engine::new(settings, clock.now(), clock.cluster_guess(), random);
        let engine = Arc::new(engine);

        // Without a cluster nobody else needs to know the secret; Redis keeps it over restarts.
        let secret = config.cluster.as_ref().map_or_else(|| Secret(rand::random()), |c| c.secret);
        let limiter = Limiter::new(
            Arc::clone(&engine),
            Arc::clone(&store),
            store_guard(&config, clock),
            Arc::clone(&policies),
            secret,
            Arc::clone(&metrics),
            clock,
        );
        let faults = options.enable_faults.then(|| faults(&config, options.wan.as_ref()));
        let mut cluster = None;
        if let Some(settings) = &config.cluster {
            let socket = UdpSocket::bind(settings.listen).map_err(|source| {
                ServerError::Listen { field: "cluster.listen", address: settings.listen, source }
            })?;
            let (transport, events) = Transport::start(transport::Config {
                identity: config.id.clone(),
                boot,
                socket,
                advertise: settings.advertise,
                ca_pem: read("cluster.ca", &settings.ca)?,
                cert_pem: read("cluster.cert", &settings.cert)?,
                key_pem: read("cluster.key", &settings.key)?,
                faults: faults.clone(),
            })?;
            let membership = Membership::start(
                membership_config(&config, settings, boot, &policies),
                &transport,
            )?;
            cluster = Some((transport, events, membership));
        }
        let peers = Peers::new(Arc::clone(&engine), clock, &config, cluster);
        let view = Arc::new(View {
            version: env!("CARGO_PKG_VERSION"),
            engine,
            limiter: limiter.clone(),
            store: Arc::clone(&store),
            metrics,
            clock,
            network: peers.network(),
            faults,
            draining: watch::Sender::new(false),
            secret_agreed: watch::Sender::new(config.cluster.is_some()),
        });
        Ok(Self { http, admin, limiter, store, view, peers, config, clock })
    }

    /// Where checks are asked.
    pub fn http_address(&self) -> io::Result<SocketAddr> {
        self.http.local_addr()
    }

    /// Where operators ask.
    pub fn admin_address(&self) -> io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Answers until `stop` completes, then drains: new connections are refused, requests under way are
    /// answered, and peers are told what they have not heard. `reload` asks for the policy file to be
    /// read again.
    pub async fn run(
        self,
        stop: impl Future<Output = ()>,
        reload: impl AsyncFnMut() -> bool,
    ) -> Result<(), ServerError> {
        let Self { http, admin, limiter, store, view, peers, config, clock } = self;
        info!(
            region = %config.id.region, node = %config.id.node, boot = view.engine.session().boot.0,
            http = %http.local_addr()?, admin = %admin.local_addr()?, store = ?store,
            policy_hash = %limiter.policies().hash, "started"
        );
        let (stop_http, http_stopped) = watch::channel(false);
        let (stop_rest, rest_stopped) = watch::channel(false);
        let identity = config.identity.clone();
        let api = Api {
            limiter: Arc::new(limiter.clone()),
            region: config.id.region.clone(),
            trusted_proxies: Arc::new(move |proxy| identity.trusts(proxy)),
            unix_now: Arc::new(clock::unix_time),
            reset: ResetStyle::default(),
        };
        let http = tokio::spawn(api::serve(http, api, until(http_stopped)));
        let admin =
            tokio::spawn(api::serve_admin(admin, view.clone(), until(rest_stopped.clone())));
        let upkeep = readiness::upkeep(&limiter, &store, &view, &config, clock);
        let exchange = peers.run(until(rest_stopped));
        let reload = policies::keep_reloading(reload, &config, &limiter, &view);

        tokio::pin!(upkeep, exchange, reload, http, admin, stop);
        // All of these run for as long as the node does; if one ends, the node must.
        tokio::select! {
            () = &mut stop => {}
            ended = &mut http => ended.map_err(io::Error::other)??,
            ended = &mut admin => ended.map_err(io::Error::other)??,
            () = &mut exchange => return Err(ended("the exchange with peers")),
            () = &mut upkeep => return Err(ended("the upkeep of the store")),
            () = &mut reload => return Err(ended("the watch of policies")),
        }
        info!("draining");
        view.draining.send_replace(true);
        stop_http.send_replace(true);
        // Peers and store are needed until the last request is answered.
        tokio::select! {
            answered = &mut http => answered.map_err(io::Error::other)??,
            () = tokio::time::sleep(DRAIN_MAX) => {
                warn!("requests were still under way after {DRAIN_MAX:?}; they are dropped");
            }
            () = &mut exchange => {}
            () = &mut upkeep => {}
        }
        stop_rest.send_replace(true);
        exchange.await;
        info!("stopped");
        Ok(())
    }
}

/// The seeds that are not this node itself, as far as can be seen.
fn foreign_seeds(cluster: &Cluster) -> Vec<&Seed> {
    let ours = [cluster.listen, cluster.advertise].map(Seed::Address);
    cluster.seeds.iter().filter(|seed| !ours.contains(seed)).collect()
}

fn ended(what: &str) -> ServerError {
    ServerError::Broken(io::Error::other(format!("{what} ended")))
}

/// How long requests under way may take to be answered when the node stops.
const DRAIN_MAX: Duration = Duration::from_secs(10);

async fn until(mut stopped: watch::Receiver<bool>) {
    // If the sender is gone, so is the reason to go on.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn listen(field: &'static str, address: SocketAddr) -> Result<TcpListener, ServerError> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|source| ServerError::Listen { field, address, source })
}

fn read(field: &'static str, path: &Path) -> Result<Vec<u8>, ServerError> {
    fs::read(path).map_err(|source| ServerError::File { field, path: path.into(), source })
}

fn store(config: &Config, clock: Clock) -> Result<Store, ServerError> {
    Ok(match &config.store {
        config::Store::Memory(memory) => Store::Memory(MemoryStore::new(memory.records_max, clock)),
        config::Store::Redis(redis) => Store::Redis(Box::new(
            RedisStore::new(RedisSettings {
                url: redis.url.secret().to_owned(),
                timeout: redis.timeout,
                namespace: redis.namespace.clone(),
            })
            .map_err(ServerError::Store)?,
        )),
    })
}

/// What stands before a store that may fail or be slow.
fn store_guard(config: &Config, clock: Clock) -> Option<StoreGuard> {
    let config::Store::Redis(redis) = &config.store else { return None };
    let settings = GuardSettings {
        breaker: redis.breaker,
        calls_max: redis.calls_max,
        timeout: redis.timeout,
    };
    let random = Box::new(StdRng::from_rng(&mut rand::rng()));
    Some(StoreGuard::new(settings, clock, random))
}

fn faults(config: &Config, wan: Option<&Wan>) -> Arc<Faults> {
    let links = wan.map_or(&[][..], |wan| &wan.links);
    let baseline: BTreeMap<_, _> = links
        .iter()
        .map(|link| {
            let baseline = link.round_trip.map(Baseline::of_round_trip).unwrap_or_default();
            (link.region.clone(), baseline)
        })
        .collect();
    let random = Box::new(StdRng::from_rng(&mut rand::rng()));
    let faults = Faults::new(config.id.region.clone(), baseline, random);
    for link in links {
        for address in &link.addresses {
            faults.learn(*address, &link.region);
        }
    }
    Arc::new(faults)
}

fn membership_config(
    config: &Config,
    cluster: &Cluster,
    boot: Boot,
    policies: &PolicySet,
) -> membership::Config {
    membership::Config {
        identity: config.id.clone(),
        boot,
        advertise: cluster.advertise,
        seeds: cluster.seeds.iter().map(Seed::to_string).collect(),
        policy_hash: policies.hash.to_string(),
    }
}
