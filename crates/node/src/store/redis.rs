//! The store in Redis: the one module that knows Redis.
//!
//! One script per check, one connection that everything shares, a deadline on every call. The client
//! library reconnects, but nothing is ever sent twice: a call that may have been carried out is
//! [`StoreError::Timeout`] or [`StoreError::Broken`], and its caller decides.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use redis::{
    ErrorKind, FromRedisValue, RedisError, ServerErrorKind, Value,
    aio::{ConnectionLike, ConnectionManager},
};
use tidegate_core::{
    algorithm::{Bucket, LabelTime, Rule, Weighed},
    ids::{ConfigEpoch, Key, RegionNumber, Secret, StoreEpoch},
    rights::{Adopted, Proposed, Receipts, Received, Row},
    store::{
        Action, Answer, COUNT_MAX, CallerBucket, Claim, Counts, Holding, Lapse, Once, Operation,
        OperationReply, Remembered, StoreCommand, StoreReply,
    },
    time::{ClusterTime, Label, Span, StoreTime},
};
use tokio::{sync::watch, time};

use super::{Doubt, StoreError};
pub use cluster::{Door, GuardMaker, RedisCluster};
use names::Names;
use place::Place;
pub use place::{is_cluster, wrong_with};
use probe::{PROBE_TIMEOUT, load_script};
pub use tls::Tls;

mod cluster;
mod names;
mod place;
mod probe;
mod rights;
mod tls;

const SCRIPT: &str = include_str!("step.lua");

/// Where Redis is, and how it is used.
#[derive(Clone)]
pub struct RedisSettings {
    /// `redis://[user:password@]host:port/database`, `rediss://…`,
    /// `redis-sentinel://[user:password@]host:port,host:port/name/database`, or
    /// `redis-cluster://[user:password@]host:port,host:port`, `rediss-cluster://…`.
    pub url: String,
    /// With `rediss://` and `rediss-cluster://`: by which certificates.
    pub tls: Option<Tls>,
    /// How long a call may take before it counts as unanswered.
    pub timeout: Duration,
    /// First part of every key.
    pub namespace: String,
}

/// Without the URL, which may hold a password, and keys.
impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings")
            .field("timeout", &self.timeout)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// A Redis server that the nodes of a region share.
pub struct RedisStore {
    settings: RedisSettings,
    place: Place,
    /// Absent until the first connection, and after a probe that failed.
    manager: ArcSwapOption<ConnectionManager>,
    reachable: AtomicBool,
    /// Why the last probe failed.
    trouble: ArcSwapOption<StoreError>,
    /// The server's own name of its history, as last seen, and after how many breaks; the script asks the server
    /// where it is not known, or is of a connection that has broken since.
    history: ArcSwapOption<(u64, String)>,
    /// How often a call has found the connection broken: another server may be behind the address since.
    breaks: AtomicU64,
    /// The newest epoch that a probe has found, 0 before the first.
    epoch: AtomicU64,
    /// Why what is spent by rights cannot be left to the server.
    doubt: watch::Sender<Option<Doubt>>,
    /// Hex of the script's SHA-1, by which it is called.
    hash: String,
    names: Names,
}

impl RedisStore {
    /// A store that is not connected yet: run [`keep_connected`](Self::keep_connected) beside it.
    ///
    /// # Errors
    ///
    /// A sentence on what is wrong with the URL.
    pub fn new(settings: RedisSettings) -> Result<Self, String> {
        let place = Place::new(&settings)?;
        let names = Names::on_one(&settings.namespace);
        Ok(Self {
            settings,
            names,
            place,
            manager: ArcSwapOption::empty(),
            reachable: AtomicBool::new(false),
            trouble: ArcSwapOption::empty(),
            history: ArcSwapOption::empty(),
            breaks: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            doubt: watch::Sender::new(Some(Doubt::NotSeen)),
            hash: hash(),
        })
    }

