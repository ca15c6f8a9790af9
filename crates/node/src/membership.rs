//! Who is in the cluster: addresses, versions and policy hashes, by gossip, and who is alive.
//!
//! chitchat does the work; this module is all that knows of it. Its messages travel over the
//! [`Transport`], so that only nodes with a certificate can gossip. It carries no counts.
//!
//! All members that are known are kept dialled, dead ones too until they are forgotten: so a cut
//! heals as soon as its end is noticed, without waiting for gossip to find the way around.

mod held;
mod message;
mod seeds;
mod socket;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chitchat::{
    Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, NodeState,
    spawn_chitchat,
};
use futures_util::FutureExt as _;
use tidegate_core::ids::{Boot, NodeId};
use tokio::{sync::watch, task::AbortHandle, time::Instant};

use crate::transport::Transport;
use held::{Held, TooMuch};
use seeds::{LOOK_UP, Seeds};
use socket::{InHand, OverTransport, Taken};

/// Gossip with peers of another cluster is ignored; certificates already keep them out.
const CLUSTER: &str = "tidegate";
/// How often a node gossips.
const GOSSIP: Duration = Duration::from_millis(200);
/// How often what gossip has brought is looked at.
const REVIEW: Duration = Duration::from_millis(100);
/// The gap between signs of life that is expected of a new member. Together with the threshold:
/// a member counts as dead 2 to 4 s after its last sign of life.
const EXPECTED_GAP: Duration = Duration::from_millis(500);
/// How many times the usual gap a member may be silent.
const SILENT_GAPS: f64 = 8.0;
/// Gaps longer than this do not teach the failure detector.
const GAP_MAX: Duration = Duration::from_secs(5);
/// How many gaps the failure detector remembers.
const GAPS: usize = 200;
/// A member that has been dead for so long is forgotten; after half of it, it is not gossiped any
/// more. Ended runs count as members here, so a node that restarts every second must not fill the
/// messages.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(1200);
/// How long a deleted key is remembered; we delete none.
const TOMBSTONES: Duration = Duration::from_secs(3600);
/// How often a node gossips with seeds that are given by name; chitchat would look them up itself,
/// but start only after all were answered.
const GOSSIP_NAMED: Duration = Duration::from_secs(1);
/// The pause before a gossip task that has died is started again; it doubles while that dies again soon.
const RESTART_PAUSE: Duration = Duration::from_millis(200);
/// The longest such pause, and the time after which a task that has lived so long did not die soon. So many
/// of them that all generations of a boot were used last far longer than an ended run is remembered, and
/// the first may be used again.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(60);
/// How many members are kept; an authority that signs more nodes has made a mistake.
const MEMBERS_MAX: usize = 1024;

/// How many runs of nodes chitchat may know, ended ones included, which are remembered for
/// [`FORGOTTEN_AFTER`]. It has no bound of its own: with more, it begins anew with nothing. So it does with
/// too many bytes, see `membership/held.rs`.
const RUNS_MAX: usize = 4 * MEMBERS_MAX;

const KEY_REGION: &str = "region";
const KEY_NODE: &str = "node";
const KEY_ADDRESS: &str = "address";
const KEY_VERSION: &str = "version";
const KEY_POLICY_HASH: &str = "policy_hash";

/// A generation is a boot and, in its lowest bits, how often the gossip task was restarted in it.
const RESTART_BITS: u32 = 10;

/// What membership needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who we are.
    pub identity: NodeId,
    /// Which run of us this is; below 2^54.
    pub boot: Boot,
    /// Where peers can dial us.
    pub advertise: SocketAddr,
    /// Where others may be found, `host:port`; one that runs is enough. Names are looked up again
    /// and again.
    pub seeds: Vec<String>,
    /// The policies in force.
    pub policy_hash: String,
}

/// Why membership cannot start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// The boot number cannot be a generation.
    #[error("the boot number {0} is too large: is the clock right?")]
    Boot(u64),
    /// A seed is not an address.
    #[error("`{0}` in `cluster.seeds` is not `host:port`")]
    Seed(String),
}

/// A node of the cluster as gossip has it: the latest of its runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who it is.
    pub id: NodeId,
    /// Which run.
    pub boot: Boot,
    /// Where it can be dialled.
    pub address: SocketAddr,
    /// Whether there were signs of life lately.
    pub live: bool,
    /// The release that it runs; empty until it is known.
    pub version: String,
    /// The policies that it has in force; empty until it is known.
    pub policy_hash: String,
}

/// The members of the cluster, ourselves among them. Ends its gossip when dropped.
pub struct Membership {
    members: watch::Receiver<Vec<Member>>,
    policy_hash: watch::Sender<String>,
    bytes: Arc<AtomicU64>,
    task: AbortHandle,
}

