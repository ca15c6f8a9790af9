//! Each connection is an open file, and a process may have so many.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the process needs besides connections.
const OTHER_FILES: u64 = 64;

/// How many connections may be open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowed {
    /// So many, at most as many as were asked for; perhaps none.
    pub(crate) connections: u32,
    /// Since the process may have so many open files; `None` if it may have as many as it likes.
    pub(crate) files: Option<u64>,
}

/// Raises the limit of open files as far as it may and as far as so many connections need it.
pub(crate) fn allow(connections: u32) -> Allowed {
    let needed = files_for(connections);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let files = match current {
        Some(current) if current < needed => {
            let raised = maximum.map_or(needed, |maximum| maximum.min(needed));
            match setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum }) {
                Ok(()) => Some(raised),
                Err(_) => Some(current),
            }
        }
        current => current,
    };
    Allowed { connections: within(files, connections), files }
}

/// How many open files a process needs for so many connections.
pub(crate) fn files_for(connections: u32) -> u64 {
    u64::from(connections) + OTHER_FILES
}

/// How many of so many connections fit.
fn within(files: Option<u64>, connections: u32) -> u32 {
    let fit = files.map_or(u64::MAX, |files| files.saturating_sub(OTHER_FILES));
    u32::try_from(fit).unwrap_or(u32::MAX).min(connections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_get_what_the_rest_of_the_process_leaves() {
        assert_eq!(within(None, 10_000), 10_000);
        for (files, fit) in [(0, 0), (64, 0), (65, 1), (10_063, 9_999), (10_064, 10_000)] {
            assert_eq!(within(Some(files), 10_000), fit, "{files}");
        }
        assert_eq!(within(Some(files_for(u32::MAX)), u32::MAX), u32::MAX);
    }
}
