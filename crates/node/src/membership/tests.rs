//! Membership over real transports on loopback.

use std::net::UdpSocket;

use super::*;
use crate::{
    certs::Authority,
    faults::FaultsRequest,
    transport::{
        Event,
        tests::{Node, PATIENCE, config, id, no_faults},
    },
};

/// A node that gossips.
struct Gossiper {
    node: Node,
    membership: Membership,
}

fn gossip_config(transport_config: &crate::transport::Config, seeds: &[SocketAddr]) -> Config {
    Config {
        identity: transport_config.identity.clone(),
        boot: transport_config.boot,
        advertise: transport_config.advertise,
        seeds: seeds.iter().map(ToString::to_string).collect(),
        policy_hash: "old".into(),
    }
}

impl Gossiper {
    fn start(transport_config: crate::transport::Config, seeds: &[SocketAddr]) -> Self {
        let gossip = gossip_config(&transport_config, seeds);
        let node = Node::start(transport_config);
        let membership = Membership::start(gossip, &node.transport).unwrap();
        Self { node, membership }
    }

    /// Waits until the members satisfy `wanted`.
    async fn until(&self, wanted: impl Fn(&[Member]) -> bool) {
        let mut members = self.membership.watch();
        let seen = tokio::time::timeout(PATIENCE, members.wait_for(|m| wanted(m))).await;
        assert!(seen.is_ok(), "members remain {:?}", self.membership.members());
    }
}

fn live(members: &[Member]) -> Vec<(&str, u64)> {
    let live = members.iter().filter(|member| member.live);
    live.map(|member| (member.id.region.as_str(), member.boot.0)).collect()
}

