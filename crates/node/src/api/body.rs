//! Reads a request's body, within a size and a time.

use std::time::Duration;

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
/// So much of a body that is too large is read and dropped all the same: a client that is cut off
/// while it writes often never sees the answer that says why.
const DRAINED_BYTES_MAX: usize = 8 << 20;

/// How long a body may take to come. The timer is set only for one that has not come with its head.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The whole body, if it has at most `bytes_max`; 413 if it has more, 408 if it does not come in time.
pub(crate) async fn read(body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    read_within(BODY_TIMEOUT, body, bytes_max).await
}

async fn read_within(limit: Duration, body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    match tokio::time::timeout(limit, whole(body, bytes_max)).await {
        Ok(read) => read,
        Err(_) => {
            let detail = format!("the body did not come to its end within {limit:?}");
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail))
        }
    }
}

async fn whole(mut body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
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
        if seen > bytes_max {
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
    use super::*;

    async fn read_frames(frames: &'static [&'static str], bytes_max: usize) -> Option<Bytes> {
        let stream = futures_util::stream::iter(frames.iter().map(|f| Ok::<_, std::io::Error>(*f)));
        read(Body::from_stream(stream), bytes_max).await.ok()
    }

    #[tokio::test]
    async fn a_body_that_does_not_end_is_given_up() {
        let begun = futures_util::stream::once(async { Ok::<_, std::io::Error>("a") });
        let never = futures_util::StreamExt::chain(begun, futures_util::stream::pending());
        let problem =
            read_within(Duration::from_millis(1), Body::from_stream(never), 4).await.unwrap_err();
        let response = axum::response::IntoResponse::into_response(problem);
        assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
    }

    #[tokio::test]
    async fn frames_are_joined_up_to_the_limit() {
        assert_eq!(read_frames(&[], 4).await.unwrap(), "");
        assert_eq!(read_frames(&["abcd"], 4).await.unwrap(), "abcd");
        assert_eq!(read_frames(&["", "ab", "c", "d"], 4).await.unwrap(), "abcd");
        assert_eq!(read_frames(&["ab", "c", "de"], 4).await, None);
        assert_eq!(read_frames(&["abcde"], 4).await, None);
    }
}
