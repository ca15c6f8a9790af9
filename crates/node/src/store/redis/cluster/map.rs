//! Which server of a cluster has which slots, as servers say it (`CLUSTER NODES`).

use std::{collections::BTreeMap, fmt, ops::RangeInclusive, sync::Arc};

/// Slots of every Redis Cluster.
pub(super) const SLOTS: usize = 16_384;
/// Primaries that are known at a time: as many as a Redis Cluster should have. Further ones are not asked.
pub(super) const PRIMARIES_MAX: usize = 1_000;

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Address {
    pub(super) host: Arc<str>,
    pub(super) port: u16,
}

impl Address {
    pub(super) fn new(host: &str, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// Reads `host:port`; who says `:port` means its own host.
    pub(super) fn parse(text: &str, said_by: &Self) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok().filter(|port| *port > 0)?;
        let own = matches!(host, "" | "?");
        Some(if own { Self { host: said_by.host.clone(), port } } else { Self::new(host, port) })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The slot of a key: of what stands between the first brace and the next closing one, if anything does.
pub(super) fn slot_of(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| Some(rest.split_once('}')?.0));
    let hashed = tag.filter(|tag| !tag.is_empty()).unwrap_or(key);
    crc16(hashed.as_bytes()) % SLOTS as u16
}

/// CRC16-CCITT (XMODEM), as the specification of Redis Cluster has it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 }
        })
    })
}

/// Whose each slot is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Map {
    /// Servers that are no replicas, with slots or without.
    pub(super) primaries: Vec<Server>,
    /// Which of them has each slot, one more than its place in the list; 0 of what nobody has. Empty where nobody
    /// has any.
    owners: Vec<u16>,
}

/// A primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) address: Address,
    /// By which other name it may be spoken of in redirections.
    pub(super) alias: Option<Address>,
}

/// A line about one server.
struct Line<'a> {
    id: &'a str,
    server: Server,
    /// Who claims a slot with the higher one has it.
    epoch: u64,
    slots: Vec<RangeInclusive<u16>>,
}

impl<'a> Line<'a> {
    /// Reads `id ip:port@bus,hostname flags primary ping pong epoch link slots…`, of a primary. `named`: its host's
    /// name is preferred to its address.
    fn parse(line: &'a str, said_by: &Address, named: bool) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (id, place, flags) = (fields.next()?, fields.next()?, fields.next()?);
        let flags: Vec<_> = flags.split(',').collect();
        if !flags.contains(&"master") || flags.contains(&"noaddr") || flags.contains(&"handshake") {
            return None;
        }
        let epoch = fields.nth(3)?.parse().ok()?;
        let slots = fields.skip(1).filter_map(|text| {
            let (from, to) = text.split_once('-').unwrap_or((text, text));
            let (from, to) = (from.parse().ok()?, to.parse().ok()?);
            // What stands in brackets is on its way, and not parsed.
            (from <= to && usize::from(to) < SLOTS).then_some(from..=to)
        });
        // Nobody has more ranges than there are slots, nor one slot twice.
        let mut room = SLOTS;
        let slots = slots.take(SLOTS).take_while(move |range| {
            let fits = range.len() <= room;
            room = room.saturating_sub(range.len());
            fits
        });
        let (place, more) = place.split_once(',').unwrap_or((place, ""));
        let by_address = Address::parse(place.split('@').next()?, said_by)?;
        let name = more.split(',').next().filter(|name| !name.is_empty() && !name.contains('='));
        let by_name = name.map(|name| Address::new(name, by_address.port));
        let server = match by_name {
            Some(name) if named => Server { address: name, alias: Some(by_address) },
            alias => Server { address: by_address, alias },
        };
        Some(Self { id, server, epoch, slots: slots.collect() })
    }
}