    /// Whether the last probe was answered.
    pub fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }

    /// The secret that this region's records are kept under: `ours`, unless an earlier node left one.
    pub async fn agree_on_secret(&self, ours: Secret) -> Result<Secret, StoreError> {
        let manager = self.manager.load_full().ok_or(StoreError::Unreachable)?;
        let mut connection = (*manager).clone();
        let key = self.names.secret();
        let mut pipeline = redis::pipe();
        pipeline.cmd("SET").arg(&key).arg(&ours.0[..]).arg("NX").ignore();
        pipeline.cmd("GET").arg(&key);
        let call = pipeline.query_async::<(Vec<u8>,)>(&mut connection);
        let answer = time::timeout(PROBE_TIMEOUT, call).await.map_err(|_| StoreError::Timeout)?;
        let (found,) = self.noted(answer.map_err(|e| StoreError::from_redis(&e)))?;
        read_secret(&key, found)
    }

    /// Carries out one command. How many do so at a time is for callers to bound: see
    /// [`StoreGuard`](super::StoreGuard).
    pub async fn apply(&self, command: &StoreCommand) -> Result<StoreReply, StoreError> {
        if !self.is_reachable() {
            return Err(self.unusable());
        }
        let manager = self.manager.load_full().ok_or(StoreError::Unreachable)?;
        let mut connection = (*manager).clone();
        let call = self.apply_on(&mut connection, command);
        let answer = time::timeout(self.settings.timeout, call).await;
        self.noted(answer.unwrap_or(Err(StoreError::Timeout)))
    }

    /// Takes note of a connection that broke. The client library connects again by itself, perhaps to another server
    /// behind the same address: until the next probe the script finds out whose history it is. What a probe that is
    /// under way has been told by the server before is of no use either.
    fn noted<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        if matches!(answer, Err(StoreError::Broken(_))) {
            self.breaks.fetch_add(1, Ordering::AcqRel);
        }
        answer
    }

    async fn apply_on(
        &self,
        connection: &mut impl ConnectionLike,
        command: &StoreCommand,
    ) -> Result<StoreReply, StoreError> {
        let packed = self.call(command);
        let answer = match packed.query_async::<Value>(connection).await {
            // A restarted Redis has forgotten the script, and has not run it.
            Err(e) if e.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                match load_script(connection).await {
                    Ok(()) => packed.query_async::<Value>(connection).await,
                    Err(e) => Err(e),
                }
            }
            other => other,
        };
        read_answer(command, answer.map_err(|e| StoreError::from_redis(&e))?)
    }

    /// What a call is told while the last probe has failed: what Redis refused, or that it is not there.
    fn unusable(&self) -> StoreError {
        let refused = self.trouble().filter(|trouble| matches!(trouble, StoreError::Refused(_)));
        refused.unwrap_or(StoreError::Unreachable)
    }

    fn call(&self, command: &StoreCommand) -> redis::Cmd {
        let history = self.history.load();
        let known =
            history.as_deref().filter(|(breaks, _)| *breaks == self.breaks.load(Ordering::Acquire));
        let history = known.map_or("", |(_, history)| history.as_str());
        let newest = self.epoch.load(Ordering::Relaxed);
        self.names.step(CallerBucket::ALL, &self.hash, (history, newest), command)
    }
}