#[tokio::test]
async fn three_regions_find_each_other_from_a_seed_that_starts_last() {
    let authority = Authority::generate().unwrap();
    let seed = config(&authority, "eu", 1);
    let seeds = [seed.advertise];
    let mut us = Gossiper::start(config(&authority, "us", 1), &seeds);
    let mut ap = Gossiper::start(config(&authority, "ap", 1), &seeds);
    us.until(|members| live(members) == [("us", 1)]).await;
    let mut eu = Gossiper::start(seed, &seeds);
    for gossiper in [&eu, &us, &ap] {
        gossiper.until(|members| live(members) == [("ap", 1), ("eu", 1), ("us", 1)]).await;
    }
    // A full mesh, also between those that did not know each other.
    for gossiper in [&mut eu, &mut us, &mut ap] {
        let mut connected = BTreeSet::new();
        while connected.len() < 2 {
            if let Event::Connected(session) = gossiper.node.next().await {
                connected.insert(session);
            }
        }
    }
    let members = us.membership.members();
    let of_ap = members.iter().find(|member| member.id.region.as_str() == "ap").unwrap();
    assert_eq!(of_ap.address, ap.node.address());
    assert_eq!(of_ap.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(of_ap.policy_hash, "old");

    ap.membership.set_policy_hash("new");
    us.until(|members| members.iter().any(|member| member.policy_hash == "new")).await;
}

#[tokio::test]
async fn a_member_that_leaves_is_dead_and_its_next_run_is_seen() {
    leave_and_return(1, 2).await;
}

#[tokio::test]
async fn a_next_run_is_seen_also_if_a_clock_that_was_set_back_numbered_it() {
    leave_and_return(7, 2).await;
}

async fn leave_and_return(first_boot: u64, second_boot: u64) {
    let authority = Authority::generate().unwrap();
    let eu = Gossiper::start(config(&authority, "eu", 1), &[]);
    let seeds = [eu.node.address()];
    let first = config(&authority, "us", first_boot);
    let (address, socket) = (first.advertise, first.socket.try_clone().unwrap());
    let us = Gossiper::start(first, &seeds);
    eu.until(|members| live(members) == [("eu", 1), ("us", first_boot)]).await;

    drop(us.membership);
    us.node.transport.close().await;
    eu.until(|members| live(members) == [("eu", 1)] && members.len() == 2).await;

    let second = crate::transport::Config {
        advertise: address,
        socket,
        ..config(&authority, "us", second_boot)
    };
    let us = Gossiper::start(second, &seeds);
    let both = [("eu", 1), ("us", second_boot)];
    eu.until(|members| live(members) == both && members.len() == 2).await;
    us.until(|members| live(members) == both && members.len() == 2).await;
}

#[tokio::test]
async fn gossip_that_dies_is_started_again() {
    let authority = Authority::generate().unwrap();
    let eu = Gossiper::start(config(&authority, "eu", 1), &[]);
    let us = Gossiper::start(config(&authority, "us", 1), &[eu.node.address()]);
    eu.until(|members| live(members).len() == 2).await;

    // Whoever opens the messages anew takes them from the gossip task, which ends of it.
    drop(us.node.transport.membership_messages());
    us.membership.set_policy_hash("after");
    let after = |members: &[Member]| {
        live(members) == [("eu", 1), ("us", 1)]
            && members.iter().any(|member| member.policy_hash == "after")
    };
    eu.until(after).await;
    us.until(after).await;
}

#[tokio::test]
async fn bad_settings_are_named() {
    let authority = Authority::generate().unwrap();
    let transport_config = config(&authority, "eu", 1);
    let good = gossip_config(&transport_config, &[]);
    let node = Node::start(transport_config);
    let error = |config| Membership::start(config, &node.transport).err();
    for seed in ["127.0.0.1", ":7946", "host:port", "host:70000", ""] {
        let config = Config { seeds: vec![seed.into()], ..good.clone() };
        assert_eq!(error(config), Some(MembershipError::Seed(seed.into())));
    }
    let config = Config { boot: Boot(1 << 54), ..good.clone() };
    assert_eq!(error(config), Some(MembershipError::Boot(1 << 54)));
    assert!(UdpSocket::bind(node.address()).is_err(), "the transport's port is in use");
}

#[tokio::test]
async fn seeds_may_be_names() {
    let authority = Authority::generate().unwrap();
    let eu = Gossiper::start(config(&authority, "eu", 1), &[]);
    let transport_config = config(&authority, "us", 1);
    let mut gossip = gossip_config(&transport_config, &[]);
    gossip.seeds = vec![format!("localhost:{}", eu.node.address().port())];
    let node = Node::start(transport_config);
    let us = Gossiper { membership: Membership::start(gossip, &node.transport).unwrap(), node };
    us.until(|members| live(members).len() == 2).await;
}

#[tokio::test]
async fn a_region_that_was_cut_off_until_it_counted_as_dead_is_back_at_once() {
    let authority = Authority::generate().unwrap();
    let regions = ["ap", "eu", "us"];
    let faults = regions.map(no_faults);
    let cut = |cut| {
        for (from, faults) in regions.iter().zip(&faults) {
            let to = if *from == "ap" { "*" } else { "ap" };
            let request = FaultsRequest { to: to.into(), cut, ..FaultsRequest::default() };
            faults.set(&request).unwrap();
        }
    };
    let mut seeds = Vec::new();
    let mut gossipers = Vec::new();
    for (region, faults) in regions.iter().zip(&faults) {
        let config = config(&authority, region, 1);
        // Only `ap` is a seed: the others must find it again by themselves.
        if seeds.is_empty() {
            seeds.push(config.advertise);
        }
        let config = crate::transport::Config { faults: Some(faults.clone()), ..config };
        gossipers.push(Gossiper::start(config, &seeds));
    }
    let everyone = [("ap", 1), ("eu", 1), ("us", 1)];
    for gossiper in &gossipers {
        gossiper.until(|members| live(members) == everyone).await;
    }
    let connected = |gossiper: &Gossiper| gossiper.node.transport.connections().len();
    while gossipers.iter().any(|gossiper| connected(gossiper) < 2) {
        tokio::task::yield_now().await;
    }

    cut(true);
    for gossiper in &mut gossipers[1..] {
        gossiper.until(|members| live(members) == [("eu", 1), ("us", 1)]).await;
        let of_ap = |event: &Event| matches!(event, Event::Disconnected(s) if s.id == id("ap"));
        while !of_ap(&gossiper.node.next().await) {}
    }
    cut(false);
    let healed = Instant::now();
    for gossiper in &mut gossipers[1..] {
        let event = gossiper.node.next().await;
        assert!(matches!(&event, Event::Connected(s) if s.id == id("ap")), "{event:?}");
    }
    assert!(healed.elapsed() < Duration::from_secs(1), "{:?}", healed.elapsed());
    for gossiper in &gossipers {
        gossiper.until(|members| live(members) == everyone).await;
    }
}

#[test]
fn gossip_that_dies_again_and_again_is_started_ever_more_seldom_but_never_given_up() {
    let mut restarts = Restarts::default();
    let mut waited = Duration::ZERO;
    for number in 1..1 << RESTART_BITS {
        waited += restarts.pause_after(Duration::ZERO);
        assert_eq!(restarts.number, number);
    }
    assert!(waited > FORGOTTEN_AFTER * 10, "{waited:?}");
    assert_eq!((restarts.pause_after(Duration::ZERO), restarts.number), (RESTART_PAUSE_MAX, 0));
    assert!(generation(Boot(1), restarts.number).is_some());
    assert_eq!(restarts.pause_after(RESTART_PAUSE_MAX), RESTART_PAUSE);
    assert_eq!(restarts.pause_after(Duration::ZERO), RESTART_PAUSE * 2);
}

#[test]
fn names_without_a_sign_of_life_push_no_living_member_out() {
    let member = |region: &str, live| Member {
        id: id(region),
        boot: Boot(1),
        address: ([127, 0, 0, 1], 1).into(),
        live,
        version: String::new(),
        policy_hash: String::new(),
    };
    let known = [("a", false), ("b", true), ("c", false), ("d", true)];
    let known: Vec<_> = known.map(|(region, live)| member(region, live)).into();
    let kept = |max| {
        let kept = cut(known.clone(), max);
        kept.iter().map(|m| m.id.region.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(kept(4), ["a", "b", "c", "d"]);
    assert_eq!(kept(3), ["a", "b", "d"]);
    assert_eq!(kept(2), ["b", "d"]);
}

fn over(node: &Node, in_hand: &InHand) -> OverTransport {
    let (transport, in_hand) = (node.transport.clone(), in_hand.clone());
    OverTransport { transport, in_hand, taken: Taken::default() }
}

#[tokio::test]
async fn who_sends_what_cannot_be_parsed_or_kills_gossip_is_known() {
    who_sends_this_is_known(vec![9, 9]).await;
}

#[tokio::test]
async fn who_sends_what_unpacks_to_too_much_is_known() {
    let (block, blocks) = (message::tests::zeros(65_535), message::UNPACKED_MAX / 65_535 + 1);
    who_sends_this_is_known(message::tests::ack(&vec![block; blocks])).await;
}

/// Two nodes that have met.
async fn two_connected() -> (Node, Node) {
    let authority = Authority::generate().unwrap();
    let mut eu = Node::start(config(&authority, "eu", 1));
    let mut us = Node::start(config(&authority, "us", 1));
    us.transport.keep_dialled([eu.address()]);
    assert_eq!(us.next().await, Event::Connected(eu.session()));
    assert_eq!(eu.next().await, Event::Connected(us.session()));
    (eu, us)
}

/// This message is not taken and its sender accused; others are taken.
async fn who_sends_this_is_known(bad: Vec<u8>) {
    use chitchat::{ChitchatMessage, Serializable as _, transport::Transport as _};
    let (mut eu, us) = two_connected().await;
    let in_hand = InHand::default();
    let network = over(&eu, &in_hand);
    let mut socket = network.open(eu.address()).await.unwrap();

    us.transport.send_membership(eu.address(), bad.into()).unwrap();
    let message = ChitchatMessage::BadCluster.serialize_to_vec();
    let taken = async {
        loop {
            tokio::select! {
                taken = socket.recv() => return taken.unwrap(),
                // Datagrams may overtake each other, and be lost.
                () = tokio::time::sleep(Duration::from_millis(20)) => {
                    us.transport.send_membership(eu.address(), message.clone().into()).unwrap();
                }
            }
        }
    };
    let (from, _) = tokio::time::timeout(PATIENCE, taken).await.unwrap();
    assert_eq!(from, us.address());
    // Had it died of it: and it has, since it asks for no other message.
    assert_eq!(in_hand.take(), Some(us.session()));
    assert_eq!(eu.next().await, Event::Unreadable(us.session()));
    // Who asks for the next one has survived the one before.
    us.transport.send_membership(eu.address(), message.into()).unwrap();
    let taken = tokio::time::timeout(PATIENCE, socket.recv()).await;
    assert!(taken.is_ok());
    let next = tokio::time::timeout(Duration::ZERO, socket.recv()).await;
    assert!(next.is_err() && in_hand.take().is_none());
}

#[tokio::test]
async fn what_a_run_says_too_much_is_not_kept() {
    let authority = Authority::generate().unwrap();
    let eu = Gossiper::start(config(&authority, "eu", 1), &[]);
    eu.until(|members| live(members) == [("eu", 1)]).await;
    assert!(eu.membership.memory_bytes() > 0);

    let us_config = config(&authority, "us", 1);
    let gossip = gossip_config(&us_config, &[eu.node.address()]);
    let us = Node::start(us_config);
    us.transport.keep_dialled([eu.node.address()]);
    let (members, _members) = watch::channel(Vec::new());
    let (_hash, hashes) = watch::channel(String::new());
    let gossip = Gossip {
        seeds: Seeds::new(&gossip.seeds).unwrap(),
        config: gossip,
        transport: us.transport.clone(),
        hashes,
        members,
        bytes: Arc::default(),
        taken: Taken::default(),
    };
    let us =
        Guarded(gossip.spawn(generation(Boot(1), 0).unwrap(), InHand::default()).await.unwrap());
    // Nobody looks at what this one holds: it takes what it may, which is enough here.
    let mut seen = us.0.with_chitchat(|chitchat| chitchat.live_nodes_watcher()).await;
    let swell = |chitchat: &mut Chitchat| {
        (0..1_000).for_each(|key| chitchat.self_node_state().set(key, "v".repeat(100)));
    };
    us.0.with_chitchat(swell).await;
    // It is started again when it was told, as a later generation of the same boot.
    let again = generation(Boot(1), 1).unwrap();
    let of_eu = |id: &ChitchatId| *id.node_id == *id_of(&eu) && id.generation_id >= again;
    let restarted = seen.wait_for(|live| live.keys().any(of_eu));
    assert!(tokio::time::timeout(PATIENCE, restarted).await.is_ok());
    let kept = eu.membership.memory_bytes();
    assert!(kept < 100_000, "{kept}");
    // It may only have passed on what it was told.
    assert_eq!(eu.node.transport.stats().dropped_malformed, 0);
}

fn id_of(gossiper: &Gossiper) -> String {
    gossiper.node.session().id.to_string()
}

#[tokio::test]
async fn no_more_is_taken_than_is_looked_at() {
    use chitchat::{ChitchatMessage, Serializable as _, transport::Transport as _};
    let (eu, us) = two_connected().await;
    let network = over(&eu, &InHand::default());
    let mut socket = network.open(eu.address()).await.unwrap();
    network.taken.add(socket::TAKEN_MAX);
    let message = ChitchatMessage::BadCluster.serialize_to_vec();
    let send = || us.transport.send_membership(eu.address(), message.clone().into()).unwrap();
    let waits = async {
        for _ in 0..10 {
            send();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        biased;
        _ = socket.recv() => panic!("it was taken without a look"),
        () = waits => {}
    }
    network.taken.reset();
    assert!(tokio::time::timeout(PATIENCE, socket.recv()).await.unwrap().is_ok());
}
