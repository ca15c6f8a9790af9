//! Reads a request's body, within a size, a time, and the room that there is for all bodies together.

use std::{
    ops::Deref,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody as _},
    http::StatusCode,
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;

use super::problem::Problem;

/// The largest body of anything but a batch.
pub(crate) const BODY_BYTES_MAX: usize = 16 << 10;
/// The largest body of a batch.
pub(crate) const BATCH_BYTES_MAX: usize = 1 << 20;
/// So much of a body that is too large, or that there is no room for, is read and dropped all the same: a
/// client that is cut off while it writes often never sees the answer that says why.
const DRAINED_BYTES_MAX: usize = 8 << 20;

/// How long a body may take to come. The timer is set only for one that has not come with its head.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How many bytes of bodies the process holds at a time, whatever connections and listeners they came by.
const HELD_BYTES_MAX: usize = 64 << 20;
/// How many of these may be of batches. The rest is for checks, which are small and many: a few clients
/// that ask slowly for much must not have all others refused.
const HELD_BY_BATCHES_MAX: usize = 48 << 20;

/// Batches that are decided at a time; those that are slow to come take no place. For its checks a batch is
/// answered with far more than its body has.
const BATCHES_MAX: usize = 64;

/// All bodies of this process.
static BODIES: Bodies = Bodies::new(HELD_BYTES_MAX, HELD_BY_BATCHES_MAX, BATCHES_MAX);

/// How many requests were refused since the start, because there was no room for their bodies.
pub(crate) fn refused() -> u64 {
    BODIES.refused.load(Relaxed)
}

/// The whole body, if it has at most `bytes_max`; 413 if it has more, 408 if it does not come in time, 503
/// if there is no room for it. It keeps its room until it is dropped, which is to be when the request is
/// answered.
pub(crate) async fn read(body: Body, bytes_max: usize) -> Result<Held<'static>, Problem> {
    read_within(&BODIES, BODY_TIMEOUT, body, bytes_max).await
}

/// A body, and the room that it takes.
#[derive(Debug)]
pub(crate) struct Held<'b> {
    bytes: Bytes,
    _place: Place<'b>,
}

impl Deref for Held<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The room for bodies.
#[derive(Debug)]
struct Bodies {
    all: Room,
    /// Of these, the bytes of batches; and batches.
    of_batches: Room,
    batches: Room,
    refused: AtomicU64,
}

impl Bodies {
    const fn new(bytes_max: usize, by_batches_max: usize, batches_max: usize) -> Self {
        Self {
            all: Room::new(bytes_max),
            of_batches: Room::new(by_batches_max),
            batches: Room::new(batches_max),
            refused: AtomicU64::new(0),
        }
    }

    /// Room for `bytes`, of a body of which at most `bytes_max` are read.
    fn take(&self, bytes: usize, bytes_max: usize) -> Option<Place<'_>> {
        let of_batches =
            if bytes_max > BODY_BYTES_MAX { Some(self.of_batches.take(bytes)?) } else { None };
        Some(Place { of_all: self.all.take(bytes)?, of_batches, batch: None })
    }

    fn refuse(&self) -> Problem {
        self.refused.fetch_add(1, Relaxed);
        let detail =
            "too many requests, or too large ones, are held already; ask again in a moment";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }
}

/// The room of one body.
#[derive(Debug)]
struct Place<'b> {
    of_all: Taken<'b>,
    of_batches: Option<Taken<'b>>,
    /// Of a batch that has come whole.
    batch: Option<Taken<'b>>,
}

impl Place<'_> {
    fn shrink_to(&mut self, bytes: usize) {
        self.of_all.shrink_to(bytes);
        if let Some(taken) = &mut self.of_batches {
            taken.shrink_to(bytes);
        }
    }
}

/// A bound on bytes, or on batches, and how many are taken. Nobody waits for them, so this is a number and no
/// semaphore, which would lock to give back.
#[derive(Debug)]
struct Room {
    taken: AtomicUsize,
    most: usize,
}