impl Names {
    /// A call of the script: a command whose records are in one bucket, told to a server of this history, or of one
    /// that is not known; the newest epoch that was seen of the bucket, or 0.
    fn step(
        &self,
        bucket: CallerBucket,
        hash: &str,
        (history, newest): (&str, u64),
        command: &StoreCommand,
    ) -> redis::Cmd {
        let mut keys: Vec<Key> = Vec::with_capacity(command.operations.len());
        let mut places = Vec::with_capacity(command.operations.len());
        for operation in &command.operations {
            let known = keys.iter().position(|key| *key == operation.key);
            places.push(known.unwrap_or_else(|| {
                keys.push(operation.key);
                keys.len() - 1
            }));
        }
        let once = command.once.zip(keys.first());
        let remembered = once.as_ref().map(|(once, key)| self.request(bucket, key, &once.id));
        let mut call = self.call(hash, bucket, keys.iter(), remembered);
        call.arg(history);
        let opening = command.openings.iter().find(|(of, _)| *of == bucket);
        let opening = opening.map_or((0, 0), |(_, o)| (o.epoch.0, o.opens.0));
        call.arg(opening.0.min(COUNT_MAX)).arg(opening.1.min(COUNT_MAX));
        let Proposed { epoch, from, agreed, since, until } = command.proposed;
        let [from, agreed] = [from, agreed].map(|at| at.map_or(0, |at| at.0));
        let since = since.map_or(0, |since| since.0 + 1);
        for number in [epoch.0, from, agreed, since, until.0, newest] {
            call.arg(number.min(COUNT_MAX));
        }
        match &once {
            Some((Once { of, says, kept, refusals, .. }, _)) => {
                match kept.as_millis_ceil() {
                    0 => call.arg("-1"),
                    millis => call.arg(millis.min(COUNT_MAX)),
                };
                let told = command.answer.as_deref().map_or_else(Vec::new, answer_numbers);
                let fixed = [*of, *says, u64::from(*refusals), told.len() as u64];
                for number in fixed.into_iter().chain(told) {
                    call.arg(number.min(COUNT_MAX));
                }
            }
            None => {
                call.arg(0);
            }
        }
        for (place, operation) in places.into_iter().zip(&command.operations) {
            let (action, cost) = match operation.action {
                Action::Peek => (0, 0),
                Action::Charge { cost } => (1, cost),
                Action::Heal => (2, 0),
                Action::Grant => (3, 0),
                Action::Refund { amount } => (4, amount),
                Action::Settle { keep } => (5, keep),
                Action::Hold { amount } => (6, amount),
                Action::Confirm => (7, 0),
            };
            let terms = operation.hold.map_or_else(Vec::new, |terms| {
                vec![terms.id.0, terms.lasts.0, u64::from(terms.lapse == Lapse::Undone)]
            });
            let claim = operation.claim.as_deref().map(claim_numbers);
            let (rule, of_rule) = rule_numbers(&operation.rule);
            let more = claim.unwrap_or(of_rule);
            let numbers = [
                // The marker is the first of the keys, and Lua counts from one.
                place as u64 + 2,
                action + 8 * rule + if terms.is_empty() { 0 } else { 64 },
                cost,
                operation.label.0,
                operation.not_before.0,
                operation.not_after.0,
                operation.ceiling,
                operation.floor.used,
                operation.floor.refunded,
                u64::from(operation.enforce),
                operation.expires.0,
                (terms.len() + more.len()) as u64,
            ];
            for number in numbers.into_iter().chain(terms).chain(more) {
                call.arg(number.min(COUNT_MAX));
            }
        }
        call
    }
}

/// The script's SHA-1 in hex.
fn hash() -> String {
    redis::Script::new(SCRIPT).get_hash().to_owned()
}

/// A rule as the number and the numbers that the script reads.
fn rule_numbers(rule: &Rule) -> (u64, Vec<u64>) {
    let label = |label: &LabelTime| vec![label.starts.0, label.length.0, label.before];
    match rule {
        Rule::FixedWindow => (0, Vec::new()),
        Rule::SlidingWindow(at) => (1, label(at)),
        Rule::SlidingLog(at) => (2, label(at)),
        Rule::Bucket(at, Bucket { capacity, unit, drain, tick, shapes }) => {
            (3, [label(at), vec![*capacity, *unit, *drain, *tick, u64::from(*shapes)]].concat())
        }
        Rule::Concurrency => (4, Vec::new()),
    }
}

/// What is remembered as a command's answer, as the numbers that the script reads.
fn answer_numbers(answer: &Answer) -> Vec<u64> {
    let mut numbers = vec![u64::from(answer.admitted)];
    for (label, reply) in &answer.operations {
        let Counts { used, refunded } = reply.counts;
        numbers.extend([label.0, u64::from(reply.passes), used, refunded]);
        match reply.weighed {
            Some(Weighed { used, wait, reset }) => numbers.extend([3, used, wait.0, reset.0]),
            None => numbers.push(0),
        }
    }
    numbers
}

