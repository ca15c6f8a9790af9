//! Nodes that are refused for a while, since the engine has found their claims impossible.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tidegate_core::ids::NodeId;
use tokio::time::Instant;

use super::refusal::{Failure, Refusal};

/// Who is refused, and until when. Whose time is over is forgotten with the next that comes; the engine
/// bounds how many there are.
#[derive(Default)]
pub(super) struct Quarantine(Mutex<HashMap<NodeId, Instant>>);

impl Quarantine {
    pub(super) fn add(&self, node: &NodeId, time: Duration) {
        let (mut until, now) = (self.0.lock(), Instant::now());
        until.retain(|_, end| *end > now);
        until.insert(node.clone(), now + time);
    }

    /// Refuses a node whose time is not over.
    pub(super) fn check(&self, node: &NodeId) -> Result<(), Failure> {
        let left = self.0.lock().get(node).map(|end| end.saturating_duration_since(Instant::now()));
        match left {
            Some(left) if !left.is_zero() => {
                let detail = format!("{node} claimed what cannot be; it is let in in {left:.0?}");
                Err(Failure::refused(Refusal::Quarantined, detail))
            }
            _ => Ok(()),
        }
    }
}
