//! Awaits what must come about.

use std::time::Duration;

use tokio::time::{self, Instant};

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Asks `probe` until it answers `Ok`, and returns that.
///
/// # Panics
///
/// If it has not come about after `within`; the message says `what` was expected, and the last `Err`.
pub async fn eventually<T>(
    within: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        // A look that began in time counts.
        let last_look = Instant::now() >= deadline;
        match probe().await {
            Ok(found) => return found,
            Err(state) if last_look => panic!("not within {within:?}: {what}; at last: {state}"),
            Err(_) => time::sleep(LOOK_EVERY).await,
        }
    }
}

/// `Ok` if it holds, else the state that was found instead.
pub fn ensure(holds: bool, state: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(state()) }
}