/// A claim as the numbers that the script reads.
fn claim_numbers(claim: &Claim) -> Vec<u64> {
    let Claim { bases, allowance, label_start, bound, reopening, granted, received, grants } =
        claim;
    let bound = bound.map_or([0; 3], |bound| [bound.block, bound.ceiling, bound.epoch.0]);
    let before = bases.before.map_or(0, |before| before + 1);
    let mut numbers = vec![bases.now, before, *allowance, label_start.0];
    numbers.extend(bound);
    match reopening {
        Some(reopening) => {
            numbers.extend([reopening.epoch.0, reopening.used]);
            push_row(&mut numbers, reopening.given.iter());
            push_told(&mut numbers, &reopening.received);
        }
        None => numbers.extend([0; 4]),
    }
    let nothing = Row::new();
    let (epoch, known) = granted.as_ref().map_or((0, &nothing), |(epoch, row)| (epoch.0, row));
    numbers.push(epoch);
    push_row(&mut numbers, known.iter());
    push_told(&mut numbers, received);
    push_row(&mut numbers, grants.iter().copied());
    numbers
}

fn push_row(numbers: &mut Vec<u64>, row: impl ExactSizeIterator<Item = (RegionNumber, u64)>) {
    numbers.push(row.len() as u64);
    numbers.extend(row.flat_map(|(region, amount)| [u64::from(region.0), amount]));
}

fn push_told(numbers: &mut Vec<u64>, told: &[Received]) {
    numbers.push(told.len() as u64);
    let each = |t: &Received| [u64::from(t.from.0), t.epoch.0, t.amount, t.ceiling];
    numbers.extend(told.iter().flat_map(each));
}

/// What Redis or the script says when a record cannot be used: its key holds something else. Older
/// servers put these words behind others of their own, and the client library sets the first word apart.
const OF_ONE_RECORD: [&str; 5] = [
    "WRONGTYPE",
    "TIDEGATE record",
    "\"TIDEGATE\": record",
    "Bad data format in input",
    "bytes in input",
];

/// Whether Redis refused for want of a right, to the caller or to the script.
fn is_for_want_of_rights(error: &RedisError) -> bool {
    let said = error.to_string();
    // What servers of version 6, and of later ones, say of scripts.
    let of_scripts = ["ACL failure in script", "The user executing the script can't"];
    error.code() == Some("NOPERM") || of_scripts.iter().any(|words| said.contains(words))
}

impl StoreError {
    fn from_redis(error: &RedisError) -> Self {
        match error.kind() {
            _ if error.is_timeout() => Self::Timeout,
            _ if error.is_connection_refusal() => Self::Unreachable,
            ErrorKind::Io => Self::Broken(error.to_string()),
            // An answer came that is none; what it answers may have been carried out.
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => {
                Self::Unreadable(error.to_string())
            }
            _ if is_for_want_of_rights(error) => Self::Refused(format!(
                "the user of `store.url` lacks a right, see its ACL: {error}"
            )),
            // The script reads everything before its first write, so that an error means that nothing
            // was written; the others are found before anything is sent.
            _ => {
                let said = error.to_string();
                let of_one_record = OF_ONE_RECORD.iter().any(|words| said.contains(words));
                if of_one_record { Self::Record(said) } else { Self::Refused(said) }
            }
        }
    }
}

/// Whatever Redis answers is read or refused.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz_reply(bytes: &[u8]) {
    let Ok(value) = redis::parse_redis_value(bytes) else { return };
    for expected in 0..4 {
        let measured = |at: usize| at == 2;
        let reply = read_reply(value.clone(), expected, measured);
        if let Ok(StoreReply::Done { operations, .. }) = reply {
            assert_eq!(operations.len(), expected);
        }
    }
}

/// What a secret's key holds.
fn read_secret(key: &str, found: Vec<u8>) -> Result<Secret, StoreError> {
    let wrong = |_| StoreError::Refused(format!("`{key}` is not a secret of 16 bytes: remove it"));
    found.try_into().map(Secret).map_err(wrong)
}

/// Reads the answer to a command.
fn read_answer(command: &StoreCommand, answer: Value) -> Result<StoreReply, StoreError> {
    // Of what is held, a fixed window says when there is a place for it.
    let measured = |at: usize| {
        let Operation { rule, hold, claim, .. } = &command.operations[at];
        *rule != Rule::FixedWindow || (hold.is_some() && claim.is_none())
    };
    let mut reply = read_reply(answer, command.operations.len(), measured)?;
    if let StoreReply::Done { adopted, .. } = &mut reply {
        *adopted = adopted.filter(|_| command.speaks_of_rights());
    }
    Ok(reply)
}

