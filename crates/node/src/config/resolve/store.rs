//! The regional store's settings.

use std::ops::{Range, RangeInclusive};

use tidegate_core::{breaker, time::Span};

use super::Resolver;
use crate::{
    config::{
        Memory, Redis, RedisTls, RedisUrl, Snapshot, Store,
        raw::{self, Text},
    },
    store::wrong_with,
};

/// A primary that cannot reach its replicas stops writing after `min-replicas-max-lag`, 10 s by default.
const FENCE: Span = Span::secs(10);
const FENCE_RANGE: RangeInclusive<Span> = Span::ZERO..=Span::secs(3_600);
const TIMEOUT: Span = Span::millis(30);
const TIMEOUT_RANGE: RangeInclusive<Span> = Span::millis(1)..=Span::secs(5);
const CALLS_MAX: u32 = 8_192;
const CALLS_MAX_RANGE: RangeInclusive<u32> = 1..=65_536;
const RECORDS_MAX: usize = 4_000_000;
const RECORDS_MAX_RANGE: RangeInclusive<usize> = 64..=RECORDS_MAX;
const SNAPSHOT_EVERY: Span = Span::secs(10);
const SNAPSHOT_EVERY_RANGE: RangeInclusive<Span> = Span::secs(1)..=Span::secs(3_600);
const NAMESPACE: &str = "tidegate";
const NAMESPACE_CHARS_MAX: usize = 32;

