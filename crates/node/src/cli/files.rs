//! Each connection is an open file, and a process may have so many.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the process needs besides connections.
const OTHER_FILES: u64 = 64;

/// Raises the limit of open files for so many connections; fewer, if that is forbidden.
pub(crate) fn allow(connections: u32) -> u32 {
    let needed = u64::from(connections) + OTHER_FILES;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let Some(current) = current.filter(|current| *current < needed) else { return connections };
    let raised = maximum.map_or(needed, |maximum| maximum.min(needed));
    let now = match setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum }) {
        Ok(()) => raised,
        Err(_) => current,
    };
    let allowed = now.saturating_sub(OTHER_FILES).max(1).min(u64::from(connections));
    let allowed = u32::try_from(allowed).expect("at most `connections`");
    if allowed < connections {
        tracing::warn!(
            "only {allowed} of {connections} connections: a process here may have {now} open files \
             (`ulimit -n`)"
        );
    }
    allowed
}
