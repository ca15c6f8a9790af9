//! Tests of the table: what holds for whom, what returns to the baseline, what is refused.

use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};

use super::*;

fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

const US: u16 = 1;
const AP: u16 = 2;
const HOME: u16 = 3;
const STRANGER: u16 = 4;

/// Region `eu`, with `us` 100 ms away and `ap` beside us.
fn faults() -> Faults {
    let baseline = [(region("us"), Baseline::of_round_trip(Duration::from_millis(100)))];
    let rng = Box::new(Xoshiro256PlusPlus::seed_from_u64(7));
    let faults = Faults::new(region("eu"), baseline.into(), rng);
    faults.learn(address(US), &region("us"));
    faults.learn(address(AP), &region("ap"));
    faults.learn(address(HOME), &region("eu"));
    faults
}

fn request(json: &str) -> FaultsRequest {
    serde_json::from_str(json).unwrap()
}

#[test]
fn the_baseline_holds_without_rules() {
    let faults = faults();
    for _ in 0..100 {
        let Fate::Delay(delay) = faults.fate(address(US)) else { panic!("not delayed") };
        assert!((50..=60).contains(&delay.as_millis()), "{delay:?}");
    }
    for port in [AP, HOME, STRANGER] {
        assert_eq!(faults.fate(address(port)), Fate::Send);
    }
}

#[test]
fn what_a_request_leaves_out_returns_to_the_baseline() {
    let faults = faults();
    faults.set(&request(r#"{"to":"us","delay_ms":7.5,"jitter_ms":0,"loss":0.25}"#)).unwrap();
    let table = faults.set(&request(r#"{"to":"us","jitter_ms":0}"#)).unwrap();
    let expected = RuleView { cut: false, delay_ms: 50.0, jitter_ms: 0.0, loss: 0.0 };
    assert_eq!(table.to["us"], expected);
    assert_eq!(faults.fate(address(US)), Fate::Delay(Duration::from_millis(50)));
    assert_eq!(faults.clear().to["us"].jitter_ms, 10.0);
}

#[test]
fn a_cut_drops_and_counts_every_datagram() {
    let faults = faults();
    faults.set(&request(r#"{"to":"ap","cut":true}"#)).unwrap();
    assert_eq!(faults.fate(address(AP)), Fate::Drop);
    assert!(!faults.may_leave(address(AP)), "also what had been waiting");
    assert!(faults.may_leave(address(US)));
    assert_eq!(faults.snapshot().dropped_cut, 2);
    faults.clear();
    assert_eq!(faults.fate(address(AP)), Fate::Send);
}

#[test]
fn a_cut_from_everyone_spares_the_own_region_only() {
    let faults = faults();
    faults.set(&request(r#"{"to":"us","delay_ms":1}"#)).unwrap();
    faults.set(&request(r#"{"to":"*","cut":true}"#)).unwrap();
    for port in [US, AP, STRANGER] {
        assert_eq!(faults.fate(address(port)), Fate::Drop);
    }
    assert_eq!(faults.fate(address(HOME)), Fate::Send);
    faults.set(&request(r#"{"to":"ap"}"#)).unwrap();
    assert_eq!(faults.fate(address(AP)), Fate::Send, "the latest rule for a region holds");
}

#[test]
fn mapped_addresses_are_the_same_addresses() {
    let faults = faults();
    faults.set(&request(r#"{"to":"ap","cut":true}"#)).unwrap();
    let mapped: SocketAddr = format!("[::ffff:127.0.0.1]:{AP}").parse().unwrap();
    assert_eq!(faults.fate(mapped), Fate::Drop);
}

#[test]
fn loss_loses_its_share() {
    let faults = faults();
    faults.set(&request(r#"{"to":"ap","loss":0.25}"#)).unwrap();
    let lost = (0..10_000).filter(|_| faults.fate(address(AP)) == Fate::Drop).count();
    assert!((2_300..2_700).contains(&lost), "{lost}");
    assert_eq!(faults.snapshot().dropped_loss, lost as u64);
}

#[test]
fn bad_requests_change_nothing() {
    let faults = faults();
    let before = faults.snapshot();
    for bad in [
        r#"{"to":"mars","cut":true}"#,
        r#"{"to":"eu","cut":true}"#,
        r#"{"to":"us","delay_ms":-1}"#,
        r#"{"to":"us","jitter_ms":60001}"#,
        r#"{"to":"*","loss":1.5}"#,
    ] {
        assert!(faults.set(&request(bad)).is_err(), "{bad}");
    }
    assert_eq!(faults.snapshot(), before);
    assert!(serde_json::from_str::<FaultsRequest>(r#"{"to":"us","speed":1}"#).is_err());
}
