//! The composition root: where configuration becomes a running node.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt as _, future::FusedFuture as _};
use rand::{SeedableRng, rngs::StdRng};
use tidegate_core::{
    calls,
    engine::{Engine, Settings},
    ids::{Boot, Secret, Session},
    policy::PolicySet,
    store::BUCKETS,
    time::{ClusterTime, DATA_VERSION},
};
use tokio::{net::TcpListener, sync::watch, task};
use tracing::{error, info, warn};

use crate::{
    api::{self, Api, ResetStyle},
    clock::{self, Clock},
    config::{self, Cluster, Config, ConfigError, RedisTls, Seed},
    faults::{Baseline, Faults},
    guard::Mutexes,
    limiter::{self, Limiter},
    membership::{self, Membership, MembershipError},
    store::{
        RedisCluster, RedisSettings, RedisStore, Store, StoreGuard, Tls, is_cluster, snapshot::Lock,
    },
    telemetry::Metrics,
    transport::{self, Transport, TransportError},
};

use ends::{exchanged, joined, too_early, unbroken};
use peers::Peers;
use snapshots::{Begin, Snapshots};
use view::{Doors, View};

use policies::read_policies_for;
pub use policies::{PolicyFileError, read_policies};
pub use view::CONNECTIONS_BESIDE_CALLERS_MAX;
pub use wan::{Wan, WanError};