impl Membership {
    /// Starts to gossip over `transport`, and keeps all seeds and known members dialled there.
    /// Must be called within a tokio runtime.
    pub fn start(config: Config, transport: &Transport) -> Result<Self, MembershipError> {
        if generation(config.boot, 0).is_none() {
            return Err(MembershipError::Boot(config.boot.0));
        }
        let seeds = Seeds::new(&config.seeds)?;
        let (members_sender, members) = watch::channel(Vec::new());
        let (policy_hash, hashes) = watch::channel(config.policy_hash.clone());
        let (transport, bytes) = (transport.clone(), Arc::<AtomicU64>::default());
        let gossip = Gossip {
            seeds,
            config,
            transport,
            hashes,
            members: members_sender,
            bytes: Arc::clone(&bytes),
            taken: Taken::default(),
        };
        let task = tokio::spawn(gossip.supervise()).abort_handle();
        Ok(Self { members, policy_hash, bytes, task })
    }

    /// The members as they are known now, ourselves among them, by name. Empty in the first
    /// moments.
    pub fn members(&self) -> Vec<Member> {
        self.members.borrow().clone()
    }

    /// The members, and whenever they change.
    pub fn watch(&self) -> watch::Receiver<Vec<Member>> {
        self.members.clone()
    }

    /// What gossip holds of all runs of nodes that it was told of, in bytes, as it was when it was looked at
    /// last; without what the allocator adds to each piece.
    pub fn memory_bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Says which policies are in force now.
    pub fn set_policy_hash(&self, hash: &str) {
        self.policy_hash.send_if_modified(|known| {
            let differs = known != hash;
            hash.clone_into(known);
            differs
        });
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the gossip task knows and serves.
struct Gossip {
    config: Config,
    transport: Transport,
    seeds: Seeds,
    hashes: watch::Receiver<String>,
    members: watch::Sender<Vec<Member>>,
    /// What chitchat holds.
    bytes: Arc<AtomicU64>,
    taken: Taken,
}

/// Why chitchat does not go on.
enum Ended {
    /// By itself.
    Died(String),
    /// It is ended: whoever told so much has passed on what others may have told.
    Full(TooMuch),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Died(why) => f.write_str(why),
            Self::Full(what) => what.fmt(f),
        }
    }
}

impl Gossip {
    /// Runs chitchat, and starts it again when it dies: a malformed message of a peer can do that.
    async fn supervise(mut self) {
        let (mut restarts, in_hand) = (Restarts::default(), InHand::default());
        while let Some(generation) = generation(self.config.boot, restarts.number) {
            let began = Instant::now();
            match self.spawn(generation, in_hand.clone()).await {
                Ok(handle) => {
                    let handle = Guarded(handle);
                    // chitchat's own code runs in it, too.
                    let followed = AssertUnwindSafe(self.follow(&handle)).catch_unwind().await;
                    let ended = followed.unwrap_or_else(|_| Ended::Died("it panicked".into()));
                    drop(handle);
                    self.bytes.store(0, Ordering::Relaxed);
                    tracing::warn!("gossip has ended and is started again: {ended}");
                    let whose = in_hand.take();
                    if let (Ended::Died(_), Some(peer)) = (ended, whose) {
                        tracing::warn!(%peer, "a message of this peer has killed it");
                        self.transport.accuse(peer).await;
                    }
                }
                Err(error) => tracing::warn!(%error, "gossip cannot be started, trying again"),
            }
            tokio::time::sleep(restarts.pause_after(began.elapsed())).await;
        }
    }

