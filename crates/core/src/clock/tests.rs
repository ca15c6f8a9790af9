//! Cluster time against clocks that are late, set, drifting and lying.

use proptest::prelude::*;

use super::*;

const BASE: u64 = 1_700_001_000_000_000;
const ERROR_MAX: Span = Span::millis(500);

fn mono(ms: u64) -> Mono {
    Mono(ms * 1_000)
}

/// Cluster time in ms after `BASE`.
fn shows(clock: &Clock, at_ms: u64) -> i64 {
    (clock.cluster_time(mono(at_ms)).0 as i64 - BASE as i64) / 1_000
}

fn read(clock: &mut Clock, at_ms: u64, store_ms: i64) {
    let reading = StoreTime((BASE as i64 + store_ms * 1_000) as u64);
    clock.handle_store(mono(at_ms), mono(at_ms), reading);
}

/// Other clocks, in ms ahead of monotonic time and `BASE`.
fn hear(clock: &mut Clock, at_ms: u64, others_ms: &[i64]) {
    let offset = |ms: &i64| BASE as i64 + ms * 1_000;
    clock.handle_others(mono(at_ms), others_ms.iter().map(offset).collect());
}

/// A clock in use whose store shows `BASE` at zero.
fn clock() -> Clock {
    let mut clock = Clock::new(mono(0), ClusterTime(BASE), ERROR_MAX);
    read(&mut clock, 0, 0);
    clock.settle();
    clock
}

#[test]
fn it_runs_with_monotonic_time() {
    assert_eq!(shows(&clock(), 2_000), 2_000);
}

#[test]
fn until_it_is_in_use_it_is_a_guess_that_may_be_set_back() {
    let mut clock = Clock::new(mono(0), ClusterTime(BASE), ERROR_MAX);
    read(&mut clock, 1_000, -60_000);
    assert_eq!(shows(&clock, 1_000), -60_000);
    hear(&mut clock, 2_000, &[-600_000, -600_000]);
    assert_eq!(shows(&clock, 2_000), -598_000);
}

#[test]
fn what_was_counted_in_vain_puts_it_in_use_after_three_seconds() {
    let new = || Clock::new(mono(500), ClusterTime(BASE + 500_000), ERROR_MAX);
    // Nothing was counted: it is a guess for as long as it takes.
    let mut idle = new();
    idle.handle_timeout(mono(60_000));
    assert!(idle.may_forget(mono(60_000)) && !idle.reading(mono(60_000)).settled);
    for (counted, tick) in [(1_000, 3_501), (9_000, 9_000)] {
        let mut clock = new();
        clock.handle_timeout(mono(counted));
        clock.handle_count(mono(counted));
        if tick > counted {
            clock.handle_timeout(mono(3_500));
            assert!(!clock.may_forget(mono(3_500)) && !clock.reading(mono(3_500)).settled);
        }
        clock.handle_timeout(mono(tick));
        assert!(clock.may_forget(mono(tick)) && clock.reading(mono(tick)).settled);
        let shown = shows(&clock, tick);
        read(&mut clock, tick, -60_000);
        assert_eq!(shows(&clock, tick), shown, "it is not set back");
    }
    // A store that confirms a label needs no such wait.
    let mut clock = new();
    clock.handle_count(mono(600));
    clock.settle();
    assert!(clock.may_forget(mono(600)));
}

#[test]
fn a_node_that_starts_forgets_nothing_until_it_is_in_use_or_three_seconds_have_passed() {
    let mut clock = Clock::new(mono(500), ClusterTime(BASE + 500_000), ERROR_MAX);
    read(&mut clock, 1_000, 600_000);
    assert!(!clock.may_forget(mono(1_000)), "what it was told may be of a label that is not over");
    assert!(!clock.may_forget(mono(3_500)) && clock.may_forget(mono(3_501)));
    clock.settle();
    assert!(clock.may_forget(mono(1_000)));
}

#[test]
fn a_large_lag_is_made_up_for_at_once_and_a_small_one_is_approached() {
    let mut clock = clock();
    read(&mut clock, 1_000, 1_090);
    assert_eq!(
        [1_000, 1_100, 1_180, 2_000].map(|at| shows(&clock, at)),
        [1_000, 1_150, 1_270, 2_090]
    );
    read(&mut clock, 2_000, 300_000);
    assert_eq!(shows(&clock, 2_000), 300_000);
}

#[test]
fn a_clock_that_is_ahead_slows_down_and_never_runs_back() {
    let mut clock = clock();
    read(&mut clock, 10_000, 4_000);
    assert_eq!(
        [10_000, 14_000, 22_000, 30_000].map(|at| shows(&clock, at)),
        [10_000, 12_000, 16_000, 24_000]
    );
}

