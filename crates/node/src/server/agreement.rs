//! Keeps an eye on policies: which nodes have others in force than this one.

use tidegate_core::ids::NodeId;
use tracing::{info, warn};

use super::view::View;
use crate::membership::Member;

/// How many nodes one line in the log names; `/readyz` names all.
const NAMED_MAX: usize = 8;

/// A node with other policies in force than this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Differing {
    pub(super) node: NodeId,
    /// The hash of its policies, fit for people.
    pub(super) hash: String,
}

/// Which of these members, siblings among them, have other policies in force than `own`, which has those of
/// this hash. Who shows no sign of life decides nothing; of whom it is not known yet nothing is said.
pub(super) fn differing(members: &[Member], own: &NodeId, hash: &str) -> Vec<Differing> {
    // What gossip says of this node may be older than what it knows itself.
    let others = members.iter().filter(|member| member.live && member.id != *own);
    let known = others.filter(|member| !member.policy_hash.is_empty());
    known
        .filter(|member| member.policy_hash != hash)
        .map(|member| Differing { node: member.id.clone(), hash: shown(&member.policy_hash) })
        .collect()
}

/// A peer may say anything, of any length: only what looks like a hash is repeated.
fn shown(hash: &str) -> String {
    let is_hash = hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash { hash } else { "unreadable" }.to_owned()
}

/// Says in the log when nodes begin to differ, and when they all agree again. Ends at once without a cluster.
pub(super) async fn watch(view: &View) {
    let Some(mut members) = view.network.watch_members() else { return };
    let mut agree = true;
    loop {
        members.borrow_and_update();
        let differing = view.differing();
        if differing.is_empty() != agree {
            agree = differing.is_empty();
            let policy_hash = &*view.limiter.policies().hash;
            if agree {
                info!(policy_hash, "all nodes that live have the same policies in force again");
            } else {
                warn!(
                    policy_hash,
                    others = named(&differing),
                    "nodes have other policies in force than this one, and may decide otherwise: give all of \
                     them the same policy file"
                );
            }
        }
        // A change of this node's own policies comes by way of its own entry among the members.
        if members.changed().await.is_err() {
            return;
        }
    }
}

fn named(differing: &[Differing]) -> String {
    let names = differing.iter().take(NAMED_MAX).map(|it| format!("{} ({})", it.node, it.hash));
    let names = names.collect::<Vec<_>>().join(", ");
    match differing.len().saturating_sub(NAMED_MAX) {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::ids::Boot;

    use super::*;

    const OURS: &str = "00112233aabbccdd";
    const THEIRS: &str = "ffeeddcc99887766";

    fn member(region: &str, node: &str, hash: &str) -> Member {
        Member {
            id: NodeId::new(region, node).unwrap(),
            boot: Boot(1),
            address: "127.0.0.1:1".parse().unwrap(),
            live: true,
            version: String::new(),
            policy_hash: hash.into(),
        }
    }

    fn told(members: &[Member]) -> String {
        named(&differing(members, &NodeId::new("eu", "eu-0").unwrap(), OURS))
    }

    #[test]
    fn siblings_and_others_that_differ_are_named() {
        let members = [
            member("eu", "eu-0", OURS),
            member("eu", "eu-1", THEIRS),
            member("us", "us-0", THEIRS),
            member("us", "us-1", OURS),
        ];
        assert_eq!(told(&members), format!("eu/eu-1 ({THEIRS}), us/us-0 ({THEIRS})"));
    }

    #[test]
    fn the_dead_the_unknown_and_what_is_said_of_this_node_do_not_count() {
        let dead = Member { live: false, ..member("us", "us-0", THEIRS) };
        assert_eq!(told(&[dead, member("us", "us-1", ""), member("eu", "eu-0", THEIRS)]), "");
    }

    #[test]
    fn what_is_no_hash_is_not_repeated() {
        for wrong in ["x\ny", "0011", &"0".repeat(1_000), "00112233aabbccd\n"] {
            assert_eq!(told(&[member("us", "us-0", wrong)]), "us/us-0 (unreadable)");
        }
    }

    #[test]
    fn a_line_names_a_few() {
        let members: Vec<_> = (0..10).map(|n| member("us", &format!("us-{n}"), THEIRS)).collect();
        let line = told(&members);
        assert!(line.contains("us/us-7") && !line.contains("us/us-8"), "{line}");
        assert!(line.ends_with(" and 2 more"), "{line}");
    }
}
