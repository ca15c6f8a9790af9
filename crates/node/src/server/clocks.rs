//! Keeps an eye on the store's clock: reads it where checks are rare, and says when it is off.

use std::time::Duration;

use tokio::time;
use tracing::{info, warn};

use super::view::View;
use crate::limiter::Limiter;

/// How often the store is asked for its clock.
const READ_EVERY: Duration = Duration::from_secs(1);
/// How often, until it has answered once: labels are a guess until then.
const READ_FIRST: Duration = Duration::from_millis(50);

/// Never returns.
pub(super) async fn watch(limiter: &Limiter, view: &View) {
    let (mut was_read, mut alarm) = (false, false);
    loop {
        was_read |= limiter.read_clock().await;
        let status = view.engine.clock_status(view.clock.now());
        if status.alarm != alarm {
            alarm = status.alarm;
            let error_ms = status.error.map(|us| us / 1_000);
            if alarm {
                warn!(
                    error_ms,
                    "the clock of this region's store is off from the median of all regions' by more than \
                     cluster.clock_error: set the clocks by NTP"
                );
            } else {
                info!(error_ms, "the alarm about the clock of this region's store is over");
            }
        }
        time::sleep(if was_read { READ_EVERY } else { READ_FIRST }).await;
    }
}
