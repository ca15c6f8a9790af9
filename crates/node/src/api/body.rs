//! Reads a request's body, within a size.

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

/// The whole body, if it has at most `bytes_max`; 413 if it has more.
///
/// A client that sends slowly holds its own connection and no more than that; a timer for each body
/// would cost every other client more than it saves.
pub(crate) async fn read(mut body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
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
    async fn frames_are_joined_up_to_the_limit() {
        assert_eq!(read_frames(&[], 4).await.unwrap(), "");
        assert_eq!(read_frames(&["abcd"], 4).await.unwrap(), "abcd");
        assert_eq!(read_frames(&["", "ab", "c", "d"], 4).await.unwrap(), "abcd");
        assert_eq!(read_frames(&["ab", "c", "de"], 4).await, None);
        assert_eq!(read_frames(&["abcde"], 4).await, None);
    }
}
