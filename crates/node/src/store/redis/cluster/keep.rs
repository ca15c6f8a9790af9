//! Watching a cluster: whose the slots are, whether their servers live, and in which epoch each bucket is.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use tidegate_core::store::{BUCKETS, CallerBucket, StoreCommand};
use tokio::{
    sync::mpsc,
    time::{self, MissedTickBehavior},
};
use tracing::warn;

use super::{
    super::probe::{CONNECT_MAX, PROBE_EVERY},
    Address, Inner, Link, Map, PROBE_TIMEOUT, Primary, Routes, StoreError,
    map::PRIMARIES_MAX,
    primary::{Memory, timeouts},
};

/// How many looks go by between two questions whose the slots are, while all is well: about a second.
const LOOKS_PER_QUESTION: u32 = 4;
/// The least time between two such questions.
const QUESTIONS_APART: Duration = Duration::from_millis(20);
/// How many servers are asked at a time. Who was cut off says what was so before; others know better.
const ASKED_MAX: usize = 3;
/// How long one may take to connect and to answer.
const ASK_MAX: Duration = Duration::from_millis(500);
/// Looks at buckets that are under way at a time, for each server.
const LOOKS_MAX: usize = 32;

impl Inner {
    pub(super) async fn keep_connected(&self) {
        let (begin, begun) = mpsc::channel(PRIMARIES_MAX);
        tokio::join!(self.keep_mapped(begin), self.keep_all(begun));
    }