mod agreement;
mod certificates;
mod clocks;
mod ends;
mod file_watch;
mod grants;
mod heal;
mod peers;
mod policies;
mod readiness;
mod regions;
mod reservations;
mod snapshots;
#[cfg(test)]
mod tests;
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
    /// The snapshot belongs to another process.
    #[error(
        "{} (`store.snapshot`) is in use by another process: give each node a file of its own, or stop the \
         other node first",
        path.display()
    )]
    SnapshotTaken {
        /// The file.
        path: PathBuf,
    },
    /// The snapshot has more than the store may hold.
    #[error(
        "the snapshot in {} (`store.snapshot`) has {records} live records, and with `store.records_max` = \
         {records_max} there is no room for all of them (the room is divided by 64): set it to what it was \
         when the snapshot was written, or take the file away to begin with an empty store",
        path.display()
    )]
    SnapshotTooLarge {
        /// The file.
        path: PathBuf,
        /// Live records in it.
        records: u64,
        /// The setting.
        records_max: usize,
    },
    /// The store's URL, or a file that comes with it, is wrong.
    #[error("`store` is wrong: {0}")]
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
            Some(path) => read_policies_for(path, &config)?,
            None => PolicySet::default(),
        });
        let http = listen("listen.http", config.listen.http).await?;
        let admin = listen("listen.admin", config.listen.admin).await?;

        let clock = Clock::start();
        let boot = Boot(Clock::boot_number(rand::random()));
        let session = Session { id: config.id.clone(), boot };
        let (store, kept_secret, lock) = store(&config, clock)?;
        let store = Arc::new(store);
        let metrics = Arc::new(Metrics::new());

        let mut settings = Settings::new(session.clone());
        if let config::Store::Redis(redis) = &config.store {
            settings.call_max = Some(clock::span(redis.timeout));
            settings.fence = clock::span(redis.fence);
            if is_cluster(redis.url.secret()) {
                settings.buckets = BUCKETS;
            }
        }
        if config.cluster.is_none() {
            // Whoever starts alone begins anew: the names of callers are lost with a store's memory.
            settings.founded = Some(ClusterTime(u64::MAX));
        }
        if let Some(cluster) = &config.cluster {
            settings.gossip = clock::span(cluster.gossip);
            settings.relays = cluster.relays;
            settings.clock_error = clock::span(cluster.clock_error);
            settings.reclaim_after = clock::span(cluster.reclaim_after);
            settings.expects_peers = !foreign_seeds(cluster).is_empty();
            settings.regions = cluster.regions.clone().unwrap_or(settings.regions);
            settings.founded =
                cluster.founded.map(|millis| ClusterTime(millis.saturating_mul(1_000)));
        }
        let random = Box::new(StdRng::from_rng(&mut rand::rng()));
        let engine: Engine<Mutexes> =
            Engine::new(settings, clock.now(), clock.cluster_guess(), random);
        let engine = Arc::new(engine);

        // Without a cluster nobody else needs to know the secret; Redis keeps it over restarts, and so does
        // a snapshot.
        let configured = config.cluster.as_ref().map(|cluster| cluster.secret);
        let secret = configured.or(kept_secret).unwrap_or_else(|| Secret(rand::random()));
        let limiter = Limiter::new(
            Arc::clone(&engine),
            Arc::clone(&store),
            store_guard(&config, clock),
            Arc::clone(&policies),
            limiter::Settings { secret, remember: clock::span(config.remember) },
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
        let peers = Peers::new(Arc::clone(&engine), clock, &config, limiter.clone(), cluster);
        let view = Arc::new(View {
            version: env!("CARGO_PKG_VERSION"),
            engine,
            limiter: limiter.clone(),
            store: Arc::clone(&store),
            metrics,
            clock,
            network: peers.network(),
            faults,
            snapshots: Snapshots::new(&config, lock),
            doors: Doors::new(config.listen.connections_max),
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
    /// answered, peers are told what they have not heard, and the last snapshot is written. `reload` asks
    /// for the policy file and the certificates to be read again.
    ///
    /// # Errors
    ///
    /// What broke that a node cannot be without. It drains then too.
    pub async fn run(
        self,
        stop: impl Future<Output = ()>,
        reload: impl AsyncFnMut() -> bool,
    ) -> Result<(), ServerError> {
        let Self { http, admin, limiter, store, view, peers, config, clock } = self;
        info!(
            region = %config.id.region, node = %config.id.node, boot = view.engine.session().boot.0,
            http = %http.local_addr()?, admin = %admin.local_addr()?, store = ?store,
            policy_hash = %limiter.policies().hash, time_zones = DATA_VERSION, "started"
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
        let Doors { http: callers, admin: operators } = view.doors.clone();
        let http = tokio::spawn(api::serve(http, api, callers, until(http_stopped)));
        let rest = until(rest_stopped.clone());
        let admin = tokio::spawn(api::serve_admin(admin, view.clone(), operators, rest));
        let upkeep = async {
            tokio::join!(
                readiness::upkeep(&limiter, &store, &view, &config, clock),
                Box::pin(heal::keep_healed(&view.engine, &store, &limiter, clock)),
                Box::pin(grants::keep_granting(&view.engine, &store, &limiter, clock)),
                Box::pin(reservations::keep_settled(&view.engine, &store, &limiter, clock)),
                async {
                    if let Some(snapshots) = &view.snapshots {
                        snapshots.keep_writing(&limiter, &store).await;
                    }
                },
            );
        };
        let exchange = Box::pin(peers.run(until(rest_stopped)));
        let asked = watch::Sender::new(());
        let policies = policies::keep_reloading(asked.subscribe(), &config, &view);
        let certificates = certificates::keep_reloading(asked.subscribe(), &config, &view);
        let reload = keep_asking(reload, &asked);

        let network = Arc::clone(&view.network);
        let (upkeep, exchange) = (unbroken(upkeep).fuse(), unbroken(exchange).fuse());
        let (http, deaf) = (http.fuse(), network.deaf());
        tokio::pin!(upkeep, exchange, deaf, reload, policies, certificates, http, admin, stop);
        // All of these run for as long as the node does; if one ends, the node must.
        let stopped = tokio::select! {
            () = &mut stop => Ok(()),
            deaf = &mut deaf => Err(deaf.into()),
            ended = &mut exchange => Err(match exchanged(ended) {
                Err(error) => error,
                Ok(()) => too_early("the exchange with peers", Ok(())),
            }),
            ended = &mut http => Err(too_early("the answering of checks", joined(ended))),
            ended = &mut admin => Err(too_early("the answering of operators", joined(ended))),
            ended = &mut upkeep => Err(too_early("the upkeep of the store", ended)),
            () = &mut reload => Err(too_early("the wait for a signal to reload", Ok(()))),
            () = &mut policies => Err(too_early("the watch of policies", Ok(()))),
            () = &mut certificates => Err(too_early("the watch of certificates", Ok(()))),
        };
        // What was answered must not be lost with this run, whatever ends it.
        match &stopped {
            Ok(()) => info!("draining"),
            Err(error) => error!("{error}; draining"),
        }
        view.draining.send_replace(true);
        stop_http.send_replace(true);
        // Peers and store are needed until the last request is answered.
        let answer = async {
            let answered = if http.is_terminated() {
                Ok(())
            } else {
                tokio::select! {
                    ended = &mut http => joined(ended),
                    () = tokio::time::sleep(DRAIN_MAX) => {
                        warn!("requests were still under way after {DRAIN_MAX:?}; they are dropped");
                        Ok(())
                    }
                    ended = &mut upkeep => ended,
                }
            };
            stop_rest.send_replace(true);
            answered
        };
        let exchange =
            async { if exchange.is_terminated() { Ok(()) } else { exchanged(exchange.await) } };
        let (answered, told) = tokio::join!(answer, exchange);
        if let Some(snapshots) = &view.snapshots {
            snapshots.write_last(&limiter, &store).await;
        }
        stopped?;
        answered?;
        told?;
        info!("stopped");
        Ok(())
    }
}

/// The seeds that are not this node itself, as far as can be seen.
fn foreign_seeds(cluster: &Cluster) -> Vec<&Seed> {
    let ours = [cluster.listen, cluster.advertise].map(Seed::Address);
    cluster.seeds.iter().filter(|seed| !ours.contains(seed)).collect()
}

/// Does `work` on a thread that may wait for a disk, and waits for it: the task that drives the exchange
/// and the upkeep goes on meanwhile.
async fn aside(what: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(broken) = task::spawn_blocking(work).await {
        error!(%broken, "{what} broke: this is a bug");
    }
}

/// Passes on what `reload` says; ends when that says that it will not ask again.
async fn keep_asking(mut reload: impl AsyncFnMut() -> bool, asked: &watch::Sender<()>) {
    while reload().await {
        asked.send_replace(());
    }
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

/// The regional store, the secret that its records were kept under, if it knows, and the right to its
/// snapshot, if it has one.
fn store(
    config: &Config,
    clock: Clock,
) -> Result<(Store, Option<Secret>, Option<Lock>), ServerError> {
    let redis = match &config.store {
        config::Store::Memory(memory) => {
            let cluster = config.cluster.as_ref().map(|cluster| cluster.secret);
            let Begin { store, secret, lock } = snapshots::memory_store(memory, cluster, clock)?;
            return Ok((Store::Memory(store), secret, lock));
        }
        config::Store::Redis(redis) => redis,
    };
    let tls = redis.tls.as_ref().map(|RedisTls { ca, client }| {
        let client = client.as_ref().map(|(cert, key)| (&**cert, &**key));
        Tls::read(ca.as_deref(), client)
    });
    let settings = RedisSettings {
        url: redis.url.secret().to_owned(),
        tls: tls.transpose().map_err(ServerError::Store)?,
        timeout: redis.timeout,
        namespace: redis.namespace.clone(),
    };
    let store = if is_cluster(&settings.url) {
        let redis = redis.clone();
        let guard = Box::new(move || guard_of(&redis, clock));
        let cluster = RedisCluster::new(settings, guard).map_err(ServerError::Store)?;
        Store::Cluster(Box::new(cluster))
    } else {
        Store::Redis(Box::new(RedisStore::new(settings).map_err(ServerError::Store)?))
    };
    Ok((store, None, None))
}

/// What stands before a store that may fail or be slow, if it is one server; a cluster has one before each.
fn store_guard(config: &Config, clock: Clock) -> Option<StoreGuard> {
    match &config.store {
        config::Store::Redis(redis) if !is_cluster(redis.url.secret()) => {
            Some(guard_of(redis, clock))
        }
        _ => None,
    }
}

fn guard_of(redis: &config::Redis, clock: Clock) -> StoreGuard {
    let settings = calls::Settings {
        breaker: redis.breaker,
        calls_max: redis.calls_max,
        timeout: clock::span(redis.timeout),
    };
    let random = Box::new(StdRng::from_rng(&mut rand::rng()));
    StoreGuard::new(settings, clock, random)
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
