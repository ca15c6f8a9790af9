//! How many strangers may be introducing themselves at a time: in all, and from one address.
//!
//! A handshake costs us memory and arithmetic before we know who is there. Whoever sends under addresses
//! that are not its own is asked to prove one first, which costs us nothing; whoever has only its own
//! takes no more than a share of the places with them.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use parking_lot::Mutex;

/// How many peers may be introducing themselves at a time.
pub(super) const MEETINGS_MAX: usize = 256;
/// From how many on a peer must first prove that its address is its own.
const MEETINGS_UNPROVEN_MAX: usize = 64;
/// How many of them may come from one address. Nodes behind one translator share it, and each may try
/// several times at once after a cut.
const MEETINGS_PER_ADDRESS_MAX: usize = 64;

/// Bounds how many peers introduce themselves at a time.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<Mutex<Places>>);

#[derive(Default)]
struct Places {
    taken: usize,
    /// Places of those who have proved their address: what is unproved may be somebody else's, who must
    /// not lose his share to it. As many entries as there are places taken, at most.
    by_source: HashMap<IpAddr, usize>,
}

/// What becomes of a peer that wants to introduce itself.
pub(super) enum Admission {
    /// Answer it; the place is free again when this is dropped.
    Answer(Place),
    /// Let it prove first that its address is its own, which costs us no memory.
    Prove,
    /// Not even that; it will ask again.
    Ignore,
}

/// A place that is taken.
pub(super) struct Place {
    gate: Gate,
    /// Whose share it is of; `None` if that was not proved.
    source: Option<IpAddr>,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Whether who comes from `address`, which it has `proven` to be its own or not, is answered.
    pub(super) fn admit(&self, address: IpAddr, proven: bool) -> Admission {
        let source = proven.then(|| source(address));
        let mut places = self.0.lock();
        let taken = places.taken;
        if taken >= MEETINGS_MAX {
            return Admission::Ignore;
        }
        match source {
            None if taken >= MEETINGS_UNPROVEN_MAX => return Admission::Prove,
            None => {}
            Some(source) => {
                let from_there = places.by_source.entry(source).or_default();
                if *from_there >= MEETINGS_PER_ADDRESS_MAX {
                    return Admission::Ignore;
                }
                *from_there += 1;
            }
        }
        places.taken += 1;
        drop(places);
        Admission::Answer(Place { gate: self.clone(), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.gate.0.lock();
        places.taken -= 1;
        if let Some(source) = self.source
            && let Some(from_there) = places.by_source.get_mut(&source)
        {
            *from_there -= 1;
            if *from_there == 0 {
                places.by_source.remove(&source);
            }
        }
    }
}

/// What counts as one address: of IPv6 the network, since one machine has as many addresses in it as it
/// likes.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(n: usize) -> IpAddr {
        IpAddr::from([10, 0, (n / 256) as u8, (n % 256) as u8])
    }

    #[test]
    fn the_gate_asks_for_proof_when_it_is_busy_and_closes_when_it_is_full() {
        let gate = Gate::new();
        let mut places = Vec::new();
        for n in 0..MEETINGS_MAX {
            if n >= MEETINGS_UNPROVEN_MAX {
                assert!(matches!(gate.admit(from(n), false), Admission::Prove));
            }
            let Admission::Answer(place) = gate.admit(from(n), n >= MEETINGS_UNPROVEN_MAX) else {
                panic!("no place for the {n}th")
            };
            places.push(place);
        }
        for proven in [true, false] {
            assert!(matches!(gate.admit(from(MEETINGS_MAX), proven), Admission::Ignore));
        }
        places.pop();
        assert!(matches!(gate.admit(from(MEETINGS_MAX), true), Admission::Answer(_)));
    }

    #[test]
    fn one_address_takes_a_share_and_leaves_the_others_theirs() {
        let gate = Gate::new();
        let mut places = Vec::new();
        for _ in 0..1_000 {
            if let Admission::Answer(place) = gate.admit(from(1), true) {
                places.push(place);
            }
        }
        assert_eq!(places.len(), MEETINGS_PER_ADDRESS_MAX);
        // An address in IPv6's clothes is the same one; a neighbour is another.
        let dressed = "::ffff:10.0.0.1".parse().unwrap();
        assert!(matches!(gate.admit(dressed, true), Admission::Ignore));
        assert!(matches!(gate.admit(from(2), true), Admission::Answer(_)));
        drop(places);
        assert!(matches!(gate.admit(from(1), true), Admission::Answer(_)));
        assert!(gate.0.lock().by_source.is_empty(), "nothing is kept of who has left");
    }

    #[test]
    fn what_is_sent_in_somebodys_name_does_not_cost_him_his_share() {
        let gate = Gate::new();
        let places: Vec<_> =
            (0..MEETINGS_UNPROVEN_MAX).map(|_| gate.admit(from(1), false)).collect();
        assert!(places.iter().all(|place| matches!(place, Admission::Answer(_))));
        assert!(matches!(gate.admit(from(1), false), Admission::Prove));
        assert!(matches!(gate.admit(from(1), true), Admission::Answer(_)));
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let [one, same, other] = ["2001:db8:1:2::1", "2001:db8:1:2:ffff::", "2001:db8:1:3::1"]
            .map(|a| source(a.parse().unwrap()));
        assert_eq!(one, same);
        assert_ne!(one, other);
    }
}