impl Resolver<'_> {
    pub(super) fn store(&mut self, raw: &raw::Store) -> Option<Store> {
        let Some(kind) = &raw.kind else { return self.memory(raw) };
        match kind.get_ref().as_str() {
            "memory" => self.memory(raw),
            "redis" => self.redis(raw, kind.span()).map(Store::Redis),
            other => {
                let message = format_args!("unknown kind {other:?}: write \"memory\" or \"redis\"");
                self.refuse("store.kind", kind, message)
            }
        }
    }

    /// The memory store, which has settings of its own only.
    fn memory(&mut self, raw: &raw::Store) -> Option<Store> {
        const REMEDY: &str = "leave it out, or write kind = \"redis\"";
        for (field, text) in [
            ("store.url", &raw.url),
            ("store.ca", &raw.ca),
            ("store.cert", &raw.cert),
            ("store.key", &raw.key),
            ("store.timeout", &raw.timeout),
            ("store.namespace", &raw.namespace),
        ] {
            if let Some(text) = text {
                let message = format_args!("the memory store has no such setting: {REMEDY}");
                self.refuse::<()>(field, text, message);
            }
        }
        let message = format_args!("the memory store has no such setting: {REMEDY}");
        if let Some(number) = &raw.calls_max {
            self.refuse::<()>("store.calls_max", number, message);
        }
        if let Some(table) = &raw.breaker {
            self.refuse::<()>("store.breaker", table, message);
        }
        let records = raw.records_max.as_ref();
        let records = self.number("store.records_max", records, RECORDS_MAX, RECORDS_MAX_RANGE);
        let every = self.span(
            "store.snapshot_every",
            raw.snapshot_every.as_ref(),
            SNAPSHOT_EVERY,
            SNAPSHOT_EVERY_RANGE,
        );
        let snapshot = match (&raw.snapshot, &raw.snapshot_every) {
            (Some(path), _) => {
                let path = self.path("store.snapshot", path);
                Some(Snapshot { path: path?, every: every? })
            }
            (None, Some(every)) => {
                let message = "there is no snapshot: write snapshot = \"counts.snapshot\" too";
                return self.refuse("store.snapshot_every", every, message);
            }
            (None, None) => None,
        };
        Some(Store::Memory(Memory { records_max: records?, snapshot }))
    }

    fn redis(&mut self, raw: &raw::Store, kind: Range<usize>) -> Option<Redis> {
        for (field, text) in
            [("store.snapshot", &raw.snapshot), ("store.snapshot_every", &raw.snapshot_every)]
        {
            if let Some(text) = text {
                let message =
                    "only the memory store has snapshots; Redis keeps its own: leave it out";
                self.refuse::<()>(field, text, message);
            }
        }
        let url = match &raw.url {
            Some(text) => self.redis_url(text),
            None => self.missing("store.url", kind, "write url = \"redis://127.0.0.1:6379/0\""),
        };
        let tls = self.redis_tls(raw);
        let timeout = self.span("store.timeout", raw.timeout.as_ref(), TIMEOUT, TIMEOUT_RANGE);
        let namespace = match &raw.namespace {
            Some(text) => self.namespace(text),
            None => Some(NAMESPACE.into()),
        };
        let calls = raw.calls_max.as_ref();
        let calls_max = self.number("store.calls_max", calls, CALLS_MAX, CALLS_MAX_RANGE);
        if let Some(number) = &raw.records_max {
            let message = "Redis has no such setting: leave it out, or write kind = \"memory\"";
            self.refuse::<()>("store.records_max", number, message);
        }
        let fence = self.span("store.fence", raw.fence.as_ref(), FENCE, FENCE_RANGE);
        let breaker = match &raw.breaker {
            Some(table) => self.breaker(table.get_ref()),
            None => Some(breaker::Settings::default()),
        };
        Some(Redis {
            url: url?,
            tls: tls?,
            timeout: timeout?,
            namespace: namespace?,
            calls_max: calls_max?,
            fence: fence?,
            breaker: breaker?,
        })
    }

    /// By which certificates the server is spoken to, if its URL says that it is not in the clear.
    fn redis_tls(&mut self, raw: &raw::Store) -> Option<Option<RedisTls>> {
        let files = [("store.ca", &raw.ca), ("store.cert", &raw.cert), ("store.key", &raw.key)];
        let is_secure =
            |url: &str| url.starts_with("rediss://") || url.starts_with("rediss-cluster://");
        if !raw.url.as_ref().is_some_and(|url| is_secure(url.get_ref())) {
            let mut given =
                files.into_iter().filter_map(|(field, text)| Some((field, text.as_ref()?)));
            return match given.next() {
                None => Some(None),
                Some((field, text)) => self.refuse(
                    field,
                    text,
                    "is for TLS: leave it out, or write a url that begins with rediss:// or rediss-cluster://",
                ),
            };
        }
        let [ca, cert, key] = files.map(|(field, text)| {
            text.as_ref()
                .map(|text| self.path(field, text))
                .map_or(Some(None), |path| path.map(Some))
        });
        let client = match (cert?, key?) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (given, _) => {
                let (field, text, other) = match given {
                    Some(_) => ("store.cert", &raw.cert, "key"),
                    None => ("store.key", &raw.key, "cert"),
                };
                let message = format_args!("comes with store.{other}: write both, or neither");
                return self.refuse(field, text.as_ref()?, message);
            }
        };
        Some(Some(RedisTls { ca: ca?, client }))
    }

    /// A URL that the client can use. What is wrong is told without the URL: it may hold a password.
    fn redis_url(&mut self, text: &Text) -> Option<RedisUrl> {
        const WANTED: &str = "write it as \"redis://127.0.0.1:6379/0\"";
        let url = text.get_ref().as_str();
        match wrong_with(url) {
            None => Some(RedisUrl(url.into())),
            Some(wrong) => self.refuse("store.url", text, format_args!("{wrong}: {WANTED}")),
        }
    }

    fn namespace(&mut self, text: &Text) -> Option<String> {
        let name = text.get_ref();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if (1..=NAMESPACE_CHARS_MAX).contains(&name.len()) && name.chars().all(plain) {
            return Some(name.clone());
        }
        let wanted = format_args!("1 to {NAMESPACE_CHARS_MAX} letters, digits, \"-\" or \"_\"");
        self.refuse("store.namespace", text, format_args!("{name:?} is not {wanted}"))
    }
}