#[test]
fn the_own_stores_step_moves_cluster_time_only_as_far_as_the_median() {
    let mut clock = clock();
    hear(&mut clock, 0, &[-20, 30]);
    for (at, step) in [(1_000, 300_000), (2_000, -300_000)] {
        read(&mut clock, at, at as i64 + step);
        let moved = shows(&clock, at + 200) - (at as i64 + 200);
        assert!((-20..=30).contains(&moved), "{moved}");
        // Its bounds follow the store at once.
        let relation = clock.relation(mono(at + 200));
        let store = relation.store_time_of(clock.cluster_time(mono(at + 200)));
        assert_eq!((store.0 as i64 - BASE as i64) / 1_000, at as i64 + 200 + step);
        let status = clock.status(mono(at + 200));
        assert!(
            status.alarm && status.error.is_some_and(|e| (e / 1_000 - step).abs() <= 30),
            "{status:?}"
        );
    }
    read(&mut clock, 4_000, 4_450);
    assert!(clock.status(mono(4_000)).alarm, "it does not end at its bound");
    read(&mut clock, 5_000, 5_300);
    assert!(!clock.status(mono(5_000)).alarm);
}

#[test]
fn two_regions_meet_in_the_middle() {
    let mut clock = clock();
    hear(&mut clock, 1_000, &[600]);
    assert_eq!(shows(&clock, 1_000), 1_300);
    assert_eq!(clock.status(mono(1_000)).error, Some(-300_000));
}

#[test]
fn a_clock_that_was_not_read_for_an_hour_has_no_weight() {
    let mut clock = clock();
    hear(&mut clock, 0, &[1_000, 1_000]);
    assert!(clock.status(mono(0)).alarm);
    let hour = 3_600_000;
    hear(&mut clock, hour, &[1_000, 1_000]);
    let status = ClockStatus { error: None, alarm: false, ahead: 0, regions: 2 };
    assert_eq!(clock.status(mono(hour)), status);
    assert_eq!(clock.reading(mono(hour)).store, None);
}

#[test]
fn a_sibling_in_use_is_joined_and_then_never_left_behind() {
    let mut clock = Clock::new(mono(0), ClusterTime(BASE), ERROR_MAX);
    let time = |ms: u64| ClusterTime(BASE + ms * 1_000);
    clock.handle_sibling(mono(1_000), ClusterTime(BASE - 5_000_000));
    assert_eq!(shows(&clock, 2_000), -4_000);
    clock.handle_sibling(mono(2_000), time(60_000));
    assert_eq!(shows(&clock, 2_000), 60_000);
    clock.handle_sibling(mono(2_000), time(50_000));
    clock.handle_seen(mono(2_000), time(8_000_000));
    assert_eq!(shows(&clock, 2_000), 60_000, "neither back nor hours ahead");
}

#[test]
fn a_sibling_that_lies_moves_it_no_further_than_an_hour_however_often_it_speaks() {
    let hour = 3_600_000_i64;
    let lie = |clock: &mut Clock, at_ms: u64| {
        let shown = clock.cluster_time(mono(at_ms));
        clock.handle_sibling(mono(at_ms), shown + Span::secs(59));
        clock.handle_seen(mono(at_ms), shown + Span::secs(58));
        clock.handle_sibling(mono(at_ms), shown + Span::secs(3_599));
    };
    let unread = Clock::new(mono(0), ClusterTime(BASE), ERROR_MAX);
    for mut clock in [clock(), unread] {
        (0..5_000).for_each(|n| lie(&mut clock, n));
        let moved = shows(&clock, 5_000) - 5_000;
        assert!((hour - 120_000..=hour).contains(&moved), "{moved}");
        // It holds it there, but does not pull it on as time goes by.
        (1..10_000).for_each(|s| lie(&mut clock, s * 1_000));
        let moved = shows(&clock, 10_000_000) - 10_000_000;
        assert!(moved <= hour, "{moved}");
    }
    // Nor one that starts: further away than that is no sibling's time, whichever way.
    for away in [3_601_000, -3_601_000, 40_000_000_000] {
        let mut clock = Clock::new(mono(0), ClusterTime(BASE), ERROR_MAX);
        read(&mut clock, 0, 0);
        clock.handle_sibling(mono(0), ClusterTime(BASE.saturating_add_signed(away * 1_000)));
        assert_eq!(shows(&clock, 1_000), 1_000, "{away}");
    }
}

#[test]
fn who_knows_no_store_joins_a_sibling_however_far_away_it_is() {
    for away in [-7_200_000_i64, 7_200_000] {
        let mut clock = Clock::new(mono(0), ClusterTime(BASE), ERROR_MAX);
        clock.handle_sibling(mono(0), ClusterTime(BASE.saturating_add_signed(away * 1_000)));
        assert_eq!(shows(&clock, 1_000), away + 1_000);
    }
}

#[test]
fn siblings_that_are_all_ahead_of_a_store_that_was_set_back_stay_together() {
    let mut clock = clock();
    let hours_back = -3 * 3_600_000;
    read(&mut clock, 1_000, hours_back);
    // A sibling that heard of it later is a little ahead.
    let sibling = clock.cluster_time(mono(11_000)) + Span::millis(40);
    clock.handle_sibling(mono(11_000), sibling);
    assert_eq!(clock.cluster_time(mono(11_000)), sibling);
}

#[derive(Debug, Clone)]
enum Event {
    Pause(u64),
    Read { trip: u64, shift: i64 },
    Hear(Vec<i64>),
    Sibling(i64),
    Seen(i64),
}