    /// Keeps the connections to all primaries. Who has come is told, who has gone ends by itself.
    async fn keep_all(&self, mut begun: mpsc::Receiver<Arc<Primary>>) {
        let mut keepers = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(primary) = begun.recv() => keepers.push(self.keep(primary)),
                Some(()) = keepers.next(), if !keepers.is_empty() => {}
            }
        }
    }

    /// Keeps track of whose the slots are.
    async fn keep_mapped(&self, begin: mpsc::Sender<Arc<Primary>>) {
        let mut every = time::interval(PROBE_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut looks, mut told) = (0_u32, None);
        loop {
            let is_woken = tokio::select! {
                () = self.stale.notified() => true,
                _ = every.tick() => false,
            };
            looks = looks.wrapping_add(1);
            if !is_woken && self.is_whole() && !looks.is_multiple_of(LOOKS_PER_QUESTION) {
                continue;
            }
            match self.ask_for_map(looks as usize).await {
                Ok(map) => {
                    self.trouble.store(None);
                    told = None;
                    self.adopt(map, &begin).await;
                }
                Err(reason) => {
                    if told != Some(reason.kind()) {
                        told = Some(reason.kind());
                        warn!(%reason, "no server of the redis cluster says whose the slots are");
                    }
                    self.trouble.store(Some(Arc::new(reason)));
                }
            }
            time::sleep(QUESTIONS_APART).await;
        }
    }

    fn is_whole(&self) -> bool {
        let routes = self.routes.load();
        routes.map.uncovered() == 0 && routes.primaries.iter().all(|p| p.is_reachable())
    }

    /// Asks a few servers that there are connections to, or if none of them answers, those that the URL names.
    async fn ask_for_map(&self, turn: usize) -> Result<Map, StoreError> {
        let routes = self.routes.load_full();
        let links = routes.primaries.iter().filter_map(|p| Some((p.address.clone(), p.link()?)));
        let links: Vec<_> = links.collect();
        let first = turn.checked_rem(links.len()).unwrap_or(0);
        let asked = links.iter().cycle().skip(first).take(ASKED_MAX.min(links.len()));
        let asked: Vec<_> = asked.map(|(address, link)| ask_link(address, link)).collect();
        let words: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
        if let Some(map) = Map::merged(&words, self.seeds.are_named()) {
            return Ok(map);
        }
        let seeds = self.seeds.places.iter();
        let asked: Vec<_> = seeds.map(|(host, port)| self.ask_seed(host, *port)).collect();
        let (words, errors): (Vec<_>, Vec<_>) =
            join_all(asked).await.into_iter().partition(Result::is_ok);
        let words: Vec<_> = words.into_iter().flatten().collect();
        Map::merged(&words, self.seeds.are_named()).ok_or_else(|| {
            // What a server said is worth more than that another said nothing.
            let mut errors = errors.into_iter().filter_map(Result::err);
            let refused = errors.find(|error| matches!(error, StoreError::Refused(_)));
            refused.unwrap_or(StoreError::Unreachable)
        })
    }

    /// Asks a server that the URL names, over a connection of its own.
    async fn ask_seed(&self, host: &str, port: u16) -> Result<(Address, String), StoreError> {
        let asked = async {
            let client = self.seeds.client(host, port)?;
            let timeouts = timeouts(ASK_MAX);
            let connection = client.get_multiplexed_async_connection_with_config(&timeouts);
            nodes(&mut connection.await.map_err(|e| StoreError::from_redis(&e))?).await
        };
        let answer = time::timeout(ASK_MAX, asked).await.unwrap_or(Err(StoreError::Timeout));
        answer.map(|said| (Address::new(host, port), said)).map_err(|error| match error {
            StoreError::Refused(said) => StoreError::Refused(format!(
                "{host}:{port} of `store.url`, asked for the cluster's slots: {said}"
            )),
            other => other,
        })
    }

    /// Goes by another map from now on.
    async fn adopt(&self, map: Map, begin: &mpsc::Sender<Arc<Primary>>) {
        let before = self.routes.load_full();
        if before.map == map {
            return;
        }
        let mut known: BTreeMap<_, _> =
            before.primaries.iter().map(|primary| (&primary.address, primary)).collect();
        let mut come = Vec::new();
        let primaries = map.primaries.iter().map(|server| {
            known.remove(&server.address).cloned().unwrap_or_else(|| {
                let guard = (self.make_guard)();
                let primary = Arc::new(Primary::new(server.address.clone(), guard));
                come.push(Arc::clone(&primary));
                primary
            })
        });
        let primaries = primaries.collect();
        self.routes.store(Arc::new(Routes { map, primaries }));
        self.note_doubt();
        for gone in known.into_values() {
            gone.retire();
        }
        for primary in come {
            // The other end lives as long as this one.
            let _ = begin.send(primary).await;
        }
    }

    /// Connects to a primary, and watches whether it lives, for as long as it is one.
    async fn keep(&self, primary: Arc<Primary>) {
        let mut every = time::interval(PROBE_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut memory, mut looked) = (Memory::default(), Looked::default());
        loop {
            tokio::select! {
                () = primary.wake.notified() => {}
                _ = every.tick() => {}
            }
            if primary.is_retired() {
                return;
            }
            let link = primary.link();
            let patience = PROBE_TIMEOUT.max(4 * self.settings.timeout);
            let most = if link.is_some() { patience } else { CONNECT_MAX };
            let probed = time::timeout(most, async {
                let link = match link {
                    Some(link) => link,
                    None => {
                        memory.begin_anew();
                        let bucket = self.buckets_of(&primary).next();
                        Arc::new(Box::pin(primary.connect(self, bucket)).await?)
                    }
                };
                primary.probe(self, &link, &mut memory).await?;
                Ok(link)
            });
            let answer = probed.await.unwrap_or(Err(StoreError::Timeout));
            let history = answer.as_ref().ok().map(|link| link.history.load_full());
            if primary.handle_probe(answer.as_ref().map_err(Clone::clone)) {
                primary.tell(&self.settings.namespace);
                self.stale.notify_one();
            }
            if let Some(history) = history {
                self.look_at_buckets(&primary, &history, &mut looked).await;
            }
        }
    }

    /// The buckets that a primary has.
    fn buckets_of(&self, primary: &Arc<Primary>) -> impl Iterator<Item = CallerBucket> {
        let routes = self.routes.load_full();
        (0..BUCKETS).filter_map(move |bucket| {
            let owner = routes.owner(self.slots[bucket])?;
            Arc::ptr_eq(owner, primary).then_some(CallerBucket(bucket as u16))
        })
    }

    /// Finds out in which epochs a primary's buckets are: all of them if its history is another one, and in any case
    /// one more. A server that was wiped is of the same history, and has lost all markers: the one tells.
    async fn look_at_buckets(
        &self,
        primary: &Arc<Primary>,
        history: &Arc<String>,
        looked: &mut Looked,
    ) {
        let buckets: Vec<_> = self.buckets_of(primary).collect();
        looked.of.retain(|bucket, _| buckets.binary_search(bucket).is_ok());
        let is_new =
            |bucket: &CallerBucket| looked.of.get(bucket).is_none_or(|(under, _)| under != history);
        let new: Vec<_> = buckets.iter().copied().filter(is_new).collect();
        self.look_at(&new, history, looked).await;
        let behind = buckets.partition_point(|bucket| *bucket <= looked.turn);
        let Some(next) = buckets.get(behind).or_else(|| buckets.first()) else { return };
        looked.turn = *next;
        let known = looked.of.get(next).map(|(_, epoch)| *epoch);
        self.look_at(&[*next], history, looked).await;
        if known != looked.of.get(next).map(|(_, epoch)| *epoch) {
            self.look_at(&buckets, history, looked).await;
        }
    }

    /// Carries out a step over nothing in each of these buckets, which says in which epoch it is.
    async fn look_at(&self, buckets: &[CallerBucket], history: &Arc<String>, looked: &mut Looked) {
        let mut waiting = buckets.iter();
        let mut looks = FuturesUnordered::new();
        looks.extend(waiting.by_ref().take(LOOKS_MAX).map(|bucket| self.look(*bucket)));
        while let Some((bucket, epoch)) = looks.next().await {
            looks.extend(waiting.next().map(|bucket| self.look(*bucket)));
            // Whoever does not answer is asked again after the next probe, which must not wait for all of them.
            let Some(epoch) = epoch else { return };
            looked.of.insert(bucket, (Arc::clone(history), epoch));
        }
    }

    async fn look(&self, bucket: CallerBucket) -> (CallerBucket, Option<u64>) {
        let reply = self.step(&StoreCommand::default(), bucket, self.settings.timeout).await;
        (bucket, reply.ok().map(|reply| reply.epoch().0))
    }
}