impl Map {
    /// What several servers say, put together: each slot is whose claim has the highest epoch. A server that was cut
    /// off says what was so before. `None` if nobody knows of any primary.
    pub(super) fn merged(words: &[(Address, String)], named: bool) -> Option<Self> {
        let mut places: BTreeMap<&str, u16> = BTreeMap::new();
        let mut map = Self { primaries: Vec::new(), owners: vec![0; SLOTS] };
        let mut epochs = vec![0_u64; SLOTS];
        let lines = words.iter().flat_map(|(said_by, text)| {
            text.lines().filter_map(move |line| Line::parse(line, said_by, named))
        });
        // Each says it in another order.
        let mut lines: Vec<_> = lines.collect();
        lines.sort_by(|a, b| (a.id, &a.server.address).cmp(&(b.id, &b.server.address)));
        for Line { id, server, epoch, slots } in lines {
            // Servers are asked by address: two names for one are one.
            let same = map.primaries.iter().position(|known| known.address == server.address);
            let place = match places.get(id).copied().or(same.map(|at| at as u16 + 1)) {
                Some(place) => place,
                None if map.primaries.len() >= PRIMARIES_MAX => continue,
                None => {
                    map.primaries.push(server);
                    let place = map.primaries.len() as u16;
                    places.insert(id, place);
                    place
                }
            };
            for slot in slots.into_iter().flatten().map(usize::from) {
                if map.owners[slot] == 0 || epoch > epochs[slot] {
                    (map.owners[slot], epochs[slot]) = (place, epoch);
                }
            }
        }
        (!map.primaries.is_empty()).then_some(map)
    }

    /// Which of the primaries has a slot.
    pub(super) fn owner(&self, slot: u16) -> Option<usize> {
        let owner = *self.owners.get(usize::from(slot))?;
        usize::from(owner).checked_sub(1)
    }

    /// Which of the primaries is spoken of by an address.
    pub(super) fn at(&self, address: &Address) -> Option<usize> {
        let is =
            |server: &Server| server.address == *address || server.alias.as_ref() == Some(address);
        self.primaries.iter().position(is)
    }

    /// Slots that nobody has.
    pub(super) fn uncovered(&self) -> usize {
        if self.owners.is_empty() { SLOTS } else { self.owners.iter().filter(|o| **o == 0).count() }
    }

    /// Whether a primary has any slot.
    pub(super) fn has_slots(&self, place: usize) -> bool {
        self.owners.iter().any(|owner| usize::from(*owner) == place + 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidegate_core::store::BUCKETS;

    use super::*;

    const A: &str = "07c3 10.0.0.1:7001@17001,a.test master - 0 0 3 connected 0-8191 [93->-292f]";
    const B: &str = "292f 10.0.0.2:7002@17002 myself,master - 0 0 5 connected 8192-16383 7";
    const REPLICA: &str = "67ed 10.0.0.3:7003@17003 slave 07c3 0 0 3 connected";

    fn at(text: &str) -> Address {
        Address::parse(text, &Address::new("seed", 1)).expect("an address")
    }

    fn merged(words: &[(&str, String)], named: bool) -> Map {
        let words: Vec<_> = words.iter().map(|(by, text)| (at(by), text.clone())).collect();
        Map::merged(&words, named).expect("a map")
    }

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot_of("foo"), 12_182);
        assert_eq!(slot_of("test:{foo}bar"), 12_182);
        assert_eq!(slot_of("{}foo"), crc16(b"{}foo") % 16_384);
        assert_eq!(slot_of("a{b{c}}"), slot_of("b{c"));
    }

    #[test]
    fn buckets_are_spread_over_servers_evenly() {
        let slots = (0..BUCKETS).map(|bucket| slot_of(&format!("ns:{{{bucket}}}epoch")));
        let slots: std::collections::BTreeSet<_> = slots.collect();
        assert_eq!(slots.len(), BUCKETS, "no two have one slot");
        for servers in [2, 3, 5, 6, 16] {
            let part = SLOTS / servers;
            let counts = (0..servers).map(|server| {
                slots
                    .iter()
                    .filter(|slot| (usize::from(**slot) / part).min(servers - 1) == server)
                    .count()
            });
            let (least, most) = (counts.clone().min().unwrap(), counts.max().unwrap());
            assert!(10 * most <= 13 * least, "{servers} servers: {least} to {most}");
        }
    }