/// Reads the answer to so many operations, of which some are `measured` by meters.
fn read_reply(
    value: Value,
    operations: usize,
    measured: impl Fn(usize) -> bool,
) -> Result<StoreReply, StoreError> {
    let unreadable = |why: String| StoreError::Unreadable(why);
    let numbers = Vec::<u64>::from_redis_value(value).map_err(|e| unreadable(e.to_string()))?;
    match *numbers {
        [2, now, epoch, ref labels @ ..] if labels.len() == operations => Ok(StoreReply::Relabel {
            now: StoreTime(now),
            epoch: StoreEpoch(epoch),
            newest: labels.iter().copied().map(Label).collect(),
        }),
        [3, now, epoch, says, at, admitted @ (0 | 1), ref rest @ ..] => {
            let (mut rest, mut operations) = (rest, Vec::new());
            while let Some(label) = rest.split_off_first() {
                // Of a remembered answer only meters are told.
                let operation =
                    read_operation(&mut rest, true, StoreEpoch(epoch)).ok_or_else(|| {
                        unreadable(format!("{} numbers for a repeated answer", numbers.len()))
                    })?;
                operations.push((Label(*label), operation));
            }
            let answer = Answer { admitted: admitted == 1, operations };
            // What was asked for is what is asked for again.
            let first = Box::new(Remembered { of: 0, says, at: StoreTime(at), answer });
            Ok(StoreReply::Repeated { now: StoreTime(now), epoch: StoreEpoch(epoch), first })
        }
        [4, now, epoch] => {
            Ok(StoreReply::OtherRequest { now: StoreTime(now), epoch: StoreEpoch(epoch) })
        }
        [admitted @ (0 | 1), now, epoch, config, from, agreed, since, ref rest @ ..] => {
            let mut rest = rest;
            let adopted = Adopted {
                epoch: ConfigEpoch(config),
                from: ClusterTime(from),
                agreed: agreed.checked_sub(1).map(ClusterTime),
                since: ClusterTime(since),
            };
            let replies: Option<Vec<_>> = (0..operations)
                .map(|at| read_operation(&mut rest, measured(at), StoreEpoch(epoch)))
                .collect();
            let operations = replies.filter(|_| rest.is_empty()).ok_or_else(|| {
                unreadable(format!("{} numbers for {operations} operations", numbers.len()))
            })?;
            Ok(StoreReply::Done {
                admitted: admitted == 1,
                now: StoreTime(now),
                epoch: StoreEpoch(epoch),
                adopted: Some(adopted),
                operations,
            })
        }
        _ => Err(unreadable(format!("{} numbers for {operations} operations", numbers.len()))),
    }
}

/// One operation's answer, taken from the front of `numbers`.
fn read_operation(
    numbers: &mut &[u64],
    measured: bool,
    epoch: StoreEpoch,
) -> Option<OperationReply> {
    let (head, rest) = numbers.split_first_chunk::<4>()?;
    let [passes, used, refunded, count] = *head;
    let (mut holding, rest) = rest.split_at_checked(usize::try_from(count).ok()?)?;
    *numbers = rest;
    let reply = OperationReply::new(passes == 1, Counts { used, refunded });
    if holding.is_empty() {
        return Some(reply);
    }
    if measured {
        let [used, wait, reset] = *holding else { return None };
        let weighed = Weighed { used, wait: Span(wait), reset: Span(reset) };
        return Some(OperationReply { weighed: Some(weighed), ..reply });
    }
    let mut next = || holding.split_off_first().copied();
    let (open, base) = (next()? == 1, next()?);
    let region = |number: u64| u32::try_from(number).ok().map(RegionNumber);
    let given = (0..next()?).map(|_| Some((region(next()?)?, next()?))).collect::<Option<Row>>()?;
    let told = (0..next()?).map(|_| {
        let (from, epoch) = (region(next()?)?, StoreEpoch(next()?));
        Some(Received { from, epoch, amount: next()?, ceiling: next()? })
    });
    let received = told.collect::<Option<Receipts>>()?;
    let holding = Holding { epoch, open, base, given, received };
    Some(OperationReply { holding: Some(Box::new(holding)), ..reply })
}