    async fn spawn(&self, generation: u64, in_hand: InHand) -> anyhow::Result<ChitchatHandle> {
        let Config { identity, advertise, .. } = &self.config;
        let config = ChitchatConfig {
            chitchat_id: ChitchatId::new(identity.to_string(), generation, *advertise),
            cluster_id: CLUSTER.into(),
            gossip_interval: GOSSIP,
            listen_addr: *advertise,
            seed_nodes: self.seeds.addresses().iter().map(ToString::to_string).collect(),
            failure_detector_config: FailureDetectorConfig::new(
                SILENT_GAPS,
                GAPS,
                GAP_MAX,
                EXPECTED_GAP,
                FORGOTTEN_AFTER,
            ),
            marked_for_deletion_grace_period: TOMBSTONES,
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        let policy_hash = self.hashes.borrow().clone();
        let facts = [
            (KEY_REGION, identity.region.to_string()),
            (KEY_NODE, identity.node.to_string()),
            (KEY_ADDRESS, advertise.to_string()),
            (KEY_VERSION, env!("CARGO_PKG_VERSION").to_owned()),
            (KEY_POLICY_HASH, policy_hash),
        ];
        let facts = facts.map(|(key, value)| (key.to_owned(), value)).to_vec();
        let (transport, taken) = (self.transport.clone(), self.taken.clone());
        let network = OverTransport { transport, in_hand, taken };
        spawn_chitchat(config, facts, &network).await
    }

    /// Passes on what changes, in both directions, until chitchat ends; returns why.
    async fn follow(&mut self, handle: &Guarded) -> Ended {
        let ended = handle.0.termination_watcher();
        tokio::pin!(ended);
        let mut review = tokio::time::interval(REVIEW);
        let mut look_up = tokio::time::interval(LOOK_UP);
        let mut gossip_named = tokio::time::interval(GOSSIP_NAMED);
        let mut hashes = self.hashes.clone();
        loop {
            tokio::select! {
                result = &mut ended => {
                    return Ended::Died(result.err().map_or_else(|| "it ended".into(), |e| e.to_string()));
                }
                _ = review.tick() => {
                    let look = |chitchat: &mut Chitchat| {
                        self.taken.reset();
                        let held = Held::of(chitchat);
                        self.bytes.store(held.bytes(), Ordering::Relaxed);
                        // What is too much is not passed on either.
                        held.too_much().map_or_else(|| Ok(read_members(chitchat)), Err)
                    };
                    match handle.0.with_chitchat(look).await {
                        Ok(members) => self.publish(members),
                        Err(what) => return Ended::Full(what),
                    }
                }
                _ = look_up.tick() => self.seeds.look_up(),
                _ = gossip_named.tick() => {
                    for address in self.seeds.found() {
                        // Fails only when chitchat has ended, which is seen above.
                        let _ = handle.0.gossip(address);
                    }
                }
                Ok(()) = hashes.changed() => {
                    let hash = hashes.borrow_and_update().clone();
                    handle.0.with_chitchat(|c| c.self_node_state().set(KEY_POLICY_HASH, &hash)).await;
                }
            }
        }
    }

    fn publish(&self, members: Vec<Member>) {
        let mut wanted = self.seeds.found();
        wanted.extend(self.seeds.addresses());
        for member in members.iter().filter(|member| member.id != self.config.identity) {
            self.transport.learn(member.address, &member.id.region);
            wanted.insert(member.address);
        }
        self.transport.keep_dialled(wanted);
        self.members.send_if_modified(|known| {
            let differs = *known != members;
            *known = members;
            differs
        });
    }
}

/// How often gossip was started anew, and when it may be again. It never ends for good: a peer that kills it
/// with every message holds membership up only for as long as it goes on.
#[derive(Debug, Default)]
struct Restarts {
    number: u64,
    pause: Duration,
}

impl Restarts {
    /// The pause before the next start, after a task that has lived for so long.
    fn pause_after(&mut self, lived: Duration) -> Duration {
        self.number = (self.number + 1) % (1 << RESTART_BITS);
        let soon = lived < RESTART_PAUSE_MAX && !self.pause.is_zero();
        self.pause = if soon { (self.pause * 2).min(RESTART_PAUSE_MAX) } else { RESTART_PAUSE };
        self.pause
    }
}

/// Ends chitchat's task when it is dropped, which its own handle does not.
struct Guarded(ChitchatHandle);

impl Drop for Guarded {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The generation of a boot's n-th restart of gossip, if there is one.
fn generation(boot: Boot, restarts: u64) -> Option<u64> {
    let fits = boot.0 >> (u64::BITS - RESTART_BITS) == 0 && restarts >> RESTART_BITS == 0;
    fits.then_some(boot.0 << RESTART_BITS | restarts)
}

/// The latest run of each node, by name.
fn read_members(chitchat: &Chitchat) -> Vec<Member> {
    let live: BTreeSet<&ChitchatId> = chitchat.live_nodes().collect();
    // A run that lives is later than one that does not, whatever the clocks said that numbered them.
    let mut latest: BTreeMap<NodeId, ((bool, u64), Member)> = BTreeMap::new();
    for (id, state) in chitchat.node_states() {
        let Some(member) = read_member(id, state, live.contains(id)) else { continue };
        let rank = (member.live, id.generation_id);
        if latest.get(&member.id).is_none_or(|(known, _)| rank > *known) {
            latest.insert(member.id.clone(), (rank, member));
        }
    }
    cut(latest.into_values().map(|(_, member)| member).collect(), MEMBERS_MAX)
}

/// At most so many of these members, which are by name: those that live first, so that names that a peer
/// invented, and that show no sign of life, push nobody out.
fn cut(mut members: Vec<Member>, max: usize) -> Vec<Member> {
    if members.len() > max {
        members.sort_by_key(|member| !member.live);
        members.truncate(max);
        members.sort_by(|a, b| a.id.cmp(&b.id));
    }
    members
}

/// A member, if its name is one.
fn read_member(id: &ChitchatId, state: &NodeState, live: bool) -> Option<Member> {
    let (region, node) = id.node_id.split_once('/')?;
    let text = |key| state.get(key).unwrap_or_default().to_owned();
    Some(Member {
        id: NodeId::new(region, node).ok()?,
        boot: Boot(id.generation_id >> RESTART_BITS),
        address: id.gossip_advertise_addr,
        live,
        version: text(KEY_VERSION),
        policy_hash: text(KEY_POLICY_HASH),
    })
}

/// Reads a message that came from a peer.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_message(bytes: &[u8]) {
    message::fuzz(bytes);
}