fn event() -> impl Strategy<Value = Event> {
    let shift = -700_000_000_i64..700_000_000;
    prop_oneof![
        (0_u64..30_000_000).prop_map(Event::Pause),
        (0_u64..50_000, shift.clone()).prop_map(|(trip, shift)| Event::Read { trip, shift }),
        prop::collection::vec(shift.clone(), 0..6).prop_map(Event::Hear),
        shift.clone().prop_map(Event::Sibling),
        shift.prop_map(Event::Seen),
    ]
}

proptest! {
    /// INV-9, INV-10: whatever is told, it never runs back, nor slower than half its speed; and it is not
    /// behind a sibling within reach.
    #[test]
    fn it_never_runs_back(events in prop::collection::vec(event(), 1..60)) {
        let mut clock = clock();
        let (mut now, mut last) = (Mono(0), ClusterTime(BASE));
        let at = |now: Mono, shift: i64| (BASE + now.0).saturating_add_signed(shift);
        for event in events {
            let before = now;
            match event {
                Event::Pause(us) => now += Span(us),
                Event::Read { trip, shift } => {
                    now += Span(trip);
                    clock.handle_store(before, now, StoreTime(at(now, shift)));
                }
                Event::Hear(shifts) => {
                    let others = shifts.iter().map(|shift| BASE as i64 + shift).collect();
                    clock.handle_others(now, others);
                }
                Event::Sibling(shift) => {
                    let time = ClusterTime(at(now, shift));
                    clock.handle_sibling(now, time);
                    prop_assert!(clock.cluster_time(now) >= time);
                }
                Event::Seen(shift) => clock.handle_seen(now, ClusterTime(at(now, shift))),
            }
            let shows = clock.cluster_time(now);
            prop_assert!(shows.since(last).0 >= now.since(before).0 / 2, "{last:?} {shows:?}");
            last = shows;
            // The bounds of a label lie around the store's clock as it is believed to be.
            let relation = clock.relation(now);
            let store = clock.reading(now).store.map(|(shows, _)| shows);
            prop_assert!(store.is_none_or(|store| relation.store_time_of(shows) == store));
        }
    }

    /// Fewer than half of the regions cannot draw it out of what the others show, and it gets there.
    #[test]
    fn liars_do_not_move_it_beyond_the_honest(
        honest in prop::collection::vec(-400_i64..400, 1..5),
        lies in prop::collection::vec(-9_000_000_i64..9_000_000, 0..4),
    ) {
        let lies = &lies[..lies.len().min(honest.len() - 1)];
        let mut clock = clock();
        // The own store is one of the honest.
        read(&mut clock, 0, honest[0]);
        let others: Vec<i64> = honest[1..].iter().chain(lies).copied().collect();
        hear(&mut clock, 0, &others);
        let moved = shows(&clock, 2_000) - 2_000;
        let (least, most) = (honest.iter().min(), honest.iter().max());
        prop_assert!(least <= Some(&(moved + 1)) && most >= Some(&moved), "{moved} {honest:?} {lies:?}");
    }

    /// Two nodes that measure the same clocks with errors agree within the largest error.
    #[test]
    fn the_median_moves_by_no_more_than_the_largest_error(
        clocks in prop::collection::vec((-300_000_i64..300_000, -40_i64..=40, -40_i64..=40), 1..8)
    ) {
        let with = |error: fn(&(i64, i64, i64)) -> i64| {
            let mut all: Vec<i64> = clocks.iter().map(|clock| clock.0 + error(clock)).collect();
            median(&mut all).expect("not empty")
        };
        let (one, other) = (with(|clock| clock.1), with(|clock| clock.2));
        let largest = clocks.iter().map(|(_, a, b)| (a - b).abs()).max();
        prop_assert!(Some((one - other).abs()) <= largest.map(|error| error + 1));
    }
}

#[test]
fn there_is_no_median_of_nothing() {
    assert_eq!(median(&mut []), None);
    assert_eq!(median(&mut [9, 1, 5]), Some(5));
    assert_eq!(median(&mut [9, 1]), Some(5));
}

#[test]
fn nothing_is_forgotten_just_after_the_clock_has_stepped_far_forward() {
    let mut clock = clock();
    assert!(clock.may_forget(mono(100)));
    // Half of two clocks that are 300 s apart.
    hear(&mut clock, 1_000, &[300_000]);
    assert_eq!(shows(&clock, 1_000), 151_000);
    assert!(!clock.may_forget(mono(1_000)) && !clock.may_forget(mono(4_000)));
    assert!(clock.may_forget(mono(4_001)));
    clock.handle_sibling(mono(9_000), clock.cluster_time(mono(9_000)) + Span::millis(900));
    assert!(clock.may_forget(mono(9_000)), "ended labels are kept for longer than that");
    clock.handle_sibling(mono(9_000), clock.cluster_time(mono(9_000)) + Span::millis(1_100));
    assert!(!clock.may_forget(mono(12_000)) && clock.may_forget(mono(12_001)));
}