impl Room {
    const fn new(most: usize) -> Self {
        Self { taken: AtomicUsize::new(0), most }
    }

    fn take(&self, amount: usize) -> Option<Taken<'_>> {
        let more = |taken: usize| taken.checked_add(amount).filter(|sum| *sum <= self.most);
        self.taken.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Taken { room: self, amount })
    }
}

/// Part of a room, given back on drop.
#[derive(Debug)]
struct Taken<'b> {
    room: &'b Room,
    amount: usize,
}

impl Taken<'_> {
    /// Gives back all but `amount`, if it has more.
    fn shrink_to(&mut self, amount: usize) {
        let spare = self.amount.saturating_sub(amount);
        self.amount -= spare;
        self.room.taken.fetch_sub(spare, Relaxed);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

async fn read_within(
    bodies: &Bodies,
    limit: Duration,
    body: Body,
    bytes_max: usize,
) -> Result<Held<'_>, Problem> {
    let length = body.size_hint();
    let too_large = length.lower() > bytes_max as u64;
    // One that does not say how long it is may come to all that it may have. Of one that says that it is too
    // large nothing is kept.
    let said = length.upper().and_then(|upper| usize::try_from(upper).ok()).unwrap_or(bytes_max);
    let most = if too_large { 0 } else { said.min(bytes_max) };
    let place = bodies.take(most, bytes_max);
    let kept = !too_large && place.is_some();
    let read = tokio::time::timeout(limit, whole(body, bytes_max, kept)).await;
    let Some(mut place) = place else {
        // What was wrong with it anyway is said rather than that: asking again would not help.
        return Err(match read {
            Ok(Err(problem)) => problem,
            Ok(Ok(_)) | Err(_) => bodies.refuse(),
        });
    };
    match read {
        Ok(read) => {
            let bytes = read?;
            place.shrink_to(bytes.len());
            if place.of_batches.is_some() {
                place.batch = Some(bodies.batches.take(1).ok_or_else(|| bodies.refuse())?);
            }
            Ok(Held { bytes, _place: place })
        }
        Err(_) => {
            let detail = format!("the body did not come to its end within {limit:?}");
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail))
        }
    }
}

/// Reads a body to its end; what comes is empty if it is not to be `kept`.
async fn whole(mut body: Body, bytes_max: usize, kept: bool) -> Result<Bytes, Problem> {
    if body.size_hint().lower() > DRAINED_BYTES_MAX as u64 {
        return Err(too_large(bytes_max));
    }
    // Nearly every body is one frame, which is handed on as it came.
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut seen = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Problem::field("body", format!("it could not be read to its end: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        seen = seen.saturating_add(data.len());
        if seen > DRAINED_BYTES_MAX {
            break;
        }
        if seen > bytes_max || !kept {
            (first, rest) = (Bytes::new(), BytesMut::new());
        } else if seen == data.len() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&data);
        }
    }
    if seen > bytes_max {
        Err(too_large(bytes_max))
    } else if rest.is_empty() {
        Ok(first)
    } else {
        Ok(rest.freeze())
    }
}

