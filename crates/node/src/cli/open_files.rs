//! What becomes of `listen.connections_max` where a process may not have as many open files.

use tidegate_node::{config::Listen, server::CONNECTIONS_BESIDE_CALLERS_MAX};
use tracing::warn;

use super::{
    exit::Failure,
    files::{self, Allowed},
};

/// Makes room for the connections that were asked for; lowers their number to what the system allows, and
/// says so, or refuses if that is none.
pub(crate) fn make_room(listen: &mut Listen) -> Result<(), Failure> {
    let beside = u32::try_from(CONNECTIONS_BESIDE_CALLERS_MAX).expect("it is a few hundred");
    let wanted = u32::try_from(listen.connections_max).unwrap_or(u32::MAX);
    let allowed = files::allow(wanted.saturating_add(beside));
    let lowered = lowered(wanted, beside, allowed)?;
    if lowered < wanted {
        let needed = files::files_for(wanted.saturating_add(beside));
        warn!(
            files = allowed.files,
            needed,
            connections_max = lowered,
            "`listen.connections_max` is {wanted}, but this process may not have as many open files: \
             it is {lowered} from now on; raise the hard limit (`ulimit -Hn`) to {needed}, or lower the setting"
        );
        listen.connections_max = lowered as usize;
    }
    Ok(())
}

/// How many callers' connections may be open: those `beside` them come first, since operators must be able
/// to look at a node that is full.
fn lowered(wanted: u32, beside: u32, allowed: Allowed) -> Result<u32, Failure> {
    match allowed.connections.saturating_sub(beside).min(wanted) {
        0 => Err(Failure::usage(format_args!(
            "this process may have {} open files only, and a node needs {} at least, one more for each \
             connection of `listen.connections_max`: raise the hard limit (`ulimit -Hn`)",
            allowed.files.unwrap_or_default(),
            files::files_for(beside.saturating_add(1)),
        ))),
        lowered => Ok(lowered),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_get_what_operators_leave_and_at_least_one() {
        let allowed = |connections| Allowed { connections, files: Some(500) };
        for (connections, callers) in [(401, 1), (1_000, 600), (10_400, 10_000)] {
            assert_eq!(lowered(10_000, 400, allowed(connections)).ok(), Some(callers));
        }
        for connections in [0, 399, 400] {
            let refused = lowered(10_000, 400, allowed(connections)).expect_err("no room");
            let said = refused.to_string();
            assert!(said.contains("500 open files") && said.contains("needs 465"), "{said}");
        }
    }
}