/// What a server says of a cluster at most: of a thousand servers that share single slots it is not a quarter.
const NODES_BYTES_MAX: usize = 4 << 20;

/// Which buckets of a primary were looked at, under which history, and what was found.
#[derive(Default)]
struct Looked {
    of: BTreeMap<CallerBucket, (Arc<String>, u64)>,
    /// The one that was looked at last for no other reason than its turn.
    turn: CallerBucket,
}

/// Asks a server that there is a connection to.
async fn ask_link(address: &Address, link: &Link) -> Result<(Address, String), StoreError> {
    Ok((address.clone(), nodes(&mut link.connection.clone()).await?))
}

/// What a server says of the cluster.
async fn nodes(connection: &mut redis::aio::MultiplexedConnection) -> Result<String, StoreError> {
    let mut question = redis::cmd("CLUSTER");
    let answer = time::timeout(ASK_MAX, question.arg("NODES").query_async(connection)).await;
    let answer = answer.map_err(|_| StoreError::Timeout)?;
    let text: String = answer.map_err(|error| StoreError::from_redis(&error))?;
    if text.len() > NODES_BYTES_MAX {
        let said = format!("it says {} bytes of the cluster's servers", text.len());
        return Err(StoreError::Unreadable(said));
    }
    Ok(text)
}