fn too_large(bytes_max: usize) -> Problem {
    let detail = format!("the body is larger than {bytes_max} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use axum::response::IntoResponse as _;
    use futures_util::{FutureExt as _, StreamExt as _, stream};

    use super::*;

    /// Longer than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn begun_and_never_ended() -> Body {
        let begun = stream::once(async { Ok::<_, std::io::Error>("a") });
        Body::from_stream(begun.chain(stream::pending()))
    }

    fn frames(frames: &'static [&'static str]) -> Body {
        Body::from_stream(stream::iter(frames.iter().map(|f| Ok::<_, std::io::Error>(*f))))
    }

    async fn read_frames(given: &'static [&'static str], bytes_max: usize) -> Option<Bytes> {
        read(frames(given), bytes_max).await.ok().map(|held| held.bytes.clone())
    }

    fn status(refused: Result<Held<'_>, Problem>) -> StatusCode {
        refused.expect_err("refused").into_response().status()
    }

    #[tokio::test]
    async fn a_body_that_does_not_end_is_given_up() {
        let bodies = Bodies::new(4, 0, 0);
        let read = read_within(&bodies, Duration::from_millis(1), begun_and_never_ended(), 4).await;
        assert_eq!(status(read), StatusCode::REQUEST_TIMEOUT);
        assert_eq!(bodies.all.taken.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn frames_are_joined_up_to_the_limit() {
        assert_eq!(read_frames(&[], 4).await.unwrap(), "");
        assert_eq!(read_frames(&["abcd"], 4).await.unwrap(), "abcd");
        assert_eq!(read_frames(&["", "ab", "c", "d"], 4).await.unwrap(), "abcd");
        assert_eq!(read_frames(&["ab", "c", "de"], 4).await, None);
        assert_eq!(read_frames(&["abcde"], 4).await, None);
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_is_refused_and_finds_room_afterwards() {
        let bodies = Bodies::new(100, 60, 2);
        let check =
            |bytes| read_within(&bodies, PATIENCE, Body::from(vec![b'x'; bytes]), BODY_BYTES_MAX);
        let batch =
            |bytes| read_within(&bodies, PATIENCE, Body::from(vec![b'x'; bytes]), BATCH_BYTES_MAX);
        let first = batch(60).await.unwrap();
        assert_eq!(first.len(), 60);
        assert_eq!(status(batch(1).await), StatusCode::SERVICE_UNAVAILABLE);
        // What batches cannot take is there for checks.
        let second = check(40).await.unwrap();
        assert_eq!(status(check(1).await), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(bodies.refused.load(Relaxed), 2);
        // It takes no room, and is told what is wrong with it.
        check(0).await.unwrap();
        assert_eq!(status(check(BODY_BYTES_MAX + 1).await), StatusCode::PAYLOAD_TOO_LARGE);
        drop(second);
        assert_eq!(status(batch(1).await), StatusCode::SERVICE_UNAVAILABLE);
        drop(first);
        // Checks may take all.
        let third = check(100).await.unwrap();
        assert_eq!(status(batch(1).await), StatusCode::SERVICE_UNAVAILABLE);
        drop(third);
        batch(60).await.unwrap();
        // However small they are, there are only so many of them.
        let decided = [batch(1).await.unwrap(), batch(1).await.unwrap()];
        assert_eq!(status(batch(1).await), StatusCode::SERVICE_UNAVAILABLE);
        drop(decided);
        batch(1).await.unwrap();
        let rooms = [&bodies.all, &bodies.of_batches, &bodies.batches];
        assert_eq!(rooms.map(|room| room.taken.load(Relaxed)), [0, 0, 0]);
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_takes_what_it_may_have_until_it_has_come() {
        let bodies = Bodies::new(BODY_BYTES_MAX, 0, 0);
        let mut coming =
            Box::pin(read_within(&bodies, PATIENCE, begun_and_never_ended(), BODY_BYTES_MAX));
        assert!(coming.as_mut().now_or_never().is_none());
        let other = pin!(read_within(&bodies, PATIENCE, Body::from("a"), BODY_BYTES_MAX));
        assert_eq!(status(other.await), StatusCode::SERVICE_UNAVAILABLE);
        drop(coming);
        let come = read_within(&bodies, PATIENCE, frames(&["ab", "cd"]), BODY_BYTES_MAX).await;
        let come = come.unwrap();
        assert_eq!((&*come, bodies.all.taken.load(Relaxed)), (&b"abcd"[..], 4));
        read_within(&bodies, PATIENCE, frames(&["ef"]), 100).await.unwrap();
    }
}