    #[test]
    fn whoever_claims_a_slot_with_the_highest_epoch_has_it() {
        let old = [A, &B.replace(" 7", ""), REPLICA].join("\n");
        let new = [A, B, "", "noise", "x y master - 0 0 z"].join("\r\n");
        let mut first = None;
        for words in [
            [("10.0.0.1:7001", old.clone()), ("10.0.0.2:7002", new.clone())],
            [("10.0.0.2:7002", new), ("10.0.0.1:7001", old)],
        ] {
            let map = merged(&words, false);
            let owner =
                |slot| map.primaries[map.owner(slot).expect("it has one")].address.to_string();
            assert_eq!(map.primaries.len(), 2);
            assert_eq!(owner(0), "10.0.0.1:7001");
            assert_eq!([owner(7), owner(16_383)], ["10.0.0.2:7002", "10.0.0.2:7002"]);
            assert_eq!((map.uncovered(), map.has_slots(0), map.has_slots(1)), (0, true, true));
            assert_eq!(*first.get_or_insert_with(|| map.clone()), map, "in whichever order");
        }
    }

    #[test]
    fn a_server_is_known_by_its_address_its_name_or_who_speaks_of_itself() {
        for (named, address) in [(false, "10.0.0.1:7001"), (true, "a.test:7001")] {
            let map = merged(&[("x:1", A.to_owned())], named);
            assert_eq!(map.primaries[0].address, at(address));
            assert_eq!([map.at(&at("10.0.0.1:7001")), map.at(&at("a.test:7001"))], [Some(0); 2]);
            assert_eq!((map.at(&at("10.0.0.1:7002")), map.uncovered()), (None, 8_192));
        }
        let alone = "1 :7004@17004 myself,master - 0 0 0 connected";
        let map = merged(&[("10.1.1.1:7004", alone.to_owned())], false);
        assert_eq!(map.primaries[0].address, at("10.1.1.1:7004"));
        assert_eq!((map.owner(0), map.has_slots(0), map.uncovered()), (None, false, SLOTS));
        assert_eq!(at("[::1]:7").to_string(), "[::1]:7");
        assert_eq!(at("::1:7"), at("[::1]:7"), "as servers write it");
        assert_eq!(at(":9"), Address::new("seed", 9));
        let gone = "1 :0@0 master,noaddr - 0 0 0 disconnected 0-9";
        assert_eq!(Map::merged(&[(at("x:1"), format!("{gone}\n{REPLICA}"))], false), None);
    }

    proptest! {
        /// Whatever servers say is read or left out, and every slot is somebody's who is known, or nobody's.
        #[test]
        fn whatever_servers_say_is_read(
            words in prop::collection::vec("([a-c] (:|x:|::)[0-9]{1,6}@1(,h)? (master|slave)(,noaddr)? - 0 0 [0-9]{1,2} c( [0-9]{1,5}(-[0-9]{1,5})?)*\\PC{0,4}\n){0,4}", 0..3),
            named in any::<bool>(),
        ) {
            let words: Vec<_> = words.into_iter().map(|text| (at("seed:1"), text)).collect();
            if let Some(map) = Map::merged(&words, named) {
                let covered = (0..SLOTS as u16).filter_map(|slot| map.owner(slot));
                let covered: Vec<_> = covered.collect();
                prop_assert!(covered.iter().all(|owner| *owner < map.primaries.len()));
                prop_assert_eq!(covered.len() + map.uncovered(), SLOTS);
            }
        }
    }
}
